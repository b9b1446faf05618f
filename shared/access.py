"""Who may call what: the scope of every service's methods, and what the bearer of a token is granted."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from shared import metrics, tokens
from shared.errors import InvalidRequest, Overloaded, PermissionDenied, Unauthenticated
from shared.settings import GrpcSettings
from shared.token_bucket import TokenBucket
from shared.tokens import Scope, Token, digest
from shared.watched_file import WatchedFile

# The one place that says which scope the methods of a service have. Who calls GraphService reads every user, and may
# erase them; what the extractor is asked may cost money at a language model. What is not named is for the admin.
SCOPE_OF: Final[dict[str, Scope]] = {
    "finestream.v1.RankingService": "rank",
    "finestream.v1.EventService": "events",
    "finestream.v1.GraphService": "admin",
    "finestream.v1.ExtractorService": "admin",
}
REFLECTION: Final = "grpc.reflection.v1alpha.ServerReflection"  # any token will do
HEALTH: Final = "grpc.health.v1.Health"  # probes of an orchestrator carry none
SCHEME: Final = b"Bearer "
NOBODY: Final = ""  # the name of who sent no token that we know


@dataclass(eq=False)
class Grant:
    """What the bearer of one token may do. `scopes` None: everything; empty: nothing, for we do not know them."""

    name: str
    scopes: frozenset[Scope] | None
    token: Token | None = None
    bucket: TokenBucket | None = None
    max_bytes: int | None = None
    revoked: bool = False
    edged: dict[str, Any] = field(default_factory=dict)  # the edge's handlers, by method: they go with the grant

    @staticmethod
    def of(token: Token) -> "Grant":
        rate = token.requests_per_second
        bucket = TokenBucket(rate, token.at_once) if rate else None
        return Grant(token.name, frozenset(token.scopes), token, bucket, token.max_bytes)

    def admit(self, service: str) -> None:
        """Pay for one call of a service's. Raises Unauthenticated, PermissionDenied, or Overloaded where the rate is
        used up.
        """
        if service == HEALTH:
            return
        self._check_scope(service)
        if wait := self._pay():
            self._refused("rate")
            raise Overloaded(f"the token {self.name!r} has used up its rate; try again in {wait:.3f} s")

    def _check_scope(self, service: str) -> None:
        if self.scopes is None:
            return
        if not self.scopes:
            self._refused("unauthenticated")
            raise Unauthenticated("send the header 'authorization: Bearer <token>' with a valid token")
        scope = SCOPE_OF.get(service, "admin")
        if scope not in self.scopes and service != REFLECTION:
            self._refused("permission")
            raise PermissionDenied(f"the token {self.name!r} lacks the scope {scope!r}; use one that has it")

    async def pace(self) -> None:
        """Pay for one message of a stream, as soon as the rate allows it."""
        while wait := self._pay():  # noqa: ASYNC110  # nothing but time is waited for
            await asyncio.sleep(wait)

    def _pay(self) -> float:
        """0, or the seconds until the next call can be paid."""
        return self.bucket.take() if self.bucket else 0.0

    def check_held(self) -> None:
        """Of a call that goes on. Raises Unauthenticated."""
        if self.revoked:
            self._refused("unauthenticated")
            raise Unauthenticated(f"the token {self.name!r} has been revoked or changed; begin again with a valid one")

    def check_size(self, message: bytes) -> None:
        """Raises InvalidRequest."""
        if self.max_bytes is not None and len(message) > self.max_bytes:
            self._refused("size")
            raise InvalidRequest(
                f"the message has {len(message)} bytes and the token {self.name!r} may send {self.max_bytes};"
                " send less at once"
            )

    def _refused(self, reason: str) -> None:
        metrics.RPC_REFUSED.labels(reason, self.name).inc()


class Access:
    """Grants by token: the one token of the services, which may do everything, and those of the file.

    Raises BadFile.
    """

    def __init__(self, settings: GrpcSettings) -> None:
        token = settings.token.get_secret_value()
        self._own = {digest(token.encode()): Grant("", None)} if token else {}
        self._unknown = Grant(NOBODY, frozenset() if token else None)
        self._grants = self._own
        self.poll_seconds = settings.tokens_poll_seconds
        path, none = settings.tokens_file, tuple[Token, ...]()
        self.file = WatchedFile(path, self._take, none, metrics.TOKENS_FAILURES.inc) if path else None

    def grant(self, authorization: str | bytes) -> Grant:
        """By the header's value. Looked up by digest, so how long it takes tells nothing of any token."""
        given = authorization.encode() if isinstance(authorization, str) else authorization
        if not given.startswith(SCHEME):
            return self._unknown
        return self._grants.get(digest(given[len(SCHEME) :]), self._unknown)

    def _take(self, path: Path) -> tuple[Token, ...]:
        """Put the file in force. An entry that stays keeps its bucket: a reload gives nobody a new burst."""
        entries = tokens.read(path)
        held = {grant.token: grant for grant in self._grants.values()}
        granted = {bytes.fromhex(entry.sha256): held.get(entry) or Grant.of(entry) for entry in entries}
        for grant in self._grants.values():
            grant.revoked = grant not in granted.values() and grant.token is not None
        self._grants = granted | self._own
        return entries
