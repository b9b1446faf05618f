"""The cache in front of the store: bounded, written through, and never trusted where others write."""

from hypothesis import given
from hypothesis import strategies as st

from services.graph_updater.cache import Cache
from shared.graph import fold
from shared.graph.state import UserState
from tests.services.graph_updater.building import build
from tests.services.graph_updater.doubles import MemoryStore, click, deliver


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 60)), max_size=80))
def test_a_cache_never_exceeds_its_bound_and_gives_what_was_put_last(puts: list[tuple[int, int]]) -> None:
    cache: Cache[int] = Cache(100)
    last: dict[str, int] = {}
    for number, (key, size) in enumerate(puts):
        cache.put(str(key), number, size)
        last[str(key)] = number
        assert cache.bytes <= 100
        assert cache.get(str(key)) == number
    assert all(cache.get(key) in (None, number) for key, number in last.items())
    for key in last:
        cache.drop(key)
    assert (len(cache), cache.bytes) == (0, 0)


def test_the_least_recently_used_goes_first_and_what_is_too_large_is_not_kept() -> None:
    cache: Cache[str] = Cache(10)
    cache.put("a", "A", 5)
    cache.put("b", "B", 5)
    cache.get("a")
    cache.put("c", "C", 5)
    assert [cache.get(key) for key in "abc"] == ["A", None, "C"]
    cache.put("a", "AA", 11)
    assert cache.get("a") is None


async def test_states_survive_being_pushed_out_of_the_cache() -> None:
    built = build(cache_megabytes=1)
    built.graph.users._cache._max_bytes = 3000  # holds some two of the twenty
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
