"""Batches of sequences: every question once, with the newest events before it, in rows of like length."""

from unittest.mock import patch

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.models import batches
from shared.models.batches import Batch, SequenceBatches
from shared.models.sequences import Sequences
from tests.shared.models.learners import world


def made(lengths: list[int], rng: np.random.Generator, ask: float = 0.7) -> Sequences:
    """Users of so many events; each event is followed by 0, 1 or 2 questions."""
    offsets = np.cumsum([0, *lengths])
    total = int(offsets[-1])
    times = np.concatenate([np.zeros(0), *(np.arange(n) for n in lengths)]).astype(np.float64)
    asked = np.repeat(np.arange(total), rng.binomial(2, ask / 2, total))
    return Sequences(
        [f"u{n}" for n in range(len(lengths))],
        offsets.astype(np.int64),
        rng.integers(1, 100, total),
        times,
        asked.astype(np.int64),
        rng.integers(1, 100, len(asked)),
    )


def answered(found: Sequences, data: SequenceBatches, seed: int = 0) -> list[tuple[int, int, list[int], int]]:
    """(user, place of the newest event seen, rows seen, target) of every question, sorted."""
    out = []
    for batch in data.epoch(np.random.default_rng(seed)):
        assert not batch.history[~batch.real].any()
        for (row, column), target in zip(batch.asked.tolist(), batch.targets.tolist(), strict=True):
            assert batch.real[row, : column + 1].all()
            newest = int(batch.first[row]) + column
            out.append((int(batch.users[row]), newest, batch.history[row, : column + 1].tolist(), target))
    return sorted(out)


worlds = st.lists(st.integers(0, 25), max_size=30)


@given(worlds, st.integers(1, 12), st.integers(1, 5), st.integers(1, 12), st.booleans(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_every_question_is_asked_once_of_the_newest_events(
    lengths: list[int], longest: int, batch: int, stride: int, alone: bool, seed: int
) -> None:
    found = made(lengths, np.random.default_rng(seed))
    stride = min(stride, longest)
    with patch.object(batches, "BLOCK", 4), patch.object(batches, "POOL", 2):
        got = answered(found, SequenceBatches(found, longest, batch, alone=alone, stride=stride), seed)
    user_of = np.searchsorted(found.offsets, found.asked_at, side="right") - 1
    expected = sorted(zip(user_of.tolist(), found.asked_at.tolist(), found.asked_for.tolist(), strict=True))
    assert sorted((user, at, target) for user, at, _, target in got) == expected
    for user, at, seen, _ in got:
        everything = found.items[found.offsets[user] : at + 1].tolist()
        least = min(len(everything), longest if alone else longest - stride + 1)
        assert least <= len(seen) <= longest
        assert seen == everything[-len(seen) :]


def test_a_stride_of_one_shows_exactly_the_newest_events() -> None:
    found = made([40, 3], np.random.default_rng(0), ask=2.0)
    got = answered(found, SequenceBatches(found, 8, 4, stride=1))
    assert all(len(seen) == min(8, at + 1 - found.offsets[user]) for user, at, seen, _ in got)


def test_one_question_a_row_where_that_is_asked() -> None:
    found = made([9, 4, 12], np.random.default_rng(0))
    for batch in SequenceBatches(found, 8, 2, alone=True).epoch(np.random.default_rng(0)):
        assert batch.asked[:, 0].tolist() == list(range(len(batch.history)))
        assert (batch.asked[:, 1] == batch.real.sum(1) - 1).all()


def test_the_rng_alone_decides_the_order() -> None:
    found = made([5] * 50, np.random.default_rng(0))
    data = SequenceBatches(found, 8, 4)
    once, again, other = (
        [batch.users.tolist() for batch in data.epoch(np.random.default_rng(seed))] for seed in (1, 1, 2)
    )
    assert once == again
    assert once != other


def padding(found: Sequences, batch: int) -> float:
    cells = [
        (b.real.numel(), int(b.real.sum())) for b in SequenceBatches(found, 50, batch).epoch(np.random.default_rng(0))
    ]
    return 1 - sum(real for _, real in cells) / sum(size for size, _ in cells)


def test_hardly_anything_is_padding() -> None:
    rng = np.random.default_rng(0)
    found = made((2 + rng.geometric(0.12, 4000)).clip(max=80).tolist(), rng)
    assert padding(found, 128) < 0.1
    with patch.object(batches, "BUCKETED", 1):
        assert padding(found, 128) > 0.4, "without buckets half would be padding: the test sees it"


def test_an_epoch_mixes_users_from_everywhere() -> None:
    found = made([5] * 2000, np.random.default_rng(0), ask=2.0)
    first = next(SequenceBatches(found, 8, 64).epoch(np.random.default_rng(0)))
    assert first.users.float().std() > 400


@given(st.integers(1, 4))
def test_shares_of_a_batch_are_the_batch(world_size: int) -> None:
    found = made([5, 9, 2, 7, 7], np.random.default_rng(1))
    batch = next(SequenceBatches(found, 6, 5).epoch(np.random.default_rng(0)))

    def asked(of: Batch) -> list[tuple[int, list[int], int]]:
        return [
            (int(of.users[row]), of.history[row, : column + 1].tolist(), target)
            for (row, column), target in zip(of.asked.tolist(), of.targets.tolist(), strict=True)
        ]

    parts = [batch.share(rank, world_size) for rank in range(world_size)]
    assert sorted(found for part in parts for found in asked(part)) == sorted(asked(batch))
    assert sum(len(part.history) for part in parts) == len(batch.history)


def test_a_real_log_is_asked_every_question() -> None:
    found = world().sequences
    got = answered(found, SequenceBatches(found, 6, 16))
    assert sorted(target for *_, target in got) == sorted(found.asked_for.tolist())
    assert torch.tensor([len(seen) for _, _, seen, _ in got]).max() == 6
