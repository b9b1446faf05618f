"""shared/door/unwaited.py: calls of grpc's own server without threads; also what it needs of grpc's private parts."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import grpc
import pytest

from shared.door.unwaited import Call, Places, Unwaited

METHOD = "/example.Service/Method"
PLACES = 3
SECONDS = 10.0
Begin = Callable[[Call], None]


class Handler(grpc.GenericRpcHandler):
    def __init__(self, begin: Begin) -> None:
        self._begin = begin

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes]":
        return grpc.unary_unary_rpc_method_handler(Unwaited(self._begin))


@contextmanager
def serving(begin: Begin, pool: Places | None = None) -> Iterator[grpc.Channel]:
    server = grpc.server(pool or Places(PLACES), handlers=[Handler(begin)], maximum_concurrent_rpcs=PLACES)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        server.stop(0).wait(SECONDS)


def refused(call: grpc.Future) -> tuple[grpc.StatusCode, str]:
    error = call.exception(SECONDS)
    assert isinstance(error, grpc.RpcError)
    return error.code(), error.details()


def echo(call: Call) -> None:
    call.read(call.answer)


def test_calls_wait_for_answers_and_no_thread_does() -> None:
    came: list[tuple[Call, bytes]] = []
    all_came = threading.Event()

    def take(call: Call, message: bytes) -> None:
        came.append((call, message))
        if len(came) == PLACES:
            all_came.set()

    pool, others = Places(PLACES), set(threading.enumerate())
    with serving(lambda call: call.read(partial(take, call)), pool) as channel:
        asked = [channel.unary_unary(METHOD).future(b"%d" % n, timeout=SECONDS) for n in range(PLACES)]
        assert all_came.wait(SECONDS)
        ours = set(threading.enumerate()) - others
        assert not [thread.name for thread in ours if thread.name.startswith("call")]
        assert pool.taken == PLACES
        assert (
            refused(channel.unary_unary(METHOD).future(b"", timeout=SECONDS))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        )
        for call, message in came:
            assert 0 < call.time_remaining() < SECONDS + 1  # gRPC rounds it
            call.answer(b"answer to " + message)
        assert [one.result() for one in asked] == [b"answer to %d" % n for n in range(PLACES)]


@pytest.mark.parametrize("read", [False, True])
def test_a_call_is_refused_with_or_without_its_message_and_gives_its_place_back(read: bool) -> None:
    def begin(call: Call) -> None:
        def refuse(_: bytes = b"") -> None:
            call.refuse(grpc.StatusCode.PERMISSION_DENIED, "not you — später")

        if read:
            call.read(refuse)
        else:
            refuse()

    with serving(begin) as channel:
        for _ in range(3 * PLACES):
            call = channel.unary_unary(METHOD).future(b"m", timeout=SECONDS)
            assert refused(call) == (grpc.StatusCode.PERMISSION_DENIED, "not you — später")


def test_what_goes_wrong_with_one_call_ends_that_call_alone() -> None:
    def begin(call: Call) -> None:
        def take(message: bytes) -> None:
            if message == b"wrong":
                raise ValueError(message)
            call.answer(message)

        call.read(take)

    with serving(begin) as channel:
        for _ in range(2 * PLACES):
            code, sentence = refused(channel.unary_unary(METHOD).future(b"wrong", timeout=SECONDS))
            assert (code, "logged" in sentence) == (grpc.StatusCode.INTERNAL, True)
            assert channel.unary_unary(METHOD)(b"right", timeout=SECONDS) == b"right"


def test_a_call_without_a_message_is_told_so() -> None:
    with serving(echo) as channel:
        for _ in range(2 * PLACES):
            code, sentence = refused(channel.stream_unary(METHOD).future(iter(()), timeout=SECONDS))
            assert (code, "one message" in sentence) == (grpc.StatusCode.UNIMPLEMENTED, True)
        assert channel.unary_unary(METHOD)(b"", timeout=SECONDS) == b""


def test_a_call_that_is_left_gives_its_place_back_and_may_be_answered_all_the_same() -> None:
    left: list[Call] = []
    came, ended = threading.Semaphore(0), threading.Semaphore(0)

    def take(call: Call, message: bytes) -> None:
        if message == b"stay":
            call.answer(message)
            return
        left.append(call)
        call.add_callback(ended.release)
        came.release()

    with serving(lambda call: call.read(partial(take, call))) as channel:
        for _ in range(2 * PLACES):
            call = channel.unary_unary(METHOD).future(b"leave", timeout=SECONDS)
            assert came.acquire(timeout=SECONDS)
            call.cancel()
            assert ended.acquire(timeout=SECONDS)
            left[0].answer(b"too late")
            left[0].refuse(grpc.StatusCode.INTERNAL, "too late")
            assert not left.pop().add_callback(ended.release), "it says that the call has ended"
        assert channel.unary_unary(METHOD)(b"stay", timeout=SECONDS) == b"stay"
