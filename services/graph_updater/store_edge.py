"""The store as Qdrant's own engine in this process (qdrant-edge-py), one shard a collection.

One process opens it: the engine locks its write-ahead log, so a second one is a wrong setting, not a second
writer. There is no version condition, since one process needs none. Every update is in the log when the call
returns and survives SIGKILL; `flush` writes segments to disk against a loss of power, every few seconds.

The engine blocks, so each shard has one thread of its own, which also keeps its calls in order. No optimizer is
ever run: it would block that thread (minutes at 100,000 points), updates reuse their space without it, and an
exact scan of 100,000 vectors takes milliseconds. A catalogue beyond that wants a Qdrant server.
"""

import asyncio
import base64
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import qdrant_edge as edge

from services.graph_updater import metrics
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
UPSERT_POINTS: Final = 500
T = TypeVar("T")
log = logs.get(__name__)


def open_edge(path: Path, space: Space, flush_seconds: float, prefix: str = "") -> "EdgeStore":
    """Open or create the shards of a space, in folders whose names begin with the prefix.

    Raises WrongSetting where another process has them open.
    """
    shards: dict[KindName, _Shard] = {}
    try:
        for kind in KINDS:
            shards[kind] = _Shard(kind, partial(_open, path / collection(kind, space, prefix), kind, space))
    except Exception as error:  # the engine raises nothing more specific
        for shard in shards.values():
            shard.close()
        raise WrongSetting(f"FINESTREAM_QDRANT_PATH={path}: {error}; is another graph_updater running?") from error
    return EdgeStore(shards, flush_seconds)


def _open(folder: Path, kind: KindName, space: Space) -> Any:
    if not folder.exists():
        _create(folder, kind, space)
    return edge.EdgeShard.load(str(folder), _config(space))


def _create(folder: Path, kind: KindName, space: Space) -> None:
    # Made beside its place and moved there whole, so that a kill leaves a whole shard or none.
    making = folder.with_name(folder.name + ".making")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir(parents=True)
    shard = edge.EdgeShard.create(str(making), _config(space))
    for name in INDEXED[kind]:
        shard.update(edge.UpdateOperation.create_field_index(name, edge.PayloadSchemaType.Keyword))
    shard.close()
    making.rename(folder)


def _config(space: Space) -> Any:
    sizes = dimensions(space)
    return edge.EdgeConfig(vectors={n: edge.EdgeVectorParams(d, edge.Distance.Cosine) for n, d in sizes.items()})


class _Shard:
    """One collection and the one thread that touches it. Raises as `load` does, which opens it."""

    def __init__(self, kind: KindName, load: Callable[[], Any]) -> None:
        self._kind = kind
        self._load = load
        self._shard: Any = load()
        self._whole = True  # after a write that failed, as on a full disk, the engine takes none until loaded again
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"store-{kind}")
        self.unflushed = False

    async def call(self, name: str, work: Callable[[Any], T]) -> T:
        """Run `work(shard)` in the shard's thread. Raises Unavailable: what fails here is the disk."""
        started = time.perf_counter()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._do, work)
        except (RuntimeError, TypeError, ValueError):  # ours: a call after the end, or a wrong one
            raise
        except Exception as error:  # the engine raises nothing more specific
            log.warning("the embedded engine failed", kind=self._kind, call=name, error=str(error))
            raise Unavailable(f"the embedded engine failed at {name}: {error}") from error
        finally:
            metrics.STORE_SECONDS.labels(self._kind, name).observe(time.perf_counter() - started)

    def _do(self, work: Callable[[Any], T]) -> T:
        if not self._whole:
            shard, self._shard = self._shard, None
            if shard is not None:
                shard.close()
            self._shard = self._load()
            self._whole = True
        try:
            return work(self._shard)
        except (RuntimeError, TypeError, ValueError):
            raise
        except Exception:
            self._whole = False
            raise

    async def update(self, name: str, operations: Sequence[Any]) -> None:
        def work(shard: Any) -> None:
            for operation in operations:
                shard.update(operation)

        await self.call(name, work)
        self.unflushed = True

    async def flush(self) -> None:
        if self.unflushed:
            self.unflushed = False
            with metrics.FLUSH_SECONDS.labels(self._kind).time():
                await self.call("flush", lambda shard: shard.flush())

    def close(self) -> None:
        if self._shard is not None:
            self._thread.submit(self._shard.close)
        self._thread.shutdown(wait=True)


class EdgeStore(Store):
    """See the module and Store."""

    exclusive = True

    def __init__(self, shards: Mapping[KindName, _Shard], flush_seconds: float) -> None:
        self._shards = shards
        self._flush_seconds = flush_seconds
        self._flusher: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Flush from now on."""
        self._flusher = asyncio.create_task(self._flush_for_ever(), name="flush")

    async def get(self, kind: KindName, ids: Sequence[str]) -> dict[str, Stored]:
        def work(shard: Any) -> list[tuple[str, int, str]]:
            fields = ["id", "version", "state"]
            found = shard.retrieve([point_id(i) for i in ids], with_payload=fields, with_vector=False)
            return [(p["id"], p["version"], p["state"]) for p in (record.payload for record in found)]

        rows = await self._shards[kind].call("get", work)
        return {node: Stored(version, base64.b64decode(state)) for node, version, state in rows}

    async def put(self, kind: KindName, rows: Sequence[Row]) -> dict[str, Stored]:
        whole = [row for row in rows if row.vectors is not None]
        operations = [
            edge.UpdateOperation.upsert_points([_point(row) for row in whole[start : start + UPSERT_POINTS]])
            for start in range(0, len(whole), UPSERT_POINTS)
        ]
        operations += [_around_vectors(row) for row in rows if row.vectors is None]
        await self._shards[kind].update("put", operations)
        return {}

    async def revise(self, kind: KindName, name: VectorName, vectors: Mapping[str, tuple[int, Floats]]) -> None:
        points = [edge.PointVectors(point_id(node), {name: vector.tolist()}) for node, (_, vector) in vectors.items()]
        if points:
            await self._shards[kind].update("revise", [edge.UpdateOperation.update_vectors(points)])

    async def vectors(self, kind: KindName, ids: Sequence[str], name: VectorName) -> dict[str, Floats]:
        def work(shard: Any) -> list[tuple[str, list[float] | None]]:
            found = shard.retrieve([point_id(i) for i in ids], with_payload=["id"], with_vector=[name])
            return [(record.payload["id"], (record.vector or {}).get(name)) for record in found]

        rows = await self._shards[kind].call("vectors", work)
        return {node: np.asarray(vector, dtype=np.float32) for node, vector in rows if vector is not None}

    async def similar(
        self, kind: KindName, vector: Floats, name: VectorName, k: int, without: str
    ) -> list[tuple[str, float]]:
        request = edge.QueryRequest(
            k,
            query=edge.Query.Nearest(vector.tolist(), name),
            filter=edge.Filter(must_not=[edge.HasIdCondition({point_id(without)})]),
            with_payload=["id"],
        )

        def work(shard: Any) -> list[tuple[str, float]]:
            return [(point.payload["id"], point.score) for point in shard.query(request)]

        return await self._shards[kind].call("similar", work)

    async def find(self, kind: KindName, name: str, value: str) -> list[str]:
        wanted = edge.Filter(must=[edge.FieldCondition(name, match=edge.MatchValue(value))])
        found: list[str] = []
        offset: Any = None
        while True:
            # The default binds now: the next page has another request.
            request = edge.ScrollRequest(offset=offset, limit=PAGE, filter=wanted, with_payload=["id"])

            def work(shard: Any, request: Any = request) -> tuple[list[str], Any]:
                records, following = shard.scroll(request)
                return [record.payload["id"] for record in records], following

            page, offset = await self._shards[kind].call("find", work)
            found.extend(page)
            if offset is None:
                return found

    async def clear(self, kind: KindName, name: str, versions: Mapping[str, int]) -> None:
        def work(shard: Any) -> None:
            of_point = {point_id(node): version for node, version in versions.items()}
            held = shard.retrieve(list(of_point), with_payload=["version"], with_vector=False)
            still = [record.id for record in held if record.payload["version"] == of_point[record.id]]
            if still:
                shard.update(edge.UpdateOperation.delete_payload(still, [name]))

        await self._shards[kind].call("clear", work)
        self._shards[kind].unflushed = True

    async def count(self, kind: KindName) -> int:
        return await self._shards[kind].call("count", lambda shard: int(shard.count(edge.CountRequest(exact=True))))

    async def close(self) -> None:
        if self._flusher is not None:
            self._flusher.cancel()
            await asyncio.gather(self._flusher, return_exceptions=True)
        for shard in self._shards.values():
            await asyncio.to_thread(shard.close)

    async def _flush_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._flush_seconds)
            for shard in self._shards.values():
                try:
                    await shard.flush()
                except Unavailable:  # logged; the next write says so to those who wait for it
                    shard.unflushed = True


def _around_vectors(row: Row) -> Any:
    """To add to a payload, the engine reads it, which of many nodes is seldom near; to replace it does not."""
    if row.fields_stay:
        return edge.UpdateOperation.set_payload([point_id(row.id)], _payload(row))
    return edge.UpdateOperation.overwrite_payload([point_id(row.id)], {"id": row.id, **_payload(row)})


def _point(row: Row) -> Any:
    held = (row.vectors or {}).items()
    vectors: dict[str, Any] = {name: vector.tolist() for name, vector in held if len(vector)}
    return edge.Point(point_id(row.id), vectors, {"id": row.id, **_payload(row)})


def _payload(row: Row) -> dict[str, Any]:
    return {"version": row.version, "state": base64.b64encode(row.state).decode("ascii"), **row.fields}
