"""The one way to consume a topic: at least once, in order per partition, effect before offset.

    stream = Stream("graph-users", [topics.INTERACTIONS, topics.OPINIONS], handle, kafka=..., producer=..., health=...)
    await stream.start()

`handle(deliveries)` gets a batch of valid events, which may mix topics and partitions, in order per partition.
Their effect must be durable when it returns, and must be idempotent: a batch can come again, in whole or in part.
- It returns the deliveries that it refuses; they become dead letters, as do records that do not decode.
- It raises Unavailable (Overloaded, DeadlineExceeded) when a part it needs does not answer: the same batch is
  tried again with back-off and jitter, as long as it takes; nothing is committed and the partitions wait.
- It raises anything else: the batch is tried one by one, and a record that fails three times is a dead letter.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Final

from shared import dead_letters, logs, stream_metrics
from shared.batches import Batches, Delivery, Handler, Refused
from shared.errors import Unavailable
from shared.faust_session import Session
from shared.kafka import Producer, group_of
from shared.service import Health
from shared.settings import KafkaSettings

START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 20.0  # for the batch in hand, and again for Faust
STUCK_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 1.0
LAG_SECONDS: Final = 5.0
REBUILD_SECONDS: Final = 1.0
log = logs.get(__name__)

__all__ = ["Delivery", "Handler", "Refused", "Stream"]


class Stream:
    """Topics, a handler, and the consumer between them, kept alive until `stop`.

    `name` names the consumer group (with the operator's prefix) and the metrics; `worker` is this replica's slot
    (static membership: a worker that comes back under its slot gets its partitions back without a rebalance).
    /livez fails when one handler call, or anything but a back-off, makes no progress for `stuck_seconds`.
    """

    def __init__(
        self, name: str, topics: Sequence[str], handle: Handler, *, kafka: KafkaSettings, producer: Producer,
        health: Health, worker: str = "0", batch_size: int = 200,
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:  # fmt: skip
        if not dead_letters.have_topic(topics):
            raise ValueError(f"a topic of {list(topics)} has no dead-letter topic; read it without a group instead")
        self._name = name
        self._topics = tuple(topics)
        self._handle = handle
        self._kafka = kafka
        self._producer = producer
        self._health = health
        self._worker = worker
        self._batch_size = batch_size
        self._beat = health.watch(self._watched, stuck_seconds)
        self._stopping = asyncio.Event()
        self._flowing = asyncio.Event()
        self._life: asyncio.Task[None] | None = None

    @property
    def _watched(self) -> str:
        return f"stream {self._name}"

    async def start(self) -> None:
        """Join the group and start handling; returns when records flow.

        Raises Unavailable when there are none within START_SECONDS, WrongSetting for a bad certificate.
        """
        self._life = asyncio.create_task(self._live(), name=self._watched)
        flowing = asyncio.create_task(self._flowing.wait())
        await asyncio.wait({self._life, flowing}, return_when=asyncio.FIRST_COMPLETED, timeout=START_SECONDS)
        flowing.cancel()
        if self._life.done():
            await self._life
        if not self._flowing.is_set():
            await self.stop()
            raise Unavailable(f"stream {self._name}: Kafka gave no partitions at {self._kafka.bootstrap}")

    async def stop(self) -> None:
        """Finish the batch in hand, commit, leave. A batch in back-off is left to be read again."""
        self._stopping.set()
        if self._life is not None:
            await self._life
        self._health.unwatch(self._watched)

    async def _live(self) -> None:
        """One session after another until told to stop; a session ends early only when Faust crashes."""
        while not self._stopping.is_set():
            session, batches = self._new_session()
            try:
                if await self._start(session):
                    await self._look_after(session, batches)
            finally:
                await session.stop(STOP_SECONDS)
            await self._pause(REBUILD_SECONDS)

    def _new_session(self) -> tuple[Session, Batches]:
        stopping = asyncio.Event()
        batches = Batches(self._name, group_of(self._kafka, self._name), self._handle, self._producer, stopping)
        session = Session(
            self._name, self._topics, self._kafka, self._worker, batches, stopping, self._batch_size,
        )  # fmt: skip
        return session, batches

    async def _start(self, session: Session) -> bool:
        starting = asyncio.create_task(session.start())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED, timeout=START_SECONDS)
        for task in (starting, stopping):
            task.cancel()
        await asyncio.wait({starting, stopping})
        error = None if starting.cancelled() else starting.exception()
        if starting.cancelled() or error is not None:
            log.warning("the consumer did not start", stream=self._name, error=repr(error))
            await self._beat_if_kafka_is_down()
            return False
        self._flowing.set()
        log.info("consuming", stream=self._name, topics=self._topics, worker=self._worker)
        return True

    async def _look_after(self, session: Session, batches: Batches) -> None:
        """Beat on progress and measure the lag, until the session fails or we are told to stop."""
        clock = asyncio.get_running_loop().time
        ended, lag_due = -1, clock()
        while not session.failed and not self._stopping.is_set():
            if batches.backing_off or batches.ended != ended:
                self._beat.beat()
                ended = batches.ended
            if clock() >= lag_due:
                await self._measure_lag(session)
                lag_due = clock() + LAG_SECONDS
            await self._pause(LOOK_SECONDS)
        if session.failed and not self._stopping.is_set():
            stream_metrics.RESTARTS.labels(self._name).inc()
            log.warning("the consumer was lost and is built anew", stream=self._name)

    async def _measure_lag(self, session: Session) -> None:
        try:
            lag = await session.lag()
        except Exception as error:  # noqa: BLE001  # no answer: what matters is whether Kafka or we are the reason
            log.warning("no lag from Kafka", stream=self._name, error=repr(error))
            await self._beat_if_kafka_is_down()
            return
        for topic in self._topics:
            stream_metrics.LAG.labels(self._name, topic).set(lag.get(topic, 0))
        if not any(lag.values()):
            self._beat.beat()  # idle, and the answer proves that the consumer and the broker are alive

    async def _beat_if_kafka_is_down(self) -> None:
        """Starting this process again would not bring Kafka back."""
        if not await _any_reachable(self._kafka.bootstrap):
            self._beat.beat()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


async def _any_reachable(bootstrap: str) -> bool:
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        try:
            async with asyncio.timeout(2.0):
                _, writer = await asyncio.open_connection(host, int(port))
        except (OSError, TimeoutError):
            continue
        writer.close()
        return True
    return False
