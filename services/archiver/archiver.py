"""The loop: gather records, flush them in a thread, never hold more than the buffer may."""

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from aiokafka.errors import KafkaError

from services.archiver import metrics
from services.archiver.align import align
from services.archiver.lag import Lag
from services.archiver.log_reader import LogMoved, LogReader, Place
from services.archiver.settings import ArchiverSettings
from services.archiver.sift import Record
from services.archiver.writer import Superseded, Writer
from shared import logs
from shared.service import Heartbeat

POLL_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 10.0
RECORD_OVERHEAD_BYTES = 256  # about what Python adds to a record's key and value
log = logs.get(__name__)


class Buffer:
    """Records read and not archived yet."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.bytes = 0
        self.since = 0.0

    def add(self, records: Sequence[Record]) -> None:
        if records and not self.records:
            self.since = time.monotonic()
        self.records += records
        self.bytes += sum(len(r.value or b"") + len(r.key or b"") + RECORD_OVERHEAD_BYTES for r in records)
        metrics.BUFFERED.set(self.bytes)

    def take(self) -> list[Record]:
        records, self.records, self.bytes = self.records, [], 0
        metrics.BUFFERED.set(0)
        return records


class Archiver:
    """Runs until `stopping`. At most one flush is under way, while the next batch is gathered beside it."""

    def __init__(self, settings: ArchiverSettings, reader: LogReader, writer: Writer, heartbeat: Heartbeat) -> None:
        self._settings = settings
        self._reader, self._writer, self._heartbeat = reader, writer, heartbeat
        self._buffer = Buffer()
        self._flushing: asyncio.Task[None] | None = None
        self._in_flight: list[Record] = []
        self._thread = ThreadPoolExecutor(1, "archive-writer")
        self._lag = Lag(settings.kafka.retention_hours * 3600.0, settings.retention_warning_share)

    async def run(self, stopping: asyncio.Event) -> None:
        """Raises Superseded when another process writes this share."""
        watching = asyncio.create_task(self._watch_lag())
        try:
            while not stopping.is_set():
                await self._step()
            await self._flush_the_rest()
        finally:
            watching.cancel()
            if self._flushing is not None:
                self._flushing.cancel()
            await asyncio.gather(watching, *filter(None, [self._flushing]), return_exceptions=True)
            self._thread.shutdown()  # a write under way ends: its manifest swap is all or nothing

    async def _step(self) -> None:
        if self._is_full() and self._flushing is not None:
            await asyncio.wait({self._flushing}, timeout=POLL_SECONDS)  # behind: what else there is waits in Kafka
        else:
            await self._gather()
        if self._flushing is not None and self._flushing.done():
            await self._flushed()
        if self._flushing is None:
            if self._is_due():
                self._start_flush()
            elif not self._buffer.records:
                self._heartbeat.beat()  # nothing to do is progress; a flush that hangs is not

    async def _gather(self) -> None:
        try:
            self._buffer.add(await self._reader.poll(POLL_SECONDS))
        except LogMoved as error:
            log.error("the log moved", error=str(error))
            await self._realign()

    def _is_full(self) -> bool:
        return len(self._buffer.records) >= 2 * self._settings.flush_rows or (
            self._buffer.bytes >= self._settings.buffer_bytes
        )

    def _is_due(self) -> bool:
        waited = time.monotonic() - self._buffer.since
        return bool(self._buffer.records) and (
            len(self._buffer.records) >= self._settings.flush_rows
            or self._buffer.bytes >= self._settings.buffer_bytes
            or waited >= self._settings.flush_seconds
        )

    def _start_flush(self) -> None:
        self._in_flight = self._buffer.take()
        self._flushing = asyncio.create_task(self._write(self._in_flight))

    async def _flushed(self) -> None:
        """Wait for the flush under way; start one when there is none but there should be."""
        if self._flushing is None:
            self._start_flush()
        flushing, self._flushing = self._flushing, None
        if flushing is not None:
            await flushing

    async def _write(self, records: list[Record]) -> None:
        """Append until it succeeds: the records are in memory and in Kafka, and nothing newer may overtake them."""
        loop, pause = asyncio.get_running_loop(), 0.1
        while True:
            try:
                with metrics.FLUSH_SECONDS.time():
                    await loop.run_in_executor(self._thread, self._writer.append, records)
                break
            except Superseded:
                raise
            except Exception:
                # Stores fail in as many ways as there are stores; each may pass, and /livez fails if none does.
                metrics.FAILURES.inc()
                log.exception("a flush failed and is tried again", records=len(records), pause_seconds=pause)
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311  # jitter
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        self._in_flight = []
        self._heartbeat.beat()
        await self._compact()

    async def _compact(self) -> None:
        try:
            gone = await asyncio.get_running_loop().run_in_executor(self._thread, self._writer.compact)
        except Superseded:
            raise
        except Exception:
            metrics.FAILURES.inc()
            log.exception("a compaction failed; the next flush tries again")
        else:
            if gone:
                log.debug("small files merged", gone=gone)

    async def _realign(self) -> None:
        # What was read before the log moved is archived first: its offsets may mean something else afterwards.
        while self._flushing is not None or self._buffer.records:
            await self._flushed()
        await align(self._reader, self._writer)

    async def _flush_the_rest(self) -> None:
        try:
            async with asyncio.timeout(self._settings.stop_seconds):
                while self._flushing is not None or self._buffer.records:
                    await self._flushed()
        except TimeoutError:
            log.warning("the last flush did not end in time; its records are read again at the next start")

    async def _watch_lag(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lag_check_seconds)
            try:
                await self._observe_lag()
            except KafkaError as error:
                log.warning("Kafka does not say where its logs end", error=type(error).__name__)
            except Exception:
                log.exception("the lag is not known")

    async def _observe_lag(self) -> None:
        bounds = await self._reader.bounds()
        ends = {place: end for place, (_, end) in bounds.items()}
        archived = {place: self._writer.next_offset(*place) or bounds[place][0] for place in ends}
        self._lag.observe(ends, archived, self._oldest(), time.time())

    def _oldest(self) -> dict[Place, float]:
        oldest: dict[Place, float] = {}
        for record in (*self._in_flight, *self._buffer.records):
            oldest.setdefault((record.topic, record.partition), record.appended_at)
        return oldest
