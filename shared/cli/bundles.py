"""`finestream bundles`: which model releases there are, and back to an earlier one."""

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from shared import bundle
from shared.cli.running import fail
from shared.settings import BundleSettings, read

app = typer.Typer(no_args_is_help=True, help="Model releases: list, rollback.")


@app.command("list", epilog="Example: finestream bundles list")
def list_bundles() -> None:
    """Print every complete release, oldest first, and which one is served."""
    url = read(BundleSettings).url
    try:
        current = bundle.current(url)
        table = Table("version", "served", "model", "space", "data up to")
        for version in bundle.versions(url):
            meta = bundle.meta_of(url, version)
            served = "yes" if current is not None and version == current.version else ""
            table.add_row(version, served, meta.kind, meta.space, _day(meta.data_timestamp))
    except (bundle.BadBundle, OSError) as error:
        fail(str(error))
    Console().print(table if table.row_count else f"no releases in {url}; make one with: finestream train")


@app.command(epilog="Example: finestream bundles rollback")
def rollback(
    version: Annotated[str | None, typer.Argument(help="the release to serve; absent: the one before this")] = None,
) -> None:
    """Serve an earlier release. Every ranking replica swaps to it within seconds."""
    try:
        served = bundle.rollback(read(BundleSettings).url, version)
    except (bundle.BadBundle, OSError) as error:
        fail(str(error))
    Console().print(f"now served: {served}")


def _day(timestamp: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(timestamp)) + " UTC"
