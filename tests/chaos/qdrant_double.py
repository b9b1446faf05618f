"""Test double of a Qdrant server: of its REST interface, what services/graph_updater/store_qdrant.py calls.

Points are kept in dicts; filters are judged by qdrant-client's own local mode. Every request is one step, as a write
with wait=true is to its caller. test_qdrant_double.py holds it to the contract of every store.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from qdrant_client import models
from qdrant_client.local.payload_filters import check_filter

COMPLETED: Final = {"operation_id": 0, "status": "completed"}
DEFAULT_LIMIT: Final = 10
Body = dict[str, Any]


@dataclass
class Point:
    payload: dict[str, Any]
    vectors: dict[str, NDArray[np.float32]]


@dataclass
class Collection:
    params: Body
    points: dict[str, Point] = field(default_factory=dict)
    indexed: dict[str, str] = field(default_factory=dict)

    def matching(self, given: Body | None) -> Iterator[tuple[str, Point]]:
        """The points that a filter lets through, in the order of their ids."""
        wanted = models.Filter.model_validate(given or {})
        for point_id in sorted(_named(given) & self.points.keys() if _named(given) else self.points):
            if _passes(wanted, point_id, self.points[point_id]):
                yield point_id, self.points[point_id]


class QdrantDouble:
    """The collections, and the routes to them."""

    def __init__(self) -> None:
        self._collections: dict[str, Collection] = {}

    def routes(self) -> list[web.RouteDef]:
        one = "/collections/{name}"
        return [
            web.get(one + "/exists", self._exists), web.get(one, self._info), web.put(one, self._create),
            web.put(one + "/index", self._index), web.post(one + "/points", self._retrieve),
            web.post(one + "/points/batch", self._batch),
            web.post(one + "/points/query", self._query), web.post(one + "/points/scroll", self._scroll),
            web.post(one + "/points/count", self._count),
        ]  # fmt: skip

    async def _exists(self, request: web.Request) -> web.Response:
        return _ok({"exists": request.match_info["name"] in self._collections})

    async def _info(self, request: web.Request) -> web.Response:
        held = self._held(request)
        indexed = {name: {"data_type": kind, "points": len(held.points)} for name, kind in held.indexed.items()}
        config = {"params": held.params, "hnsw_config": _HNSW, "optimizer_config": _OPTIMIZERS}
        return _ok({"status": "green", "optimizer_status": "ok", "segments_count": 1, "config": config,
                    "payload_schema": indexed})  # fmt: skip

    async def _create(self, request: web.Request) -> web.Response:
        if request.match_info["name"] in self._collections:
            raise web.HTTPConflict(text='{"status": {"error": "it exists"}}', content_type="application/json")
        asked = await _body(request)
        self._collections[request.match_info["name"]] = Collection({"vectors": asked["vectors"]})
        return _ok(True)

    async def _index(self, request: web.Request) -> web.Response:
        asked = await _body(request)
        self._held(request).indexed[asked["field_name"]] = asked["field_schema"]
        return _ok(COMPLETED)

    async def _retrieve(self, request: web.Request) -> web.Response:
        asked, held = await _body(request), self._held(request).points
        known = [point_id for point_id in dict.fromkeys(asked["ids"]) if point_id in held]
        return _ok([_record(point_id, held[point_id], asked) for point_id in known])

    async def _batch(self, request: web.Request) -> web.Response:
        asked, held = await _body(request), self._held(request)
        for operation in asked["operations"]:
            ((kind, arguments),) = operation.items()
            _OPERATIONS[kind](held, arguments)
        return _ok([COMPLETED for _ in asked["operations"]])

    async def _query(self, request: web.Request) -> web.Response:
        asked, held = await _body(request), self._held(request)
        nearest = asked["query"]["nearest"] if isinstance(asked["query"], dict) else asked["query"]
        asked_for = _unit(nearest)
        scored = [
            (float(asked_for @ point.vectors[asked["using"]]), point_id, point)
            for point_id, point in held.matching(asked.get("filter"))
            if asked["using"] in point.vectors
        ]
        best = sorted(scored, key=lambda entry: (-entry[0], entry[1]))[: asked.get("limit") or DEFAULT_LIMIT]
        return _ok({"points": [_record(i, point, asked) | {"version": 0, "score": score} for score, i, point in best]})

    async def _scroll(self, request: web.Request) -> web.Response:
        asked, held = await _body(request), self._held(request)
        limit, offset = asked.get("limit") or DEFAULT_LIMIT, asked.get("offset") or ""
        found = [(i, point) for i, point in held.matching(asked.get("filter")) if i >= offset]
        following = found[limit][0] if len(found) > limit else None
        return _ok(
            {"points": [_record(i, point, asked) for i, point in found[:limit]], "next_page_offset": following}
        )  # fmt: skip

    async def _count(self, request: web.Request) -> web.Response:
        asked, held = await _body(request), self._held(request)
        return _ok({"count": sum(1 for _ in held.matching(asked.get("filter")))})

    def _held(self, request: web.Request) -> Collection:
        name = request.match_info["name"]
        if name not in self._collections:
            raise web.HTTPNotFound(text='{"status": {"error": "no such collection"}}', content_type="application/json")
        return self._collections[name]


_HNSW: Final = {"m": 16, "ef_construct": 100, "full_scan_threshold": 10_000}
_OPTIMIZERS: Final = {"default_segment_number": 0, "flush_interval_sec": 5}


def _upsert(held: Collection, arguments: Body) -> None:
    """Points that are there are replaced where the filter lets them through; new ones always come in."""
    condition = models.Filter.model_validate(arguments.get("update_filter") or {})
    for given in arguments["points"]:
        standing = held.points.get(given["id"])
        if standing is None or _passes(condition, given["id"], standing):
            held.points[given["id"]] = Point(given.get("payload") or {}, _unit_vectors(given["vector"]))


def _update_vectors(held: Collection, arguments: Body) -> None:
    condition = models.Filter.model_validate(arguments.get("update_filter") or {})
    for given in arguments["points"]:
        if given["id"] not in held.points:
            raise web.HTTPNotFound(text='{"status": {"error": "no such point"}}', content_type="application/json")
        standing = held.points[given["id"]]
        if _passes(condition, given["id"], standing):
            standing.vectors.update(_unit_vectors(given["vector"]))


def _set_payload(held: Collection, arguments: Body) -> None:
    for _, point in held.matching(arguments["filter"]):
        point.payload.update(arguments["payload"])


def _overwrite_payload(held: Collection, arguments: Body) -> None:
    for _, point in held.matching(arguments["filter"]):
        point.payload = dict(arguments["payload"])


def _delete_payload(held: Collection, arguments: Body) -> None:
    for _, point in held.matching(arguments["filter"]):
        for key in arguments["keys"]:
            point.payload.pop(key, None)


_OPERATIONS: Final = {
    "upsert": _upsert, "update_vectors": _update_vectors, "set_payload": _set_payload,
    "overwrite_payload": _overwrite_payload, "delete_payload": _delete_payload,
}  # fmt: skip


def _passes(wanted: models.Filter, point_id: str, point: Point) -> bool:
    return check_filter(wanted, point.payload, point_id, dict.fromkeys(point.vectors, True))


def _named(given: Body | None) -> set[str]:
    """The ids that a filter says a point must have; empty where it names none. So a write looks at few points."""
    conditions = (given or {}).get("must") or []
    return {point_id for condition in conditions for point_id in condition.get("has_id") or []}


def _record(point_id: str, point: Point, asked: Body) -> Body:
    fields, names = asked.get("with_payload"), asked.get("with_vector")
    payload = {k: v for k, v in point.payload.items() if fields is True or (isinstance(fields, list) and k in fields)}
    vectors = {k: v.tolist() for k, v in point.vectors.items() if names is True or (names and k in names)}
    return {"id": point_id, "payload": payload} | ({"vector": vectors} if names else {})


def _unit_vectors(given: Mapping[str, list[float]]) -> dict[str, NDArray[np.float32]]:
    return {name: _unit(numbers) for name, numbers in given.items()}


def _unit(numbers: list[float]) -> NDArray[np.float32]:
    """As Qdrant keeps vectors of the cosine distance."""
    vector = np.asarray(numbers, np.float32)
    unit: NDArray[np.float32] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return unit


async def _body(request: web.Request) -> Body:
    return msgspec.json.decode(await request.read(), type=Body)


def _ok(result: Any) -> web.Response:
    answer = msgspec.json.encode({"result": result, "status": "ok", "time": 0.0})
    return web.Response(body=answer, content_type="application/json")
