from shared.pb.finestream.v1 import position_pb2 as _position_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class StateFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STATE_FORMAT_UNSPECIFIED: _ClassVar[StateFormat]
    STATE_FORMAT_MSGPACK: _ClassVar[StateFormat]
    STATE_FORMAT_JSON: _ClassVar[StateFormat]

class VectorKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VECTOR_KIND_UNSPECIFIED: _ClassVar[VectorKind]
    VECTOR_KIND_SEMANTIC: _ClassVar[VectorKind]
    VECTOR_KIND_OPINION: _ClassVar[VectorKind]
STATE_FORMAT_UNSPECIFIED: StateFormat
STATE_FORMAT_MSGPACK: StateFormat
STATE_FORMAT_JSON: StateFormat
VECTOR_KIND_UNSPECIFIED: VectorKind
VECTOR_KIND_SEMANTIC: VectorKind
VECTOR_KIND_OPINION: VectorKind

class UserQuery(_message.Message):
    __slots__ = ("user_id", "after")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    after: _containers.RepeatedCompositeFieldContainer[_position_pb2.Position]
    def __init__(self, user_id: _Optional[str] = ..., after: _Optional[_Iterable[_Union[_position_pb2.Position, _Mapping]]] = ...) -> None: ...

class GetUsersRequest(_message.Message):
    __slots__ = ("users", "space", "format")
    USERS_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[UserQuery]
    space: str
    format: StateFormat
    def __init__(self, users: _Optional[_Iterable[_Union[UserQuery, _Mapping]]] = ..., space: _Optional[str] = ..., format: _Optional[_Union[StateFormat, str]] = ...) -> None: ...

class NodeState(_message.Message):
    __slots__ = ("id", "found", "state", "version", "watermark")
    ID_FIELD_NUMBER: _ClassVar[int]
    FOUND_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    id: str
    found: bool
    state: bytes
    version: int
    watermark: float
    def __init__(self, id: _Optional[str] = ..., found: _Optional[bool] = ..., state: _Optional[bytes] = ..., version: _Optional[int] = ..., watermark: _Optional[float] = ...) -> None: ...

class GetUsersResponse(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: _containers.RepeatedCompositeFieldContainer[NodeState]
    def __init__(self, users: _Optional[_Iterable[_Union[NodeState, _Mapping]]] = ...) -> None: ...

class GetItemsRequest(_message.Message):
    __slots__ = ("item_ids", "space", "format")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    space: str
    format: StateFormat
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., space: _Optional[str] = ..., format: _Optional[_Union[StateFormat, str]] = ...) -> None: ...

class GetItemsResponse(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[NodeState]
    def __init__(self, items: _Optional[_Iterable[_Union[NodeState, _Mapping]]] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("id", "similarity")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    id: str
    similarity: float
    def __init__(self, id: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...

class SimilarUsersRequest(_message.Message):
    __slots__ = ("user_id", "k", "vector", "space")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    k: int
    vector: VectorKind
    space: str
    def __init__(self, user_id: _Optional[str] = ..., k: _Optional[int] = ..., vector: _Optional[_Union[VectorKind, str]] = ..., space: _Optional[str] = ...) -> None: ...

class SimilarUsersResponse(_message.Message):
    __slots__ = ("neighbours",)
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class SimilarItemsRequest(_message.Message):
    __slots__ = ("item_id", "k", "vector", "space")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    VECTOR_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    k: int
    vector: VectorKind
    space: str
    def __init__(self, item_id: _Optional[str] = ..., k: _Optional[int] = ..., vector: _Optional[_Union[VectorKind, str]] = ..., space: _Optional[str] = ...) -> None: ...

class SimilarItemsResponse(_message.Message):
    __slots__ = ("neighbours",)
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class ForgetUserRequest(_message.Message):
    __slots__ = ("user_id",)
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    def __init__(self, user_id: _Optional[str] = ...) -> None: ...

class ForgetUserResponse(_message.Message):
    __slots__ = ("erased_at", "position")
    ERASED_AT_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    erased_at: float
    position: _position_pb2.Position
    def __init__(self, erased_at: _Optional[float] = ..., position: _Optional[_Union[_position_pb2.Position, _Mapping]] = ...) -> None: ...
