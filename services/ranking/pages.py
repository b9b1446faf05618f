"""Page tokens: what a user was shown on the pages before, sent back so that no page repeats it.

Everything is in the token, so any replica answers the next page, and whatever happens in between (a click, a new
model) changes what comes but repeats nothing. It is validated and not signed: who changes one changes no more than
what they are not shown.
"""

import base64
import binascii
import zlib
from collections.abc import Sequence
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from shared.errors import InvalidRequest
from shared.events import Id, user_hash

MAX_SHOWN: Final = 1_000  # items of all pages
MAX_BYTES: Final = 300_000  # of a token, unpacked: about what MAX_SHOWN of the longest ids have
VERSION: Final = 1
NOT_OURS: Final = "page_token is not one that Rank gave; send next_page_token as it came, or none for the first page"


class _Page(Struct, frozen=True, array_like=True):
    version: int
    user: int
    shown: Annotated[list[Id], Meta(max_length=MAX_SHOWN)]


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Page)


def token(user_id: str, shown: Sequence[str]) -> str:
    """The token of the page after these; empty where there are too many, so that this was the last page."""
    data = _ENCODER.encode(_Page(VERSION, user_hash(user_id), list(shown)))
    if len(shown) > MAX_SHOWN or len(data) > MAX_BYTES:
        return ""
    return base64.urlsafe_b64encode(zlib.compress(data)).decode()


def shown(user_id: str, token: str) -> tuple[str, ...]:
    """What a token says was shown. Raises InvalidRequest for one that is not ours, or of another user."""
    if len(token) > 2 * MAX_BYTES:
        raise InvalidRequest(NOT_OURS, "page_token")
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.b64decode(token.encode(), b"-_", validate=True), MAX_BYTES)
        page = _DECODER.decode(data)
    except (binascii.Error, zlib.error, msgspec.DecodeError, UnicodeError):
        raise InvalidRequest(NOT_OURS, "page_token") from None
    if not unpacker.eof or page.version != VERSION:
        raise InvalidRequest(NOT_OURS, "page_token")
    if page.user != user_hash(user_id):
        raise InvalidRequest("page_token is of another user; send the one that this user's answer gave", "page_token")
    return tuple(page.shown)
