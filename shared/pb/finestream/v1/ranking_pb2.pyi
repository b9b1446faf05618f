from shared.pb.finestream.v1 import position_pb2 as _position_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DiversityMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DIVERSITY_METHOD_UNSPECIFIED: _ClassVar[DiversityMethod]
    DIVERSITY_METHOD_MMR: _ClassVar[DiversityMethod]
    DIVERSITY_METHOD_DPP: _ClassVar[DiversityMethod]

class ExplorationMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLORATION_METHOD_UNSPECIFIED: _ClassVar[ExplorationMethod]
    EXPLORATION_METHOD_EPSILON: _ClassVar[ExplorationMethod]
    EXPLORATION_METHOD_UCB: _ClassVar[ExplorationMethod]

class ExplanationMethod(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EXPLANATION_METHOD_UNSPECIFIED: _ClassVar[ExplanationMethod]
    EXPLANATION_METHOD_LEAVE_ONE_OUT: _ClassVar[ExplanationMethod]

class Rung(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUNG_UNSPECIFIED: _ClassVar[Rung]
    RUNG_FULL: _ClassVar[Rung]
    RUNG_CACHED: _ClassVar[Rung]
    RUNG_POPULAR: _ClassVar[Rung]

class Placement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    PLACEMENT_UNSPECIFIED: _ClassVar[Placement]
    PLACEMENT_EXPLORED: _ClassVar[Placement]
    PLACEMENT_PINNED: _ClassVar[Placement]
DIVERSITY_METHOD_UNSPECIFIED: DiversityMethod
DIVERSITY_METHOD_MMR: DiversityMethod
DIVERSITY_METHOD_DPP: DiversityMethod
EXPLORATION_METHOD_UNSPECIFIED: ExplorationMethod
EXPLORATION_METHOD_EPSILON: ExplorationMethod
EXPLORATION_METHOD_UCB: ExplorationMethod
EXPLANATION_METHOD_UNSPECIFIED: ExplanationMethod
EXPLANATION_METHOD_LEAVE_ONE_OUT: ExplanationMethod
RUNG_UNSPECIFIED: Rung
RUNG_FULL: Rung
RUNG_CACHED: Rung
RUNG_POPULAR: Rung
PLACEMENT_UNSPECIFIED: Placement
PLACEMENT_EXPLORED: Placement
PLACEMENT_PINNED: Placement

class RankRequest(_message.Message):
    __slots__ = ("user_id", "k", "candidates", "context_items", "exclude_items", "categories", "include_seen", "after", "without_explanations", "diversity", "diversity_method", "max_per_category", "exploration", "exploration_method", "paged", "page_token", "min_price", "max_price", "explanation_method", "with_timings")
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_ITEMS_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEMS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_SEEN_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_EXPLANATIONS_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_FIELD_NUMBER: _ClassVar[int]
    DIVERSITY_METHOD_FIELD_NUMBER: _ClassVar[int]
    MAX_PER_CATEGORY_FIELD_NUMBER: _ClassVar[int]
    EXPLORATION_FIELD_NUMBER: _ClassVar[int]
    EXPLORATION_METHOD_FIELD_NUMBER: _ClassVar[int]
    PAGED_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    MIN_PRICE_FIELD_NUMBER: _ClassVar[int]
    MAX_PRICE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_METHOD_FIELD_NUMBER: _ClassVar[int]
    WITH_TIMINGS_FIELD_NUMBER: _ClassVar[int]
    user_id: str
    k: int
    candidates: _containers.RepeatedScalarFieldContainer[str]
    context_items: _containers.RepeatedScalarFieldContainer[str]
    exclude_items: _containers.RepeatedScalarFieldContainer[str]
    categories: _containers.RepeatedScalarFieldContainer[str]
    include_seen: bool
    after: _containers.RepeatedCompositeFieldContainer[_position_pb2.Position]
    without_explanations: bool
    diversity: float
    diversity_method: DiversityMethod
    max_per_category: int
    exploration: float
    exploration_method: ExplorationMethod
    paged: bool
    page_token: str
    min_price: float
    max_price: float
    explanation_method: ExplanationMethod
    with_timings: bool
    def __init__(self, user_id: _Optional[str] = ..., k: _Optional[int] = ..., candidates: _Optional[_Iterable[str]] = ..., context_items: _Optional[_Iterable[str]] = ..., exclude_items: _Optional[_Iterable[str]] = ..., categories: _Optional[_Iterable[str]] = ..., include_seen: _Optional[bool] = ..., after: _Optional[_Iterable[_Union[_position_pb2.Position, _Mapping]]] = ..., without_explanations: _Optional[bool] = ..., diversity: _Optional[float] = ..., diversity_method: _Optional[_Union[DiversityMethod, str]] = ..., max_per_category: _Optional[int] = ..., exploration: _Optional[float] = ..., exploration_method: _Optional[_Union[ExplorationMethod, str]] = ..., paged: _Optional[bool] = ..., page_token: _Optional[str] = ..., min_price: _Optional[float] = ..., max_price: _Optional[float] = ..., explanation_method: _Optional[_Union[ExplanationMethod, str]] = ..., with_timings: _Optional[bool] = ...) -> None: ...

class RankResponse(_message.Message):
    __slots__ = ("items", "rung", "rung_reason", "model_version", "watermark", "request_id", "policy", "next_page_token", "variant", "timings")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    RUNG_FIELD_NUMBER: _ClassVar[int]
    RUNG_REASON_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    WATERMARK_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    VARIANT_FIELD_NUMBER: _ClassVar[int]
    TIMINGS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[RankedItem]
    rung: Rung
    rung_reason: str
    model_version: str
    watermark: float
    request_id: str
    policy: str
    next_page_token: str
    variant: str
    timings: _containers.RepeatedCompositeFieldContainer[StageTiming]
    def __init__(self, items: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., rung: _Optional[_Union[Rung, str]] = ..., rung_reason: _Optional[str] = ..., model_version: _Optional[str] = ..., watermark: _Optional[float] = ..., request_id: _Optional[str] = ..., policy: _Optional[str] = ..., next_page_token: _Optional[str] = ..., variant: _Optional[str] = ..., timings: _Optional[_Iterable[_Union[StageTiming, _Mapping]]] = ...) -> None: ...

class StageTiming(_message.Message):
    __slots__ = ("stage", "seconds")
    STAGE_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    stage: str
    seconds: float
    def __init__(self, stage: _Optional[str] = ..., seconds: _Optional[float] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "score", "explanation", "propensity", "placement")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    PLACEMENT_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    explanation: Explanation
    propensity: float
    placement: Placement
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., explanation: _Optional[_Union[Explanation, _Mapping]] = ..., propensity: _Optional[float] = ..., placement: _Optional[_Union[Placement, str]] = ...) -> None: ...

class Explanation(_message.Message):
    __slots__ = ("opinion", "history", "popular", "explored", "pinned", "moved", "spoken", "spoken_moved")
    OPINION_FIELD_NUMBER: _ClassVar[int]
    HISTORY_FIELD_NUMBER: _ClassVar[int]
    POPULAR_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    MOVED_FIELD_NUMBER: _ClassVar[int]
    SPOKEN_FIELD_NUMBER: _ClassVar[int]
    SPOKEN_MOVED_FIELD_NUMBER: _ClassVar[int]
    opinion: OpinionReason
    history: HistoryReason
    popular: PopularReason
    explored: ExploredReason
    pinned: PinnedReason
    moved: float
    spoken: OpinionReason
    spoken_moved: float
    def __init__(self, opinion: _Optional[_Union[OpinionReason, _Mapping]] = ..., history: _Optional[_Union[HistoryReason, _Mapping]] = ..., popular: _Optional[_Union[PopularReason, _Mapping]] = ..., explored: _Optional[_Union[ExploredReason, _Mapping]] = ..., pinned: _Optional[_Union[PinnedReason, _Mapping]] = ..., moved: _Optional[float] = ..., spoken: _Optional[_Union[OpinionReason, _Mapping]] = ..., spoken_moved: _Optional[float] = ...) -> None: ...

class OpinionReason(_message.Message):
    __slots__ = ("attribute", "opinion", "quote", "review_id")
    ATTRIBUTE_FIELD_NUMBER: _ClassVar[int]
    OPINION_FIELD_NUMBER: _ClassVar[int]
    QUOTE_FIELD_NUMBER: _ClassVar[int]
    REVIEW_ID_FIELD_NUMBER: _ClassVar[int]
    attribute: str
    opinion: str
    quote: str
    review_id: str
    def __init__(self, attribute: _Optional[str] = ..., opinion: _Optional[str] = ..., quote: _Optional[str] = ..., review_id: _Optional[str] = ...) -> None: ...

class HistoryReason(_message.Message):
    __slots__ = ("item_id",)
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    def __init__(self, item_id: _Optional[str] = ...) -> None: ...

class PopularReason(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: float
    def __init__(self, users: _Optional[float] = ...) -> None: ...

class ExploredReason(_message.Message):
    __slots__ = ("users",)
    USERS_FIELD_NUMBER: _ClassVar[int]
    users: float
    def __init__(self, users: _Optional[float] = ...) -> None: ...

class PinnedReason(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class RankBatchRequest(_message.Message):
    __slots__ = ("requests",)
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    requests: _containers.RepeatedCompositeFieldContainer[RankRequest]
    def __init__(self, requests: _Optional[_Iterable[_Union[RankRequest, _Mapping]]] = ...) -> None: ...

class RankBatchResponse(_message.Message):
    __slots__ = ("responses",)
    RESPONSES_FIELD_NUMBER: _ClassVar[int]
    responses: _containers.RepeatedCompositeFieldContainer[RankResponse]
    def __init__(self, responses: _Optional[_Iterable[_Union[RankResponse, _Mapping]]] = ...) -> None: ...

class RankingServiceSimilarItemsRequest(_message.Message):
    __slots__ = ("item_id", "k", "exclude_items", "categories", "min_price", "max_price")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEMS_FIELD_NUMBER: _ClassVar[int]
    CATEGORIES_FIELD_NUMBER: _ClassVar[int]
    MIN_PRICE_FIELD_NUMBER: _ClassVar[int]
    MAX_PRICE_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    k: int
    exclude_items: _containers.RepeatedScalarFieldContainer[str]
    categories: _containers.RepeatedScalarFieldContainer[str]
    min_price: float
    max_price: float
    def __init__(self, item_id: _Optional[str] = ..., k: _Optional[int] = ..., exclude_items: _Optional[_Iterable[str]] = ..., categories: _Optional[_Iterable[str]] = ..., min_price: _Optional[float] = ..., max_price: _Optional[float] = ...) -> None: ...

class RankingServiceSimilarItemsResponse(_message.Message):
    __slots__ = ("items", "model_version")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    MODEL_VERSION_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SimilarItem]
    model_version: str
    def __init__(self, items: _Optional[_Iterable[_Union[SimilarItem, _Mapping]]] = ..., model_version: _Optional[str] = ...) -> None: ...

class SimilarItem(_message.Message):
    __slots__ = ("item_id", "similarity")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SIMILARITY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    similarity: float
    def __init__(self, item_id: _Optional[str] = ..., similarity: _Optional[float] = ...) -> None: ...
