"""Settings of graph_updater, read from FINESTREAM_GRAPH_UPDATER_* and FINESTREAM_QDRANT_*."""

from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import ServiceSettings, SpaceSettings


class QdrantSettings(BaseSettings):
    """Where states and vectors are kept: Qdrant's engine in this process, or a Qdrant server where url is set."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_QDRANT_", extra="ignore")

    url: str = Field("", description="http(s)://host:6333 of a Qdrant server; empty: the embedded engine")
    api_key: SecretStr = Field(SecretStr(""), description="of the server")
    collection_prefix: str = Field("", max_length=64, description="in front of the names of collections")
    path: Path = Field(Path(".run/qdrant"), description="folder of the embedded engine; one process at a time")
    prefer_grpc: bool = Field(True, description="talk gRPC to the server")
    grpc_port: int = Field(6334, ge=1, le=65535, description="the server's gRPC port")
    timeout_seconds: int = Field(10, ge=1, le=600, description="of one call to the server")
    shards: int = Field(1, ge=1, le=1024, description="of a collection, when it is created on a server")
    replication: int = Field(1, ge=1, le=16, description="of a collection, when it is created on a server")


class GraphUpdaterSettings(ServiceSettings):
    """How states are cached, announced and read."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_GRAPH_UPDATER_", extra="ignore")

    port: int = Field(50053, ge=0, le=65535, description="gRPC port; 0: any free one")
    metrics_port: int = Field(9103, ge=0, le=65535, description="Prometheus metrics, /livez and /readyz; 0: any free")
    worker: str = Field("0", min_length=1, max_length=64, description="this replica's slot in its consumer groups")
    batch_size: int = Field(4000, ge=1, le=10_000, description="records joined and written together")
    cache_megabytes: int = Field(256, ge=1, description="of states in memory, for users and for items each")
    cached_item_vectors: int = Field(
        200_000, ge=1, description="semantic vectors of items in memory, one byte a number"
    )
    half_life_days: float = Field(180.0, gt=0, description="after which an item counts half in its user's vector")
    announce_seconds: float = Field(1.0, ge=0, description="an item is announced on item-states at most this often")
    flush_seconds: float = Field(5.0, gt=0, description="the embedded engine writes its segments to disk this often")
    max_wait_seconds: float = Field(30.0, gt=0, description="of a GetUsers with `after` whose caller set no deadline")
    max_waiting: int = Field(10_000, ge=1, description="GetUsers calls with `after` that wait at once")
    stop_grace_seconds: float = Field(5.0, ge=0, description="for calls in flight at a stop")
    space: SpaceSettings = Field(default_factory=SpaceSettings)
    qdrant: QdrantSettings = Field(default_factory=QdrantSettings)
