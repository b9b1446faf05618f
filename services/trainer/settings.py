"""The trainer's settings."""

from datetime import UTC, datetime, timedelta
from math import ceil, nextafter
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.settings import ArchiveSettings, BundleSettings, SpaceSettings


class TrainerSettings(BaseSettings):
    """A job: it reads the archive, trains, compares, publishes, and ends."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_TRAINER_", extra="ignore")

    split: str = Field(
        "0.8", description="last day (UTC) of training, as 2014-02-07, or the share of interactions by event time"
    )
    validation: float = Field(
        0.1, gt=0, lt=0.5, description="share of the training time's end that models are chosen on"
    )
    epochs: int = Field(10, ge=1, le=1000)
    patience: int = Field(2, ge=1, description="epochs without a better validation loss before a fit stops")
    max_seconds: float = Field(150.0, gt=0, description="for the two fits together; a fit that runs out stops learning")
    max_cases: int = Field(200_000, ge=1, description="training cases: the newest of the log")
    windows: int = Field(8, ge=1, le=256, description="stretches of event time, each with its own view of the items")
    batch: int = Field(256, ge=1, description="cases of one step at most")
    learning_rate: float = Field(4e-3, gt=0, lt=1)
    weight_decay: float = Field(0.05, ge=0, lt=1)
    width: int = Field(64, ge=8, le=1024, multiple_of=8, description="d of each of the three views")
    layers: int = Field(1, ge=1, le=8)
    dropout: float = Field(0.3, ge=0, lt=1)
    half_life_days: float = Field(365.0, gt=0, description="of the recency of popularity")
    seed: int = 1
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N")
    threads: int = Field(1, ge=1, description="of torch on a CPU; more pay off for wide models on idle cores only")
    keep: int = Field(5, ge=1, description="releases that stay in the store")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings)
    bundles: BundleSettings = Field(default_factory=BundleSettings)
    space: SpaceSettings = Field(default_factory=SpaceSettings)

    @field_validator("split")
    @classmethod
    def _is_split(cls, value: str) -> str:
        try:
            if 0 < float(value) < 1:
                return value
        except ValueError:
            if _day(value) is not None:
                return value
        raise ValueError("split must be a day as 2014-02-07 or a share between 0 and 1")


def split_time(split: str, times: list[float]) -> float:
    """The first moment of the test. `times`: of the interactions, ascending."""
    day = _day(split)
    if day is not None:
        return (day + timedelta(days=1)).timestamp()
    return share_time(float(split), times)


def share_time(share: float, times: list[float]) -> float:
    """The moment just after at least `share` of `times`; what happened at one time stays together."""
    last = max(0, ceil(share * len(times)) - 1)
    return nextafter(times[last], float("inf"))


def _day(value: str) -> datetime | None:
    try:
        return datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
