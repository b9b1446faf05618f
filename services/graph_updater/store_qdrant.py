"""The store as a Qdrant server (qdrant-client), shared by every graph_updater replica.

A write carries the condition that the version there is lower. A refused conditional upsert still answers
COMPLETED, so each write is read back: a row stands when the token of this very call is in it; else what is there
is returned, and the caller joins the two states and writes again.
"""

import asyncio
import base64
import time
import uuid
from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, TypeVar

import grpc
import httpx
import numpy as np
from qdrant_client import AsyncQdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from services.graph_updater import metrics
from services.graph_updater.settings import QdrantSettings
from services.graph_updater.store import (
    INDEXED,
    KINDS,
    Floats,
    KindName,
    Row,
    Store,
    Stored,
    VectorName,
    collection,
    dimensions,
    point_id,
)
from shared import logs
from shared.errors import Unavailable
from shared.service import WrongSetting
from shared.space import Space

PAGE: Final = 1000
PUT_BYTES: Final = 4 * 1024 * 1024  # of one upsert
START_SECONDS: Final = 60.0
CLIENT_ERRORS: Final = range(400, 500)
ANSWERED_LATER: Final = (401, 403, 408, 429)  # a key that is being rotated, a server under load
DEFECTS: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND)
T = TypeVar("T")
log = logs.get(__name__)


def connect(settings: QdrantSettings) -> AsyncQdrantClient:
    return AsyncQdrantClient(
        url=settings.url,
        api_key=settings.api_key.get_secret_value() or None,
        prefer_grpc=settings.prefer_grpc,
        grpc_port=settings.grpc_port,
        timeout=settings.timeout_seconds,
        check_compatibility=False,  # it would call the server from the constructor
    )


class QdrantStore(Store):
    """See the module and Store."""

    exclusive = False

    def __init__(self, client: AsyncQdrantClient, space: Space, settings: QdrantSettings) -> None:
        self._client = client
        self._space = space
        self._settings = settings
        self._names: dict[KindName, str] = {kind: collection(kind, space, settings.collection_prefix) for kind in KINDS}

    async def start(self) -> None:
        """Create what is missing. Raises WrongSetting on other dimensions, Unavailable after a minute of silence."""
        delay, started = 0.2, time.monotonic()
        while True:
            try:
                for kind in KINDS:
                    await self._ensure(kind)
            except Unavailable as error:
                if time.monotonic() - started > START_SECONDS:
                    raise
                log.info("waiting for Qdrant", url=self._settings.url, error=str(error))
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)
            else:
                return

    async def get(self, kind: KindName, ids: Sequence[str]) -> dict[str, Stored]:
        records = await self._retrieve(kind, "get", ids, ["id", "version", "state"])
        return {record.payload["id"]: _stored(record.payload) for record in records}

    async def put(self, kind: KindName, rows: Sequence[Row]) -> dict[str, Stored]:
        token = uuid.uuid4().hex
        for part in _parts(rows):
            await self._upsert(kind, part, token)
        standing = await self._retrieve(kind, "read_back", [row.id for row in rows], ["id", "token"])
        accepted = {record.payload["id"] for record in standing if record.payload.get("token") == token}
        refused = [row.id for row in rows if row.id not in accepted]
        return await self.get(kind, refused) if refused else {}

    async def revise(self, kind: KindName, name: VectorName, vectors: Mapping[str, tuple[int, Floats]]) -> None:
        by_version: dict[int, list[models.PointVectors]] = {}
        for node, (version, vector) in vectors.items():
            point = models.PointVectors(id=str(point_id(node)), vector={name: vector.tolist()})
            by_version.setdefault(version, []).append(point)
        operations = [
            models.UpdateVectorsOperation(
                update_vectors=models.UpdateVectors(points=points, update_filter=_of_version(version))
            )
            for version, points in by_version.items()
        ]
        for start in range(0, len(operations), PAGE):
            await self._call(
                kind,
                "revise",
                self._client.batch_update_points(
                    self._names[kind], operations[start : start + PAGE], timeout=self._settings.timeout_seconds
                ),
            )

    async def vectors(self, kind: KindName, ids: Sequence[str], name: VectorName) -> dict[str, Floats]:
        records = await self._retrieve(kind, "vectors", ids, ["id"], [name])
        held = {record.payload["id"]: (record.vector or {}).get(name) for record in records}
        return {node: np.asarray(vector, dtype=np.float32) for node, vector in held.items() if vector is not None}

    async def similar(
        self, kind: KindName, vector: Floats, name: VectorName, k: int, without: str
    ) -> list[tuple[str, float]]:
        others = models.Filter(must_not=[models.HasIdCondition(has_id=[str(point_id(without))])])
        answer = await self._call(
            kind,
            "similar",
            self._client.query_points(
                self._names[kind], query=vector.tolist(), using=name, limit=k, query_filter=others,
                with_payload=["id"], timeout=self._settings.timeout_seconds,
            ),
        )  # fmt: skip
        return [((point.payload or {})["id"], point.score) for point in answer.points]

    async def find(self, kind: KindName, name: str, value: str) -> list[str]:
        wanted = models.Filter(must=[models.FieldCondition(key=name, match=models.MatchValue(value=value))])
        found: list[str] = []
        offset: Any = None
        while True:
            records, offset = await self._call(
                kind,
                "find",
                self._client.scroll(
                    self._names[kind], scroll_filter=wanted, limit=PAGE, offset=offset, with_payload=["id"],
                    timeout=self._settings.timeout_seconds,
                ),
            )  # fmt: skip
            found.extend((record.payload or {})["id"] for record in records)
            if offset is None:
                return found

    async def clear(self, kind: KindName, name: str, versions: Mapping[str, int]) -> None:
        operations = [
            models.DeletePayloadOperation(
                delete_payload=models.DeletePayload(keys=[name], filter=_is(node, version))
            )
            for node, version in versions.items()
        ]  # fmt: skip
        for start in range(0, len(operations), PAGE):
            await self._call(
                kind,
                "clear",
                self._client.batch_update_points(
                    self._names[kind], operations[start : start + PAGE], timeout=self._settings.timeout_seconds
                ),
            )

    async def count(self, kind: KindName) -> int:
        # Estimated: an exact count of a large collection is work, and this is for a gauge.
        return (await self._call(kind, "count", self._client.count(self._names[kind], exact=False))).count

    async def close(self) -> None:
        await self._client.close()

    async def _upsert(self, kind: KindName, rows: Sequence[Row], token: str) -> None:
        by_version: dict[int, list[models.PointStruct]] = {}
        for row in rows:
            if row.vectors is not None:
                by_version.setdefault(row.version, []).append(_point(row, token))
        operations: list[Any] = [
            models.UpsertOperation(
                upsert=models.PointsList(points=points, update_filter=_lower_than(version))
            )
            for version, points in by_version.items()
        ]  # fmt: skip
        operations += [_around_vectors(row, token) for row in rows if row.vectors is None]
        await self._call(
            kind,
            "put",
            self._client.batch_update_points(
                self._names[kind], operations, wait=True, timeout=self._settings.timeout_seconds
            ),
        )

    async def _retrieve(
        self, kind: KindName, call: str, ids: Sequence[str], fields: list[str], vectors: list[str] | None = None
    ) -> list[Any]:
        return await self._call(
            kind,
            call,
            self._client.retrieve(
                self._names[kind], [str(point_id(i)) for i in ids], with_payload=fields, with_vectors=vectors or False,
                timeout=self._settings.timeout_seconds,
            ),
        )  # fmt: skip

    async def _call(self, kind: KindName, call: str, answer: Awaitable[T]) -> T:
        started = time.perf_counter()
        try:
            return await answer
        except UnexpectedResponse as error:
            if error.status_code in CLIENT_ERRORS and error.status_code not in ANSWERED_LATER:
                raise  # a defect of ours: it would fail for ever
            raise Unavailable(f"Qdrant answered {error.status_code} at {call}") from error
        except grpc.RpcError as error:
            if error.code() in DEFECTS:
                raise
            raise Unavailable(f"Qdrant answered {error.code().name} at {call}") from error
        except (ResponseHandlingException, httpx.HTTPError, OSError) as error:
            raise Unavailable(f"Qdrant does not answer at {call}: {type(error).__name__}") from error
        finally:
            metrics.STORE_SECONDS.labels(kind, call).observe(time.perf_counter() - started)

    async def _ensure(self, kind: KindName) -> None:
        name, sizes = self._names[kind], dimensions(self._space)
        if not await self._call(kind, "create", self._client.collection_exists(name)):
            await self._create(name, kind)
        held = (await self._call(kind, "create", self._client.get_collection(name))).config.params.vectors
        if not isinstance(held, Mapping) or {n: p.size for n, p in held.items()} != sizes:
            raise WrongSetting(f"collection {name} at FINESTREAM_QDRANT_URL has other vectors than {sizes}")
        for field in (*INDEXED[kind], "version"):
            schema = models.PayloadSchemaType.INTEGER if field == "version" else models.PayloadSchemaType.KEYWORD
            await self._call(kind, "create", self._client.create_payload_index(name, field, schema))

    async def _create(self, name: str, kind: KindName) -> None:
        vectors: dict[Any, models.VectorParams] = {
            n: models.VectorParams(size=d, distance=models.Distance.COSINE, on_disk=True)
            for n, d in dimensions(self._space).items()
        }
        try:
            await self._call(
                kind,
                "create",
                self._client.create_collection(
                    name, vectors_config=vectors, on_disk_payload=True, shard_number=self._settings.shards,
                    replication_factor=self._settings.replication, timeout=self._settings.timeout_seconds,
                ),
            )  # fmt: skip
        except (UnexpectedResponse, grpc.RpcError):
            # Another replica may have been faster.
            if not await self._call(kind, "create", self._client.collection_exists(name)):
                raise


def _stored(payload: Mapping[str, Any]) -> Stored:
    return Stored(payload["version"], base64.b64decode(payload["state"]))


def _point(row: Row, token: str) -> models.PointStruct:
    vectors: dict[Any, Any] = {n: vector.tolist() for n, vector in (row.vectors or {}).items() if len(vector)}
    return models.PointStruct(id=str(point_id(row.id)), vector=vectors, payload=_payload(row, token))


def _around_vectors(row: Row, token: str) -> models.SetPayloadOperation | models.OverwritePayloadOperation:
    payload = models.SetPayload(payload=_payload(row, token), filter=_before(row.id, row.version))
    if row.fields_stay:
        return models.SetPayloadOperation(set_payload=payload)
    return models.OverwritePayloadOperation(overwrite_payload=payload)


def _payload(row: Row, token: str) -> dict[str, Any]:
    state = base64.b64encode(row.state).decode("ascii")
    return {"id": row.id, "version": row.version, "token": token, "state": state, **row.fields}


def _lower_than(version: int) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="version", range=models.Range(lt=version))])


def _before(node: str, version: int) -> models.Filter:
    return models.Filter(
        must=[
            models.HasIdCondition(has_id=[str(point_id(node))]),
            models.FieldCondition(key="version", range=models.Range(lt=version)),
        ]
    )


def _is(node: str, version: int) -> models.Filter:
    return models.Filter(must=[models.HasIdCondition(has_id=[str(point_id(node))]), _version_is(version)])


def _of_version(version: int) -> models.Filter:
    return models.Filter(must=[_version_is(version)])


def _version_is(version: int) -> models.FieldCondition:
    return models.FieldCondition(key="version", match=models.MatchValue(value=version))


def _parts(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows in parts of at most PUT_BYTES, or of one row."""
    parts: list[list[Row]] = []
    room = 0
    for row in rows:
        # base64 of the state; a number of a vector is up to some 20 characters over REST.
        size = len(row.state) * 4 // 3 + 20 * sum(map(len, (row.vectors or {}).values())) + 512
        if not parts or size > room:
            parts.append([])
            room = PUT_BYTES
        parts[-1].append(row)
        room -= size
    return parts
