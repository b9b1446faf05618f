"""The double of Qdrant keeps the contract of every store, alone and behind a forwarding server."""

import secrets
from collections.abc import AsyncIterator

import aiohttp
import msgspec
import pytest

from services.graph_updater.settings import QdrantSettings
from services.graph_updater.store import Row, Stored
from services.graph_updater.store_qdrant import QdrantStore, connect
from shared.errors import Unavailable
from tests.chaos.outages import Outages, forwarding, serving
from tests.chaos.qdrant_double import QdrantDouble
from tests.services.graph_updater.doubles import SPACE

# The contract's own tests, here over this file's fixture `store`.
from tests.services.graph_updater.test_store import (  # noqa: F401
    row,
    test_a_field_is_cleared_only_where_the_version_is_still_the_one_given,
    test_a_newer_version_replaces_the_whole_row,
    test_a_row_comes_back_as_it_was_written,
    test_a_row_without_vectors_leaves_those_of_the_node_and_may_leave_the_fields_it_does_not_name,
    test_find_gives_all_nodes_whose_field_holds_the_value,
    test_kinds_are_apart,
    test_one_vector_is_revised_and_the_rest_of_the_row_stays,
    test_similar_gives_the_nearest_first_without_the_one_asked_for,
    test_vectors_come_back_as_unit_vectors,
    test_where_others_write_too_a_vector_made_of_another_version_changes_nothing,
)


@pytest.fixture(params=["double", "forwarded"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Outages]:
    async with serving(QdrantDouble().routes()) as double:
        if request.param == "double":
            yield double
            return
        async with aiohttp.ClientSession() as session, serving(forwarding(session, double.url)) as front:
            yield front


@pytest.fixture
async def store(server: Outages) -> AsyncIterator[QdrantStore]:
    settings = QdrantSettings(url=server.url, prefer_grpc=False, timeout_seconds=1)
    space = msgspec.structs.replace(SPACE, name=f"test-{secrets.token_hex(4)}")
    made = QdrantStore(connect(settings), space, settings)
    await made.start()
    yield made
    await made.close()


async def test_a_version_that_is_not_higher_is_refused_and_what_stands_is_returned(store: QdrantStore) -> None:
    assert await store.put("users", [row("a", 5, b"five"), row("b", 1, b"one")]) == {}
    for version in (4, 5):
        assert await store.put("users", [row("a", version, b"mine"), row("c", version)]) in (
            {"a": Stored(5, b"five")},
            {"a": Stored(5, b"five"), "c": Stored(5, b"\x00state\xff")},
        )
        assert await store.put("users", [Row("a", version, b"mine", None)]) == {"a": Stored(5, b"five")}
    assert await store.put("users", [row("a", 6, b"six")]) == {}
    assert await store.put("users", [Row("a", 7, b"seven", None)]) == {}
    assert await store.get("users", ["a", "b"]) == {"a": Stored(7, b"seven"), "b": Stored(1, b"one")}


async def test_whatever_it_does_wrong_is_unavailable_and_passes(server: Outages, store: QdrantStore) -> None:
    await store.put("users", [row("a", 1)])
    for outage in (server.erring(1.0), server.gone(), server.silent()):
        async with outage:
            with pytest.raises(Unavailable):
                await store.get("users", ["a"])
        assert await store.get("users", ["a"]) == {"a": Stored(1, b"\x00state\xff")}
    assert server.disturbed == 2, "what is refused is not seen"


async def test_a_write_that_was_given_up_is_done_late_and_does_not_stand(server: Outages, store: QdrantStore) -> None:
    await store.put("users", [row("a", 1, b"one")])
    async with server.silent():
        with pytest.raises(Unavailable):
            await store.put("users", [row("a", 2, b"given up")])
    standing = await store.put("users", [row("a", 2, b"again")])
    assert standing in ({}, {"a": Stored(2, b"given up")}), "one of the two stands, and the caller knows which"
    assert await store.get("users", ["a"]) == (standing or {"a": Stored(2, b"again")})
