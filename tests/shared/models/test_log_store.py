"""A log on disk is the one in memory, and what it costs in memory does not grow with it."""

import math
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Erasure, Event, Item
from shared.models import dataset, log_store, sequence_store
from shared.models.dataset import Catalogue, Logged, cases, items_before, read_log
from shared.models.log_store import StoredLog, write
from shared.models.split import Split
from tests.shared.models.worlds import SCHEMA, SPACE, interaction, opinions, semantics, vector

USERS, ITEMS, TIMES = ["u", "v1", "v10", "v2", "ü"], ["a", "b", "Ä"], [1.0, 2.0, 2.5, 3.0, 4.0]
user, item, ts = st.sampled_from(USERS), st.sampled_from(ITEMS), st.sampled_from(TIMES)
RNG = random.Random(1)


def described(item_id: str, at: float, title: str) -> Item:
    return Item(item_id=item_id, ts=at, title=title)


event = st.one_of(
    st.builds(interaction, user, item, ts, st.sampled_from([f"e{n}" for n in range(8)])),
    st.builds(
        lambda u, i, t, space: opinions(RNG, u, i, t, space=space), user, item, ts, st.sampled_from([SPACE, "x"])
    ),
    st.builds(described, item, ts, st.sampled_from(["one", "two"])),
    st.builds(lambda i, t, space: semantics(i, vector(RNG, 12), t, space), item, ts, st.sampled_from([SPACE, "x"])),
    st.builds(lambda u, t: Erasure(user_id=u, erased_at=t), user, ts),
)


def told(log: Logged) -> tuple[object, ...]:
    return list(log.users()), items_of(log), list(log.times), log.interactions, log.newest


def items_of(log: Logged, since: float = -math.inf, until: float = math.inf) -> list[tuple[str, list[object]]]:
    return [(item_id, list(facts)) for item_id, facts in log.items(since, until)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Iterator[Path]]:
    return (tmp_path_factory.mktemp("log") for _ in iter(int, 1))


@given(st.lists(event, max_size=40), ts, st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_it_is_what_memory_holds_now_and_at_any_time(
    folder: Iterator[Path], events: list[Event], at: float, at_once: int
) -> None:
    held = read_log(events, SPACE)
    with patch.object(log_store, "AT_ONCE", at_once):
        stored = write(next(folder), events, SPACE)
    assert told(stored) == told(held)
    assert told(stored.until(at)) == told(held.until(at))
    assert told(stored.until(at).until(math.inf)) == told(held.until(at))
    assert items_of(stored, 2.0, at) == items_of(held, 2.0, at)
    assert (stored.user_count, stored.item_count) == (len(list(held.users())), len(items_of(held)))
    assert stored.before(at) == held.before(at)


@given(st.lists(event, max_size=40), ts)
@settings(max_examples=40, deadline=None)
def test_samples_catalogue_and_sequences_are_those_of_memory(
    folder: Iterator[Path], events: list[Event], at: float
) -> None:
    held, stored = read_log(events, SPACE), write(next(folder), events, SPACE)
    assert cases(stored, -math.inf, math.inf) == cases(held, -math.inf, math.inf)
    assert cases(stored, at, 4.0) == cases(held, at, 4.0)
    assert items_before(stored, at) == items_before(held, at)
    growing = Catalogue(stored)
    for now in TIMES:
        growing.advance(now)
        assert growing.nodes() == items_before(held, now)
    splits = [Split(log.until(at), SPACE, SCHEMA, at) for log in (stored, held)]
    of_disk, of_memory = (split.sequences for split in splits)
    assert list(of_disk.users) == list(of_memory.users)
    for name in ("offsets", "items", "times", "asked_at", "asked_for"):
        assert np.array_equal(getattr(of_disk, name), getattr(of_memory, name)), name
    assert np.array_equal(splits[0].counts, splits[1].counts)
    assert splits[0].newest(2) == splits[1].newest(2)


def test_the_newest_are_all_where_there_are_no_more(tmp_path: Path) -> None:
    split = Split(write(tmp_path, some_log(300, 30), SPACE), SPACE, SCHEMA)
    assert split.newest(300) == split.training
    some = split.newest(100)
    assert some == split.training[-len(some) :]
    assert sum(case.ts >= split.log.times[-100] for case in split.training) == len(some)


def some_log(events: int, users: int) -> Iterator[Event]:
    rng = random.Random(1)
    for n in range(events):
        who, what, at = f"user {rng.randrange(users)}", f"item {rng.randrange(50)}", 1e9 + n
        yield interaction(who, what, at, str(n))
        yield opinions(rng, who, what, at)


def peaks(folder: Path, events: int) -> list[int]:
    """Bytes at the peak of storing a log, and of every way of reading it."""
    folder.mkdir()
    found: list[int] = []

    def peak() -> None:
        found.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.reset_peak()

    tracemalloc.start()
    try:
        log: StoredLog = write(folder, some_log(events, events // 20), SPACE)
        peak()
        assert sum(len(facts) for _, facts in log.users()) == 2 * events
        peak()
        split = Split(log, SPACE, SCHEMA)
        assert len(split.newest(100)) > 50
        peak()
        assert len(split.sequences.items) == events
        peak()
    finally:
        tracemalloc.stop()
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    with (
        patch.object(log_store, "AT_ONCE", 100),
        patch.object(sequence_store, "BUFFER", 256),
        patch.object(dataset, "FOLDED_AT_ONCE", 20),
    ):
        peaks(tmp_path / "warm", 500)
        short, long = peaks(tmp_path / "short", 2000), peaks(tmp_path / "long", 20_000)
    assert [after < 1.5 * before for before, after in zip(short, long, strict=True)] == [True] * 4, (short, long)
