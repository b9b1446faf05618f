"""ranking's settings: FINESTREAM_RANKING_*."""

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import SettingsConfigDict

from services.ranking import experiments, rules
from services.ranking.requests import ExplorationMethod
from shared.models.diversity import Method
from shared.settings import BundleSettings, GraphClientSettings, ServiceSettings


class RankingSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="FINESTREAM_RANKING_", extra="ignore")

    port: int = Field(50054, ge=0, le=65535, description="gRPC port; 0: any free one")
    metrics_port: int = Field(
        9105, ge=0, le=65535, description="Prometheus metrics, /livez and /readyz; 0: any free one"
    )
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="that share the port, for more cores; their metrics ports count up from metrics_port",
    )
    graph: GraphClientSettings = Field(default_factory=GraphClientSettings)
    bundles: BundleSettings = Field(default_factory=BundleSettings)

    k_limit: int = Field(1000, ge=1, le=10_000, description="the largest k of a request")
    deadline_seconds: float = Field(1.0, gt=0, le=600, description="of a call whose client set none")

    batch_size: int = Field(64, ge=1, le=1000, description="the most requests of one inference")
    batch_wait_seconds: float = Field(
        0.002,
        ge=0,
        le=1,
        description="how long a request waits for company; longer while others are ranked, and alone not at all",
    )
    queue_limit: int = Field(1024, ge=1, le=1_000_000, description="requests that wait; one more is refused at once")
    places: int = Field(192, ge=1, le=10_000, description="calls worked on or waiting; one more is refused at the door")
    queue_age_seconds: float = Field(2.0, gt=0, le=60, description="a request that has waited for longer is refused")
    hydrate_timeout_seconds: float = Field(
        0.25, gt=0, le=60, description="graph_updater is given this long before the last known state of a user is used"
    )
    user_cache_bytes: int = Field(64 * 1024 * 1024, ge=0, description="of last known user states, for that case")
    user_cache_seconds: float = Field(3600.0, gt=0, description="how old a last known user state may be")

    diversity: float = Field(
        0.0, ge=0, le=1, description="of a request that names none: 0 by score alone, 1 unlike each other above all"
    )
    diversity_method: Method = Field("mmr", description="of a request that names none")
    pool_items: int = Field(
        200,
        ge=1,
        le=2000,
        description="the best candidates that diversity, exploration and limits on categories choose from",
    )
    exploration: float = Field(
        0.0, ge=0, le=1, description="of a request that names none: probability that a place is given to another item"
    )
    exploration_method: ExplorationMethod = Field("epsilon", description="of a request that names none")
    new_item_users: int = Field(
        10, ge=1, le=1_000_000, description="an item that fewer users have met is new: ucb explores no other"
    )

    rules: Path | None = Field(None, description="YAML or JSON file of pins, boosts and quotas; none: no rules")
    rules_poll_seconds: float = Field(1.0, gt=0, le=3600, description="how often the file of rules is looked at")

    experiments: Path | None = Field(
        None, description="YAML or JSON file of an experiment: variants, their shares and bundles; none: no experiment"
    )
    experiments_poll_seconds: float = Field(
        1.0, gt=0, le=3600, description="how often the file of experiments is looked at"
    )

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one")
    torch_threads: int = Field(
        1, ge=0, le=256, description="of one inference on the CPU; 0: one for each core that this process may use"
    )
    tile_items: int = Field(16_384, ge=16, le=4_194_304, description="items scored at once where all are scored")
    encode_items: int = Field(64, ge=1, le=10_000, description="the most items encoded between two inferences")
    fetch_items: int = Field(128, ge=1, le=500, description="items asked of graph_updater in one call")

    bundle_poll_seconds: float = Field(1.0, gt=0, le=3600, description="how often current.json is read")
    bundle_retry_seconds: float = Field(30.0, gt=0, le=86_400, description="until a refused bundle is tried again")
    bundle_cache: Path = Field(Path(".run/bundle-cache"), description="where fetched bundles are kept")
    memory_bytes: int = Field(
        0,
        ge=0,
        description="that this process may hold, else a bundle is refused; 0: the container's limit, or all there is",
    )

    impressions: bool = Field(True, description="write what was shown to the impressions topic")
    impressions_buffer: int = Field(10_000, ge=1, le=10_000_000, description="impressions that wait; more are dropped")

    @model_validator(mode="after")
    def _has_ports(self) -> "RankingSettings":
        if self.processes > 1 and not self.port:
            raise ValueError("processes share one port; name it, or each would take another")
        if self.processes > 1 and self.metrics_port + self.processes > 65_536:
            raise ValueError(f"{self.processes} metrics ports from {self.metrics_port} on are more than there are")
        return self

    @field_validator("rules")
    @classmethod
    def _are_rules(cls, path: Path | None) -> Path | None:
        if path is not None:
            rules.read(path)  # so that a wrong file is told before anything is started
        return path

    @field_validator("experiments")
    @classmethod
    def _are_experiments(cls, path: Path | None) -> Path | None:
        if path is not None:
            experiments.read(path)
        return path
