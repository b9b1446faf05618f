"""The accounts are right: what is missing is found, what is there is not called lost, and a wrong state shows."""

import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shared import archive, events, folding, topics
from shared.archive import Archived, File, Manifest, Store
from shared.dead_letters import Letter, Record
from shared.events import Event, Interaction, InteractionEdge, Item, Opinions, Pair, Review, Source
from shared.graph import fold
from shared.graph.state import UserState
from shared.local import verify
from shared.local.ledger import Ledger
from shared.space import DEFAULT_SPACE

T0 = 1_700_000_000.0


def click(n: int, user: str = "u1") -> Interaction:
    return Interaction(event_id=f"i{n}", user_id=user, item_id="b1", ts=T0 + n)


def review(n: int) -> Review:
    return Review(review_id=f"r{n}", user_id="u1", item_id="b1", ts=T0 + n, text="Good.")


def opinions(n: int, pairs: int = 1) -> Opinions:
    pair = Pair("sound", "good", b"\x01", 1, 0, 4, "Good")
    return Opinions(
        review_id=f"r{n}", user_id="u1", item_id="b1", ts=T0 + n, extractor="x", extractor_version=1,
        content_hash="h", space="s", pairs=[pair] * pairs, source=Source(topics.REVIEWS, 0, n, T0),
    )  # fmt: skip


def edge(n: int) -> InteractionEdge:
    return InteractionEdge(item_id="b1", ts=T0 + n, user_hash=n, source=Source(topics.INTERACTIONS, 0, n, T0))


def write_archive(folder: Path, facts: Sequence[tuple[str, Event]]) -> str:
    """An archive of these records, in partition 0 of their topics, appended at T0 + their offset."""
    store, files = Store(str(folder)), []
    by_topic: dict[str, list[Event]] = defaultdict(list)
    for topic, event in facts:
        by_topic[topic].append(event)
    for plain, found in by_topic.items():
        topic = topics.in_space(plain, DEFAULT_SPACE)
        rows = [
            Archived(topic, 0, n, T0 + n, events.time_of(event), events.key_of(event), None, events.encode(event))
            for n, event in enumerate(found)
        ]
        columns = {name: [getattr(row, name) for row in rows] for name in archive.SCHEMA.names}
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns, schema=archive.SCHEMA), buffer)
        name = archive.file_name(topic, "2023-11-14", 0)
        store.put(name, buffer.getvalue())
        files.append(
            File(
                path=name, topic=topic, day="2023-11-14", era=0, rows=len(rows), bytes=len(buffer.getvalue()),
                ranges={0: (0, len(rows) - 1)}, first_ts=T0, last_ts=T0, last_appended_at=T0,
            )
        )  # fmt: skip
    offsets = {topics.in_space(topic, DEFAULT_SPACE): {0: len(found)} for topic, found in by_topic.items()}
    manifest = Manifest(worker=0, workers=1, files=files, offsets=offsets)
    store.put(archive.manifest_name(0, 1), msgspec.json.encode(manifest))
    return str(folder)


def letter(topic: str, offset: int) -> Letter:
    return Letter(Record(Source(topic, 0, offset, T0), b"k", b"v"), "g", "s", "empty_text", "text is empty")


def ledger_of(*sent: Interaction | Review | Item) -> Ledger:
    ledger = Ledger()
    for n, event in enumerate(sent):
        ledger.add(event, Source("", 0, n, T0))
    return ledger


def test_what_is_archived_or_dead_is_not_lost(tmp_path: Path) -> None:
    url = write_archive(
        tmp_path, [(topics.INTERACTIONS, click(0)), (topics.REVIEWS, review(0)), (topics.OPINIONS, opinions(0, 3))]
    )
    ledger = Ledger()
    ledger.add(click(0), Source("", 0, 0, T0))
    ledger.add(review(0), Source("", 0, 0, T0))
    ledger.add(review(1), Source("", 0, 1, T0))
    found = verify.read(url)
    accounts = verify.account(ledger, found, [letter(topics.REVIEWS, 1)])
    assert (accounts.lost, accounts.lost_count, accounts.unanswered) == ({}, 0, [])
    assert accounts.dead == {"r1": "empty_text"}
    assert found.pairs == {"r0": 3}


def test_what_is_in_neither_is_lost_and_named(tmp_path: Path) -> None:
    url = write_archive(tmp_path, [(topics.INTERACTIONS, click(0))])
    accounts = verify.account(ledger_of(click(0), click(1), click(2)), verify.read(url), [])
    assert accounts.lost == {topics.INTERACTIONS: ["i1", "i2"]}
    assert accounts.lost_count == 2


def test_a_dead_letter_of_another_record_excuses_nobody(tmp_path: Path) -> None:
    url = write_archive(tmp_path, [(topics.INTERACTIONS, click(0))])
    ledger = ledger_of(click(0), click(1))
    wrong = [letter(topics.REVIEWS, 1), letter(topics.INTERACTIONS, 7)]
    assert verify.account(ledger, verify.read(url), wrong).lost == {topics.INTERACTIONS: ["i1"]}


def test_a_review_that_nobody_answered_is_told_though_it_is_archived(tmp_path: Path) -> None:
    url = write_archive(tmp_path, [(topics.REVIEWS, review(0)), (topics.REVIEWS, review(1))])
    accounts = verify.account(ledger_of(review(0), review(1)), verify.read(url), [letter(topics.REVIEWS, 0)])
    assert accounts.lost_count == 0
    assert accounts.unanswered == ["r1"]


def test_states_are_the_fold_of_the_archive_however_many_facts_a_node_has(tmp_path: Path) -> None:
    clicks = [click(n) for n in range(3 * folding.FACTS_HELD + 5)]
    facts: list[tuple[str, Event]] = [(topics.INTERACTIONS, fact) for fact in clicks]
    facts += [(topics.ITEM_EDGES, edge(n)) for n in range(300)] + [(topics.OPINIONS, opinions(1))]
    found = verify.read(write_archive(tmp_path, facts))
    assert fold.same_user(found.users["u1"], fold.fold_user(UserState("u1"), [*clicks, opinions(1)]))
    assert found.items["b1"].last_seen == T0 + 299


async def test_a_state_that_differs_or_is_missing_is_named() -> None:
    states = {name: fold.fold_user(UserState(name), [click(0, name)]) for name in ("a", "b", "c")}
    live = {"a": states["a"], "b": UserState("b")}

    async def users(ids: Sequence[str]) -> dict[str, UserState]:
        return {name: live[name] for name in ids if name in live}

    assert await verify.differing(states, users, fold.same_user, 0.0) == ["b", "c"]


async def test_a_state_still_on_its_way_is_waited_for() -> None:
    states = {"a": fold.fold_user(UserState("a"), [click(0, "a")])}
    asked = 0

    async def users(ids: Sequence[str]) -> dict[str, UserState]:
        nonlocal asked
        asked += 1
        return states if asked > 1 else {}

    assert await verify.differing(states, users, fold.same_user, 10.0) == []
    assert asked == 2


def test_append_times_are_found_by_place(tmp_path: Path) -> None:
    url = write_archive(tmp_path, [(topics.INTERACTIONS, click(n)) for n in range(5)])
    wanted = {(topics.INTERACTIONS, 0, 3)}
    assert verify.appended_at(url, wanted) == {(topics.INTERACTIONS, 0, 3): pytest.approx(T0 + 3)}
