"""`finestream attributes`: a domain's attribute set, from its reviews to a space. The work is the extractor's."""

import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Attribute sets: discover, make.")
MODULE = "services.extractor.attribute_set"


@app.command(epilog="Example: finestream attributes discover reviews.json.gz > set.yaml")
def discover(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Amazon-format JSON lines, gzip or not")],
    reviews: Annotated[int, typer.Option(min=1, help="of the file that are read, at random")] = 2000,
    attributes: Annotated[int, typer.Option(min=1, max=64, help="that are proposed at most")] = 12,
    likeness: Annotated[float, typer.Option(min=0, max=1, help="mean cosine of words of one attribute")] = 0.4,
) -> None:
    """Propose the attributes of a domain from what its reviews judge, as YAML to be edited."""
    options = ["--reviews", reviews, "--attributes", attributes, "--likeness", likeness]
    _run(["discover", str(file), *map(str, options)])


@app.command(epilog="Example: finestream attributes make set.yaml guitars-v1")
def make(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="YAML as discover prints it, edited")],
    name: Annotated[str, typer.Argument(help="of the new space, a folder in FINESTREAM_SPACE_ROOT")],
) -> None:
    """Make a space of an attribute set, with the embedding model of the present one, and fit its projection."""
    _run(["make", str(file), name])


def _run(arguments: list[str]) -> None:
    raise typer.Exit(subprocess.run([sys.executable, "-m", MODULE, *arguments], check=False).returncode)
