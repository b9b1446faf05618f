"""A data set and a protocol, as what every model is fitted on and asked.

`time`: one moment parts training from test for everybody; a case's history is what is strictly earlier, in the test
too. `leave_one_out`: of every user the last event is the test and the one before it validation; what other users
did later is then known, so it is an extra, for comparing with papers. `sampled` (LLM-ESR, Liu et al. 2024): the
same, nothing masked, and a target is ranked among 100 random items only.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

import msgspec
import numpy as np
from msgspec.structs import replace

from shared import space
from shared.events import Event, Interaction, Item, ItemSemantics, Opinions
from shared.experiments import readers, texts
from shared.experiments.extracted import extracted
from shared.experiments.pairs import Pairs, with_pairs
from shared.graph.fold import UserFact, fold_user
from shared.graph.state import ItemNode, UserState
from shared.models.dataset import (
    Case,
    Log,
    cases,
    gather,
    is_split,
    moments,
    read_log,
)
from shared.models.evaluation import with_history
from shared.models.features import Schema
from shared.models.split import Split

Protocol = Literal["time", "leave_one_out", "sampled"]
SOURCES: Final = ("reviews", "interactions", "sequences", "archive")
LEAST_EVENTS: Final = 3  # of a user who is asked: one to know, one to choose by, one to test


@dataclass(frozen=True)
class DataSpec:
    """Where a data set lies and how it is asked. Exactly one of `reviews`, `interactions`, `sequences`, `archive`."""

    name: str
    protocol: Protocol = "time"
    reviews: Path | None = None  # Amazon reviews, JSON lines
    items: Path | None = None  # their metadata
    interactions: Path | None = None  # lines `user item [time]`
    sequences: Path | None = None  # lines `user item item ...`
    attributes: Path | None = None  # beside `sequences`, of S3-Rec: item -> attribute ids
    names: Path | None = None  # what the attribute ids are called
    archive: str | None = None  # folder or URL of an event log
    split: str = "0.8"  # of "time": the last training day, as 2014-02-07, or a share of the interactions
    validation: float = 0.1  # of "time": the share of the training interactions, at their end, to choose by
    repeats: bool = False  # items that a user has met are asked again, and not masked; always so in "sampled"
    negatives: int = 100  # of "sampled"
    seed: int = 0  # of the negatives, and of shuffled pairs
    only_met: bool = False  # the catalogue is the items with interactions; else all that has a description too
    extractor: str = ""  # who finds the opinions in `reviews`; empty: as the extractor's settings say
    pairs: Pairs = "found"  # or "shuffled" among the reviews, or "none"
    text: bool = True  # with opinions and text embeddings; False: ids only, which is quick
    space: str = space.DEFAULT_SPACE
    cache: Path = Path(".run/experiments")  # where opinions and embeddings are kept

    def __post_init__(self) -> None:
        given = [source for source in SOURCES if getattr(self, source) is not None]
        if len(given) != 1:
            raise ValueError(f"{self.name}: give one of {', '.join(SOURCES)}, not {' and '.join(given) or 'none'}")
        if (self.attributes is None) != (self.names is None):
            raise ValueError(f"{self.name}: attributes and names go together")
        if self.protocol not in get_args(Protocol):
            raise ValueError(f"{self.name}: protocol {self.protocol!r} is not one of {', '.join(get_args(Protocol))}")
        if not is_split(self.split):
            raise ValueError(f"{self.name}: split is a day as 2014-02-07 or a share, not {self.split}")
        if not 0 < self.validation < 0.5:
            raise ValueError(f"{self.name}: validation is a share of the training below .5, not {self.validation}")

    @staticmethod
    def of(table: Mapping[str, Any], root: Path = Path()) -> "DataSpec":
        """From the keys of a TOML table; paths in it start at `root`. Raises ValueError for a key there is none of."""
        known = [f.name for f in fields(DataSpec)]
        if wrong := sorted(table.keys() - set(known)):
            raise ValueError(f"a data set has no {', '.join(wrong)}; it has {', '.join(known)}")
        given = {**table, **({"split": str(table["split"])} if "split" in table else {})}  # TOML has days and shares
        try:
            return msgspec.convert(given, DataSpec, dec_hook=lambda _, path: root / path)
        except (msgspec.ValidationError, TypeError) as error:
            raise ValueError(f"data set {table.get('name', '')}: {error}") from None


@dataclass(frozen=True)
class Task:
    name: str
    protocol: str
    validation: Split  # the log before validation; `held_out` are the validation cases
    test: Split  # what a model that is asked the test may have seen: `validation` itself where `refit` is False
    cases: list[Case]  # the test
    refit: bool  # models are fitted again, on `test`, before they are asked the cases
    negatives: list[list[int]] | None  # "sampled": rows a target is ranked among, in order of cases and targets
    figures: dict[str, float] = field(default_factory=dict)  # how large everything is
    newcomers: list[Case] = field(default_factory=list)  # "time": of users first met in the test; a slice of their own
    log: Log | None = field(default=None, repr=False)  # "time": everything, the test too; nothing is fitted on it


def load(spec: DataSpec) -> Task:
    """Read everything and part it; the first time this also extracts or embeds texts, which can take minutes.

    Raises OSError or archive.BadArchive for what cannot be read, extracted.ExtractionFailed, ValueError for what the
    protocol cannot ask.
    """
    return task_of(spec, with_pairs(events_of(spec), spec.pairs, spec.seed))


def task_of(spec: DataSpec, events: Iterable[Event]) -> Task:
    """The task of a data set's facts; of one time, the facts of a user are in the order given."""
    order: dict[str, int] = {}
    log = read_log(_numbered(events, order), spec.space)
    if not log.times:
        raise ValueError(f"{spec.name} holds no interaction")
    if spec.only_met:
        met = {fact.item_id for facts in log.by_user.values() for _, fact in facts if isinstance(fact, Interaction)}
        log.by_item = defaultdict(list, {item_id: facts for item_id, facts in log.by_item.items() if item_id in met})
    defined = space.load(spec.space)
    schema = Schema(defined.embedding_dim, defined.opinion_dim, defined.attribute_names)
    if spec.protocol == "time":
        return _by_time(spec, log, schema)
    return _last_out(spec, log, order, schema)


def events_of(spec: DataSpec) -> Iterator[Event]:
    """Every fact of the data set."""
    if spec.archive is not None:
        yield from readers.read_archive(spec.archive, spec.space)
        return
    for path, read in ((spec.interactions, readers.read_interactions), (spec.sequences, readers.read_sequences)):
        if path is not None:
            bad = readers.BadLines(path)
            yield from read(path, bad)
            bad.tell()
    if spec.attributes is not None and spec.names is not None and spec.text:
        told = texts.item_texts(spec.attributes, spec.names)
        yield from texts.semantics(told, space.load(spec.space), spec.cache)
    if spec.reviews is not None and spec.text:
        found = extracted(spec.reviews, spec.items, spec.space, spec.cache, spec.extractor)
        yield from readers.read_archive(str(found), spec.space)
    elif spec.reviews is not None:
        bad, bad_items = readers.BadLines(spec.reviews), readers.BadLines(spec.items or spec.reviews)
        yield from readers.read_amazon(spec.reviews, spec.items, bad, bad_items)
        bad.tell()
        bad_items.tell()


def has_clock(spec: DataSpec) -> bool:
    """Whether event times are of one calendar."""
    if spec.interactions is not None:
        return readers.has_times(spec.interactions)
    return spec.sequences is None


def _by_time(spec: DataSpec, log: Log, schema: Schema) -> Task:
    if not has_clock(spec):
        raise ValueError(f"{spec.name} has no times: it cannot be split by time")
    validation_from, test_from = moments(log.times, spec.split, spec.validation)
    test = Split(log.until(test_from), spec.space, schema, at=test_from, repeats=spec.repeats)
    if not test.log.times:
        raise ValueError(f"{spec.name}: nothing happened before the split at {spec.split}")
    validation = Split(
        log.until(validation_from), spec.space, schema, at=validation_from,
        held_out=with_history(cases(test.log, validation_from, test_from, spec.repeats), validation_from),
        repeats=spec.repeats,
    )  # fmt: skip
    found = cases(log, test_from, math.inf, spec.repeats)
    asked = with_history(found, test_from)
    known = {case.user.user_id for case in asked}
    return Task(
        spec.name, spec.protocol, validation, test, asked, True, None, _figures(log, validation, test, asked),
        [case for case in found if case.user.user_id not in known], log,
    )  # fmt: skip


def _last_out(spec: DataSpec, log: Log, order: Mapping[str, int], schema: Schema) -> Task:
    repeats = spec.repeats or spec.protocol == "sampled"
    training: list[Interaction | Opinions] = []
    held_out: list[Case] = []
    asked: list[Case] = []
    met: dict[str, list[str]] = {}
    for user_id, timed in log.by_user.items():
        facts = in_order([fact for _, fact in timed], order)
        events = [fact for fact in facts if isinstance(fact, Interaction)]
        met[user_id] = [event.item_id for event in events]
        if len(events) < LEAST_EVENTS:
            training += facts
            continue
        training += [fact for fact in facts if fact.ts < events[-2].ts]
        held_out += _case(user_id, facts, events[-2], repeats)
        asked += _case(user_id, facts, events[-1], repeats)
    split = Split(
        _with_items_of(log, training), spec.space, schema, held_out=_sorted(held_out), repeats=repeats,
        clock=has_clock(spec), nodes={item_id: ItemNode(item_id) for items in met.values() for item_id in items},
    )  # fmt: skip
    asked = _sorted(asked)
    negatives = _negatives(spec, split, asked, met) if spec.protocol == "sampled" else None
    return Task(
        spec.name, spec.protocol, split, split, asked, False, negatives, _figures(log, split, split, asked)
    )  # fmt: skip


def in_order(facts: Sequence[UserFact], order: Mapping[str, int]) -> list[Interaction | Opinions]:
    """One user's facts by time, no two interactions at one: of equal times the later in the file becomes the next
    possible time. An opinion stays with its interaction, and is never earlier than it.

    `order`: event id -> place in the file.
    """
    events = sorted((f for f in facts if isinstance(f, Interaction)), key=lambda f: (f.ts, order[f.event_id]))
    moved: list[Interaction | Opinions] = []
    times: dict[str, list[tuple[float, float]]] = defaultdict(list)  # item -> (time given, time now), ascending
    last = -math.inf
    for event in events:
        last = event.ts if event.ts > last else math.nextafter(last, math.inf)
        times[event.item_id].append((event.ts, last))
        moved.append(event if event.ts == last else replace(event, ts=last))
    for fact in facts:
        if isinstance(fact, Opinions):
            met = times.get(fact.item_id, [])
            of = [now for given, now in met if given <= fact.ts][-1:] or [now for _, now in met][:1]
            moved.append(replace(fact, ts=max(fact.ts, *of)) if of else fact)
    return sorted(moved, key=lambda fact: fact.ts)


def _case(user_id: str, facts: Iterable[Interaction | Opinions], event: Interaction, repeats: bool) -> list[Case]:
    """The user asked for the event's item, unless they have met it; one or none."""
    user = fold_user(UserState(user_id), (fact for fact in facts if fact.ts < event.ts))
    if not repeats and any(slot.item_id == event.item_id for slot in user.interactions):
        return []
    return [Case(event.ts, user, (event.item_id,))]


def _with_items_of(log: Log, facts: Iterable[Interaction | Opinions]) -> Log:
    """A log of these facts, and of what is told of items, which nobody's events are held out from."""
    out = Log()
    for item_id, timed in log.by_item.items():
        if told := [(ts, fact) for ts, fact in timed if isinstance(fact, Item | ItemSemantics)]:
            out.by_item[item_id] += told
    gather(out, facts)
    return out


def _negatives(
    spec: DataSpec, split: Split, asked: Sequence[Case], met: Mapping[str, Sequence[str]]
) -> list[list[int]]:
    """For every target, distinct uniform rows outside of all that its user ever met."""
    rng = np.random.default_rng(spec.seed)
    count = len(split.row_of)
    drawn = []
    for case in asked:
        own = {split.row_of[item_id] for item_id in met[case.user.user_id]}
        if count - len(own) < spec.negatives:
            raise ValueError(f"{spec.name}: {count} items are too few to draw {spec.negatives} that a user has not met")
        for _ in case.targets:
            rows = rng.choice(count, spec.negatives + len(own), replace=False).tolist()
            drawn.append([row for row in rows if row not in own][: spec.negatives])
    return drawn


def _figures(log: Log, validation: Split, test: Split, asked: Sequence[Case]) -> dict[str, float]:
    met = [(fact.user_id, fact.item_id) for facts in log.by_user.values() for _, fact in facts
           if isinstance(fact, Interaction)]  # fmt: skip
    again = sum(
        target in {slot.item_id for slot in case.user.interactions} for case in asked for target in case.targets
    )
    targets = sum(len(case.targets) for case in asked)
    return {
        **({} if test is validation else {"refit": test.log.interactions}),
        "users": len({user_id for user_id, _ in met}),
        "items": len({item_id for _, item_id in met}),
        "interactions": len(met),
        "repeats": len(met) - len(set(met)),
        "opinions": sum(
            len(fact.pairs) for facts in log.by_user.values() for _, fact in facts if isinstance(fact, Opinions)
        ),
        "catalogue": len(test.items),
        "training": validation.log.interactions,
        "validation_targets": sum(len(case.targets) for case in validation.held_out),
        "test_targets": targets,
        "test_users": len({case.user.user_id for case in asked}),
        "targets_met_before": again / targets if targets else 0.0,
        "longest": max(Counter(user_id for user_id, _ in met).values()),
    }


def _numbered(events: Iterable[Event], order: dict[str, int]) -> Iterator[Event]:
    """The events, while `order` learns where each interaction stood."""
    for event in events:
        if isinstance(event, Interaction):
            order.setdefault(event.event_id, len(order))
        yield event


def _sorted(found: list[Case]) -> list[Case]:
    return sorted(found, key=lambda case: (case.ts, case.user.user_id))
