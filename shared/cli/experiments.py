"""`finestream experiments`: what came of an experiment."""

from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shared import archive, topics
from shared.cli.running import fail
from shared.click_through import LEAST_USERS, Against, ClickThrough, Rate, against_control, interval
from shared.settings import ArchiveSettings, read

app = typer.Typer(no_args_is_help=True, help="Experiments: what came of them.")
HOUR = 3600.0


@app.callback()
def _experiments() -> None:
    """A group, though of one command."""


@app.command(epilog="Example: finestream experiments report --since 2026-03-01")
def report(
    since: Annotated[datetime, typer.Option(formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"], help="when it began, UTC")],
    hours: Annotated[float, typer.Option(min=0.01, help="a click counts for so long after a showing")] = 24.0,
    json_out: Annotated[bool, typer.Option("--json", help="as JSON")] = False,
) -> None:
    """Print each variant's click-through from the archived log, and whether it differs from the control's."""
    found = ClickThrough(since.replace(tzinfo=UTC).timestamp(), hours * HOUR)
    url = read(ArchiveSettings).url
    try:
        for topic in (topics.INTERACTIONS, topics.IMPRESSIONS):
            found.read(event for event, _ in archive.events_of(url, [topic]))
    except (archive.BadArchive, OSError) as error:
        fail(str(error))
    rates = found.rates()
    against = against_control(rates)
    if json_out:
        typer.echo(msgspec.json.encode({"rates": rates, "against_control": against}).decode())
    elif not rates:
        typer.echo(f"nothing was shown since then of which {hours:g} hours have passed")
    else:
        Console(width=None if Console().is_terminal else 120).print(_table(rates, against))


def _table(rates: dict[str, Rate], against: dict[str, Against]) -> Table:
    table = Table("variant", "users", "shown", "clicked", "rate", "95 %", "against the control")
    for name, rate in rates.items():
        counts: list[Any] = [rate.users, rate.shown, rate.clicked]
        words = _verdict(against[name]) if name in against else ""
        table.add_row(
            name or "control", *map(str, counts), f"{rate.rate:.2%}", "{:.2%} to {:.2%}".format(*interval(rate)), words
        )
    return table


def _verdict(against: Against) -> str:
    if not against.enough:
        return f"nothing is sure: fewer than {LEAST_USERS} users"
    between = f"{against.low:+.2%} to {against.high:+.2%}"
    return between if against.sure else f"{between}: nothing is sure"
