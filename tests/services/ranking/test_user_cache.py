"""services/ranking/user_cache.py: bounded, no older than allowed, and of one space."""

from services.ranking.graph import Node
from services.ranking.user_cache import UserCache


def node(user_id: str, size: int = 10) -> Node:
    return Node(user_id, b"x" * size, 1)


def test_the_least_recently_used_go_first_and_the_bytes_stay_bounded() -> None:
    cache = UserCache(30, 60.0)
    for user in ("a", "b", "c"):
        cache.keep(node(user), "")
    assert cache.find("a", "") == node("a")
    cache.keep(node("d"), "")
    assert [user for user in "abcd" if cache.find(user, "")] == ["a", "c", "d"]
    cache.keep(node("huge", 31), "")
    assert len(cache) == 0


def test_a_state_too_old_or_of_another_space_is_no_answer() -> None:
    now = 0.0
    cache = UserCache(100, 60.0, clock=lambda: now)
    cache.keep(node("a"), "space")
    assert cache.find("a", "other") is None
    assert cache.find("a", "space") is not None
    now = 61.0
    assert cache.find("a", "space") is None


def test_a_user_whom_graph_updater_forgot_is_forgotten() -> None:
    cache = UserCache(100, 60.0)
    cache.keep(node("a"), "")
    cache.keep(Node("a", b"", 0), "")
    assert cache.find("a", "") is None
