"""Settings of the archiver, read from FINESTREAM_ARCHIVER_*; where the archive lies is FINESTREAM_ARCHIVE_URL."""

from typing import Annotated

from pydantic import Field, model_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from shared.settings import ArchiveSettings, Listed, ServiceSettings, SpaceName


class ArchiverSettings(ServiceSettings):
    """How much is gathered before a flush, when small files are merged, and this worker's share."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_ARCHIVER_", extra="ignore")

    metrics_port: int = Field(9104, ge=0, le=65535, description="Prometheus metrics, /livez and /readyz; 0: any free")
    archive: ArchiveSettings = Field(default_factory=ArchiveSettings)
    spaces: Annotated[list[SpaceName], NoDecode, Listed] = Field(
        default_factory=list, description="spaces to archive beside FINESTREAM_SPACE_NAME, comma-separated"
    )
    worker: int = Field(0, ge=0, description="which share of the partitions: partition % workers == worker")
    workers: int = Field(1, ge=1, le=1024, description="how many archivers share the partitions")
    flush_seconds: float = Field(2.0, gt=0, description="the oldest record that is not archived yet waits this long")
    flush_rows: int = Field(20_000, ge=1, description="records gathered before a flush")
    buffer_bytes: int = Field(
        64 * 1024 * 1024, ge=1024 * 1024, description="of records gathered; more are left in Kafka until a flush ends"
    )
    compact_files: int = Field(16, ge=2, description="small files of one topic and day before they become one")
    small_file_bytes: int = Field(8 * 1024 * 1024, ge=1024, description="a file below this is small")
    takeover_seconds: float = Field(
        10.0, ge=0, description="wait for an archiver of the same share that is stopping, on one machine"
    )
    forget_seconds: float = Field(
        30.0, gt=0, description="between two looks for dead letters of users who have been erased"
    )
    stop_seconds: float = Field(20.0, gt=0, description="for the last flush at a stop")
    lag_check_seconds: float = Field(5.0, gt=0)
    retention_warning_share: float = Field(
        0.5, gt=0, le=1, description="warn when the lag exceeds this share of Kafka's retention"
    )

    @property
    def all_spaces(self) -> list[str]:
        return list(dict.fromkeys([self.kafka.space, *self.spaces]))

    @model_validator(mode="after")
    def _worker_is_one_of_them(self) -> "ArchiverSettings":
        if self.worker >= self.workers:
            raise ValueError(f"worker is {self.worker} but the workers are 0 to {self.workers - 1}")
        return self
