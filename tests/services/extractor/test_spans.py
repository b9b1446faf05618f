"""services/extractor/spans: windows, what can be a span, what pairs are told, and a network small enough to fit here."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.extractor.findings import Span, overlap
from services.extractor.gold import GoldFile, GoldPair, GoldReview
from services.extractor.spans.decoding import Scored, SpanPair, decode, pairs_of
from services.extractor.spans.model import About, Spans, WeightsUnavailable, digest_of, load, save
from services.extractor.spans.network import (
    ASPECT,
    KINDS,
    OPINION,
    RELATIONS,
    Candidates,
    Heads,
    Shape,
    SpanNetwork,
    candidates,
    merge,
    with_nowhere,
)  # fmt: skip
from services.extractor.spans.teaching import believed, mixed
from services.extractor.spans.training import Averaged, Fit, Marked, Tokens, epochs, marked
from services.extractor.spans.windows import WINDOW_TOKENS, Window, Windows
from shared import embedding
from shared.embedding import Encoder, padded

TEXTS = st.lists(
    st.sampled_from(["good", "sound", ".", "\n", "don't", "battery-life", "💥", "ﬁt", "\ud800", "x" * 300])
    | st.text(max_size=12),
    max_size=40,
).map(" ".join)
SMALL = Shape(layers=1, rank=2, boundary=8, hidden=8, width=6, kept=4)


@pytest.fixture(scope="module")
def windows() -> Windows:
    return Windows(embedding.load()[1])


@pytest.fixture(scope="module")
def spans() -> Spans:
    return Spans()


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return embedding.load()[0]


@pytest.fixture(scope="module")
def teacher() -> SpanNetwork:
    """One that has learnt REVIEWS so little that it is not sure of anything."""
    torch.manual_seed(0)
    network = SpanNetwork(embedding.load()[0], Shape(layers=2, rank=4, boundary=16, hidden=32, width=8, kept=8))
    data = marked(Windows(embedding.load()[1]), [REVIEWS])
    for _ in epochs(network, data, Fit(epochs=25, adapter_rate=3e-3, head_rate=3e-3)):
        pass
    return network.eval()


def quiet(hypothesis_settings: int) -> settings:
    return settings(
        max_examples=hypothesis_settings, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )


@quiet(60)
@given(texts=st.lists(TEXTS, max_size=4))
def test_windows_hold_every_word_of_every_text_in_order_and_are_bounded(windows: Windows, texts: list[str]) -> None:
    cut = windows.of(texts)
    assert all(2 < len(window.ids) == len(window.places) <= WINDOW_TOKENS for window in cut)
    for row, text in enumerate(texts):
        places = [place for window in cut if window.row == row for place in window.places[1:-1]]
        assert all(0 <= start <= end <= len(text) for start, end in places)
        assert all(before <= after for before, after in pairwise(places))
        held = {n for start, end in places for n in range(start, end)}
        # What the tokenizer drops on purpose is controls and marks, never a letter.
        assert all(n in held for n, character in enumerate(text) if character.isascii() and character.isalnum())


@quiet(30)
@given(lengths=st.lists(st.integers(1, 14), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_span_runs_forwards_is_bounded_and_has_no_padding(lengths: list[int], seed: int) -> None:
    torch.manual_seed(seed)
    heads = Heads(24, SMALL).eval()
    longest = max(lengths) + 2
    real = torch.tensor([[place < length + 2 for place in range(longest)] for length in lengths])
    logits = heads.spans(torch.randn(len(lengths), longest, 24), real)
    assert logits.shape == (len(lengths), KINDS, longest, longest)
    for row, length in enumerate(lengths):
        possible = (logits[row, 0] > float("-inf")).nonzero().tolist()
        assert possible == [[i, j] for i in range(1, length + 1) for j in range(i, min(length + 1, i + SMALL.width))]
        for kind in (ASPECT, OPINION):
            found = candidates(logits, kind, SMALL.kept, -100.0)
            kept = list(zip(found.first[row].tolist(), found.last[row].tolist(), found.real[row].tolist(), strict=True))
            assert sum(real for *_, real in kept) == min(SMALL.kept, len(possible))
            assert all([first, last] in possible for first, last, real in kept if real)


def scored(opinions: Sequence[Span], aspects: Sequence[Span], logits: dict[tuple[int, int], list[float]]) -> Scored:
    """One text; the first aspect is the one that no word names."""

    def of(spans: Sequence[Span]) -> Candidates:
        first, last = (torch.tensor([[span[side] for span in spans]]) for side in (0, 1))
        return Candidates(first, last, torch.ones_like(first, dtype=torch.bool))

    relations = torch.zeros(1, len(aspects) + 1, len(opinions), RELATIONS)
    relations[..., 0] = 20.0
    for (a, o), values in logits.items():
        relations[0, a, o] = torch.tensor(values)
    return Scored(with_nowhere(of(aspects)), of(opinions), relations)


WINDOW = Window(0, tuple(range(12)), tuple((10 * n, 10 * n + 9) for n in range(12)))


def told(scores: Scored, threshold: float = 0.5) -> list[SpanPair]:
    return next(iter(decode(scores, [WINDOW], threshold)))


def test_a_pair_is_told_with_its_places_its_polarity_and_its_probability() -> None:
    [found] = told(scored([(3, 4)], [(1, 1)], {(1, 0): [0.0, 5.0, 0.0, 0.0]}))
    assert (found.aspect, found.opinion, found.polarity) == ((10, 19), (30, 49), -1)
    assert found.probability == pytest.approx(1 - 1 / (3 + 2.718281828**5), abs=1e-5)


def test_the_likelier_of_two_readings_of_the_same_words_is_told() -> None:
    likely, likelier = [0.0, 0.0, 0.0, 3.0], [0.0, 0.0, 0.0, 4.0]
    [one] = told(scored([(3, 4), (4, 5)], [(1, 1)], {(1, 0): likely, (1, 1): likelier}))
    assert one.opinion == (40, 59)
    [one] = told(scored([(3, 4)], [(1, 1)], {(0, 0): likely, (1, 0): likelier}))
    assert one.aspect == (10, 19)
    both = told(scored([(3, 4)], [(1, 1), (7, 7)], {(1, 0): likely, (2, 0): likelier}))
    assert [one.aspect for one in both] == [(70, 79), (10, 19)]


def test_what_is_less_likely_than_the_threshold_is_not_told() -> None:
    scores = scored([(3, 4)], [], {(0, 0): [0.0, 0.0, 0.0, 1.0]})
    assert told(scores, 0.9) == []
    assert [one.aspect for one in told(scores, 0.5)] == [None]


@quiet(40)
@given(seed=st.integers(0, 10_000), threshold=st.floats(0.05, 0.95))
def test_pairs_do_not_contradict_each_other_and_a_higher_threshold_only_drops_the_last(
    seed: int, threshold: float
) -> None:
    rng = torch.Generator().manual_seed(seed)
    opinions, aspects = [(1, 2), (2, 3), (5, 5), (8, 9)], [(4, 4), (6, 7), (7, 7)]
    scores = scored(opinions, aspects, {})
    scores.relations.copy_(3 * torch.randn(scores.relations.shape, generator=rng))
    all_told, likely = told(scores, 0.02), told(scores, threshold)
    assert likely == [one for one in all_told if one.probability >= threshold]
    for n, one in enumerate(all_told):
        for other in all_told[n + 1 :]:
            assert one.opinion == other.opinion or not overlap(one.opinion, other.opinion)
            assert (one.aspect, one.opinion) != (other.aspect, other.opinion)


def review(text: str, *pairs: tuple[str, str, int]) -> GoldReview:
    def at(words: str) -> Span:
        return text.index(words), text.index(words) + len(words)

    return GoldReview(text, (), tuple(GoldPair(at(a) if a else None, at(o), polarity) for a, o, polarity in pairs))


REVIEWS = GoldFile(
    "some",
    "set",
    (
        review("The battery dies fast but the screen is gorgeous .", ("battery", "dies fast", -1), ("screen", "gorgeous", 1)),
        review("Great sound .", ("sound", "Great", 1)),
        review("It is too expensive .", ("", "too expensive", -1)),
        review("I bought it in May .",),
    ),
    True,
)  # fmt: skip


def test_what_is_marked_is_learnt_and_told_again_by_the_saved_weights(
    encoder: Encoder, windows: Windows, tmp_path: Path
) -> None:
    shape = Shape(layers=2, rank=4, boundary=16, hidden=32, width=8, kept=8)
    network = SpanNetwork(encoder, shape)
    data = marked(windows, [REVIEWS])
    assert [len(one.relations) for one in sorted(data, key=lambda m: m.window.row)] == [2, 1, 1, 0]
    fit = Fit(epochs=60, adapter_rate=3e-3, head_rate=3e-3, averaged=0.9)
    losses: list[float] = []
    last: Averaged
    for _, loss, averaged in epochs(network, data, fit):
        losses.append(loss)
        last = averaged
    assert losses[-1] < 0.1 * losses[0]
    texts = [one.text for one in REVIEWS.reviews]
    with last.in_place(network):
        before = pairs_of(network, windows, texts, 0.5)
    assert [{(p.aspect, p.opinion, p.polarity) for p in found} for found in before] == [
        {(pair.aspect, pair.opinion, pair.polarity) for pair in one.pairs} for one in REVIEWS.reviews
    ]
    path = tmp_path / "weights.safetensors"
    save(last.held, About(shape, 0.5, "four reviews", digest_of(encoder)), path)
    again, about = load(embedding.load()[0], path)
    merge(again.encoder)
    after = pairs_of(again.eval(), windows, texts, about.threshold)
    assert [[(p.aspect, p.opinion) for p in found] for found in after] == [
        [(p.aspect, p.opinion) for p in found] for found in before
    ]


def test_weights_that_are_none_are_refused_in_one_sentence(encoder: Encoder, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    with pytest.raises(WeightsUnavailable, match="no usable weights"):
        load(encoder, path)
    path.write_bytes(b"no tensors")
    with pytest.raises(WeightsUnavailable, match="no usable weights"):
        load(encoder, path)
    save({"heads.other": torch.zeros(1)}, About(SMALL, 0.5, "", "another's"), path)
    with pytest.raises(WeightsUnavailable, match="learnt beside another encoder"):
        load(encoder, path)
    save({"heads.other": torch.zeros(1)}, About(SMALL, 0.5, "", digest_of(encoder)), path)
    with pytest.raises(WeightsUnavailable, match="missing or too many"):
        load(encoder, path)


def test_padding_changes_no_text(encoder: Encoder, windows: Windows) -> None:
    network = SpanNetwork(encoder, SMALL).eval()
    cut = windows.of(["Great sound .", "The battery dies fast but the screen is gorgeous and so is the box it is in ."])
    ids, real = padded([window.ids for window in cut])
    together = network.heads.spans(network.encoder.states(ids, real), real)[0]
    alone_ids, alone_real = padded([cut[0].ids])
    alone = network.heads.spans(network.encoder.states(alone_ids, alone_real), alone_real)[0]
    tokens = len(cut[0].ids)
    inner = together[:, :tokens, :tokens]
    assert torch.equal(inner > float("-inf"), alone > float("-inf"))
    assert torch.allclose(inner[alone > float("-inf")], alone[alone > float("-inf")], atol=1e-4)


def test_the_shipped_weights_find_what_a_sentence_says_and_equal_texts_give_equal_findings(spans: Spans) -> None:
    texts = ["Great sound and a fair price .", "Too expensive .", "I bought it in May ."] * 20
    found = spans.find(texts)
    for batch in range(1, 20):
        assert [[replace(f, strength=0.0) for f in one] for one in found[3 * batch : 3 * batch + 3]] == [
            [replace(f, strength=0.0) for f in one] for one in found[:3]
        ]
    assert {(f.aspect, f.opinion, f.polarity) for f in found[0]} >= {("sound", "Great", 1), ("price", "fair", 1)}
    assert [(f.aspect, f.opinion, f.polarity) for f in found[1]] == [("", "Too expensive", -1)]
    assert found[2] == []


@quiet(40)
@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
def test_every_finding_of_any_text_lies_in_it_where_it_says(spans: Spans, texts: list[str]) -> None:
    for text, found in zip(texts, spans.find(texts), strict=True):
        for finding in found:
            assert text.startswith(finding.quote, finding.near)
            assert finding.opinion_at is not None
            assert text[slice(*finding.opinion_at)] in text
            assert finding.polarity in (-1, 0, 1)
            assert finding.opinion


def belief(
    *pairs: tuple[Tokens, Tokens, tuple[float, ...]],
    spans: tuple[dict[Tokens, float], ...] = ({}, {}),
    names_implicit: bool = True,
) -> Marked:
    return Marked(WINDOW, spans, {(aspect, opinion): told for aspect, opinion, told in pairs}, names_implicit)


def test_what_two_believe_is_mixed_by_their_weights_and_a_pair_that_one_does_not_tell_is_none_to_it() -> None:
    one = belief(((1, 1), (3, 4), (0.2, 0.8, 0.0, 0.0)), spans=({(1, 1): 1.0}, {(3, 4): 0.5}))
    other = belief(((0, 0), (3, 4), (0.0, 0.0, 0.0, 1.0)), spans=({}, {(3, 4): 1.0, (3, 3): 0.4}))
    both = mixed([(0.25, one), (0.75, other)])
    assert both.spans == ({(1, 1): 0.25}, {(3, 4): pytest.approx(0.875), (3, 3): pytest.approx(0.3)})
    assert both.relations == {
        ((1, 1), (3, 4)): pytest.approx((0.8, 0.2, 0.0, 0.0)),
        ((0, 0), (3, 4)): pytest.approx((0.25, 0.0, 0.0, 0.75)),
    }


def test_of_what_no_word_names_only_those_count_who_mark_such() -> None:
    people = belief(((1, 1), (3, 4), (0.0, 0.0, 0.0, 1.0)), names_implicit=False)
    teacher = belief(((0, 0), (3, 4), (0.4, 0.0, 0.0, 0.6)))
    assert mixed([(0.5, people), (0.5, teacher)]).relations == {
        ((1, 1), (3, 4)): pytest.approx((0.5, 0.0, 0.0, 0.5)),
        ((0, 0), (3, 4)): pytest.approx((0.4, 0.0, 0.0, 0.6)),
    }


@quiet(10)
@given(order=st.permutations(range(3)))
def test_what_a_teacher_believes_of_a_window_depends_on_no_other_and_is_probabilities(
    teacher: SpanNetwork, windows: Windows, order: list[int]
) -> None:
    cut = windows.of([one.text for one in REVIEWS.reviews[:3]])
    told = believed(teacher, [cut[n] for n in order])
    assert [one.window for one in told] == [cut[n] for n in order]
    for one in told:
        [alone] = believed(teacher, [one.window])
        for spans, alone_spans in zip(one.spans, alone.spans, strict=True):
            assert spans == pytest.approx(alone_spans, abs=1e-4)
            assert all(0.0 < probability <= 1.0 for probability in spans.values())
        assert one.relations.keys() == alone.relations.keys()
        for pair, probabilities in one.relations.items():
            assert probabilities == pytest.approx(alone.relations[pair], abs=1e-4)
            assert sum(probabilities) == pytest.approx(1.0)


def test_a_pupil_comes_near_to_what_its_teacher_believes(teacher: SpanNetwork, windows: Windows) -> None:
    shape = Shape(layers=2, rank=4, boundary=16, hidden=32, width=8, kept=8)
    torch.manual_seed(1)
    pupil = SpanNetwork(embedding.load()[0], shape)
    told = believed(teacher, windows.of([one.text for one in REVIEWS.reviews]))

    def apart() -> float:
        """The mean difference of what both believe of the spans that the teacher thinks of."""
        learnt = believed(pupil.eval(), [one.window for one in told])
        differences = [
            abs(its.spans[kind].get(tokens, 0.0) - probability)
            for its, one in zip(learnt, told, strict=True)
            for kind in range(KINDS)
            for tokens, probability in one.spans[kind].items()
        ]
        return sum(differences) / len(differences)

    before = apart()
    plain = Fit(epochs=80, adapter_rate=3e-3, head_rate=3e-3, averaged=0.9, dropout=0.0, adapter_dropout=0.0)
    for _ in epochs(pupil, told, plain):
        pass
    assert apart() < 0.1 * before
