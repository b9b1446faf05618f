"""The extractor: reviews to attribute-opinion pairs, items to vectors, and the same ad hoc over gRPC."""

from dataclasses import dataclass
from typing import Final

from services.extractor.attributes import Attributes
from services.extractor.embeddings import Embeddings
from services.extractor.extraction import Extraction
from services.extractor.findings import Provider
from services.extractor.items import Items
from services.extractor.openai_endpoint import Endpoint
from services.extractor.providers import embeddings_of, endpoint_of, provider_of
from services.extractor.reviews import Reviews
from services.extractor.service import SERVICE_NAME, ExtractorService
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import Vectors
from services.extractor.worker import Worker
from shared import kafka, projection, rpc, topics
from shared.pb.finestream.v1 import extractor_pb2_grpc
from shared.projection import BadProjection
from shared.service import Runtime, WrongSetting, run, space_of
from shared.space import Space
from shared.streams import Handler, Stream

STOP_GRACE_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Embedding:
    """What makes words vectors and attributes of a space."""

    space: Space
    vectors: Vectors
    attributes: Attributes
    embeddings: Embeddings


@dataclass(frozen=True)
class Parts:
    """What the streams and the port share."""

    space: Space
    extraction: Extraction
    vectors: Vectors
    provider: Provider
    embeddings: Embeddings

    async def close(self) -> None:
        await self.provider.close()
        await self.embeddings.close()


def parts_of(settings: ExtractorSettings, worker: Worker) -> Parts:
    """Loads the models; takes seconds. Raises WrongSetting."""
    endpoint = endpoint_of(settings) if "openai" in (settings.provider, settings.embeddings) else None
    of = embedding_of(settings, worker, endpoint)
    provider = provider_of(settings, of.space, worker, endpoint)
    extraction = Extraction(provider, of.attributes, of.vectors, cached_texts=settings.cached_texts)
    return Parts(of.space, extraction, of.vectors, provider, of.embeddings)


def embedding_of(settings: ExtractorSettings, worker: Worker, endpoint: Endpoint | None = None) -> Embedding:
    """Loads the embedding model; takes seconds. Raises WrongSetting."""
    definition = space_of(settings.space)
    try:
        fitted = projection.load(definition, settings.space.root)
    except (OSError, ValueError, BadProjection) as error:  # msgspec's errors are ValueErrors
        raise WrongSetting(f"FINESTREAM_SPACE_NAME={settings.space.name}: {error}") from None
    embeddings = embeddings_of(settings, definition, worker, endpoint)
    vectors = Vectors(embeddings, fitted, cached_phrases=settings.cached_phrases, cached_texts=settings.cached_texts)
    attributes = Attributes(
        definition, vectors, similarity=settings.attribute_similarity, cached=settings.cached_phrases
    )
    return Embedding(definition, vectors, attributes, embeddings)


async def compose(runtime: Runtime[ExtractorSettings]) -> None:
    settings = runtime.settings
    worker = Worker(settings.torch_threads)
    try:
        parts = await worker.run(parts_of, settings, worker)
        await kafka.ensure_topics(settings.kafka)
        producer = kafka.Producer(settings.kafka)
        await producer.start()
        try:
            await _work(runtime, parts, producer)
        finally:
            await producer.stop()
            await parts.close()
    finally:
        worker.stop()


async def _work(runtime: Runtime[ExtractorSettings], parts: Parts, producer: kafka.Producer) -> None:
    settings = runtime.settings
    service = ExtractorService(parts.extraction, settings.version)
    server = await rpc.serve(
        settings,
        runtime.name,
        lambda server: extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(service, server),
        [SERVICE_NAME],
        runtime.health,
    )
    streams = _streams(runtime, parts, producer)
    try:
        for stream in streams:
            await stream.start()
        runtime.health.ready()
        await runtime.stopping.wait()
        runtime.health.not_ready("stopping")
    finally:
        for stream in streams:
            await stream.stop()
        await server.stop(STOP_GRACE_SECONDS)


def _streams(runtime: Runtime[ExtractorSettings], parts: Parts, producer: kafka.Producer) -> list[Stream]:
    settings = runtime.settings
    handlers: dict[str, Handler] = {
        topics.REVIEWS: Reviews(parts.extraction, parts.vectors, producer, settings, parts.space.name),
        topics.ITEMS: Items(parts.vectors, producer, settings, parts.space.name),
    }
    return [
        Stream(
            stream_of(topic), [topic], handler, kafka=settings.kafka, producer=producer, health=runtime.health,
            worker=settings.worker, batch_size=settings.batch_size, stuck_seconds=settings.progress_timeout_seconds,
        )
        for topic, handler in handlers.items()
    ]  # fmt: skip


def stream_of(topic: str) -> str:
    """The name of the stream that reads the topic, and of its group."""
    return f"extractor-{topic}"


def main() -> None:
    run("extractor", ExtractorSettings, compose)


if __name__ == "__main__":
    main()
