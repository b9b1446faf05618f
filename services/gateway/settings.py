"""Settings of the gateway, read from FINESTREAM_GATEWAY_*."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from shared.settings import ServiceSettings


class GatewaySettings(ServiceSettings):
    """Bounds of what producers may send at once; what one event may hold is shared/events.py's to say."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_GATEWAY_", extra="ignore")

    port: int = Field(50051, ge=0, le=65535, description="gRPC port; 0: any free one")
    metrics_port: int = Field(9101, ge=0, le=65535, description="Prometheus metrics, /livez and /readyz; 0: any free")
    max_event_bytes: int = Field(512 * 1024, ge=1024, le=900_000, description="of one event on the wire")
    max_in_flight: int = Field(20_000, ge=1, description="events that wait for Kafka, of all callers together")
    max_in_flight_per_stream: int = Field(500, ge=1, description="events of one PublishStream that wait for Kafka")
    stop_grace_seconds: float = Field(10.0, ge=0, description="for calls in flight at a stop")
