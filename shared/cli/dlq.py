"""`finestream dlq`: what could never succeed, why, and once the cause is gone, back into its topic."""

from collections import Counter
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared import topics
from shared.cli.running import run
from shared.dead_letters import Letter
from shared.kafka import Producer
from shared.local.watch import DEAD_LETTER_TOPICS, watching
from shared.settings import KafkaSettings, read

app = typer.Typer(no_args_is_help=True, help="Dead letters: list, show, replay.")
Topic = Annotated[str, typer.Argument(help="the topic that the records came from, for example reviews")]
Reason = Annotated[str, typer.Option(help="only letters with this reason, for example empty_text")]
VALUE_CHARS = 160


@app.command("list", epilog="Example: finestream dlq list")
def list_letters() -> None:
    """Count the dead letters by topic and reason."""
    counts = Counter((letter.record.source.topic, letter.reason) for letter in run(_letters(DEAD_LETTER_TOPICS)))
    table = Table("topic", "reason", "letters")
    for (topic, reason), count in sorted(counts.items()):
        table.add_row(topic, reason, str(count))
    Console().print(table if counts else "no dead letters")


@app.command(epilog="Example: finestream dlq show reviews --limit 5")
def show(topic: Topic, limit: Annotated[int, typer.Option(min=1)] = 20, reason: Reason = "") -> None:
    """Print dead letters of a topic: where each lay, what was wrong, and the beginning of its value."""
    console = Console()
    for letter in _chosen(run(_letters((_checked(topic),))), reason)[:limit]:
        source = letter.record.source
        value = (letter.record.value or b"")[:VALUE_CHARS].decode("utf-8", "replace")
        place = f"{source.topic}/{source.partition}@{source.offset}"
        console.print(f"[bold]{place}[/bold] {letter.reason}: {escape(letter.error)}\n  {escape(value)}")


@app.command(epilog="Example: finestream dlq replay reviews --reason handler_error")
def replay(topic: Topic, reason: Reason = "") -> None:
    """Send dead letters of a topic to it again. The letters stay; facts are joined once however often they come."""
    sent = run(_replay(_checked(topic), reason))
    Console().print(f"{sent} records sent to {topic} again")


async def _letters(names: tuple[str, ...]) -> list[Letter]:
    async with watching(read(KafkaSettings)) as watch:
        return [letter async for letter in watch.letters(names)]


async def _replay(letters_topic: str, reason: str) -> int:
    producer = Producer(read(KafkaSettings))
    await producer.start()
    try:
        chosen = _chosen(await _letters((letters_topic,)), reason)
        for letter in chosen:
            record = letter.record
            await producer.send_raw(record.source.topic, record.key, record.value, record.headers)
        return len(chosen)
    finally:
        await producer.stop()


def _chosen(letters: list[Letter], reason: str) -> list[Letter]:
    """In the order of their records."""
    chosen = [letter for letter in letters if not reason or letter.reason == reason]
    return sorted(chosen, key=lambda letter: (letter.record.source.partition, letter.record.source.offset))


def _checked(topic: str) -> str:
    known = [t.name for t in topics.ALL if t.dead_letters]
    if topic not in known:
        raise typer.BadParameter(f"{topic} has no dead letters; choose one of {', '.join(known)}")
    return topics.dead_letters(topic)
