"""The cache in front of the store: bounded, written through, and never trusted where others write."""

from hypothesis import given
from hypothesis import strategies as st

from services.graph_updater.cache import ENTRY_BYTES, Cache
from shared.graph import fold
from shared.graph.state import UserState
from tests.services.graph_updater.building import build
from tests.services.graph_updater.doubles import MemoryStore, click, deliver


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=80))
def test_a_cache_never_exceeds_its_bound_and_gives_what_was_put_last(puts: list[tuple[int, int]]) -> None:
    cache = Cache(8 * ENTRY_BYTES)
    last: dict[str, bytes] = {}
    for number, (key, size) in enumerate(puts):
        last[str(key)] = bytes([number]) * size
        cache.put(str(key), last[str(key)])
        assert cache.size <= 8 * ENTRY_BYTES
        assert cache.get(str(key)) == last[str(key)]
        assert cache.size <= 8 * ENTRY_BYTES
    assert all(cache.get(key) in (None, state) for key, state in last.items())
    for key in last:
        cache.drop(key)
    assert (len(cache), cache.size) == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=80))
def test_what_was_used_among_the_last_half_is_there(uses: list[tuple[int, bool]]) -> None:
    cache = Cache(8 * (ENTRY_BYTES + 2))  # of states of one byte: four in a half
    for at, (key, put) in enumerate(uses):
        if put or cache.get(str(key)) is None:
            cache.put(str(key), b"s")
        lately: list[int] = list(dict.fromkeys(used for used, _ in reversed(uses[: at + 1])))[:4]
        held = cache._young | cache._old  # to ask would be to use
        assert {str(used) for used in lately} <= held.keys()


def test_what_is_larger_than_half_is_not_kept_nor_is_what_it_replaces() -> None:
    cache = Cache(8 * ENTRY_BYTES)
    cache.put("a", b"small")
    cache.put("a", bytes(4 * ENTRY_BYTES))
    assert (cache.get("a"), len(cache), cache.size) == (None, 0, 0)


async def test_states_survive_being_pushed_out_of_the_cache() -> None:
    built = build(cache_megabytes=1)
    built.graph.users._cache._half = 1500  # holds a few of the twenty
    facts = [click(n, user=f"u{n % 20}") for n in range(200)]
    for start in range(0, 200, 10):
        await built.graph.on_users([deliver(f, n) for n, f in enumerate(facts[start : start + 10], start)])
    for number in range(20):
        own = [f for f in facts if f.user_id == f"u{number}"]
        assert fold.same_user(built.user(f"u{number}"), fold.fold_user(UserState(f"u{number}"), own))


async def test_reading_gives_what_another_process_wrote() -> None:
    store = MemoryStore(exclusive=False)
    here, there = build(store), build(store)
    await here.graph.on_users([deliver(click(1), 0)])
    await there.graph.on_users([deliver(click(2), 1)])
    assert len((await here.graph.users.read(["u"]))["u"].interactions) == 2


async def test_reading_does_not_put_an_older_state_back_under_a_writer() -> None:
    built = build()
    await built.graph.on_users([deliver(click(1), 0)])
    built.graph.users._cache.drop("u")
    await built.graph.users.read(["u"])
    assert built.graph.users._cache.get("u") is None
