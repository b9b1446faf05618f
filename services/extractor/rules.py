"""Dependency rules: which words of a parsed sentence judge which other words.

In the line of double propagation (Qiu et al. 2011, Computational Linguistics 37:1): an opinion word and its
target are joined by a few relations. Four of them, each a function below: a modifier of a noun ("great
sound"), a predicate of a subject ("the sound is great"), a verb of its subject ("the battery died") or of its
object ("I love the sound"), a noun that is itself a judgement ("no problems with the strap").
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from services.extractor.lexicon import Lexicon

Token: TypeAlias = Any  # spacy.tokens.Token, which has no types of its own


def _words(words: str) -> frozenset[str]:
    return frozenset(words.split())


NEGATORS: Final = frozenset(
    ["not", "n't", "n’t", "nt", "'t", "’t", "never", "no", "hardly", "barely", "neither", "nor", "without", "cannot"]
)
PRONOUNS: Final = _words(
    """it its this that these those they them he she i we you one ones which who what there something anything
    everything nothing all both mine"""
)
# Verbs that join a subject and what is said of it. Those of a sense are themselves the aspect.
COPULAS: Final = _words(
    """be is are was were been being 's ’s 're ’re 'm am seem seems seemed get gets got stay stays stayed become
    became"""
)
SENSES: Final = _words(
    """sound sounds sounded look looks looked feel feels felt taste tastes tasted smell smells smelled fit fits
    fitted"""
)
# Verbs whose object is judged, not whose subject judges.
ATTITUDES: Final = _words(
    """love loves loved loving like likes liked hate hates hated enjoy enjoys enjoyed enjoying dislike disliked
    recommend recommends recommended regret regretted appreciate appreciated adore admire prefer preferred"""
)
RAISERS: Final = _words("think thought believe find found feel say expect see")
PLAIN_ADVERBS: Final = _words(
    """very really so extremely pretty quite rather super just also still always truly totally absolutely
    incredibly definitely certainly highly fairly actually much even only as that this"""
)
STRONGER: Final = _words("very really so extremely super absolutely incredibly totally highly too")
# What is good or bad only of certain things.
DEPENDS: Final = {
    **{(size, noun): sign * side for size, side in (("low", 1.4), ("lower", 1.2), ("lowest", 1.6), ("high", -1.4),
       ("higher", -1.2), ("highest", -1.2)) for noun, sign in (("price", 1), ("prices", 1), ("cost", 1), ("noise", 1),
       ("quality", -1), ("build quality", -1), ("sound quality", -1))},
    ("long", "battery"): 1.3, ("long", "life"): 1.3, ("short", "life"): -1.3, ("long", "wait"): -1.0,
}  # fmt: skip
HYPOTHETICAL: Final = frozenset(["would", "should", "could", "'d", "’d", "if", "wish"])
BETTER_UNDER_NEGATION: Final = frozenset(["better", "happier", "easier", "nicer", "simpler", "more"])


@dataclass(frozen=True, slots=True)
class Judgement:
    """Token positions of what is judged (none: the whole thing) and of the judging words, with its polarity."""

    aspect: tuple[int, ...]
    opinion: tuple[int, ...]
    negators: tuple[int, ...]  # the words that turn it around; empty: it stands as it is
    valence: float
    strength: float


def judgements(sentence: Any, lexicon: Lexicon) -> Iterator[Judgement]:
    """Every judgement in a parsed spacy Doc; no two of the same words."""
    seen: set[int] = set()
    for token in sentence:
        for judgement in _of_token(token, lexicon):
            if seen.isdisjoint(judgement.opinion):
                seen.update(judgement.opinion)
                yield judgement


def _of_token(token: Token, lexicon: Lexicon) -> Iterator[Judgement]:
    tag = token.tag_
    if tag[:2] == "JJ" or tag in ("VBN", "VBG"):
        yield from _of_adjective(token, lexicon)
    if tag[:2] == "VB":
        yield from _of_verb(token, lexicon)
    elif tag[:2] == "NN":
        yield from _of_noun(token, lexicon)


def _of_adjective(token: Token, lexicon: Lexicon) -> Iterator[Judgement]:
    first = _first_conjunct(token)
    role = first.dep_
    valence = _valence_with_adverbs(token, lexicon)
    if role == "amod":
        if valence is not None and first.head.tag_[:2] == "NN":
            yield _judgement(_noun_phrase(first.head), token, valence, _negators(token, first.head))
        return
    if role not in ("acomp", "oprd", "attr", "ROOT", "ccomp", "advcl", "relcl", "dep") or token.tag_ == "VBG":
        return
    if valence is None and (token.tag_[:2] != "JJ" or role not in ("acomp", "oprd", "attr")):
        return
    verb = first.head if role in ("acomp", "oprd", "attr") else first
    if _hypothetical(verb) or (token.tag_ == "VBN" and role not in ("acomp", "oprd") and valence is None):
        return
    word = verb.lower_
    if role in ("acomp", "oprd") and word not in COPULAS and word not in SENSES and valence is None:
        return
    negators = _negators(token, verb, _raiser(verb))
    if token.lower_ in BETTER_UNDER_NEGATION:
        negators = ()  # "couldn't be better"
    yield _judgement(_subject(verb, sense=word in SENSES), token, valence or 0.0, negators)


def _of_verb(token: Token, lexicon: Lexicon) -> Iterator[Judgement]:
    if token.dep_ in ("amod", "acomp", "oprd", "aux", "auxpass") or _hypothetical(token):
        return
    own = lexicon(token.lower_)
    adverbs = [child for child in token.children if child.dep_ in ("advmod", "prt") and _judges(child, lexicon)]
    said = own if own else next((lexicon(adverb.lower_) for adverb in adverbs), None)
    if said is None or said == 0.0:
        return
    negators = _negators(token, _raiser(token))
    target = next((child for child in token.children if child.dep_ in ("dobj", "nsubjpass")), None)
    if token.lower_ in ATTITUDES or (own and target is not None and target.dep_ == "nsubjpass"):
        aspect = _noun_phrase(target) if target is not None and target.lower_ not in PRONOUNS else ()
    elif target is not None and own and own < 0:
        aspect = _noun_phrase(target) if target.lower_ not in PRONOUNS else ()  # "it broke my string"
    else:
        aspect = _subject(token, sense=token.lower_ in SENSES)
    extra = [adverb.i for adverb in adverbs]
    extra += [
        child.i for child in token.children if child.dep_ == "xcomp" and child.i == token.i + 1
    ]  # stopped working
    yield _judgement(aspect, token, said, negators, tuple(extra))


def _of_noun(token: Token, lexicon: Lexicon) -> Iterator[Judgement]:
    valence = lexicon(token.lower_)
    if not valence or token.dep_ in ("compound", "nsubj", "nsubjpass", "poss", "npadvmod"):
        return
    if any(child.dep_ == "amod" and lexicon(child.lower_) is not None for child in token.children):
        return  # the modifier says it
    topic = next(
        (child for child in token.children if child.dep_ == "prep" and child.lower_ in ("with", "in", "of")), None
    )
    about = next((child for child in topic.children if child.dep_ == "pobj"), None) if topic is not None else None
    negators = _negators(token, token.head)
    if about is not None and about.lower_ not in PRONOUNS and about.tag_[:2] == "NN":
        yield _judgement(_noun_phrase(about), token, valence, negators)
    elif token.dep_ == "attr":
        yield _judgement(_subject(token.head, sense=False), token, valence, negators)
    else:
        yield _judgement((), token, valence, negators)


def _judgement(
    aspect: tuple[int, ...], token: Token, valence: float, negators: tuple[int, ...], extra: tuple[int, ...] = ()
) -> Judgement:
    modifiers = [
        child for child in token.children
        if child.dep_ in ("advmod", "npadvmod", "prt") and abs(child.i - token.i) <= 3 and _modifies(child)
    ]  # fmt: skip
    opinion = {token.i, *extra, *(child.i for child in modifiers), *_purpose(token)} - set(aspect)
    if not opinion:
        opinion, aspect = {token.i}, ()
    if aspect:
        noun = " ".join(token.doc[i].lower_ for i in aspect)
        valence = DEPENDS.get((token.lower_, noun), valence)
    strength = abs(valence) + 0.5 * bool(aspect) + 0.3 * any(child.lower_ in STRONGER for child in modifiers)
    if any(child.lower_ == "too" for child in modifiers) and valence >= -0.3:
        valence = -1.0  # "too small", "too bright"
    return Judgement(aspect, tuple(sorted(opinion)), negators, -valence if negators else valence, strength)


def _valence_with_adverbs(token: Token, lexicon: Lexicon) -> float | None:
    """Of the word itself, or of what modifies it: "well made", "poorly built"."""
    own = lexicon(token.lower_)
    if own:
        return own
    for child in token.children:
        if child.dep_ == "advmod" and _judges(child, lexicon):
            return lexicon(child.lower_)
    return own


def _modifies(adverb: Token) -> bool:
    """Not "not", which is counted elsewhere; not "how", which asks; not the "well" of "as well"."""
    after_as = adverb.lower_ == "well" and adverb.i > 0 and adverb.nbor(-1).lower_ == "as"
    return adverb.lower_ not in NEGATORS and adverb.tag_ != "WRB" and not after_as


def _judges(adverb: Token, lexicon: Lexicon) -> bool:
    return bool(lexicon(adverb.lower_)) and adverb.lower_ not in PLAIN_ADVERBS and _modifies(adverb)


def _purpose(token: Token) -> list[int]:
    """ "easy to use": the verb with its "to"."""
    for child in token.children:
        if child.dep_ == "xcomp" and child.i - token.i == 2:
            return [token.i + 1, child.i]
    return []


def _first_conjunct(token: Token) -> Token:
    for _ in range(8):  # a chain that long is a list, not a sentence
        if token.dep_ != "conj" or token.head.tag_[:2] not in ("JJ", "VB"):
            break
        token = token.head
    return token


def _subject(verb: Token, sense: bool) -> tuple[int, ...]:
    """The noun phrase that is spoken of; of "it sounds ..." the verb; empty where it is the whole thing."""
    for _ in range(4):
        subject = next((child for child in verb.children if child.dep_ in ("nsubj", "nsubjpass", "csubj")), None)
        if subject is not None or verb.dep_ not in ("conj", "xcomp", "advcl"):
            break
        verb, sense = verb.head, sense and verb.head.lower_ in SENSES
    if verb.dep_ == "relcl":
        return _noun_phrase(verb.head) if verb.head.tag_[:2] == "NN" else ()
    if subject is None or subject.lower_ in PRONOUNS or subject.tag_[:2] != "NN":
        return (verb.i,) if sense else ()
    return _noun_phrase(subject)


def _noun_phrase(noun: Token) -> tuple[int, ...]:
    """A noun with the compounds right before it: "battery life"."""
    if noun.tag_[:2] != "NN":
        return () if noun.lower_ in PRONOUNS else (noun.i,)
    compounds = [child.i for child in noun.children if child.dep_ == "compound" and 0 < noun.i - child.i <= 3]
    return tuple(range(min([*compounds, noun.i]), noun.i + 1))


def _negators(*tokens: Token | None) -> tuple[int, ...]:
    """Positions of the words that negate any of these; none where they cancel each other ("not without")."""
    found = {i for token in tokens if token is not None for i in _negators_of(token)}
    return tuple(sorted(found)) if len(found) % 2 else ()


def _negators_of(token: Token) -> Iterator[int]:
    if token.dep_ == "pobj" and token.head.lower_ == "without":
        yield token.head.i
    for child in token.children:
        if child.lower_ in NEGATORS and child.dep_ in ("neg", "det", "advmod", "aux", "preconj", "dep", "cc"):
            following = child.nbor().lower_ if child.i + 1 < len(child.doc) else ""
            if following not in ("only", "just"):  # "not only good"
                yield child.i


def _raiser(verb: Token) -> Token | None:
    """ "I don't think it works": the negation stands at "think"."""
    return verb.head if verb.dep_ == "ccomp" and verb.head.lower_ in RAISERS else None


def _hypothetical(verb: Token) -> bool:
    """What would or should be is no judgement of what is, unless "would recommend" or a negation says so."""
    if verb.lower_ in ATTITUDES or next(_negators_of(verb), None) is not None:
        return False
    return any(child.lower_ in HYPOTHETICAL and child.dep_ in ("aux", "mark") for child in verb.children)
