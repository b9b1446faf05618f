"""gRPC as every service opens and calls it: TLS, tokens, health, reflection; each call passes rpc_edge.py."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc
from grpc_reflection.v1alpha._async import ReflectionServicer

from shared import logs
from shared.access import HEALTH, Access
from shared.rpc_edge import Edge
from shared.service import Health, WrongSetting
from shared.settings import GrpcSettings, ServiceSettings
from shared.watched_file import BadFile

log = logs.get(__name__)

KEEPALIVE: Final = [("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 10_000)]
# For clients alone: what calls another service for a caller leaves it to them. Of the errors that a later try may not
# meet, among them CANCELLED, as which gRPC itself ends what a server has not taken; the waits are drawn from 0 to
# these. Where one in ten calls or more fails, none is repeated for a while.
RETRIES: Final = {
    "methodConfig": [
        {
            "name": [{}],
            "retryPolicy": {
                "maxAttempts": 4, "initialBackoff": "0.1s", "maxBackoff": "1s", "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED", "CANCELLED"],
            },
        }
    ],
    "retryThrottling": {"maxTokens": 20, "tokenRatio": 0.1},
}  # fmt: skip
BALANCING: Final[dict[str, Any]] = {"loadBalancingConfig": [{"round_robin": {}}]}
LONGEST_RECONNECT_MS: Final = 5_000  # gRPC's own two minutes are how late a service that is back would be found


@dataclass
class Server:
    """A listening gRPC server."""

    server: grpc.aio.Server
    port: int
    health: HealthServicer
    following: asyncio.Task[None] | None = None  # the file of tokens

    async def stop(self, grace_seconds: float = 5.0) -> None:
        """Say NOT_SERVING, let calls in flight end within the grace, then close."""
        await self.health.enter_graceful_shutdown()
        await self.server.stop(grace_seconds)
        if self.following:
            self.following.cancel()


async def serve(
    settings: ServiceSettings,
    name: str,
    register: Callable[[Any], None],
    service_names: Sequence[str],
    health: Health,
) -> Server:
    """Open the service's gRPC port. Health answers NOT_SERVING until `health.ready()`.

    Raises WrongSetting when the port is taken, or a TLS file or the file of tokens cannot be read.
    """
    options = settings.grpc
    access = access_of(options)
    edge = Edge(access)
    register(edge)
    servicer = HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, edge)
    reflected = ReflectionServicer([*service_names, HEALTH, reflection.SERVICE_NAME])
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(reflected, edge)
    server = grpc.aio.server(handlers=[edge], options=server_options(options, settings.shared_port))
    port = bind(server, f"{settings.host}:{settings.port}", options)
    await server.start()
    following = _follow_tokens(access, health, settings.progress_timeout_seconds)
    _follow(health, servicer, service_names)
    log.info("gRPC port open", name=name, host=settings.host, port=port, tls=bool(options.tls_certificate))
    return Server(server, port, servicer, following)


def server_options(options: GrpcSettings, shared_port: bool) -> list[tuple[str, int]]:
    """Of a server, of either of grpc's kinds."""
    return [
        *KEEPALIVE,
        ("grpc.max_receive_message_length", options.max_message_bytes),
        ("grpc.max_send_message_length", options.max_message_bytes),
        ("grpc.so_reuseport", int(shared_port)),
    ]


def bind(server: Any, address: str, options: GrpcSettings) -> int:
    """The port of a server of either kind, with TLS where there is a certificate. Raises WrongSetting."""
    try:
        credentials = _server_credentials(options)
        added: int = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    except (RuntimeError, OSError) as error:
        raise WrongSetting(f"gRPC port {address}: {error}") from None
    return added


def channel(address: str, settings: GrpcSettings, *, retries: bool = False) -> grpc.aio.Channel:
    """A channel to one of our services, with the same TLS files and token as its server.

    `retries`: repeat calls within their deadline as RETRIES says.
    """
    options = [
        *KEEPALIVE,
        ("grpc.max_reconnect_backoff_ms", LONGEST_RECONNECT_MS),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.service_config", json.dumps(BALANCING | (RETRIES if retries else {}))),
    ]
    token = settings.token.get_secret_value()
    interceptors: list[Any] = [_UnaryToken(token), _StreamToken(token)] if token else []
    if settings.tls_ca is None and settings.tls_certificate is None:
        return grpc.aio.insecure_channel(address, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(address, _channel_credentials(settings), options=options, interceptors=interceptors)


def remaining_seconds(context: Any, default: float) -> float:
    """How long the caller still waits; `default` where it set no deadline."""
    left = context.time_remaining()
    return default if left is None else float(left)


def _server_credentials(settings: GrpcSettings) -> grpc.ServerCredentials | None:
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    return grpc.ssl_server_credentials(
        [(settings.tls_key.read_bytes(), settings.tls_certificate.read_bytes())],
        root_certificates=settings.tls_ca.read_bytes() if settings.tls_ca else None,
        require_client_auth=settings.mtls,
    )


def _channel_credentials(settings: GrpcSettings) -> grpc.ChannelCredentials:
    own = settings.mtls and settings.tls_key and settings.tls_certificate
    return grpc.ssl_channel_credentials(
        root_certificates=settings.tls_ca.read_bytes() if settings.tls_ca else None,
        private_key=settings.tls_key.read_bytes() if own and settings.tls_key else None,
        certificate_chain=settings.tls_certificate.read_bytes() if own and settings.tls_certificate else None,
    )


def access_of(settings: GrpcSettings) -> Access:
    """Raises WrongSetting."""
    try:
        return Access(settings)
    except BadFile as error:
        raise WrongSetting(f"FINESTREAM_GRPC_TOKENS_FILE: {error}") from None


def _follow_tokens(access: Access, health: Health, max_silence_seconds: float) -> asyncio.Task[None] | None:
    if access.file is None:
        return None
    heart = health.watch("tokens", max_silence_seconds)
    return asyncio.create_task(access.file.run(access.poll_seconds, heart.beat), name="tokens")


def _follow(health: Health, servicer: HealthServicer, names: Sequence[str]) -> None:
    tasks: set[asyncio.Task[None]] = set()

    def tell(ready: bool) -> None:
        serving = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *names):
            task = asyncio.get_running_loop().create_task(servicer.set(name, serving))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

    health.on_change(tell)


def _with_token(details: Any, token: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), ("authorization", f"Bearer {token}"))
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


# grpc.aio registers an interceptor for the first kind it is an instance of only, so each kind has its own.
class _UnaryToken(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)


class _StreamToken(grpc.aio.StreamUnaryClientInterceptor):  # type: ignore[type-arg]  # generic in the stubs only
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request_iterator)
