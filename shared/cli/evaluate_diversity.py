"""`finestream evaluate-diversity`: what diversity costs and gives over its strength, as a table, JSON and a plot."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console

from shared import logs
from shared.cli.running import fail


def evaluate_diversity(
    config: Annotated[
        str, typer.Argument(help="a shipped config by name, or a TOML file")
    ] = "musical_instruments_time",
    data: Annotated[Path, typer.Option(help="folder that paths in configs start at")] = Path("../shared/data"),
    model: Annotated[str, typer.Option(help="label of the config's row that is fitted")] = "finestream",
    seed: Annotated[int, typer.Option(min=1, help="of the fit")] = 1,
    pool: Annotated[int, typer.Option(min=10, help="the best items that lists are chosen from")] = 200,
    json: Annotated[Path, typer.Option(help="the rows")] = Path("docs/diversity.json"),
    out: Annotated[Path, typer.Option(help="the document")] = Path("docs/diversity.md"),
    plot: Annotated[Path, typer.Option(help="the drawing")] = Path("docs/plots/diversity.svg"),
    device: Annotated[str, typer.Option(help="cpu, or cuda")] = "cpu",
) -> None:
    """Fit a model and diversify its lists: intra-list diversity and coverage against NDCG, over the strength."""
    # Imported here: the other commands are not to wait for torch.
    import torch

    from shared.archive import BadArchive
    from shared.experiments import config as configs
    from shared.experiments.diversity import measured
    from shared.experiments.diversity_document import render, table_of
    from shared.experiments.extracted import ExtractionFailed
    from shared.experiments.plots import NoPlots, draw_diversity

    logs.configure("evaluate-diversity", "warning")
    torch.set_num_threads(1)  # as `finestream evaluate` fits
    console = Console(stderr=True)

    def tell(what: Mapping[str, Any]) -> None:
        if "epoch" not in what:
            console.print(what["stage"], markup=False)

    try:
        found = measured(configs.read(config, data), model, seed, pool, device, tell)
    except (configs.WrongConfig, ValueError) as error:
        fail(str(error), 2)
    except (OSError, BadArchive, ExtractionFailed) as error:
        fail(str(error))
    for path in (json, out):
        path.parent.mkdir(parents=True, exist_ok=True)
    json.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    drawn = None
    try:
        draw_diversity(found.rows, found.title, plot)
        drawn = os.path.relpath(plot, out.parent)
    except NoPlots as error:
        console.print(str(error), markup=False)
    out.write_text(render(found, drawn))
    typer.echo(table_of(found.rows))
