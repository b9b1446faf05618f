"""An endpoint with a Batch API, which keeps files and batches as OpenAI does, and does to them what it is told."""

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from aiohttp import web

from tests.services.extractor.doubles import answering, serving

Fate = Literal["completed", "expired", "cancelled", "failed"]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE = 2  # batches of one page of a list
NOT_FOUND = (404, {"error": {"message": "no such thing", "type": "x", "code": None}})


def shown_in(body: dict[str, Any]) -> str:
    return str(json.loads(body["messages"][1]["content"])["review"])


@dataclass
class Done:
    """What became of one batch that is over."""

    status: str
    texts: list[str]  # that were answered, and so are charged


@dataclass
class BatchEndpoint:
    answer: Callable[[str], tuple[int, Any]] = lambda _: (200, answering())  # by what is shown of a text
    fate: Callable[[int], Fate] = lambda _: "completed"  # by a batch's number from 0
    polls: int = 1  # before a batch is over
    most_waiting: int = 1_000_000  # requests of the account
    base_url: str = ""
    files: dict[str, tuple[str, bytes]] = field(default_factory=dict)  # name and content
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    uploads: list[bytes] = field(default_factory=list)
    live: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    faults: dict[str, list[tuple[int, bool | Literal["late"]]]] = field(default_factory=lambda: defaultdict(list))
    """By call: a status, and whether what was asked is done all the same; late: when the next file comes."""
    late: list[Callable[[], Any]] = field(default_factory=list)
    done: list[Done] = field(default_factory=list)
    most_open: int = 0  # batches at once

    @property
    def completed(self) -> list[str]:
        """Texts that were paid for, as often as they were, also by batches that nobody looks after."""
        for batch in self._open:
            self._end(batch)
        return [text for one in self.done for text in one.texts]

    def _new_file(self, name: str, content: bytes) -> str:
        file = f"file-{len(self.calls)}-{len(self.files)}"
        self.files[file] = (name, content)
        return file

    async def upload(self, request: web.Request) -> web.StreamResponse:
        given: dict[str, Any] = {}
        name = ""
        async for part in await request.multipart():
            name = getattr(part, "filename", None) or name
            given[getattr(part, "name", "")] = await part.read()  # type: ignore[union-attr]
        for create in self.late:
            create()
        self.late.clear()
        assert given["purpose"] == b"batch"
        assert given["expires_after[seconds]"].isdigit()
        self.uploads.append(given["file"])
        return web.json_response(self._said_of_file(self._new_file(name, given["file"])))

    async def list_files(self, request: web.Request) -> web.StreamResponse:
        assert request.query["purpose"] == "batch"
        said = [self._said_of_file(file) for file, (name, _) in self.files.items() if not name.startswith("output")]
        return web.json_response({"object": "list", "data": said, "has_more": False})

    async def content(self, request: web.Request) -> web.StreamResponse:
        file = self.files.get(request.match_info["id"])
        return _not_found() if file is None else web.Response(body=file[1])

    async def delete(self, request: web.Request) -> web.StreamResponse:
        file = self.files.pop(request.match_info["id"], None)
        return _not_found() if file is None else web.json_response({"id": request.match_info["id"], "deleted": True})

    async def create(self, request: web.Request) -> web.StreamResponse:
        return self._created(await request.json())

    def _created(self, asked: dict[str, Any]) -> web.StreamResponse:
        assert (asked["endpoint"], asked["completion_window"]) == ("/v1/chat/completions", "24h")
        number = len(self.batches)
        name, content = self.files.get(asked["input_file_id"], ("", b""))
        lines = [json.loads(line) for line in content.splitlines()]
        batch = {
            "id": f"batch-{number}", "object": "batch", "status": "validating", "number": number, "polls": 0,
            "lines": lines, "endpoint": asked["endpoint"], "completion_window": "24h", "created_at": number,
            "input_file_id": asked["input_file_id"], "metadata": asked["metadata"],
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }  # fmt: skip
        if not name:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [{"code": "file_not_found"}]}}
        elif sum(len(one["lines"]) for one in self._open) + len(lines) > self.most_waiting:
            batch |= {"status": "failed", "errors": {"object": "list", "data": [{"code": "token_limit_exceeded"}]}}
        self.batches[str(batch["id"])] = batch
        self.most_open = max(self.most_open, len(self._open))
        return web.json_response(_said_of_batch(batch))

    async def get(self, request: web.Request) -> web.StreamResponse:
        batch = self.batches.get(request.match_info["id"])
        if batch is None:
            return _not_found()
        batch["polls"] += 1
        if batch in self._open and batch["polls"] > self.polls:
            self._end(batch)
        return web.json_response(_said_of_batch(batch))

    async def list_batches(self, request: web.Request) -> web.StreamResponse:
        newest = list(self.batches.values())[::-1]
        ids = [batch["id"] for batch in newest]
        start = ids.index(request.query["after"]) + 1 if "after" in request.query else 0
        page = newest[start : start + PAGE]
        said = [_said_of_batch(batch) for batch in page]
        return web.json_response({"object": "list", "data": said, "has_more": start + PAGE < len(newest)})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.live.append(asked)
        status, body = self.answer(shown_in(asked))
        return web.json_response(body, status=status)

    @property
    def _open(self) -> list[dict[str, Any]]:
        over = ("completed", "expired", "cancelled", "failed")
        return [batch for batch in self.batches.values() if batch["status"] not in over]

    def _end(self, batch: dict[str, Any]) -> None:
        """Lines are answered in another order than they were asked in, and of what expires every second one."""
        batch["status"] = fate = self.fate(batch["number"])
        lines = batch["lines"][::-1]
        texts: list[str] = []
        files: dict[str, list[dict[str, Any]]] = {"output": [], "error": []}
        if fate == "failed":
            batch |= {"status": "failed", "errors": {"object": "list", "data": [{"code": "invalid_json_line"}]}}
            lines = []
        for place, line in enumerate(lines):
            if fate != "completed" and place % 2:
                error = {"code": f"batch_{fate}", "message": "not in time"}
                files["error"].append({"id": "r", "custom_id": line["custom_id"], "response": None, "error": error})
                continue
            shown = shown_in(line["body"])
            status, body = self.answer(shown)
            response = {"status_code": status, "request_id": "q", "body": body}
            kind = "output" if status == 200 else "error"
            files[kind].append({"id": "r", "custom_id": line["custom_id"], "response": response, "error": None})
            if status == 200:
                texts.append(shown)
        for kind, written in files.items():
            if written:
                content = b"".join(json.dumps(one, ensure_ascii=False).encode() + b"\n" for one in written)
                batch[f"{kind}_file_id"] = self._new_file(f"output-{kind}", content)
        batch["request_counts"] |= {"completed": len(texts), "failed": len(lines) - len(texts)}
        self.done.append(Done(batch["status"], texts))

    def _said_of_file(self, file: str) -> dict[str, Any]:
        name, content = self.files[file]
        return {"id": file, "object": "file", "filename": name, "purpose": "batch", "bytes": len(content)}

    def called(self, name: str, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.calls.append(name)
            if not self.faults[name]:
                return await handler(request)
            status, is_done = self.faults[name].pop(0)
            if is_done == "late":
                self.late.append(partial(self._created, await request.json()))
            elif is_done:
                await handler(request)
            else:
                await request.read()
            body = {"error": {"message": "no", "type": "x", "code": None}}
            return web.json_response(body, status=status, headers={"retry-after-ms": "1"})

        return handle


def _said_of_batch(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in batch.items() if name not in ("lines", "number", "polls")}


def _not_found() -> web.StreamResponse:
    return web.json_response(NOT_FOUND[1], status=NOT_FOUND[0])


@asynccontextmanager
async def batch_endpoint(running: BatchEndpoint) -> AsyncIterator[BatchEndpoint]:
    app = web.Application(client_max_size=1 << 30)
    routes = [
        ("POST", "/v1/files", "upload", running.upload), ("GET", "/v1/files", "list_files", running.list_files),
        ("GET", "/v1/files/{id}/content", "content", running.content),
        ("DELETE", "/v1/files/{id}", "delete", running.delete), ("POST", "/v1/batches", "create", running.create),
        ("GET", "/v1/batches/{id}", "get", running.get), ("GET", "/v1/batches", "list_batches", running.list_batches),
        ("POST", "/v1/chat/completions", "complete", running.complete),
    ]  # fmt: skip
    app.add_routes([web.route(method, path, running.called(name, handler)) for method, path, name, handler in routes])
    async with serving(app) as running.base_url:
        yield running
