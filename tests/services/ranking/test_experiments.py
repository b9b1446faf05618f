"""services/ranking/experiments.py: the file, and who is in which variant: by share, for ever, and moved seldom."""

import subprocess
import sys
from collections import Counter
from math import sqrt
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.ranking.experiments import BUCKETS, NO_EXPERIMENT, Experiment, Plan, Variant, dealt, read
from tests.parts import refusal_of

USERS = [f"user {n}" for n in range(20_000)]
FILE = """
name: larger-model
variants:
  - {name: larger, share: 0.2, bundle: v2}
  - {name: newest, share: 0.05, bundle: v3, shadow: true}
  - {name: over, share: 0, bundle: v4}
"""


def file_of(folder: Path, text: str) -> Path:
    path = folder / "experiments.yaml"
    path.write_text(text)
    return path


def plan_of(salt: str = "salt", **shares: float) -> Plan:
    return Plan("test", salt, tuple(Variant(name, share, f"bundle of {name}") for name, share in shares.items()))


def names_of(plan: Plan) -> list[str]:
    experiment = Experiment(plan)
    return [variant.name if (variant := experiment.variant_of(user)) else "" for user in USERS]


def test_a_file_says_who_is_shown_what_and_what_is_only_compared(tmp_path: Path) -> None:
    experiment = read(file_of(tmp_path, FILE))
    assert [variant.name for variant in experiment.shown] == ["larger"]
    assert [variant.name for variant in experiment.shadows] == ["newest"]
    assert experiment.bundles == {"v2", "v3"}, "what is switched off needs no bundle"
    assert read(file_of(tmp_path, "")).bundles == frozenset()


def test_without_an_experiment_everybody_is_the_control() -> None:
    assert {NO_EXPERIMENT.variant_of(user) for user in USERS[:100]} == {None}
    assert set(names_of(plan_of(over=0.0))) == {""}


BAD = {
    "no experiment at all": ("[1, 2]", "Expected `object`"),
    "not YAML": ("variants: [", "neither YAML nor JSON"),
    "a name there is none of": ("variant: []", "unknown field `variant`"),
    "without a name": ("variants: [{name: a, share: 0.1, bundle: v}]", "an experiment has a name"),
    "a share above 1": ("{name: e, variants: [{name: a, share: 1.1, bundle: v}]}", "$.variants[0].share"),
    "a share that is no number": ("{name: e, variants: [{name: a, share: .nan, bundle: v}]}", "$.variants[0].share"),
    "shares above 1 together": (
        "{name: e, variants: [{name: a, share: 0.6, bundle: v}, {name: b, share: 0.5, bundle: v}]}",
        "are 1.1 together",
    ),
    "a variant twice": (
        "{name: e, variants: [{name: a, share: 0.1, bundle: v}, {name: a, share: 0.1, bundle: w}]}",
        "named twice: a",
    ),
    "the control's name": ("{name: e, variants: [{name: control, share: 0.1, bundle: v}]}", "who is in no variant"),
    "a name that is no label": ("{name: e, variants: [{name: 'a b', share: 0.1, bundle: v}]}", "$.variants[0].name"),
    "no bundle": ("{name: e, variants: [{name: a, share: 0.1}]}", "missing required field `bundle`"),
    "too many": (
        "{name: e, variants: [" + ",".join(f"{{name: a{n}, share: 0.1, bundle: v}}" for n in range(9)) + "]}",
        "$.variants",
    ),
}


@pytest.mark.parametrize(("text", "says"), BAD.values(), ids=BAD.keys())
def test_a_wrong_file_is_one_sentence_that_names_it(tmp_path: Path, text: str, says: str) -> None:
    path = file_of(tmp_path, text)
    assert says in refusal_of(path, read)


def test_a_users_variant_is_the_same_in_every_process_and_version_of_python() -> None:
    # Written down once: whoever changes this deals the users of every running experiment anew.
    plan = plan_of("spring", a=0.25, b=0.25)
    assert [names_of(plan)[n] for n in range(12)] == ["", "", "b", "", "", "", "a", "a", "a", "b", "", ""]


def test_a_users_variant_does_not_depend_on_the_seed_of_pythons_own_hash() -> None:
    code = (
        "from tests.services.ranking.test_experiments import *\n"
        "print(Counter(names_of(plan_of(a=0.3, b=0.3))), names_of(plan_of(a=0.3, b=0.3))[:200])"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True, timeout=60
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1


shares = st.lists(st.floats(0, 1), min_size=2, max_size=9).map(
    lambda parts: [part / max(sum(parts), 1.0) for part in parts[:-1]]
)


@settings(max_examples=15, deadline=None, derandomize=True)  # a search among salts finds one that is five sigmas off
@given(shares=shares, salt=st.text(st.characters(codec="utf-8"), min_size=1, max_size=9))
def test_shares_are_met_within_what_chance_allows(shares: list[float], salt: str) -> None:
    plan = plan_of(salt, **{f"v{n}": share for n, share in enumerate(shares)})
    met = Counter(names_of(plan))
    for variant in plan.variants:
        sigma = sqrt(len(USERS) * variant.share * (1 - variant.share))
        assert abs(met[variant.name] - len(USERS) * variant.share) <= 5 * sigma + len(USERS) / BUCKETS


def test_another_salt_deals_anew_and_independently() -> None:
    first, second = names_of(plan_of("one", a=0.5)), names_of(plan_of("two", a=0.5))
    both = Counter(zip(first, second, strict=True))
    sigma = sqrt(len(USERS) * 0.25 * 0.75)
    assert all(abs(both[pair] - len(USERS) / 4) < 5 * sigma for pair in [(a, b) for a in ("", "a") for b in ("", "a")])


@settings(max_examples=15, deadline=None)
@given(shares=shares, at=st.integers(0, 7), to=st.floats(0, 1))
def test_when_one_share_changes_few_users_move(shares: list[float], at: int, to: float) -> None:
    at %= len(shares)
    room = 1 - sum(shares) + shares[at]
    changed = [*shares[:at], min(to, max(room, 0.0)), *shares[at + 1 :]]
    before, after = (dealt([Variant(f"v{n}", s, "v") for n, s in enumerate(some)]) for some in (shares, changed))
    was, now = ([owner.name if owner else "" for owner in owners] for owners in (before, after))
    by = abs(round(changed[at] * BUCKETS) - round(shares[at] * BUCKETS))
    moved = [(one, other) for one, other in zip(was, now, strict=True) if one != other]
    left, came = Counter(one for one, _ in moved), Counter(other for _, other in moved)
    grown = changed[at] >= shares[at]
    assert not (left if grown else came)[f"v{at}"], "nobody leaves what grows, nobody comes to what shrinks"
    assert max([*left.values(), *came.values(), 0]) <= by, "nowhere more than were asked for"
    assert len(moved) == by or len(shares) > 1


@settings(max_examples=10, deadline=None)
@given(shares=shares, order=st.randoms(use_true_random=False))
def test_the_order_of_the_file_says_nothing(shares: list[float], order: Random) -> None:
    variants = [Variant(f"v{n}", share, "v") for n, share in enumerate(shares)]
    others = variants.copy()
    order.shuffle(others)
    assert dealt(variants) == dealt(others)
