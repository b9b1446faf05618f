"""One Faust app from its start to its stop: one agent, one consumer group, batches of raw records.

The guards against the ways in which Faust 0.15.3 loses records (each has a test):
- the agent's body never raises and acknowledges only what is finished (take() and raising bodies acknowledge all);
- our own reference on every message (faust_intake.py): Faust acknowledges what it skips after a rebalance, and an
  acknowledgement without effect would be committed;
- keys and values stay bytes and null values are passed on, so decoding never happens inside Faust;
- one agent an app and concurrency 1, so offsets are acknowledged in order (its gap check lets one record slip);
- stream_wait_empty off: a rebalance must not wait for a batch in back-off;
- Faust's own assignor (standby replicas not 0): it gives partition p of all topics to the same worker.
"""

import asyncio
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import faust

from shared import logs
from shared.batches import Batches, Stopped
from shared.faust_fetches import FetchTransport, MessageTransport
from shared.faust_intake import FetchIntake, MessageIntake, Taken
from shared.kafka import group_of, name_of, plain_name, ssl_context
from shared.settings import KafkaSettings

# A back-off may last for hours; the group must not take the partitions away because nothing is polled meanwhile.
# A handler that is stuck is found by the stream's heartbeat instead.
POLL_PATIENCE_SECONDS: Final = 7 * 86_400.0
ANSWER_SECONDS: Final = 10.0
COMMIT_SECONDS: Final = 1.0  # the timed commit; it catches up where the one after a batch met another commit
FETCHES_AHEAD: Final = 1  # on the agent's queue, while one is in hand and one waits for its place
MESSAGES_AHEAD: Final = 4096
log = logs.get(__name__)


class Session:
    """A consumer in its group, handing batches to `batches` until it is stopped or `failed`."""

    def __init__(
        self, group: str, topics: Sequence[str], kafka: KafkaSettings, worker: str, batches: Batches,
        stopping: asyncio.Event, batch_size: int,
    ) -> None:  # fmt: skip
        self._kafka = kafka
        self._batches = batches
        self._stopping = stopping  # the one that `batches` was made with
        self._idle = asyncio.Event()
        self._idle.set()
        self._defect = False
        self._app = _create_app(group_of(kafka, group), worker, kafka, batch_size)
        self._intake = (FetchIntake if kafka.whole_fetches else MessageIntake)(self._app, kafka, batch_size)
        topic = faust.Topic(self._app, topics=[name_of(kafka, t) for t in topics], schema=self._intake.schema)
        self._app.agent(topic, name=group, concurrency=1)(self._agent)
        self._app.on_partitions_revoked.connect(self._on_revoked)

    @property
    def failed(self) -> bool:
        """Faust has crashed (it does when a commit fails or the consumer is fenced); only a new session helps."""
        return self._defect or self._intake.broken or bool(self._app.crashed)

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
                await self._intake.flush()
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
        unfinished = self._intake.progress.unfinished((tp.topic, tp.partition))
        return unfinished if unfinished is not None else await self._app.consumer.position(tp) or 0

    def _flowing(self) -> bool:
        return self._app.flow_control.is_active() and not self._app.rebalancing

    async def _on_revoked(self, *_: Any, **__: Any) -> None:
        self._intake.progress.clear()

    async def _agent(self, stream: Any) -> None:
        async for taken in self._intake.take(stream):
            if not self._stopping.is_set():
                self._idle.clear()
                try:
                    await self._finish(taken)
                finally:
                    self._idle.set()
            if self._stopping.is_set() or self._defect:
                # Returning would make Faust start the body again; it is cancelled when the app stops.
                await asyncio.Event().wait()

    async def _finish(self, taken: Taken) -> None:
        """One batch, then its commit. Never raises: Faust would acknowledge, skip, or get stuck."""
        try:
            try:
                await self._batches.run(taken.batch)
            except Stopped:
                log.info("stopped while waiting; the rest will be read again", group=self._app.conf.id)
            await taken.commit()
        except Exception:
            log.exception("stream failed; its consumer is built anew", group=self._app.conf.id)
            self._defect = True


def _create_app(group: str, worker: str, kafka: KafkaSettings, batch_size: int) -> Any:
    app = faust.App(
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
        broker_max_poll_records=batch_size if kafka.whole_fetches else None,
        stream_buffer_maxsize=FETCHES_AHEAD if kafka.whole_fetches else MESSAGES_AHEAD,
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
    app.transport = (FetchTransport if kafka.whole_fetches else MessageTransport)(app.conf.broker_consumer, app)
    return app


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
