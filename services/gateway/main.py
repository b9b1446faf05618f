"""The gateway: EventService over gRPC in front of Kafka, for producers without a Kafka client."""

from services.gateway.event_service import SERVICE_NAME, EventService
from services.gateway.settings import GatewaySettings
from shared import kafka, rpc
from shared.pb.finestream.v1 import event_pb2_grpc
from shared.service import Runtime, run


async def compose(runtime: Runtime[GatewaySettings]) -> None:
    settings = runtime.settings
    await kafka.ensure_topics(settings.kafka)
    producer = kafka.Producer(settings.kafka)
    await producer.start()
    try:
        service = EventService(producer, settings)
        server = await rpc.serve(
            settings,
            runtime.name,
            lambda server: event_pb2_grpc.add_EventServiceServicer_to_server(service, server),
            [SERVICE_NAME],
            runtime.health,
        )
        runtime.health.ready()
        await runtime.stopping.wait()
        runtime.health.not_ready("stopping")
        await server.stop(settings.stop_grace_seconds)
    finally:
        await producer.stop()


def main() -> None:
    run("gateway", GatewaySettings, compose)


if __name__ == "__main__":
    main()
