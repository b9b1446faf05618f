"""The trainer's settings."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shared.models.dataset import is_split
from shared.models.registry import MODELS, checked
from shared.settings import ArchiveSettings, BundleSettings, SpaceSettings


class TrainerSettings(BaseSettings):
    """A job: it reads the archive, trains, compares, publishes, and ends."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_TRAINER_", extra="ignore")

    models: str = Field(
        "popularity,recency_popularity,finestream",
        description="candidates, the simplest first; the best on validation is published",
    )
    options: dict[str, dict[str, Any]] = Field(
        default_factory=dict,
        description='what a candidate\'s Config has other than its defaults, as {"finestream": {"d": 64}}',
    )
    split: str = Field(
        "0.8", description="last day (UTC) of training, as 2014-02-07, or the share of interactions by event time"
    )
    validation: float = Field(
        0.1, gt=0, lt=0.5, description="share of the training time's end that models are chosen on"
    )
    asked: int = Field(
        20_000,
        ge=1,
        description="interactions that are asked, at most, by validation and by the test; of users drawn by hash",
    )
    max_seconds: float = Field(150.0, gt=0, description="for all fits together; a fit that runs out stops learning")
    checkpoints: str = Field(
        "", description="folder in which a fit that was killed leaves what it had learnt; empty: it starts again"
    )
    seed: int = 1
    device: str = Field("cpu", pattern=r"^(cpu|cuda(:\d+)?)$", description="cpu, cuda or cuda:N")
    threads: int = Field(1, ge=1, description="of torch on a CPU; more pay off for wide models on idle cores only")
    rank: int = Field(0, ge=0, validation_alias="RANK", description="which of several processes; torchrun sets it")
    keep: int = Field(5, ge=1, description="releases that stay in the store")
    current: bool = Field(True, description="make the release current; false: it is for an experiment's variant")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings)
    bundles: BundleSettings = Field(default_factory=BundleSettings)
    space: SpaceSettings = Field(default_factory=SpaceSettings)

    @property
    def candidates(self) -> list[str]:
        return [name.strip() for name in self.models.split(",") if name.strip()]

    @field_validator("split")
    @classmethod
    def _is_split(cls, value: str) -> str:
        if is_split(value):
            return value
        raise ValueError("split must be a day as 2014-02-07 or a share between 0 and 1")

    @model_validator(mode="after")
    def _are_models(self) -> "TrainerSettings":
        servable = [name for name, model in MODELS.items() if model.servable]
        wrong = [name for name in self.candidates if name not in servable]
        if wrong or not self.candidates:
            raise ValueError(f"models must be of {', '.join(servable)}, not {', '.join(wrong) or 'none'}")
        for name, values in self.options.items():
            if name not in self.candidates:
                raise ValueError(f"options are for {name}, which is none of the models")
            checked(MODELS[name].load()[0], values)
        return self
