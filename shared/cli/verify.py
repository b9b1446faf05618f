"""`finestream verify`: is what graph_updater serves what the log says? Asked of a sample, while the system runs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import grpc
import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from shared.archive import BadArchive
from shared.cli.running import fail, run
from shared.client import Client, ClientSettings, connect
from shared.errors import Unavailable
from shared.graph.checks import Checks
from shared.log_tail import tailing
from shared.service import WrongSetting, space_of
from shared.settings import ArchiveSettings, KafkaSettings, SpaceSettings, read
from shared.verification.check import Live, NodeDifference, Report, check
from shared.whole_log import Log

PRINTED_NODES: Final = 20
PRINTED_WORDS: Final = 3  # of one side of a field
PROBE: Final = "probe"  # any id: an answer, whatever it is, shows that the service takes our calls
NO_ANSWER: Final = 2


def verify(
    users: Annotated[int, typer.Option(min=0, help="how many users")] = 200,
    items: Annotated[int, typer.Option(min=0, help="how many items")] = 200,
    seed: Annotated[int, typer.Option(help="another seed, another sample")] = 0,
    seconds: Annotated[float, typer.Option(min=0, help="how long to read again what differs")] = 30.0,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="write the whole report here")
    ] = None,
) -> None:
    """Fold a sample of users and items from the log (archive, then Kafka) and compare with the live states.

    Reads only. Exit code 0: all equal; 1: something differs; 2: a wrong setting, or something does not answer.
    """
    if json_file is not None and not json_file.parent.is_dir():
        raise typer.BadParameter(f"--json: there is no folder {json_file.parent}")
    with _quiet(logging.getLogger("aiokafka")):
        report = run(_check(users, items, seed, seconds), failed=NO_ANSWER)
    if json_file is not None:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report)))
    show(report, Console())
    raise typer.Exit(1 if report.nodes else 0)


@contextmanager
def _quiet(logger: logging.Logger) -> Iterator[None]:
    """What it cannot do it also raises, and that is the one sentence."""
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


async def _check(users: int, items: int, seed: int, seconds: float) -> Report:
    settings, kafka, url = read(ClientSettings), read(KafkaSettings), read(ArchiveSettings).url
    checks = _checks(read(SpaceSettings))
    async with connect(settings) as client:
        await _probe(client, settings.graph.address)
        async with tailing(kafka) as tail:
            try:
                return await check(
                    Log(url, tail), Live(client.users, client.items), checks, users=users, items=items, seed=seed,
                    seconds=seconds,
                )  # fmt: skip
            except BadArchive as error:
                fail(str(error), NO_ANSWER)


def _checks(settings: SpaceSettings) -> Checks:
    try:
        return Checks(space_of(settings))
    except WrongSetting as error:
        fail(str(error), NO_ANSWER)


async def _probe(client: Client, address: str) -> None:
    """Before the log is read, which may take minutes."""
    try:
        await client.users([PROBE])
    except grpc.aio.AioRpcError as error:
        raise Unavailable(f"graph_updater at {address}: {error.code().name}: {error.details()}") from None


# --- what is printed ------------------------------------------------------------------------------------


def show(report: Report, console: Console) -> None:
    """A table on a terminal, plain lines elsewhere."""
    if console.is_terminal:
        console.print(_counts(report))
    else:
        for name, outcome in (("users", report.users), ("items", report.items)):
            _line(console, f"{name}: {outcome.compared} compared, {outcome.equal} equal, {outcome.different} different")
    for hole in report.holes:
        _line(console, f"the log has a hole: {hole}")
    for node in report.nodes[:PRINTED_NODES]:
        _show_node(node, console)
    if len(report.nodes) > PRINTED_NODES:
        _line(console, f"and {len(report.nodes) - PRINTED_NODES} more")
    _line(console, "the live states differ from the log" if report.nodes else "the live states are what the log says")


def _counts(report: Report) -> Table:
    table = Table("", "compared", "equal", "different")
    for name, outcome in (("users", report.users), ("items", report.items)):
        table.add_row(name, str(outcome.compared), str(outcome.equal), str(outcome.different))
    return table


def _show_node(node: NodeDifference, console: Console) -> None:
    _line(console, f"{node.kind} {node.id}" + ("" if node.is_known else ": no live state"))
    for field in node.fields:
        if field.log_only:
            _line(console, f"  {field.field}: only the log has {_words(field.log_only)}")
        if field.live_only:
            _line(console, f"  {field.field}: only the live state has {_words(field.live_only)}")
        if not (field.log_only or field.live_only):
            _line(console, "  the same facts in an order that the fold does not give")


def _words(words: list[str]) -> str:
    more = len(words) - PRINTED_WORDS
    return "; ".join(words[:PRINTED_WORDS]) + (f"; and {more} more" if more > 0 else "")


def _line(console: Console, text: str) -> None:
    console.print(escape(text), highlight=False, soft_wrap=True)
