"""Fit a space's opinion projection, once: `python -m services.extractor.fit_projection [--space NAME]`.

The phrases are made of the lexicon's opinion words, alone, negated, and beside the words of the space's
attributes, so no data of users is in the projection and anyone can fit it again. A space that is in use keeps
its projection for ever; for another embedding model write a space.json of its own and fit that.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator

from services.extractor import lexicon
from services.extractor.providers import embeddings_of
from services.extractor.settings import ExtractorSettings
from services.extractor.vectors import PHRASE_TOKENS
from services.extractor.worker import Worker
from shared import projection, space
from shared.projection import opinion_text
from shared.settings import read
from shared.space import Space


def phrases_of(space: Space) -> Iterator[str]:
    """Opinion texts in a fixed order."""
    terms = [term for attribute in space.attributes for term in attribute.terms]
    valence_of = lexicon.Lexicon()
    for number, word in enumerate(lexicon.words()):
        valence = valence_of(word) or 0.0
        polarity = (valence > 0.0) - (valence < 0.0)
        yield opinion_text(word, polarity)
        yield opinion_text(f"not {word}", -polarity)
        if terms:
            yield opinion_text(f"{word} {terms[number % len(terms)]}", polarity)


async def fit(settings: ExtractorSettings, name: str) -> str:
    """Fits and saves; answers a sentence for the operator."""
    definition = space.load(name, settings.space.root)
    phrases = list(phrases_of(definition))
    worker = Worker(settings.torch_threads)
    try:
        vectors = await embeddings_of(settings, definition, worker).embed(phrases, PHRASE_TOKENS)
    finally:
        worker.stop()
    fitted = projection.fit(vectors, definition.opinion_dim)
    centred = vectors - fitted.mean
    kept = float((fitted(vectors) ** 2).sum() / (centred**2).sum())
    path = projection.save(fitted, definition, settings.space.root)
    return f"{path}: {len(phrases)} phrases, {kept:.0%} of their variance kept"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    settings = read(ExtractorSettings)
    parser.add_argument("--space", default=settings.space.name, help="a folder with a space.json")
    arguments = parser.parse_args()
    sys.stdout.write(asyncio.run(fit(settings, arguments.space)) + "\n")


if __name__ == "__main__":
    main()
