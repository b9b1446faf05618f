"""services/archiver/writer.py: every offset exactly once, whatever the flushes and wherever it crashes."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.archiver.sift import Record
from services.archiver.writer import OtherWorkers, Superseded
from shared import archive, events, topics
from shared.archive import Store
from tests.services.archiver.records import (
    DAY,
    START,
    Crash,
    FailingStore,
    blank,
    click,
    edge,
    erasure,
    facts_of,
    memory_url,
    opened,
    places,
    record,
    rows,
)

USERS = ("ann", "bob", "cy")


def test_what_is_appended_is_read_back_byte_for_byte() -> None:
    url = memory_url()
    sent = [click(n, partition=n % 3) for n in range(9)]
    opened(url).append(sent)
    assert sorted((r.partition, r.offset, r.appended_at, r.key, r.value) for r in rows(url)) == sorted(
        (r.partition, r.offset, r.appended_at, r.key, r.value) for r in sent
    )
    assert archive.offsets(url) == {topics.INTERACTIONS: {0: 7, 1: 8, 2: 9}}


def test_a_record_that_comes_again_is_archived_once() -> None:
    url = memory_url()
    writer = opened(url)
    writer.append([click(n) for n in range(5)])
    writer.append([click(n) for n in range(2, 8)])
    assert [row.offset for row in rows(url)] == list(range(8))
    assert sum(file.rows for file in writer.manifest.files) == 8, "it is the file that holds it once, not the reader"


def test_a_record_that_does_not_decode_is_left_out_and_its_offset_passed() -> None:
    url = memory_url()
    writer = opened(url)
    bad = [Record(topics.INTERACTIONS, 0, n, START, b"u", value) for n, value in enumerate([b"{", b"{}", None])]
    writer.append([*bad, click(3)])
    assert [row.offset for row in rows(url)] == [3]
    writer.append([Record(topics.INTERACTIONS, 0, 4, START, b"u", b"not json")])
    assert writer.next_offset(topics.INTERACTIONS, 0) == 5


def test_whether_a_record_is_valid_does_not_depend_on_when_it_is_archived() -> None:
    url = memory_url()
    opened(url).append([click(0, ts=START + 3600, appended_at=START), click(1, ts=START + 60, appended_at=START)])
    assert [row.offset for row in rows(url)] == [1], "an hour ahead of its append time is refused for ever"


def test_a_flush_over_midnight_lies_in_two_days_and_keeps_the_order_of_the_log() -> None:
    url = memory_url()
    midnight = START - START % DAY + DAY
    # The third was stamped by a clock that runs behind.
    stamps = [midnight - 2, midnight - 1, midnight + 1, midnight - 1, midnight + 2]
    writer = opened(url)
    writer.append([click(n, appended_at=at) for n, at in enumerate(stamps)])
    assert [file.day for file in writer.manifest.files] == ["2023-11-14", "2023-11-15"]
    assert all(file.path.startswith(f"topic=interactions/day={file.day}/") for file in writer.manifest.files)
    assert [row.offset for row in rows(url)] == list(range(5))


# --- any flushes, any crash -----------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn) -> list[Record]:
    """A log of clicks in two partitions, with erasures in between, in an order that Kafka could give."""
    following = {(topics.INTERACTIONS, 0): 0, (topics.INTERACTIONS, 1): 0, (topics.ERASURES, 0): 0}
    log = []
    steps = st.tuples(st.sampled_from(list(following)), st.sampled_from(USERS), st.integers(1, 9))
    for n, ((topic, partition), user, time) in enumerate(draw(st.lists(steps, min_size=1, max_size=24))):
        offset, ts = following[topic, partition], 1e9 + time
        following[topic, partition] += 1
        at = START + n * DAY / 8
        log.append(click(offset, user, ts, partition, at) if topic != topics.ERASURES else erasure(offset, user, ts))
    return log


def expected(log: Sequence[Record]) -> list[tuple[str, int, int]]:
    """What must be left, by the definition: every record but the facts of a user up to their erasure."""
    times = [events.time_of(events.decode(r.topic, r.value, now=r.appended_at)) for r in log]
    erased = [(r.key, ts) for r, ts in zip(log, times, strict=True) if r.topic == topics.ERASURES]
    return sorted(
        (r.topic, r.partition, r.offset)
        for r, ts in zip(log, times, strict=True)
        if r.topic == topics.ERASURES or not any(user == r.key and ts <= until for user, until in erased)
    )


@settings(deadline=None)  # the machine may be busy
@given(
    log=logs(),
    flushes=st.lists(st.integers(1, 6), min_size=1),
    crashes=st.lists(st.tuples(st.integers(1, 12), st.booleans()), max_size=6),
)
def test_any_flushes_and_any_crashes_give_each_offset_exactly_once(
    log: list[Record], flushes: list[int], crashes: list[tuple[int, bool]]
) -> None:
    url = memory_url()
    at, turn = 0, 0
    while at < len(log):
        store = FailingStore(url)
        store.fails_at, store.after = crashes[turn] if turn < len(crashes) else (-1, False)
        turn += 1
        try:
            writer = opened(store, compact_files=2, clock=lambda: START + DAY)
            # As after any start: from what the manifest says.
            at = next((n for n, r in enumerate(log) if r.offset >= (writer.next_offset(*r[:2]) or 0)), len(log))
            while at < len(log):
                size = flushes[at % len(flushes)]
                writer.append(log[at : at + size])
                writer.compact()
                at += size
        except Crash:
            at = 0
    found = places(rows(url))
    assert sorted(found) == expected(log)
    for topic, partition, _ in found:
        offsets = [offset for t, p, offset in found if (t, p) == (topic, partition)]
        assert offsets == sorted(offsets), "a partition is read in the order of its log"
    files = opened(url).manifest.files
    assert sum(file.rows for file in files) == len(found), "no reader is needed to leave a row out"
    store = Store(url)
    named = {file.path for manifest in archive.manifests(store) for file in manifest.files}
    assert set(store.names("topic=*/day=*/*")) == named, "a start leaves no file that no manifest names"


def test_a_failed_append_changes_nothing_and_may_be_made_again() -> None:
    url = memory_url()
    store = FailingStore(url)
    writer = opened(store)
    writer.append([click(0)])
    before = writer.manifest
    store.fails_at = store.changes + 2  # the file is written, the manifest is not
    with pytest.raises(Crash):
        writer.append([click(1)])
    assert writer.manifest == before
    writer.append([click(1)])
    assert [row.offset for row in rows(url)] == [0, 1]


@pytest.mark.parametrize("after", [False, True])
def test_an_append_that_fails_half_way_leaves_no_file(after: bool) -> None:
    url = memory_url()
    store = FailingStore(url)
    writer = opened(store)
    store.fails_at, store.after = store.changes + 2, after  # the second of two topics
    with pytest.raises(Crash):
        writer.append([click(0), erasure(0, "ann", 1.5e9)])
    assert Store(url).names("topic=*/day=*/*") == []
    writer.append([click(0), erasure(0, "ann", 1.5e9)])
    assert len(rows(url)) == 2


# --- erasure ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["facts first", "erasure first", "together"])
def test_an_erasure_removes_the_users_rows_up_to_its_time_from_every_topic(order: str) -> None:
    url = memory_url()
    writer = opened(url)
    facts = [
        record(topic, 0, offset, event)
        for offset, (user, ts) in enumerate([("ann", 1e9), ("ann", 2e9 - 4e8), ("bob", 1e9)])
        for topic, event in facts_of(user, ts).items()
    ]
    request = [erasure(0, "ann", 1.5e9)]
    for batch in {"facts first": (facts, request), "erasure first": (request, facts), "together": (facts + request,)}[
        order
    ]:
        writer.append(batch)
    kept = rows(url)
    for topic in facts_of("", 0.0):
        assert [(row.user_id, row.ts) for row in kept if row.topic == topic] == [("ann", 1.6e9), ("bob", 1e9)]
    assert [row.key for row in kept if row.topic == topics.ERASURES] == [b"ann"]
    assert all(b'"ann"' not in row.value for row in kept if row.ts <= 1.5e9 and row.topic != topics.ERASURES)


def test_what_keeps_a_user_erased_stays() -> None:
    url = memory_url()
    writer = opened(url)
    writer.append(
        [
            record(topics.ITEM_EDGES, 0, 0, edge(1e9)),
            record(topics.ITEM_EDGES, 0, 1, blank("ann", 1e9, 1.5e9)),
            erasure(0, "ann", 1.5e9),
        ]
    )
    assert places(rows(url)) == [(topics.ERASURES, 0, 0), (topics.ITEM_EDGES, 0, 0), (topics.ITEM_EDGES, 0, 1)]


def test_after_a_restart_a_late_fact_of_an_erased_user_is_still_left_out() -> None:
    url = memory_url()
    opened(url).append([erasure(0, "ann", 1.5e9)])
    opened(url).append([click(0, "ann", 1e9), click(1, "bob", 1e9), click(2, "ann", 1.6e9)])
    assert [row.offset for row in rows(url, [topics.INTERACTIONS])] == [1, 2]


def test_the_bytes_of_an_erased_row_are_gone_from_the_store() -> None:
    url = memory_url()
    writer = opened(url)
    writer.append([click(0, "ann"), click(1, "bob")])
    old = writer.manifest.files[0].path
    writer.append([erasure(0, "ann", 1.5e9)])
    assert old not in Store(url).names("topic=*/day=*/*")


# --- several workers --------------------------------------------------------------------------------------------


def test_workers_share_the_partitions_and_an_erasure_reaches_all_of_them() -> None:
    url = memory_url()
    first, second = opened(url, worker=0, workers=2), opened(url, worker=1, workers=2)
    edges = facts_of("ann", 1e9)[topics.ITEM_EDGES]
    first.append([record(topics.ITEM_EDGES, 0, 0, edges)])
    second.append([record(topics.ITEM_EDGES, 1, 0, edges)])
    request = erasure(0, "ann", 1.5e9, partition=1)  # the second's to archive
    first.append([request])
    assert topics.ERASURES not in archive.offsets(url)
    second.append([request])
    assert places(rows(url)) == [(topics.ERASURES, 1, 0)]
    again = opened(url, worker=0, workers=2)
    again.append([record(topics.ITEM_EDGES, 0, 1, edges)])
    assert places(rows(url)) == [(topics.ERASURES, 1, 0)]
    assert again.next_offset(topics.ERASURES, 1) == 1


def test_another_number_of_workers_is_refused() -> None:
    url = memory_url()
    opened(url, worker=0, workers=2)
    with pytest.raises(OtherWorkers, match="FINESTREAM_ARCHIVER_WORKERS is 3 but this archive was written by 2"):
        opened(url, worker=0, workers=3)


def test_the_process_that_started_last_is_the_one_that_writes() -> None:
    url = memory_url()
    old = opened(url)
    new = opened(url)
    with pytest.raises(Superseded):
        old.append([click(0)])
    new.append([click(0)])
    assert [row.offset for row in rows(url)] == [0]


# --- a log that went back -----------------------------------------------------------------------------------------


def test_offsets_that_a_broker_uses_again_are_archived_beside_the_old_ones() -> None:
    url = memory_url()
    writer = opened(url, compact_files=2)
    writer.append([click(n, ts=1e9) for n in range(5)])
    writer.rewind(topics.INTERACTIONS, 0, 3)
    for n in range(3, 8):
        writer.append([click(n, ts=1.1e9)])
        writer.compact()
    assert [(row.offset, row.ts) for row in rows(url)] == [
        *((n, 1e9) for n in range(5)),
        *((n, 1.1e9) for n in range(3, 8)),
    ]
    assert opened(url).next_offset(topics.INTERACTIONS, 0) == 8


# --- compaction ---------------------------------------------------------------------------------------------------


def test_small_files_of_a_day_become_one_and_every_row_stays_in_order() -> None:
    url = memory_url()
    writer = opened(url, compact_files=4)
    for n in range(20):
        writer.append([click(n, partition=0), click(n, partition=1), erasure(n, "nobody", 1e9)])
        writer.compact()
    counts = [len([f for f in writer.manifest.files if f.topic == t]) for t in (topics.INTERACTIONS, topics.ERASURES)]
    assert max(counts) <= 5
    for topic, partition in ((topics.INTERACTIONS, 0), (topics.INTERACTIONS, 1), (topics.ERASURES, 0)):
        assert [r.offset for r in rows(url, [topic]) if r.partition == partition] == list(range(20))


def test_the_small_files_of_a_day_that_is_over_become_one() -> None:
    url = memory_url()
    writer = opened(url, compact_files=100, clock=lambda: START + 1.5 * DAY)
    for n in range(6):
        writer.append([click(n, appended_at=START + n * DAY / 4)])
    writer.compact()
    # It starts at 22:13 in steps of six hours; the clock says the morning of the 16th.
    assert [(file.day, file.rows) for file in writer.manifest.files] == [
        ("2023-11-14", 1),
        ("2023-11-15", 4),
        ("2023-11-16", 1),
    ]
    assert [row.offset for row in rows(url)] == list(range(6))
