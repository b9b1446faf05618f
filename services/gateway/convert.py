"""From the wire to an event. What is valid is decided in one place, shared.events.decode; here it is only worded.

proto3 cannot tell an absent number or string from 0 and "", so those count as absent.
"""

import re
from typing import Any, Final

import msgspec

from shared import events, topics
from shared.errors import InvalidRequest
from shared.events import Event, InvalidEvent, Source
from shared.pb.finestream.v1 import event_pb2, position_pb2

PublishMessage = event_pb2.PublishRequest | event_pb2.PublishStreamRequest

TOPIC_OF: Final = {"interaction": topics.INTERACTIONS, "review": topics.REVIEWS, "item": topics.ITEMS}
_EXPECTED: Final = re.compile(r"Expected `(?:\w+)` (?:of (length) )?([<>]=?) ([\d.]+)")
_WORDS: Final = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


def event_of(message: PublishMessage, max_bytes: int) -> tuple[str, Event]:
    """The topic and the valid event of a request.

    Raises InvalidRequest with the field and a sentence that says what to change; its `__cause__` is the
    InvalidEvent, where validation refused it.
    """
    kind = message.WhichOneof("event")
    if kind is None:
        raise InvalidRequest("event is not set; set interaction, review or item", "event")
    size = message.ByteSize()
    if size > max_bytes:
        raise InvalidRequest(f"{kind} has {size} bytes; send at most {max_bytes}", kind)
    topic = TOPIC_OF[kind]
    try:
        return topic, events.decode(topic, msgspec.json.encode(_fields(getattr(message, kind))))
    except InvalidEvent as error:
        raise InvalidRequest(_sentence(kind, error), error.field) from error


def position_of(source: Source, key: bytes) -> position_pb2.Position:
    return position_pb2.Position(topic=source.topic, partition=source.partition, offset=source.offset, key=key.decode())


def _fields(message: Any) -> dict[str, Any]:
    set_fields = {field.name: list(value) if field.is_repeated else value for field, value in message.ListFields()}
    if isinstance(message, event_pb2.Review):
        set_fields.setdefault("text", "")  # an empty text has a better sentence than a missing one
    return set_fields


def _sentence(kind: str, error: InvalidEvent) -> str:
    if error.reason == "missing_field":
        return f"{error.field} is required in {kind}; set it"
    bound = _EXPECTED.search(str(error))
    if bound:
        length, relation, number = bound.groups()
        return f"{error.field} must {'have a length of' if length else 'be'} {_WORDS[relation]} {number}; change it"
    if "got `null`" in str(error):  # what JSON makes of NaN and infinity
        return f"{error.field} must be a finite number; change it"
    return str(error)
