"""One Faust app from its start to its stop: one agent, one consumer group, batches of raw records.

The guards against the ways in which Faust 0.15.3 loses records (each has a test):
- the agent's body never raises and acknowledges only what is finished (take() and raising bodies acknowledge all);
- our own reference on every message (RawSchema): Faust acknowledges what it skips after a rebalance, and an
  acknowledgement without effect would be committed; a message counts as done when both references are given back;
- keys and values stay bytes and null values are passed on, so decoding never happens inside Faust;
- one agent an app and concurrency 1, so offsets are acknowledged in order (its gap check lets one record slip);
- stream_wait_empty off: a rebalance must not wait for a batch in back-off;
- Faust's own assignor (standby replicas not 0): it gives partition p of all topics to the same worker.
"""

import asyncio
import os
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Final

import faust

from shared import logs
from shared.batches import Batch, Batches, Stopped
from shared.dead_letters import Record
from shared.events import Source
from shared.kafka import name_of, plain_name, ssl_context
from shared.settings import KafkaSettings

# A back-off may last for hours; the group must not take the partitions away because nothing is polled meanwhile.
# A handler that is stuck is found by the stream's heartbeat instead.
POLL_PATIENCE_SECONDS: Final = 7 * 86_400.0
ANSWER_SECONDS: Final = 10.0
COMMIT_SECONDS: Final = 1.0  # the timed commit; it catches up where the one after a batch met another commit
log = logs.get(__name__)

Position = tuple[str, int]  # topic as the broker names it, partition


class RawSchema(faust.Schema[bytes, bytes]):
    """Bytes in, bytes out, and one reference more than Faust holds."""

    def __init__(self, delivered: Callable[[Any], None]) -> None:
        super().__init__(key_serializer="raw", value_serializer="raw", allow_empty=True)
        self._delivered = delivered

    def compile(self, app: Any, **_: Any) -> Callable[..., Awaitable[Any]]:
        async def decode(message: Any, *, propagate: bool = False) -> Any:
            message.incref()  # given back by Session._finish
            self._delivered(message)
            return app.create_event(message.key, message.value, message.headers, message)

        return decode


class Session:
    """A consumer in its group, handing batches to `batches` until it is stopped or `failed`."""

    def __init__(
        self, group: str, topics: Sequence[str], kafka: KafkaSettings, worker: str, batches: Batches,
        stopping: asyncio.Event, batch_size: int, batch_seconds: float,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._batches = batches
        self._stopping = stopping  # the one that `batches` was made with
        self._batch_size = batch_size
        self._batch_seconds = batch_seconds
        self._delivered: dict[Position, int] = {}
        self._finished: dict[Position, int] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._defect = False
        self._app = _create_app(name_of(kafka, group), worker, kafka)
        topic = faust.Topic(self._app, topics=[name_of(kafka, t) for t in topics], schema=RawSchema(self._on_delivered))
        self._app.agent(topic, name=group, concurrency=1)(self._agent)
        self._app.on_partitions_revoked.connect(self._on_revoked)

    @property
    def failed(self) -> bool:
        """Faust has crashed (it does when a commit fails or the consumer is fenced); only a new session helps."""
        return self._defect or bool(self._app.crashed)

    async def start(self) -> None:
        """Join the group; returns once partitions are assigned (perhaps none) and records flow."""
        self._app.finalize()
        await self._app.start()
        while not self._flowing():
            if self.failed:
                raise ConnectionError(f"the consumer could not start: {self._app.crash_reason!r}")
            await asyncio.sleep(0.02)

    async def stop(self, grace_seconds: float) -> None:
        """Finish the batch in hand (a batch in back-off is left to be read again), commit, leave."""
        self._stopping.set()
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            log.warning("a batch is abandoned and will be read again", group=self._app.conf.id)
        try:
            async with asyncio.timeout(grace_seconds):
                await self._app.stop()
        except TimeoutError:
            log.error("the consumer did not stop in time", group=self._app.conf.id)
        except Exception:
            log.exception("the consumer did not stop cleanly", group=self._app.conf.id)

    async def lag(self) -> dict[str, int]:
        """Records behind the broker's end offsets, by plain topic name, over the assigned partitions.

        Asked of the broker through the consumer's own thread, so an answer proves that both are alive.
        Raises TimeoutError when there is none.
        """
        behind: dict[str, int] = {}
        async with asyncio.timeout(ANSWER_SECONDS):
            consumer = self._app.consumer
            assigned = consumer.assignment()
            ends = await consumer.highwaters(*assigned) if assigned else {}
            for tp in assigned:
                position = await self._position(tp)
                topic = plain_name(self._kafka, tp.topic)
                behind[topic] = behind.get(topic, 0) + max(ends[tp] - position, 0)
        return behind

    async def _position(self, tp: Any) -> int:
        """The first offset that is not finished. Where nothing is in process, what will be read next: control
        records of transactions and compacted ones are never delivered, and must not count as lag for ever."""
        at = (tp.topic, tp.partition)
        if self._delivered.get(at) != self._finished.get(at):
            return self._finished.get(at, -1) + 1
        return await self._app.consumer.position(tp) or 0

    def _flowing(self) -> bool:
        return self._app.flow_control.is_active() and not self._app.rebalancing

    def _on_delivered(self, message: Any) -> None:
        if self._is_current(message):
            at = (message.topic, message.partition)
            self._finished.setdefault(at, message.offset - 1)
            self._delivered[at] = message.offset

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._delivered.clear()
        self._finished.clear()

    def _is_current(self, message: Any) -> bool:
        return bool(message.generation_id == self._app.consumer_generation_id)

    async def _agent(self, stream: Any) -> None:
        async for events in stream.noack_take(self._batch_size, within=self._batch_seconds):
            if not self._stopping.is_set():
                self._idle.clear()
                try:
                    await self._take(stream, events)
                finally:
                    self._idle.set()
            if self._stopping.is_set() or self._defect:
                # Returning would make Faust start the body again; it is cancelled when the app stops.
                await asyncio.Event().wait()

    async def _take(self, stream: Any, events: Sequence[Any]) -> None:
        """One batch, then its commit. Never raises: Faust would acknowledge, skip, or get stuck."""
        message_of = {}
        records = []
        for event in events:
            record = self._record(event.message)
            message_of[record.source] = event
            records.append(record)

        async def finish(record: Record) -> None:
            await self._finish(stream, message_of[record.source])

        batch = Batch(records, lambda record: self._is_current(message_of[record.source].message), finish)
        try:
            await self._batches.run(batch)
            await self._app.commit({event.message.topic for event in events})
        except Stopped:
            log.info("stopped while waiting; the batch will be read again", group=self._app.conf.id)
        except Exception:
            log.exception("stream failed; its consumer is built anew", group=self._app.conf.id)
            self._defect = True

    async def _finish(self, stream: Any, event: Any) -> None:
        message = event.message
        message.decref()  # ours; the next is Faust's, and the last one marks the offset as done
        await stream.ack(event)
        if self._is_current(message):
            self._finished[message.topic, message.partition] = message.offset

    def _record(self, message: Any) -> Record:
        topic = plain_name(self._kafka, message.topic)
        source = Source(topic, message.partition, message.offset, message.timestamp)
        return Record(source, message.key, message.value, tuple(message.headers or ()))


def _create_app(group: str, worker: str, kafka: KafkaSettings) -> Any:
    return faust.App(
        group,
        broker=[f"kafka://{address.strip()}" for address in kafka.bootstrap.split(",")],
        broker_credentials=_credentials(kafka),
        consumer_group_instance_id=f"{group}-{worker}",
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=kafka.session_timeout_seconds,
        broker_heartbeat_interval=kafka.session_timeout_seconds / 3,
        broker_rebalance_timeout=kafka.rebalance_timeout_seconds,
        broker_commit_interval=COMMIT_SECONDS,
        broker_max_poll_interval=POLL_PATIENCE_SECONDS,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        topic_allow_declare=False,
        topic_disable_leader=True,
        web_enabled=False,
        autodiscover=False,
        store="memory://",
        datadir=Path(
            tempfile.gettempdir(), f"finestream-faust-{os.getuid()}"
        ),  # Faust makes it; nothing is written there
    )


def _credentials(kafka: KafkaSettings) -> faust.SASLCredentials | faust.SSLCredentials | None:
    """What client_options() says to aiokafka, as Faust wants to hear it. Raises WrongSetting for a bad file."""
    encrypted = kafka.security in ("SSL", "SASL_SSL")
    context = ssl_context(kafka) if encrypted else None
    if kafka.security.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.sasl_username,
            password=kafka.sasl_password.get_secret_value(),
            mechanism=kafka.sasl_mechanism,
            ssl_context=context,
        )
    return faust.SSLCredentials(context) if encrypted else None
