"""Which small files become one. Pure: it only looks at manifest entries."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from shared.archive import File


def merges(files: Sequence[File], *, today: str, most: int, small_bytes: int) -> Iterator[list[File]]:
    """Runs of small files to merge, each in log order and of one topic, day and era.

    A run is due when it is longer than `most`, or when its day is over. Only files that follow each other within
    their topic are merged, so that a partition's rows stay in log order; a merge stops growing once it is no
    longer small, so that no byte is rewritten for ever.
    """
    for topic in dict.fromkeys(file.topic for file in files):
        of_topic = (file for file in files if file.topic == topic)
        for (day, _, small), run in groupby(of_topic, lambda file: (file.day, file.era, file.bytes < small_bytes)):
            members = list(run)
            if small and (len(members) > most or day < today):
                yield from _portions(members, small_bytes)


def _portions(run: Sequence[File], small_bytes: int) -> Iterator[list[File]]:
    portion: list[File] = []
    for file in run:
        portion.append(file)
        if sum(member.bytes for member in portion) >= small_bytes:
            yield portion
            portion = []
    if len(portion) > 1:
        yield portion
