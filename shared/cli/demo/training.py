"""Runs the trainer as the cluster does, reads what it reports, and waits until ranking serves it."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from rich.table import Table

from shared import bundle
from shared.cli.demo.failed import DemoFailed
from shared.cli.demo.session import Session
from shared.local.child import Child, Part
from shared.local.layout import TRAINER
from shared.local.loglines import InFiles, level_of, short

SWAP_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.2
METRICS: Final = ("ndcg@10", "ndcg@20", "hr@10")
BASELINES: Final = ("popularity", "item_knn")


@dataclass(frozen=True)
class Trained:
    """The published release and what was measured of it and of the baselines."""

    version: str
    kind: str
    report: dict[str, Any]
    seconds: float


async def train(session: Session) -> Trained:
    """Raises DemoFailed when the trainer fails or publishes nothing."""
    logs, started = InFiles(session.system.data / "logs"), time.monotonic()

    def show(name: str, line: str) -> None:
        logs(name, line)
        if level_of(line) and '"settings"' not in line:  # its table is for those who run it by hand; ours is below
            session.screen.note(short(line))

    async def ready() -> str:
        return ""

    part = Part(TRAINER, session.system.trainer_command(), ready, env=session.system.trainer_env())
    child = await Child.spawn(part, show)
    try:
        if await child.exited() != 0:
            raise DemoFailed(child.obituary("while training"))
    finally:
        await child.stop()  # only when we are told to stop ourselves; it has ended otherwise
        logs.close()
    current = await asyncio.to_thread(bundle.current, session.bundles_url)
    if current is None:
        raise DemoFailed("the trainer ended well but published nothing")
    meta = await asyncio.to_thread(bundle.meta_of, session.bundles_url, current.version)
    return Trained(current.version, meta.kind, meta.metrics, round(time.monotonic() - started, 1))


def table(report: dict[str, Any]) -> Table:
    """The published model beside the baselines."""
    drawn = Table("full ranking, split by time", *METRICS)
    for name, measured in (("model", report["model"]), *report["baselines"].items()):
        drawn.add_row(name, *(f"{measured[metric]:.4f}" for metric in METRICS))
    return drawn


async def until_served(session: Session, version: str) -> float:
    """Wait until Rank answers with this release; the seconds it took. Raises DemoFailed after SWAP_SECONDS."""
    started = time.monotonic()
    while (served := (await session.client.rank("someone-never-seen", 1)).model_version) != version:
        if time.monotonic() - started > SWAP_SECONDS:
            raise DemoFailed(f"ranking still serves {served or 'no model'} {SWAP_SECONDS:g} s after {version} was made")
        await asyncio.sleep(POLL_SECONDS)
    return round(time.monotonic() - started, 2)
