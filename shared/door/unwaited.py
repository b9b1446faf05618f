"""Calls of grpc's threaded server for which no thread waits.

That server gives each call a thread, which waits for the message, and then for whatever the answer takes. Where the
answer is made elsewhere that is nothing but threads being woken, which takes about as much as all else of such a call.
What grpc hands its executor is all that is needed to do without, but those are private parts of grpc._server. They are
used here and nowhere else; a test fails where they have become others.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import grpc
from grpc import _server
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from shared import logs
from shared.rpc_edge import UNEXPECTED

log = logs.get(__name__)
EVENT, STATE, BEHAVIOUR = 1, 2, 3  # places in what grpc._server submits: what is to run, then these


class Call:
    """`time_remaining` and `add_callback` are those of a ServicerContext."""

    def __init__(self, event: Any, state: Any) -> None:
        self._event, self._state = event, state
        self._context: grpc.ServicerContext = _server._Context(event, state, None)
        self.time_remaining = self._context.time_remaining
        self.add_callback = self._context.add_callback

    def read(self, take: Callable[[bytes], None]) -> None:
        """The message is given to `take`, in grpc's own thread. It may come never, where the call ends before."""
        noted = _server._receive_message(self._state, self._event.call, None)

        def received(event: Any) -> Any:
            ending = noted(event)
            message, self._state.request = self._state.request, None
            if message is None:
                self.refuse(grpc.StatusCode.UNIMPLEMENTED, "a call has one message; this one had none")
                return ending
            try:
                take(message)
            except Exception:  # else grpc's thread ends, and with it every call
                log.exception("a call could not be taken")
                self.refuse(grpc.StatusCode.INTERNAL, UNEXPECTED)
            return ending

        with self._state.condition:
            self._event.call.start_server_batch((cygrpc.ReceiveMessageOperation(0),), received)
            self._state.due.add(_server._RECEIVE_MESSAGE_TOKEN)

    def answer(self, message: bytes) -> None:
        """Once, from any thread. Of a call that has ended nobody reads it."""
        _server._status(self._event, self._state, message)

    def refuse(self, code: grpc.StatusCode, sentence: str) -> None:
        """As `answer`."""
        self._context.set_code(code)
        self._context.set_details(sentence)
        _server._status(self._event, self._state, None)


class Unwaited:
    """What a handler is given as its behaviour: `begin` is called in grpc's own thread, and may not wait."""

    def __init__(self, begin: Callable[[Call], None]) -> None:
        self._begin = begin

    def __call__(self, call: Call) -> None:
        self._begin(call)


class Places(ThreadPoolExecutor):
    """An executor for grpc.server: threads for calls as usual, and none for those that are Unwaited. Counts both."""

    def __init__(self, places: int) -> None:
        super().__init__(places, "call")
        self.taken = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        self.taken += 1
        behaviour = args[BEHAVIOUR] if len(args) > BEHAVIOUR else None
        if isinstance(behaviour, Unwaited):
            return _begun(behaviour, args[EVENT], args[STATE])
        return super().submit(fn, *args, **kwargs)


def _begun(behaviour: Unwaited, event: Any, state: Any) -> "Future[Any]":
    """Done when the call has ended, which gives its place to another."""
    call, ended = Call(event, state), Future[Any]()
    call.add_callback(lambda: ended.set_result(None))
    behaviour(call)
    return ended
