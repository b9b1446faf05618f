"""What every call passes at a server: its token's grant, parsing, time, errors as statuses."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import cache, partial
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError

from shared import errors, logs, metrics
from shared.access import Access, Grant

log = logs.get(__name__)

STATUS_OF: Final[dict[type[errors.FinestreamError], grpc.StatusCode]] = {
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.FailedPrecondition: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
}
UNEXPECTED: Final = "an internal error; it has been logged"
Parse = Callable[[bytes], Any]
Handle = Callable[[Any, Any], Awaitable[Any]]


class Port(grpc.GenericRpcHandler):  # type: ignore[type-arg]  # generic in the stubs only
    """The one handler of a server: services are added to it as to a server."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._added: list[Any] = []

    def add_generic_rpc_handlers(self, handlers: Iterable[Any]) -> None:
        self._added += handlers

    def add_registered_method_handlers(self, service_name: str, handlers: Mapping[str, Any]) -> None:
        """Generated code adds the same handlers in both ways."""

    def grant_of(self, details: Any) -> Grant:
        return self._access.grant(dict(details.invocation_metadata or ()).get("authorization", ""))

    def added(self, details: Any) -> Any:
        """The handler that was added for a call; None where none was."""
        return next(filter(None, (added.service(details) for added in self._added)), None)


class Edge(Port):
    """Checks the grant, times the call, and turns our errors into status codes with a sentence.

    An interceptor would do the same through two coroutines more a call.
    """

    def service(self, details: Any) -> Any:
        """What serves a call; None where nothing does."""
        method, grant = details.method, self.grant_of(details)
        edged = grant.edged.get(method)
        if edged is not None:
            return edged
        handler = self.added(details)
        if handler is None:
            return None
        if handler.response_streaming:
            return _opened(handler, method, grant)
        edged = grant.edged[method] = self._edge(handler, method, grant)
        return edged

    def _edge(self, handler: Any, method: str, grant: Grant) -> Any:
        if handler.request_streaming:
            inner = _parsing_stream(handler.stream_unary, handler.request_deserializer, grant)
            make = grpc.stream_unary_rpc_method_handler
        else:
            inner = _parsing(handler.unary_unary, handler.request_deserializer, grant)
            make = grpc.unary_unary_rpc_method_handler
        return make(self._wrapped(inner, method, grant), None, handler.response_serializer)

    def _wrapped(self, inner: Handle, method: str, grant: Grant) -> Handle:
        seconds_of = cache(partial(metrics.RPC_SECONDS.labels, method))  # by the status; labels() is slow
        service = service_of(method)

        async def call(request: Any, context: Any) -> Any:
            started, code = time.perf_counter(), grpc.StatusCode.OK
            try:
                grant.admit(service)
                return await inner(request, context)
            except errors.FinestreamError as error:
                code = status_of(error)
                # Not set_code(): that sends headers first, and what has headers no client tries again by itself.
                await context.abort(code, str(error))
            except (grpc.aio.AbortError, asyncio.CancelledError):
                code = context.code() or grpc.StatusCode.CANCELLED
                raise
            except Exception:
                code = grpc.StatusCode.INTERNAL
                log.exception("call failed", method=method)
                await context.abort(code, UNEXPECTED)
            finally:
                name = code.name if isinstance(code, grpc.StatusCode) else str(code)
                seconds_of(name).observe(time.perf_counter() - started)

        return call


def status_of(error: errors.FinestreamError) -> grpc.StatusCode:
    return STATUS_OF.get(type(error), grpc.StatusCode.INTERNAL)


def service_of(method: str) -> str:
    return method[1:].partition("/")[0]


def parsed(data: bytes, parse: Parse) -> Any:
    """Here and not by gRPC: later, so that who is refused costs no more, and with a sentence where it fails.

    Raises InvalidRequest.
    """
    try:
        return parse(data)
    except DecodeError:
        raise errors.InvalidRequest("the message cannot be parsed; send what the service's proto says") from None


def _parsing(inner: Handle, parse: Parse, grant: Grant) -> Handle:
    async def call(data: bytes, context: Any) -> Any:
        grant.check_size(data)
        return await inner(parsed(data, parse), context)

    return call


def _parsing_stream(inner: Handle, parse: Parse, grant: Grant) -> Handle:
    """A stream over its token's rate is not refused but read more slowly, so its sender is slowed down, too."""

    async def messages(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in stream:
            await grant.pace()
            grant.check_held()
            grant.check_size(data)
            yield parsed(data, parse)

    async def call(stream: AsyncIterator[bytes], context: Any) -> Any:
        return await inner(messages(stream), context)

    return call


def _opened(handler: Any, method: str, grant: Grant) -> Any:
    """Reflection and health watch, which are checked when they begin."""
    try:
        grant.admit(service_of(method))
    except errors.FinestreamError as error:
        return _refusing(handler, STATUS_OF[type(error)], str(error))
    return handler


def _refusing(handler: Any, code: grpc.StatusCode, sentence: str) -> Any:
    async def refuse(_: Any, context: Any) -> AsyncIterator[None]:
        if handler.request_streaming:
            await context.read()  # a Python client whose stream ends before it could send a message says INTERNAL
        await context.abort(code, sentence)
        yield

    make = grpc.stream_stream_rpc_method_handler if handler.request_streaming else grpc.unary_stream_rpc_method_handler
    return make(refuse, handler.request_deserializer, handler.response_serializer)
