"""Settings: one pydantic class a service, read once in its main from FINESTREAM_* variables.

A wrong setting is one clear line and exit code 2 (`read`). Secrets are SecretStr, so printing masks them.
Every default runs on one laptop: loopback addresses, the embedded parts, the CPU.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.space import DEFAULT_SPACE, SPACES

EMBEDDED_KAFKA = "127.0.0.1:19092"
SpaceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,99}$")]  # part of topics' names
# Of names in one variable; with NoDecode, or it would have to be JSON.
Listed = BeforeValidator(
    lambda value: [n for n in map(str.strip, value.split(",")) if n] if isinstance(value, str) else value
)
_SPACE = "in which facts are derived and read: a folder of shared/spaces, or of FINESTREAM_SPACE_ROOT"


class KafkaSettings(BaseSettings):
    """Where Kafka is and how to talk to it. `finestream up` starts the embedded broker if bootstrap is not set."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_KAFKA_", extra="ignore")

    bootstrap: str = Field(EMBEDDED_KAFKA, description="host:port, comma-separated")
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field("PLAINTEXT", description="protocol")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field("PLAIN", description="with SASL_*")
    sasl_username: str = Field("", description="with SASL_*")
    sasl_password: SecretStr = Field(SecretStr(""), description="with SASL_*")
    tls_ca: Path | None = Field(None, description="CA file; the system's when empty")
    tls_certificate: Path | None = Field(None, description="client certificate, for mTLS")
    tls_key: Path | None = Field(None, description="its key")
    partitions: int = Field(4, ge=1, le=1024, description="of every topic; what joins two topics needs equal counts")
    replication: int = Field(1, ge=1, le=7, description="of topics that we create; 3 in a cluster")
    retention_hours: int = Field(168, ge=1, description="of topics cleaned up by time; must exceed the archiver's lag")
    topic_prefix: str = Field("", max_length=64, description="in front of every topic and group: several on one Kafka")
    session_timeout_seconds: float = Field(6.0, gt=0, description="after which a silent worker is taken for dead")
    rebalance_timeout_seconds: float = Field(10.0, gt=0, description="for workers to join a rebalance")
    whole_fetches: bool = Field(True, description="hand fetches to agents whole; false: Faust's own way, slower")
    space: SpaceName = Field(DEFAULT_SPACE, validation_alias="FINESTREAM_SPACE_NAME", description=_SPACE)


class GrpcSettings(BaseSettings):
    """How a gRPC port is opened and, with the same files and token, how our services call each other."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_GRPC_", extra="ignore")

    tls_certificate: Path | None = Field(None, description="server certificate (PEM); none: plaintext")
    tls_key: Path | None = Field(None, description="its key")
    tls_ca: Path | None = Field(None, description="CA that signs servers, and clients when mTLS is on")
    mtls: bool = Field(False, description="ask every client for a certificate signed by tls_ca")
    token: SecretStr = Field(
        SecretStr(""),
        description="bearer token that is sent, and that may do everything where it is received; empty: none",
    )
    tokens_file: Path | None = Field(
        None, description="YAML or JSON file of further tokens that are received: scopes, rates, sizes; none: no others"
    )
    tokens_poll_seconds: float = Field(1.0, gt=0, le=3600, description="how often the file of tokens is looked at")
    max_message_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024, description="of one call, either way")

    @model_validator(mode="after")
    def _complete(self) -> "GrpcSettings":
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key go together")
        if self.mtls and (self.tls_ca is None or self.tls_certificate is None):
            raise ValueError("mtls needs tls_ca, tls_certificate and tls_key")
        if self.tokens_file is not None and not self.token.get_secret_value():
            raise ValueError("tokens_file needs token, by which services call each other")
        return self


class ArchiveSettings(BaseSettings):
    """Where the event log lies: written by the archiver, read by the trainer, verify and rebuild."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_ARCHIVE_", extra="ignore")

    url: str = Field(".run/archive", min_length=1, description="folder or any fsspec URL of the Parquet log")


class BundleSettings(BaseSettings):
    """Where models are published by the trainer and read by ranking."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_BUNDLES_", extra="ignore")

    url: str = Field(".run/bundles", min_length=1, description="folder or any fsspec URL of the published models")


class SpaceSettings(BaseSettings):
    """Which space new vectors are made in and read from."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_SPACE_", extra="ignore")

    name: SpaceName = Field(DEFAULT_SPACE, description=_SPACE)
    root: Path = Field(SPACES, description="where the folders of spaces lie")


class GraphClientSettings(BaseSettings):
    """Where graph_updater's gRPC port is, for those who call it."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_GRAPH_", extra="ignore")

    address: str = Field("127.0.0.1:50053", description="host:port, or dns:///name:port for several")


class ServiceSettings(BaseSettings):
    """What every service has. Subclasses set `env_prefix` to FINESTREAM_<SERVICE>_ and their own ports."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_", extra="ignore")

    host: str = Field("127.0.0.1", description="address of the gRPC port")
    port: int = Field(0, ge=0, le=65535, description="gRPC port; 0: any free one, or none where the service has none")
    shared_port: bool = Field(
        False, description="let several processes take the gRPC port, among whom the kernel divides connections"
    )
    metrics_host: str = Field("127.0.0.1", description="address of the metrics and health port")
    metrics_port: int = Field(0, ge=0, le=65535, description="Prometheus metrics, /livez and /readyz; 0: any free one")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level that is logged")
    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    grpc: GrpcSettings = Field(default_factory=GrpcSettings)
    progress_timeout_seconds: float = Field(300.0, gt=0, description="work that is silent for longer fails /livez")


class ClientSettings(BaseSettings):
    """Where a client finds the system."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_", extra="ignore")

    gateway_address: str = Field("127.0.0.1:50051", description="host:port of the gateway, for clients")
    ranking_address: str = Field("127.0.0.1:50054", description="host:port of ranking, for clients")
    graph: GraphClientSettings = Field(default_factory=GraphClientSettings)
    grpc: GrpcSettings = Field(default_factory=GrpcSettings)

    @staticmethod
    def of(env: Mapping[str, str]) -> "ClientSettings":
        """The addresses in `env`, for a system that was started with them; the rest from our own environment."""
        return ClientSettings(
            gateway_address=env["FINESTREAM_GATEWAY_ADDRESS"],
            ranking_address=env["FINESTREAM_RANKING_ADDRESS"],
            graph=GraphClientSettings(address=env["FINESTREAM_GRAPH_ADDRESS"]),
        )


S = TypeVar("S", bound=BaseSettings)


def read(kind: type[S], **overrides: Any) -> S:
    """Read settings from the environment; a wrong one ends the process with one line on stderr and code 2."""
    try:
        return kind(**overrides)
    except ValidationError as error:
        print(f"finestream: {_sentence(kind, error)}", file=sys.stderr)  # noqa: T201  # logs do not exist yet
        raise SystemExit(2) from None


def masked(settings: BaseSettings) -> dict[str, Any]:
    """The settings as they may be printed: secrets as stars."""
    return settings.model_dump(mode="json")


def _sentence(kind: type[BaseSettings], error: ValidationError) -> str:
    problems = []
    for detail in error.errors(include_input=False, include_url=False):
        prefix = str(error.title and _prefix_of(kind, error.title))
        name = prefix + "_".join(str(part) for part in detail["loc"]).upper()
        problems.append(f"{name.rstrip('_')}: {detail['msg'].removeprefix('Value error, ')}")
    return "; ".join(problems)


def _prefix_of(kind: type[BaseSettings], title: str) -> str:
    # A nested class (KafkaSettings) is read by its own default factory, so its name is the error's title.
    for candidate in (kind, *BaseSettings.__subclasses__(), *ServiceSettings.__subclasses__()):
        if candidate.__name__ == title:
            return str(candidate.model_config.get("env_prefix", ""))
    return str(kind.model_config.get("env_prefix", ""))
