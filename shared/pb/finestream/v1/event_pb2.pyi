from shared.pb.finestream.v1 import position_pb2 as _position_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Interaction(_message.Message):
    __slots__ = ("event_id", "user_id", "item_id", "ts", "kind")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    event_id: str
    user_id: str
    item_id: str
    ts: float
    kind: str
    def __init__(self, event_id: _Optional[str] = ..., user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., ts: _Optional[float] = ..., kind: _Optional[str] = ...) -> None: ...

class Review(_message.Message):
    __slots__ = ("review_id", "user_id", "item_id", "ts", "text", "title", "rating")
    REVIEW_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    RATING_FIELD_NUMBER: _ClassVar[int]
    review_id: str
    user_id: str
    item_id: str
    ts: float
    text: str
    title: str
    rating: float
    def __init__(self, review_id: _Optional[str] = ..., user_id: _Optional[str] = ..., item_id: _Optional[str] = ..., ts: _Optional[float] = ..., text: _Optional[str] = ..., title: _Optional[str] = ..., rating: _Optional[float] = ...) -> None: ...

class Item(_message.Message):
    __slots__ = ("item_id", "ts", "title", "description", "brand", "categories", "available", "price")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    TS_FIELD_NUMBER: _ClassVar[int]
    TITLE_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    BRAND_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    PRICE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    ts: float
    title: str
    description: str
    brand: str
    categories: _containers.RepeatedScalarFieldContainer[str]
    available: bool
    price: float
    def __init__(self, item_id: _Optional[str] = ..., ts: _Optional[float] = ..., title: _Optional[str] = ..., description: _Optional[str] = ..., brand: _Optional[str] = ..., categories: _Optional[_Iterable[str]] = ..., available: _Optional[bool] = ..., price: _Optional[float] = ...) -> None: ...

class PublishRequest(_message.Message):
    __slots__ = ("interaction", "review", "item")
    INTERACTION_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    interaction: Interaction
    review: Review
    item: Item
    def __init__(self, interaction: _Optional[_Union[Interaction, _Mapping]] = ..., review: _Optional[_Union[Review, _Mapping]] = ..., item: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...

class PublishResponse(_message.Message):
    __slots__ = ("position",)
    POSITION_FIELD_NUMBER: _ClassVar[int]
    position: _position_pb2.Position
    def __init__(self, position: _Optional[_Union[_position_pb2.Position, _Mapping]] = ...) -> None: ...

class PublishStreamRequest(_message.Message):
    __slots__ = ("interaction", "review", "item")
    INTERACTION_FIELD_NUMBER: _ClassVar[int]
    REVIEW_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    interaction: Interaction
    review: Review
    item: Item
    def __init__(self, interaction: _Optional[_Union[Interaction, _Mapping]] = ..., review: _Optional[_Union[Review, _Mapping]] = ..., item: _Optional[_Union[Item, _Mapping]] = ...) -> None: ...

class PublishStreamResponse(_message.Message):
    __slots__ = ("published", "last")
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    published: int
    last: _containers.RepeatedCompositeFieldContainer[_position_pb2.Position]
    def __init__(self, published: _Optional[int] = ..., last: _Optional[_Iterable[_Union[_position_pb2.Position, _Mapping]]] = ...) -> None: ...
