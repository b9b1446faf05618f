"""`finestream demo` on the command line."""

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from shared import logs
from shared.cli.demo.dataset import DataSet, of_catalogue, of_file
from shared.cli.demo.failed import DemoFailed
from shared.cli.demo.freshness import Load
from shared.cli.demo.run import Options
from shared.cli.demo.run import run as run_demo
from shared.cli.replay import BadLines
from shared.cli.running import fail, run
from shared.cli.screen import Screen
from shared.local.catalogue import generate
from shared.local.child import PartFailed


def demo(
    reviews: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Amazon-format JSON lines, gzip or not")
    ] = None,
    items: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="metadata of the items, JSON lines")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the summary here")] = None,
    seed: Annotated[int, typer.Option(help="of the generated catalogue")] = 1,
    users: Annotated[int, typer.Option(min=10, max=100_000, help="of the generated catalogue")] = 350,
    load_rate: Annotated[float, typer.Option(min=1, help="events a second while freshness is probed")] = 200.0,
    load_seconds: Annotated[float, typer.Option(min=1, help="how long freshness is probed")] = 25.0,
    keep: Annotated[Path | None, typer.Option(help="keep data and logs in this folder")] = None,
) -> None:
    """Run the whole system on a data set: stream, train, rank, explain, measure freshness, verify, stop."""
    logs.configure("demo", "error")
    screen = Screen(Console())
    data = _data_set(reviews, items, seed, users, BadLines(screen))
    options = Options(data, Load(load_rate, load_seconds), keep, json)
    raise typer.Exit(run(_until_told(options, screen)))


def _data_set(reviews: Path | None, items: Path | None, seed: int, users: int, bad: BadLines) -> DataSet:
    if reviews is None:
        if items is not None:
            raise typer.BadParameter("--items goes with --reviews")
        return of_catalogue(generate(seed, users=users, interactions=20 * users))
    try:
        return of_file(reviews, items, bad)
    except OSError as error:
        fail(str(error))


async def _until_told(options: Options, screen: Screen) -> int:
    """The demo; SIGTERM ends it as Ctrl-C does, with everything stopped."""
    ours = asyncio.current_task()
    assert ours is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ours.cancel)
    try:
        return await run_demo(options, screen)
    except (PartFailed, DemoFailed) as error:
        screen.say(f"finestream: {error}")
        return 1
    except TimeoutError as error:
        screen.say(f"finestream: something took too long: {error!r}")
        return 1
    except asyncio.CancelledError:
        screen.say("finestream: told to stop; everything has been stopped")
        return 130
