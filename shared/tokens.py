"""The file of tokens: who may do what, and how much of it. It holds digests, so it is no secret.

    - name: shop                     # in metrics and refusals
      sha256: "9f86d081…"            # of the token; `finestream token new` makes both
      scopes: [rank, events]         # of rank, events, admin
      requests_per_second: 200       # none: no limit
      burst: 400                     # at once; none: what comes in a second
      max_bytes: 65536               # of a message; none: what the port takes

A SHA-256 is enough for tokens because they are 256 random bits: nobody can guess one to compare.
"""

import hashlib
import math
import secrets
from collections import Counter
from pathlib import Path
from typing import Annotated, Final, Literal

import yaml
from msgspec import Meta, Struct, to_builtins

from shared import watched_file
from shared.watched_file import BadFile

Scope = Literal["rank", "events", "admin"]
MAX_TOKENS: Final = 64  # each is a label of a metric
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


class Token(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    name: Name
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[tuple[Scope, ...], Meta(min_length=1)]
    requests_per_second: Annotated[float, Meta(ge=0.001, le=1e6)] | None = None
    burst: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    max_bytes: Annotated[int, Meta(ge=1)] | None = None

    def __post_init__(self) -> None:
        if self.burst is not None and self.requests_per_second is None:
            raise ValueError("burst goes with requests_per_second; give both")

    @property
    def at_once(self) -> int:
        return self.burst or max(1, math.ceil(self.requests_per_second or 0))


def digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def read(path: Path) -> tuple[Token, ...]:
    """Raises BadFile."""
    tokens = watched_file.read(path, tuple[Token, ...]) or ()
    if len(tokens) > MAX_TOKENS:
        raise BadFile(f"{path} has {len(tokens)} tokens; at most {MAX_TOKENS}")
    for what, values in (("name", [t.name for t in tokens]), ("sha256", [t.sha256 for t in tokens])):
        if twice := [value for value, times in Counter(values).items() if times > 1]:
            raise BadFile(f"{path}: two tokens have the {what} {twice[0]}")
    return tokens


def new() -> tuple[str, str]:
    """A token that nobody can guess, and its sha256."""
    token = secrets.token_urlsafe(32)
    return token, digest(token.encode()).hex()


def entry(token: Token) -> str:
    """As it is appended to the file."""
    return yaml.safe_dump([to_builtins(token)], sort_keys=False)
