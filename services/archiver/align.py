"""Where to go on reading: at the manifest's offset if the log still holds it, else at the nearest one that it does."""

from services.archiver import metrics
from services.archiver.log_reader import LogReader, Place
from services.archiver.writer import Writer
from shared import logs

log = logs.get(__name__)


async def align(reader: LogReader, writer: Writer) -> None:
    """Seek every partition. Nothing of a batch read before may be appended after this."""
    bounds = await reader.bounds()
    positions: dict[Place, int] = {}
    for place in reader.places:
        first, end = bounds[place]
        wanted = writer.next_offset(*place)
        if wanted is None:
            positions[place] = first
        elif wanted < first:
            positions[place] = _skip_expired(writer, place, wanted, first)
        elif wanted > end:
            positions[place] = await _go_back(reader, writer, place, wanted, end)
        else:
            positions[place] = wanted
    reader.seek(positions)


def _skip_expired(writer: Writer, place: Place, wanted: int, first: int) -> int:
    topic, partition = place
    metrics.RESETS.labels(topic, "log_start_ahead").inc()
    metrics.EXPIRED.labels(topic).inc(first - wanted)
    log.error(
        "records left Kafka before they were archived; retention must exceed the archiver's lag",
        topic=topic, partition=partition, archived_to=wanted, log_start=first,
    )  # fmt: skip
    writer.rewind(topic, partition, first)
    return first


async def _go_back(reader: LogReader, writer: Writer, place: Place, wanted: int, end: int) -> int:
    """The broker lost acknowledged records and uses their offsets again; what is newer than the archive is new."""
    topic, partition = place
    newest = writer.newest_append(topic, partition)
    after = None if newest is None else await reader.first_after(place, newest)
    offset = end if after is None else min(after, end)
    metrics.RESETS.labels(topic, "log_end_behind").inc()
    log.error(
        "Kafka's log ends before what is archived already: the broker lost records, and uses their offsets again",
        topic=topic, partition=partition, archived_to=wanted, log_end=end, going_on_from=offset,
    )  # fmt: skip
    writer.rewind(topic, partition, offset)
    return offset
