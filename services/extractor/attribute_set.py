"""A domain's attribute set: `finestream attributes discover FILE > set.yaml`, and made a space after an edit.

discover: proposes attributes from what a sample of reviews judges. make: a space of the edited file, with the
embedding model of the space that FINESTREAM_SPACE_NAME names, and its projection, fitted.
"""

import argparse
import asyncio
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from services.extractor import discovery
from services.extractor.attributes import head_of
from services.extractor.discovery import CLUSTERED, BadAttributes
from services.extractor.findings import Found, Provider, answers_of
from services.extractor.fit_projection import fit
from services.extractor.main import embedding_of
from services.extractor.providers import provider_of
from services.extractor.settings import PROVIDERS, ExtractorSettings
from services.extractor.worker import Worker
from shared import logs
from shared.experiments.bar import counted
from shared.experiments.readers import BadLines
from shared.jobs import ending
from shared.local.reviews import read_reviews
from shared.service import WrongSetting, space_of
from shared.settings import read
from shared.space import Space

SEED: Final = 0  # of the sample: one file gives one proposal


async def discover(settings: ExtractorSettings, path: Path, reviews: int, attributes: int, likeness: float) -> str:
    """YAML of the proposal. Raises WrongSetting, OSError, Unavailable."""
    bad = BadLines(path)
    texts = [review.text for _, review in read_reviews(path, bad) if review.text.strip()]
    bad.tell()
    sample = random.Random(SEED).sample(texts, min(reviews, len(texts)))  # noqa: S311  # no secret
    worker = Worker(settings.torch_threads)
    try:
        of = await worker.run(embedding_of, settings, worker)
        provider = await worker.run(provider_of, settings, of.space, worker)
        try:
            judged = await _judged(provider, sample)
            terms = [term for term, _ in judged.most_common(CLUSTERED)]
            if not terms:
                raise WrongSetting(f"{path}: nothing is judged in {len(sample)} reviews, so nothing can be proposed")
            vectors = await of.vectors.phrases(terms)
        finally:
            await provider.close()
            await of.embeddings.close()
    finally:
        worker.stop()
    proposed = discovery.propose(judged, vectors, attributes=attributes, likeness=likeness)
    return discovery.written(proposed, judged.total())


async def _judged(provider: Provider, texts: Sequence[str]) -> Counter[str]:
    """How often each word is what an opinion is about; the whole thing is not counted."""
    judged: Counter[str] = Counter()
    with counted("reading reviews", len(texts)) as done:
        async for answer in answers_of(provider, texts):
            if isinstance(answer, Found):
                judged.update(head for finding in answer.findings if (head := head_of(finding.aspect)))
            done(1)
    return judged


def make(settings: ExtractorSettings, path: Path, name: str) -> str:
    """Writes the space and answers a sentence. Raises WrongSetting, OSError."""
    try:
        attributes = discovery.read(path.read_text(encoding="utf-8"))
    except (BadAttributes, UnicodeDecodeError) as error:
        raise WrongSetting(f"{path}: {error}") from None
    like = space_of(settings.space)
    folder = settings.space.root / name
    if folder.exists():
        raise WrongSetting(f"{folder} is there already, and a space never changes; choose another name")
    made = Space(name, like.embedding, like.embedding_dim, like.opinion_dim, attributes)
    folder.mkdir(parents=True)
    (folder / "space.json").write_bytes(msgspec.json.format(msgspec.json.encode(made)) + b"\n")
    return asyncio.run(fit(settings, name)) + "\n"


def main() -> None:
    """Exit codes: 0 done; 1 a file cannot be read or written, or the provider does not answer; 2 a wrong setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    discovering = commands.add_parser("discover", help="propose attributes from a sample of reviews, as YAML")
    discovering.add_argument("file", type=Path, help="Amazon-format JSON lines, gzip or not")
    discovering.add_argument("--reviews", type=int, default=2000, help="of the file that are read, at random")
    discovering.add_argument("--attributes", type=int, default=12, help="that are proposed at most")
    discovering.add_argument("--likeness", type=float, default=0.4, help="mean cosine of words of one attribute")
    discovering.add_argument("--provider", choices=PROVIDERS, help="instead of FINESTREAM_EXTRACTOR_PROVIDER")
    making = commands.add_parser("make", help="make a space of an edited proposal")
    making.add_argument("file", type=Path, help="YAML as discover prints it")
    making.add_argument("name", help="of the new space, a folder in FINESTREAM_SPACE_ROOT")
    given = parser.parse_args()
    settings = read(ExtractorSettings)
    logs.configure("attributes", settings.log_level)
    with ending():
        if given.command == "make":
            told = make(settings, given.file, given.name)
        else:
            if given.provider:
                settings = settings.model_copy(update={"provider": given.provider})
            told = asyncio.run(discover(settings, given.file, given.reviews, given.attributes, given.likeness))
        sys.stdout.write(told)


if __name__ == "__main__":
    main()
