"""How soon Rank shows an event while 500 events a second flow through the whole system on this machine.

The system is the demo's: embedded broker and five services as processes, a generated catalogue streamed, a model
trained on it and served. Load and probes are the demo's too (shared/cli/demo/freshness.py): of each kind one probe
after the other is published through the gateway, and its time runs from the broker's append to the answer of a Rank
that waits for it. A probe that misses its deadline counts as that deadline. The same probes run before the load, idle.
Of the probes more are reviews than of the load, which makes figures over all worse than what most events see; and
since one waits for the other, a moment in which nothing moves meets few of them, which makes figures better.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from rich.console import Console

from shared.cli.demo.dataset import of_catalogue
from shared.cli.demo.drain import until_drained
from shared.cli.demo.freshness import DEADLINE_SECONDS, Load, Probes, measure, quantile
from shared.cli.demo.session import Session, started, unless_a_part_fails
from shared.cli.demo.training import train, until_served
from shared.cli.screen import Screen
from shared.local.catalogue import Catalogue, generate
from shared.local.ledger import send_all
from tests.bench.figure import Figure, figure

LOAD: Final = Load(rate=500.0, seconds=30.0)
IDLE: Final = Load(rate=0.0, seconds=10.0, prefix="idle-")
USERS, INTERACTIONS = 150, 3_000
TRAINING: Final = {"FINESTREAM_TRAINER_MAX_SECONDS": "20"}
GOALS: Final = {"p50": (0.5, 0.3), "p95": (0.95, 1.0), "p99": (0.99, 3.0)}  # share of the probes, seconds
OVER_ALL: Final = "over all"
WHAT: Final = (
    f"seconds from a click or review in the broker to a ranking that shows it, {{name}} over all probes under "
    f"{LOAD.rate:g} events/s for {LOAD.seconds:g} s, against the goal; the whole system, load and probes on this "
    f"machine, with what the trainer made of a small catalogue served: {{served}}; {LOAD.review_share:.0%} of the load "
    "are reviews, the demo's mix; the span model takes about a hundred of them a second a core"
)

Delays = dict[str, list[float]]  # by kind and over all, sorted


@dataclass(frozen=True)
class Measured:
    served: str  # kind of the model
    loaded: Delays
    idle: Delays
    parts: Mapping[str, float]  # of the load


def figures() -> list[Figure]:
    measured = asyncio.run(_measured())
    return [_figure(name, measured) for name in GOALS]


def _figure(name: str, measured: Measured) -> Figure:
    share, goal = GOALS[name]
    of = {kind: _quantile(delays, share) for kind, delays in measured.loaded.items()}
    ours, what = of.pop(OVER_ALL), WHAT.format(name=name, served=measured.served)
    parts = {f"of {kind}s, s": seconds for kind, seconds in of.items()}
    parts |= {"idle, s": _quantile(measured.idle[OVER_ALL], share), **measured.parts}
    return figure(f"freshness {name}", what, ours, goal, "s", goal=1.0, less_is_better=True, parts=parts)


def _quantile(delays: list[float], share: float) -> float:
    found = quantile(delays, share)
    assert found is not None, "no probe was answered"
    return found


async def _measured() -> Measured:
    async with started(Screen(Console(stderr=True)), None) as (session, supervisor):
        return await unless_a_part_fails(supervisor, _probed(session, generate(users=USERS, interactions=INTERACTIONS)))


async def _probed(session: Session, catalogue: Catalogue) -> Measured:
    served = await _serve_a_model(session, catalogue)
    items = [item.item_id for item in catalogue.items]
    idle, loaded = [
        await measure(session.client, session.producer, session.ledger, items, load, _unseen) for load in (IDLE, LOAD)
    ]
    await _drained(session)  # the archive says when the broker took the probes
    parts = {
        "load reached, events/s": loaded.load_sent / loaded.load_seconds,
        "reviews' share of the load": LOAD.review_share,
        **{f"probes, {kind}s": len(found) + loaded.late[kind] for kind, found in loaded.answers.items()},
        "of them late": loaded.late.total(),
    }
    return Measured(served, await _delays(session, loaded), await _delays(session, idle), parts)


async def _serve_a_model(session: Session, catalogue: Catalogue) -> str:
    """As the demo does, with a catalogue and a training that take half a minute each. The kind of the model."""
    await send_all(session.producer, session.ledger, of_catalogue(catalogue).read(), _unseen)
    await _drained(session)
    system = replace(session.system, env={**session.system.env, **TRAINING})
    trained = await train(replace(session, system=system))
    await until_served(session, trained.version)
    return trained.kind


async def _drained(session: Session) -> None:
    await until_drained(session.watch, session.archive_url, session.ledger, session.screen, "reviews answered")


async def _delays(session: Session, probes: Probes) -> Delays:
    return with_late(await asyncio.to_thread(probes.delays, session.archive_url), probes.late)


def with_late(answered: Delays, late: Mapping[str, int]) -> Delays:
    """By kind and over all. What nobody waited for any longer took its deadline at least."""
    of = {kind: sorted([*delays, *late.get(kind, 0) * [DEADLINE_SECONDS]]) for kind, delays in answered.items()}
    return {**of, OVER_ALL: sorted(delay for delays in of.values() for delay in delays)}


def _unseen(_: int) -> None:
    """Progress of what takes seconds."""
