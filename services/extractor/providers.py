"""From settings to who finds opinions and who embeds. Raises WrongSetting with one line for the operator."""

from services.extractor.budget import Budget, Damaged
from services.extractor.embeddings import Embeddings, LocalEmbeddings
from services.extractor.findings import Provider
from services.extractor.languages import Languages
from services.extractor.lexicon import LexiconUnavailable
from services.extractor.offline import OfflineProvider, Rules
from services.extractor.openai_embeddings import OpenAIEmbeddings
from services.extractor.openai_endpoint import Endpoint
from services.extractor.openai_provider import Asking, OpenAIProvider
from services.extractor.over_budget import OfflineOverBudget
from services.extractor.paid_answers import PaidAnswers
from services.extractor.paid_once import PaidOnce
from services.extractor.redaction import Redaction
from services.extractor.settings import ExtractorSettings, Offline
from services.extractor.spacy_pipeline import ModelUnavailable
from services.extractor.spans.model import Spans, WeightsUnavailable
from services.extractor.worker import Worker
from shared import logs
from shared.embedding import Embedder, EmbeddingUnavailable
from shared.service import WrongSetting
from shared.space import Space

log = logs.get(__name__)


def provider_of(
    settings: ExtractorSettings, space: Space, worker: Worker, endpoint: Endpoint | None = None
) -> Provider:
    """`endpoint`: the one that the embeddings share; None: one of its own, where it needs any."""
    if settings.provider != "openai":
        return _offline(settings.provider, settings, worker)
    asking = Asking(settings.openai, space)
    paid: Provider = OpenAIProvider(endpoint or endpoint_of(settings), asking, redaction_of(settings, worker))
    if settings.openai.kept_answers:
        paid = PaidOnce(paid, asking.setup, paid_answers_of(settings))
    if settings.openai.daily_budget_usd and settings.openai.over_budget != "wait":
        return OfflineOverBudget(paid, _offline(settings.openai.over_budget, settings, worker))
    return paid


def paid_answers_of(settings: ExtractorSettings) -> PaidAnswers:
    try:
        return PaidAnswers(settings.state, settings.openai.kept_answers, settings.openai.kept_days)
    except OSError as error:
        raise WrongSetting(f"FINESTREAM_EXTRACTOR_STATE={settings.state}: {error}") from None


def _offline(name: Offline, settings: ExtractorSettings, worker: Worker) -> Provider:
    languages = Languages() if settings.english_only else None
    try:
        if name == "spans":
            spans = Spans(settings.local.embedding_path, max_chars=settings.max_chars)
            return OfflineProvider("spans/minilm", spans, worker, languages)
        rules = Rules(settings.local.spacy_model, settings.max_chars, settings.max_sentences)
        return OfflineProvider("rules/en_core_web_sm+vader", rules, worker, languages)
    except (ModelUnavailable, LexiconUnavailable) as error:
        raise WrongSetting(f"the provider {name}: {error}") from None
    except (EmbeddingUnavailable, WeightsUnavailable) as error:
        raise WrongSetting(
            f"the provider {name}, which reads with the model in FINESTREAM_EMBEDDING_PATH: {error};"
            " FINESTREAM_EXTRACTOR_PROVIDER=rules works without"
        ) from None


def embeddings_of(
    settings: ExtractorSettings, space: Space, worker: Worker, endpoint: Endpoint | None = None
) -> Embeddings:
    """Checked to be what the space was made with: vectors of two models cannot be compared."""
    if settings.embeddings == "openai":
        embeddings: Embeddings = OpenAIEmbeddings(
            endpoint or endpoint_of(settings), settings.openai, redaction_of(settings, worker), space.embedding_dim
        )
        if embeddings.name != space.embedding:
            raise WrongSetting(
                f"FINESTREAM_OPENAI_EMBEDDING_MODEL: space {space.name} is of {space.embedding}, not of"
                f" {embeddings.name}; make a space for it and set FINESTREAM_SPACE_NAME"
            )
        return embeddings
    try:
        embeddings = LocalEmbeddings(Embedder(settings.local.embedding_path), worker, space.embedding)
    except EmbeddingUnavailable as error:
        raise WrongSetting(f"FINESTREAM_EMBEDDING_PATH: {error}") from None
    if embeddings.dim != space.embedding_dim:
        raise WrongSetting(
            f"FINESTREAM_EMBEDDING_PATH: the model has {embeddings.dim} dimensions, space {space.name} needs"
            f" {space.embedding_dim}"
        )
    return embeddings


def redaction_of(settings: ExtractorSettings, worker: Worker) -> Redaction:
    try:
        return Redaction(settings.openai.redact, worker, settings.local.spacy_model)
    except ModelUnavailable as error:
        raise WrongSetting(f"FINESTREAM_OPENAI_REDACT: {error}") from None


def endpoint_of(settings: ExtractorSettings) -> Endpoint:
    if not settings.openai.api_key.get_secret_value() and "api.openai.com" in settings.openai.base_url:
        raise WrongSetting("FINESTREAM_OPENAI_API_KEY is required for https://api.openai.com")
    for model in _models(settings):
        if model not in settings.openai.prices:
            if settings.openai.daily_budget_usd:
                raise WrongSetting(
                    f"FINESTREAM_OPENAI_DAILY_BUDGET_USD: {model} has no price in FINESTREAM_OPENAI_PRICES"
                )
            log.warning("the model has no price: what it costs is not counted", model=model)
    return Endpoint(settings.openai, _budget(settings))


def _budget(settings: ExtractorSettings) -> Budget | None:
    if not settings.openai.daily_budget_usd:
        return None
    try:
        return Budget(settings.state, settings.openai.daily_budget_usd)
    except (Damaged, OSError) as error:
        raise WrongSetting(f"FINESTREAM_EXTRACTOR_STATE={settings.state}: {error}") from None


def _models(settings: ExtractorSettings) -> list[str]:
    """Those that are paid for."""
    models = {settings.openai.model: settings.provider, settings.openai.embedding_model: settings.embeddings}
    return [model for model, by in models.items() if by == "openai"]
