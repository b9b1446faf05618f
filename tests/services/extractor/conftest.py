"""The models are loaded once for all tests here; only caches and settings differ."""

from collections.abc import Callable, Iterator

import pytest

from services.extractor.attributes import Attributes
from services.extractor.embeddings import LocalEmbeddings
from services.extractor.extraction import Extraction
from services.extractor.findings import Provider
from services.extractor.offline import OfflineProvider, Rules
from services.extractor.vectors import Vectors
from services.extractor.worker import Worker
from shared import projection, space
from shared.embedding import Embedder
from shared.space import Space
from tests.services.extractor.llama import llama


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    started = Worker()
    yield started
    started.stop()


@pytest.fixture(scope="session")
def rules() -> Rules:
    return Rules()


@pytest.fixture(scope="session")
def local(worker: Worker) -> LocalEmbeddings:
    return LocalEmbeddings(Embedder(), worker)


@pytest.fixture(scope="session")
def general() -> Space:
    return space.load()


@pytest.fixture(scope="session")
def llama_url() -> Iterator[str]:
    """A real LLM's endpoint; tests that ask for it are of REAL_LLM."""
    with llama() as url:
        yield url


@pytest.fixture
def vectors(local: LocalEmbeddings, general: Space) -> Vectors:
    return Vectors(local, projection.load(general), cached_phrases=1000, cached_texts=1000)


@pytest.fixture
def attributes(general: Space, vectors: Vectors) -> Attributes:
    return Attributes(general, vectors, similarity=0.6, cached=1000)


@pytest.fixture
def extraction_by(attributes: Attributes, vectors: Vectors) -> Callable[..., Extraction]:
    def make(provider: Provider, cached_texts: int = 100) -> Extraction:
        return Extraction(provider, attributes, vectors, cached_texts=cached_texts)

    return make


@pytest.fixture
def offline(rules: Rules, worker: Worker, extraction_by: Callable[..., Extraction]) -> Extraction:
    return extraction_by(OfflineProvider("rules/test", rules, worker))
