"""`finestream`: one console script for the system on one machine and for clients of any."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Sequence
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import grpc
import typer
from rich.console import Console

from shared import logs
from shared.cli import attributes, bundles, dlq, experiments, publish, settings_table, token
from shared.cli.bench import bench
from shared.cli.demo.command import demo
from shared.cli.evaluate import evaluate
from shared.cli.evaluate_diversity import evaluate_diversity
from shared.cli.generate import event_schema
from shared.cli.replay import replay as replay_file
from shared.cli.running import fail, run
from shared.cli.screen import Screen
from shared.cli.tables import ranking_of, similar_of, similar_table, table
from shared.cli.verify import verify
from shared.client import Client, ClientSettings, connect
from shared.local import layout
from shared.local.loglines import OnConsole
from shared.local.up import run as run_system
from shared.pb.finestream.v1 import ranking_pb2
from shared.settings import KafkaSettings, read

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
app.add_typer(publish.app, name="publish")
app.add_typer(bundles.app, name="bundles")
app.add_typer(experiments.app, name="experiments")
app.add_typer(dlq.app, name="dlq")
app.add_typer(attributes.app, name="attributes")
app.add_typer(token.app, name="token")

app.command(epilog="Example: finestream demo --reviews reviews.json.gz --json summary.json")(demo)
app.command(epilog="Example: finestream evaluate gift_cards musical_instruments_time --workers 2")(evaluate)
app.command(
    "evaluate-diversity", epilog="Example: finestream evaluate-diversity musical_instruments_time --model finestream"
)(evaluate_diversity)
app.command(epilog="Example: finestream verify --users 1000 --items 1000 --json report.json")(verify)
app.command(epilog="Example: finestream bench intake state_size --json figures.json")(bench)

Data = Annotated[Path, typer.Option(help="folder of everything that is kept")]
Reviews = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Amazon-format JSON lines, gzip or not")]
Texts = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Amazon-format JSON lines, or a text a line")]
Limit = Annotated[int, typer.Option(min=0, help="reviews at most; 0: all")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="ask nobody: what would the model cost?")]
MinPrice = Annotated[float | None, typer.Option(min=0, help="only items that cost so much or more")]
MaxPrice = Annotated[float | None, typer.Option(min=0, help="only items that cost so much or less")]
Meta = Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="metadata of the items, JSON lines")]


@app.command(epilog="Example: finestream up --data .run")
def up(
    data: Data = Path(".run"),
    free_ports: Annotated[bool, typer.Option("--free-ports", help="any free ports, not the default ones")] = False,
) -> None:
    """Run the whole system on this machine until Ctrl-C: embedded broker, and every service as its own process."""
    console = Console(stderr=True)
    logs.configure("up")
    try:
        ports = layout.Ports.free() if free_ports else layout.Ports.default()
        system = layout.local(data, ports)
    except ValueError as error:
        fail(f"a port in the environment is no number: {error}", 2)
    say = partial(console.print, markup=False, soft_wrap=True)
    raise typer.Exit(asyncio.run(run_system(system, OnConsole(console), say)))


@app.command(epilog="Example: finestream replay reviews.json.gz --rate 500")
def replay(
    file: Reviews,
    rate: Annotated[float, typer.Option(min=0, help="events a second; 0: as fast as they are taken")] = 0.0,
    items: Meta = None,
) -> None:
    """Stream a file of reviews into Kafka: every line is a review and an interaction."""
    run(replay_file(file, items, rate, read(KafkaSettings), Screen(Console(stderr=True))))


class DiversityMethod(StrEnum):
    mmr = "mmr"
    dpp = "dpp"


DIVERSITY_METHODS = {
    DiversityMethod.mmr: ranking_pb2.DIVERSITY_METHOD_MMR,
    DiversityMethod.dpp: ranking_pb2.DIVERSITY_METHOD_DPP,
}


class ExplorationMethod(StrEnum):
    epsilon = "epsilon"
    ucb = "ucb"


EXPLORATION_METHODS = {
    ExplorationMethod.epsilon: ranking_pb2.EXPLORATION_METHOD_EPSILON,
    ExplorationMethod.ucb: ranking_pb2.EXPLORATION_METHOD_UCB,
}


@app.command(epilog="Example: finestream rank alice --k 5 --context B003VWJ2K8 --diversity 0.3")
def rank(
    user: Annotated[str, typer.Argument(help="user id")],
    k: Annotated[int, typer.Option(help="how many items")] = 10,
    context: Annotated[list[str] | None, typer.Option(help="an item looked at now; may be repeated")] = None,
    category: Annotated[list[str] | None, typer.Option(help="only items with one of these categories")] = None,
    min_price: MinPrice = None,
    max_price: MaxPrice = None,
    include_seen: Annotated[bool, typer.Option("--include-seen", help="items of the history too")] = False,
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="0: by score alone, 1: unlike each other above all")
    ] = None,
    diversity_method: Annotated[DiversityMethod | None, typer.Option(help="how unlike items are chosen")] = None,
    per_category: Annotated[int, typer.Option(min=0, help="items of one category at most; 0: no limit")] = 0,
    exploration: Annotated[
        float | None, typer.Option(min=0, max=1, help="probability that a place is given away, to learn")
    ] = None,
    exploration_method: Annotated[ExplorationMethod | None, typer.Option(help="to which items")] = None,
    leave_one_out: Annotated[
        bool, typer.Option("--leave-one-out", help="find the reasons exactly, which takes longer")
    ] = False,
    paged: Annotated[bool, typer.Option("--paged", help="say how to ask for the next page")] = False,
    page_token: Annotated[str, typer.Option(help="the page after the one that gave this")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """Rank the catalogue for a user, and say why."""
    asked = {
        "context": context or [],
        "categories": category or [],
        "min_price": min_price,
        "max_price": max_price,
        "include_seen": include_seen,
        "diversity": diversity,
        "diversity_method": diversity_method and DIVERSITY_METHODS[diversity_method],
        "max_per_category": per_category,
        "paged": paged,
        "page_token": page_token,
        "exploration": exploration,
        "exploration_method": exploration_method and EXPLORATION_METHODS[exploration_method],
        "explanation_method": ranking_pb2.EXPLANATION_METHOD_LEAVE_ONE_OUT if leave_one_out else None,
    }
    ranking, titles = run(_rank(user, k, asked))
    if as_json:
        Console().print_json(data=ranking)
        return
    Console().print(table(ranking, titles))
    if ranking["next_page_token"]:
        typer.echo(f"the next page: --page-token {ranking['next_page_token']}")


async def _rank(user: str, k: int, asked: dict[str, Any]) -> tuple[dict[str, object], dict[str, str]]:
    async with connect(read(ClientSettings)) as client:
        answer = await client.rank(user, k, **asked)
        return ranking_of(user, answer), await _titles(client, _named_in(answer))


@app.command(epilog="Example: finestream similar B003VWJ2K8 --k 5")
def similar(
    item: Annotated[str, typer.Argument(help="item id")],
    k: Annotated[int, typer.Option(help="how many items")] = 10,
    category: Annotated[list[str] | None, typer.Option(help="only items with one of these categories")] = None,
    min_price: MinPrice = None,
    max_price: MaxPrice = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of a table")] = False,
) -> None:
    """The items most like one, by the vectors that rankings score with."""
    asked = {"categories": category or [], "min_price": min_price, "max_price": max_price}
    found, titles = run(_similar(item, k, asked))
    Console().print_json(data=found) if as_json else Console().print(similar_table(found, titles))


async def _similar(item: str, k: int, asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    async with connect(read(ClientSettings)) as client:
        answer = await client.similar_items(item, k, **asked)
        return similar_of(item, answer), await _titles(client, [item, *(one.item_id for one in answer.items)])


async def _titles(client: Client, item_ids: Sequence[str]) -> dict[str, str]:
    """None where graph_updater does not tell them, as to a token for rankings alone: the answer is there."""
    try:
        nodes = await client.items(item_ids)
    except grpc.aio.AioRpcError as error:
        typer.echo(f"without titles: {error.details()}", err=True)
        return {}
    return {item_id: node.facts.title for item_id, node in nodes.items() if node.facts}


def _named_in(answer: ranking_pb2.RankResponse) -> list[str]:
    reasons = [item.explanation.history.item_id for item in answer.items]
    return sorted({*(item.item_id for item in answer.items), *reasons} - {""})


@app.command(epilog="Example: finestream train")
def train(data: Data = Path(".run")) -> None:
    """Train on the archive, compare with the baselines, and publish the best: the same job as the cluster's."""
    system = layout.local(data, layout.Ports.default())
    raise typer.Exit(subprocess.run(system.trainer_command(), env=system.trainer_env(), check=False).returncode)


@app.command(epilog="Example: finestream rebuild > report.json")
def rebuild(
    from_start: Annotated[bool, typer.Option("--from-start", help="read all, whatever was read before")] = False,
) -> None:
    """Fill graph_updater's collections from the archive and Kafka: the lost ones, or others beside the live ones."""
    command = [sys.executable, "-m", "services.graph_updater.rebuild", *(["--from-start"] if from_start else [])]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command(epilog="Example: finestream respace --of minilm-general-v1")
def respace(
    of: Annotated[str, typer.Option("--of", help="the space whose facts are embedded again")],
    from_start: Annotated[bool, typer.Option("--from-start", help="read all, whatever was read before")] = False,
    despite_holes: Annotated[bool, typer.Option("--despite-holes", help="though part of the log is nowhere")] = False,
) -> None:
    """Fill a new space, which FINESTREAM_SPACE_NAME names, with what another one has: embedded again, not extracted."""
    command = [
        sys.executable, "-m", "services.extractor.respace", "--of", of, *(["--from-start"] if from_start else []),
        *(["--despite-holes"] if despite_holes else []),
    ]  # fmt: skip
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command(
    "evaluate-extraction",
    epilog="Example: finestream evaluate-extraction --provider rules ../shared/data/absa_dmaste",
)
def evaluate_extraction(
    data: Annotated[list[Path], typer.Argument(help="marked reviews, or folders with *dev* files of them")],
    provider: Annotated[str, typer.Option(help="rules, spans or openai; empty: the extractor's setting")] = "",
    limit: Annotated[int, typer.Option(min=0, help="reviews of each file at most, spread over it; 0: all")] = 0,
    json: Annotated[Path | None, typer.Option(help="keep the figures in this file; rows of others in it stay")] = None,
    out: Annotated[Path | None, typer.Option(help="draw the file's figures into this document")] = None,
) -> None:
    """Hold what a provider finds against the pairs that people marked: precision, recall, F1, polarity, speed."""
    options = {"--provider": provider or None, "--limit": limit, "--json": json, "--out": out}
    given = [str(part) for name, value in options.items() if value is not None for part in (name, value)]
    command = [sys.executable, "-m", "services.extractor.evaluate_extraction", *map(str, data), *given]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command(epilog="Example: finestream extract reviews.json.gz --limit 20 --dry-run")
def extract(
    file: Texts,
    limit: Limit = 0,
    as_json: Annotated[bool, typer.Option("--json", help="a JSON object a line instead of tables")] = False,
    dry_run: DryRun = False,
) -> None:
    """Find the opinions in a file of reviews with the configured provider, and say what that cost. Writes nothing."""
    raise typer.Exit(subprocess.run(_of_file("extract_file", file, limit, as_json, dry_run), check=False).returncode)


@app.command(epilog="Example: finestream prepay reviews.json.gz --dry-run")
def prepay(
    file: Texts,
    limit: Limit = 0,
    as_json: Annotated[bool, typer.Option("--json", help="the summary as JSON")] = False,
    dry_run: DryRun = False,
) -> None:
    """Buy the opinions in a file of reviews by batches, at a lower price, for whoever asks for them afterwards."""
    raise typer.Exit(subprocess.run(_of_file("prepay", file, limit, as_json, dry_run), check=False).returncode)


def _of_file(module: str, file: Path, limit: int, as_json: bool, dry_run: bool) -> list[str]:
    options = ["--limit", str(limit), *(["--json"] if as_json else []), *(["--dry-run"] if dry_run else [])]
    return [sys.executable, "-m", f"services.extractor.{module}", str(file), *options]


@app.command(epilog="Example: finestream schema > events.schema.json")
def schema() -> None:
    """Print the JSON Schema of every event."""
    typer.echo(json.dumps(event_schema(), indent=2, sort_keys=True))


@app.command(epilog="Example: finestream settings")
def settings() -> None:
    """Print every setting of every service as a Markdown table."""
    typer.echo(settings_table.markdown())


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
