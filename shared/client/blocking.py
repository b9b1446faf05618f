"""The client for programs without an event loop: the same calls, each waited for in a loop of its own thread."""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from shared.client.calls import CALL_SECONDS, Client, connect
from shared.events import Interaction, Item, Review
from shared.graph.state import ItemNode, UserState
from shared.pb.finestream.v1 import ranking_pb2
from shared.pb.finestream.v1.position_pb2 import Position
from shared.settings import ClientSettings

T = TypeVar("T")


class Blocking:
    """As Client; any number of threads may call it at once. Close it, or use it in a `with`."""

    def __init__(self, settings: ClientSettings | None = None) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="finestream-client", daemon=True)
        self._thread.start()
        self._open = AsyncExitStack()
        self._client: Client = self._wait(self._open.enter_async_context(connect(settings)))

    def __enter__(self) -> "Blocking":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._wait(self._open.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def publish(self, event: Interaction | Review | Item, timeout: float = CALL_SECONDS) -> Position:
        return self._wait(self._client.publish(event, timeout))

    def rank(self, user_id: str, k: int = 10, **asked: Any) -> ranking_pb2.RankResponse:
        """`asked`: as Client.rank."""
        return self._wait(self._client.rank(user_id, k, **asked))

    def similar_items(
        self, item_id: str, k: int = 10, categories: Sequence[str] = (), timeout: float = CALL_SECONDS
    ) -> ranking_pb2.RankingServiceSimilarItemsResponse:
        return self._wait(self._client.similar_items(item_id, k, categories, timeout))

    def users(self, ids: Sequence[str], timeout: float = CALL_SECONDS) -> dict[str, UserState]:
        return self._wait(self._client.users(ids, timeout))

    def items(self, ids: Sequence[str], timeout: float = CALL_SECONDS) -> dict[str, ItemNode]:
        return self._wait(self._client.items(ids, timeout))

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        future = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return future.result()
        except BaseException:  # as Ctrl-C: nobody waits for it any more
            future.cancel()
            raise
