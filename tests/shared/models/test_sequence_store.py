"""Sequences on disk are the ones in memory, and what they cost in memory does not grow with the log."""

import random
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.events import Interaction
from shared.models import batches, sequence_store
from shared.models.batches import SequenceBatches
from shared.models.dataset import read_log
from shared.models.sequence_store import read, write
from shared.models.sequences import Met, held
from shared.models.split import Split
from tests.shared.models.worlds import SCHEMA, SPACE, interaction

COLUMNS = ("offsets", "items", "times", "asked_at", "asked_for")
logs = st.lists(st.tuples(st.sampled_from(["u", "v1", "v10", "v2", "ü"]), st.integers(0, 5), st.integers(0, 6)))


def in_memory(facts: list[tuple[str, int, float]], repeats: bool) -> Split:
    """Event ids say the order of the log, which decides between events of one time."""
    log = read_log([interaction(u, f"i{i}", ts, f"{n:09}") for n, (u, i, ts) in enumerate(facts)], SPACE)
    return Split(log, SPACE, SCHEMA, repeats=repeats)


def met(split: Split) -> Iterator[Met]:
    for user, facts in split.log.users():
        events = [fact for _, fact in facts if isinstance(fact, Interaction)]
        yield user, [split.row_of[event.item_id] for event in events], [event.ts for event in events]


@given(logs, st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_is_what_the_same_users_give_in_memory(
    tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[str, int, int]], repeats: bool
) -> None:
    split = in_memory([(u, i, float(ts)) for u, i, ts in facts], repeats)
    with patch.object(sequence_store, "BUFFER", 3):
        got = write(tmp_path_factory.mktemp("s") / "store", met(split), repeats)
    for name in COLUMNS:
        expected = getattr(split.sequences, name)
        assert np.array_equal(getattr(got, name), expected), name
        assert getattr(got, name).dtype == expected.dtype
    assert list(got.users) == split.sequences.users
    assert got.users[1:] == split.sequences.users[1:]


@given(logs, st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_stretches_are_whole_users_and_everything_once(facts: list[tuple[str, int, int]], events: int) -> None:
    s = in_memory([(u, i, float(ts)) for u, i, ts in facts], repeats=False).sequences
    parts = list(s.stretches(events))
    if parts:
        users, items, times = (np.concatenate(column) for column in zip(*parts, strict=True))
        assert np.array_equal(users, np.repeat(np.arange(len(s)), np.diff(s.offsets)))
        assert np.array_equal(items, s.items)
        assert np.array_equal(times, s.times)
        assert all(not set(a[0]) & set(b[0]) for a, b in pairwise(parts))
    assert sum(len(part[0]) for part in parts) == len(s.items)


def some_log(events: int, users: int) -> Iterator[Met]:
    rng = random.Random(1)
    for user in range(users):
        times = sorted(float(rng.randrange(1000)) for _ in range(events // users))
        yield f"user {user:06}", [rng.randrange(500) for _ in times], times


def test_batches_are_the_ones_of_memory(tmp_path: Path) -> None:
    of_disk, of_memory = (
        SequenceBatches(found, 6, 16).epoch(np.random.default_rng(1))
        for found in (write(tmp_path / "store", some_log(3000, 300)), held(some_log(3000, 300), repeats=False))
    )
    for a, b in zip(of_disk, of_memory, strict=True):
        for name in ("history", "real", "asked", "targets", "users", "first"):
            assert torch.equal(getattr(a, name), getattr(b, name))


def test_arrays_are_maps_of_files_and_nothing_else_is_left(tmp_path: Path) -> None:
    found = write(tmp_path / "store", some_log(500, 50))
    assert all(isinstance(getattr(found, name), np.memmap) for name in COLUMNS)
    assert {path.suffix for path in (tmp_path / "store").iterdir()} == {".npy"}
    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert list(read(tmp_path / "store").users) == [user for user, _, _ in some_log(500, 50)]


def test_a_torn_write_leaves_nothing_that_could_be_read(tmp_path: Path) -> None:
    def torn() -> Iterator[Met]:
        yield from some_log(50, 5)
        raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk is full"):
        write(tmp_path / "store", torn())
    assert not (tmp_path / "store").exists()
    assert len(write(tmp_path / "store", some_log(50, 5)).items) == 50
    with pytest.raises(FileExistsError):
        write(tmp_path / "store", some_log(50, 5))


def peaks(folder: Path, events: int) -> tuple[int, int]:
    """Bytes at the peak of building a store, and of an epoch over it."""
    tracemalloc.start()
    try:
        found = write(folder, some_log(events, events // 10))
        _, building = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in SequenceBatches(found, 8, 16).epoch(np.random.default_rng(0)):
            pass
        _, epoch = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    return building, epoch


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    with (
        patch.object(batches, "BLOCK", 32),
        patch.object(batches, "POOL", 4),
        patch.object(sequence_store, "BUFFER", 256),
    ):
        peaks(tmp_path / "warm", 500)
        short, long = peaks(tmp_path / "short", 3000), peaks(tmp_path / "long", 30_000)
    assert long[0] < 1.3 * short[0]
    assert long[1] < 1.3 * short[1]
