"""What every store must do: the embedded engine, qdrant-client, and the tests' own double."""

import os
import secrets
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from services.graph_updater.settings import QdrantSettings
from services.graph_updater.store import _NAMESPACE, DUE, NO, REVIEWERS, YES, Floats, Row, Store, Stored, point_id
from services.graph_updater.store_edge import EdgeStore, open_edge
from services.graph_updater.store_qdrant import QdrantStore, connect
from shared.errors import Unavailable
from shared.service import WrongSetting
from tests.parts import full_disk
from tests.services.graph_updater.doubles import SPACE, MemoryStore

MakeRow = Callable[..., Row]


def row(node: str = "a", version: int = 1, state: bytes = b"\x00state\xff", **fields: object) -> Row:
    vectors = {"semantic": floats(1, 0, 0, 0), "opinion": floats(1, 0, 0, 0, 0, 0)}
    return Row(node, version, state, {**vectors, **fields.pop("vectors", {})}, fields)  # type: ignore[dict-item,arg-type]


def floats(*numbers: float) -> Floats:
    return np.array(numbers, dtype=np.float32)


@pytest.fixture(params=["memory", "edge", "qdrant-client", "qdrant-server"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore()
    elif request.param == "edge":
        made = open_edge(tmp_path / "qdrant", SPACE, 5.0)
    else:
        made = await qdrant(request.param == "qdrant-server")
    yield made
    await made.close()


async def qdrant(server: bool) -> QdrantStore:
    settings = QdrantSettings()
    if server and not settings.url:
        pytest.skip("FINESTREAM_QDRANT_URL is not set")
    client = connect(settings) if server else AsyncQdrantClient(":memory:")
    made = QdrantStore(client, msgspec.structs.replace(SPACE, name=f"test-{secrets.token_hex(4)}"), settings)
    await made.start()
    return made


async def test_a_row_comes_back_as_it_was_written(store: Store) -> None:
    assert await store.put("users", [row("ü/1", 3), row("b", 1, b"")]) == {}
    assert await store.get("users", ["b", "unknown", "ü/1"]) == {
        "ü/1": Stored(3, b"\x00state\xff"),
        "b": Stored(1, b""),
    }
    assert await store.count("users") == 2


async def test_kinds_are_apart(store: Store) -> None:
    await store.put("users", [row("a")])
    assert await store.get("items", ["a"]) == {}
    assert await store.count("items") == 0


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_a_point_has_the_uuid_of_version_5_of_its_node(node: str) -> None:
    assert point_id(node) == uuid.uuid5(_NAMESPACE, node)


async def test_a_newer_version_replaces_the_whole_row(store: Store) -> None:
    await store.put("items", [row("a", 1, b"old", reviewers=["u"], due=YES)])
    await store.put("items", [row("a", 2, b"new", vectors={"opinion": floats()})])
    assert await store.get("items", ["a"]) == {"a": Stored(2, b"new")}
    assert await store.vectors("items", ["a"], "opinion") == {}
    assert await store.find("items", REVIEWERS, "u") == []
    assert await store.find("items", DUE, YES) == []
    assert await store.count("items") == 1


async def test_a_row_without_vectors_leaves_those_of_the_node_and_may_leave_the_fields_it_does_not_name(
    store: Store,
) -> None:
    await store.put("items", [row("a", 1, b"old", reviewers=["u"], due=YES), row("b", 1)])
    kept = Row("a", 2, b"new", None, {DUE: NO}, fields_stay=True)
    assert await store.put("items", [kept, row("c", 1)]) == {}
    assert await store.get("items", ["a", "c"]) == {"a": Stored(2, b"new"), "c": Stored(1, b"\x00state\xff")}
    np.testing.assert_allclose((await store.vectors("items", ["a"], "semantic"))["a"], [1, 0, 0, 0], atol=1e-6)
    assert await store.find("items", REVIEWERS, "u") == ["a"]
    assert await store.find("items", DUE, YES) == []
    await store.put("items", [Row("a", 3, b"newer", None, {DUE: YES})])
    assert await store.find("items", DUE, YES) == ["a"]
    assert await store.find("items", REVIEWERS, "u") == []
    assert await store.get("items", ["a"]) == {"a": Stored(3, b"newer")}
    assert (await store.vectors("items", ["a"], "semantic")).keys() == {"a"}
    assert await store.count("items") == 3


async def test_one_vector_is_revised_and_the_rest_of_the_row_stays(store: Store) -> None:
    await store.put("users", [row("a", 3), row("none", vectors={"semantic": floats()})])
    await store.revise("users", "semantic", {"a": (3, floats(0, 3, 4, 0)), "none": (1, floats(0, 0, 0, 2))})
    await store.revise("users", "semantic", {})
    found = await store.vectors("users", ["a", "none"], "semantic")
    np.testing.assert_allclose(found["a"], [0, 0.6, 0.8, 0], atol=1e-6)
    np.testing.assert_allclose(found["none"], [0, 0, 0, 1], atol=1e-6)
    np.testing.assert_allclose((await store.vectors("users", ["a"], "opinion"))["a"], [1, 0, 0, 0, 0, 0], atol=1e-6)
    assert await store.get("users", ["a"]) == {"a": Stored(3, b"\x00state\xff")}


async def test_where_others_write_too_a_vector_made_of_another_version_changes_nothing(store: Store) -> None:
    await store.put("users", [row("a", 3), row("b", 4)])
    await store.revise("users", "semantic", {"a": (2, floats(0, 3, 4, 0)), "b": (4, floats(0, 3, 4, 0))})
    found = await store.vectors("users", ["a", "b"], "semantic")
    np.testing.assert_allclose(found["b"], [0, 0.6, 0.8, 0], atol=1e-6)
    assert np.allclose(found["a"], found["b"], atol=1e-6) == store.exclusive


async def test_vectors_come_back_as_unit_vectors(store: Store) -> None:
    long, none = row("long", vectors={"semantic": floats(0, 3, 4, 0)}), row("none", vectors={"semantic": floats()})
    await store.put("items", [long, none])
    found = await store.vectors("items", ["long", "none", "unknown"], "semantic")
    assert list(found) == ["long"]
    np.testing.assert_allclose(found["long"], [0, 0.6, 0.8, 0], atol=1e-6)


async def test_similar_gives_the_nearest_first_without_the_one_asked_for(store: Store) -> None:
    angles = {"same": 0.0, "near": 0.3, "far": 1.2}
    rows = [row(n, vectors={"semantic": floats(np.cos(a), np.sin(a), 0, 0)}) for n, a in angles.items()]
    await store.put("items", [row("asked", vectors={"semantic": floats(1, 0, 0, 0)}), *rows])
    await store.put("items", [row("without", vectors={"semantic": floats()})])
    found = await store.similar("items", floats(1, 0, 0, 0), "semantic", 2, "asked")
    assert [node for node, _ in found] == ["same", "near"]
    np.testing.assert_allclose([score for _, score in found], [1.0, np.cos(0.3)], atol=1e-5)
    assert len(await store.similar("items", floats(1, 0, 0, 0), "semantic", 100, "asked")) == 3


async def test_find_gives_all_nodes_whose_field_holds_the_value(store: Store) -> None:
    rows = [row(f"i{n}", reviewers=["u", f"v{n}"] if n % 2 else [f"v{n}"]) for n in range(2500)]
    for start in range(0, len(rows), 500):
        await store.put("items", rows[start : start + 500])
    assert sorted(await store.find("items", REVIEWERS, "u")) == sorted(r.id for n, r in enumerate(rows) if n % 2)
    assert await store.find("items", REVIEWERS, "v7") == ["i7"]
    assert await store.find("items", REVIEWERS, "nobody") == []


async def test_a_field_is_cleared_only_where_the_version_is_still_the_one_given(store: Store) -> None:
    await store.put("items", [row("a", 1, due=YES, reviewers=["u"]), row("b", 2, due=YES)])
    await store.clear("items", DUE, {"a": 1, "b": 1, "unknown": 1})
    assert await store.find("items", DUE, YES) == ["b"]
    assert await store.find("items", REVIEWERS, "u") == ["a"]
    assert await store.get("items", ["a"]) == {"a": Stored(1, b"\x00state\xff")}


@pytest.mark.parametrize("server", [False, True])
async def test_a_shared_store_refuses_a_version_that_is_not_higher_and_returns_what_stands(server: bool) -> None:
    store = await qdrant(server)
    await store.put("users", [row("a", 5, b"five"), row("b", 1, b"one")])
    for version in (4, 5):
        newer = await store.put("users", [row("a", version, b"mine"), row("b", 2, b"two"), row("c", 1, b"new")])
        assert newer["a"] == Stored(5, b"five")
        assert await store.put("users", [Row("a", version, b"mine", None)]) == {"a": Stored(5, b"five")}
        await store.put("users", [row("b", 1, b"x")])
    assert await store.put("users", [row("a", 6, b"six")]) == {}
    assert await store.get("users", ["a", "b", "c"]) == {
        "a": Stored(6, b"six"), "b": Stored(2, b"two"), "c": Stored(1, b"new"),
    }  # fmt: skip
    await store.close()


async def test_a_collection_of_other_dimensions_is_a_wrong_setting() -> None:
    settings, client = QdrantSettings(), AsyncQdrantClient(":memory:")
    await QdrantStore(client, SPACE, settings).start()
    with pytest.raises(WrongSetting, match="other vectors"):
        await QdrantStore(client, msgspec.structs.replace(SPACE, embedding_dim=5), settings).start()


async def test_the_embedded_store_is_there_after_a_clean_restart(tmp_path: Path) -> None:
    first = open_edge(tmp_path, SPACE, 5.0)
    await first.put("items", [row("a", 4, b"kept", reviewers=["u"])])
    await first.close()
    second = open_edge(tmp_path, SPACE, 5.0)
    assert await second.get("items", ["a"]) == {"a": Stored(4, b"kept")}
    assert await second.find("items", REVIEWERS, "u") == ["a"]
    await second.close()


async def test_a_second_process_on_the_embedded_store_is_a_wrong_setting(tmp_path: Path) -> None:
    first = open_edge(tmp_path, SPACE, 5.0)
    with pytest.raises(WrongSetting, match="FINESTREAM_QDRANT_PATH"):
        open_edge(tmp_path, SPACE, 5.0)
    assert await first.count("users") == 0
    await first.close()


async def test_the_embedded_store_goes_on_once_a_full_disk_has_room_again(tmp_path: Path) -> None:
    store = open_edge(tmp_path, SPACE, 5.0)
    with full_disk(1_000_000):  # less than the first file of a segment, more than what pytest captures
        for _ in range(2):
            with pytest.raises(Unavailable):
                await store.put("users", [row("a", 1, os.urandom(4000))])
    assert await store.put("users", [row("a", 2, b"whole"), row("b", 1)]) == {}
    await store.close()
    again = open_edge(tmp_path, SPACE, 5.0)
    assert await again.get("users", ["a", "b"]) == {"a": Stored(2, b"whole"), "b": Stored(1, b"\x00state\xff")}
    await again.close()


async def test_the_embedded_store_reuses_the_space_of_what_was_replaced(tmp_path: Path) -> None:
    store: EdgeStore = open_edge(tmp_path, SPACE, 0.05)
    store.start()
    for version in range(1, 40):
        await store.put("users", [row(f"u{n}", version, os.urandom(4000)) for n in range(100)])
    await store.close()
    used = sum(f.stat().st_blocks * 512 for f in tmp_path.rglob("*") if f.is_file())
    assert used < 100 * 1024 * 1024
