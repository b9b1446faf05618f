"""An experiment as data: an operator's file that gives shares of the users to bundles other than the current one.

    name: larger-model
    salt: spring                     # another one deals the users anew; the name unless given
    variants:
      - {name: larger, share: 0.2, bundle: 20260301T120000.000000Z}    # these users are served by this bundle
      - {name: newest, share: 0.05, bundle: 20260308T120000.000000Z, shadow: true}

The rest of the users are the control and have the current bundle; a share of 0 switches a variant off. A shadow is
never shown: this share of the answers is ranked by its bundle too, and compared.

A user falls into one of BUCKETS by a hash of salt and user id. Buckets are dealt by priority, a hash of the variant's
name and the bucket's number: the highest priority of all takes its bucket, then the next, until each variant has its
share. So a user's variant depends on nothing but the file. When one share changes, nobody leaves the variant that
grows, and no variant changes more of its users than the one whose share was changed: the priorities along the chain
of who takes whose bucket only fall, so the chain never comes back to a variant. That is as few as can be for one
variant. For three or more no rule of shares alone is without such chains: every two variants would have to split the
users in the same way, from the two ends of one order, which three cannot.
"""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta, Struct

from shared import watched_file
from shared.events import Id

BUCKETS: Final = 10_000
MAX_VARIANTS: Final = 8  # each holds an item table of its own, and a metric's label
CONTROL: Final = "control"

Share = Annotated[float, Meta(ge=0, le=1)]


class Variant(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern="^[a-z0-9][a-z0-9_.-]{0,31}$")]
    share: Share
    bundle: Id
    shadow: bool = False


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """The file."""

    name: Annotated[str, Meta(max_length=256)] = ""
    salt: Annotated[str, Meta(max_length=256)] = ""
    variants: Annotated[tuple[Variant, ...], Meta(max_length=MAX_VARIANTS)] = ()

    def __post_init__(self) -> None:
        if self.variants and not (self.name or self.salt):
            raise ValueError("an experiment has a name")
        names = Counter(variant.name for variant in self.variants)
        if CONTROL in names:
            raise ValueError(f"{CONTROL} is who is in no variant; name the variant otherwise")
        if twice := [name for name, times in names.items() if times > 1]:
            raise ValueError(f"a variant is named twice: {twice[0]}")
        if (together := sum(variant.share for variant in self.variants if not variant.shadow)) > 1 + 1e-9:
            raise ValueError(f"the shares of the users are {together:g} together; at most 1 can be given")


class Experiment:
    """A plan in force."""

    def __init__(self, plan: Plan) -> None:
        self.name = plan.name
        self.variants = [variant for variant in plan.variants if variant.share > 0]
        self.shown = [variant for variant in self.variants if not variant.shadow]
        self.shadows = [variant for variant in self.variants if variant.shadow]
        self.bundles = frozenset(variant.bundle for variant in self.variants)
        self._salt = plan.salt or plan.name
        self._owners = dealt(self.shown) if self.shown else []

    def variant_of(self, user_id: str) -> Variant | None:
        """None: the control."""
        if not self._owners:
            return None
        digest = hashlib.blake2b(f"{self._salt}\0{user_id}".encode(), digest_size=8).digest()
        return self._owners[int.from_bytes(digest, "big") % BUCKETS]


def dealt(variants: Sequence[Variant]) -> list[Variant | None]:
    """Whose each bucket is."""
    priorities = sorted(
        (priority, variant.name, bucket)
        for variant in variants
        for bucket, priority in enumerate(_priorities(variant.name))
    )
    named = {variant.name: variant for variant in variants}
    left = {variant.name: round(variant.share * BUCKETS) for variant in variants}
    owners: list[Variant | None] = [None] * BUCKETS
    for _, name, bucket in priorities:
        if left[name] and owners[bucket] is None:
            owners[bucket] = named[name]
            left[name] -= 1
    return owners


def _priorities(name: str) -> list[bytes]:
    """A hash for each bucket, the lowest first to be served."""
    return [hashlib.blake2b(f"{name}\0{bucket}".encode(), digest_size=8).digest() for bucket in range(BUCKETS)]


NO_EXPERIMENT: Final = Experiment(Plan())


def read(path: Path) -> Experiment:
    """Raises BadFile."""
    return Experiment(watched_file.read(path, Plan) or Plan())
