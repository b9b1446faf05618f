"""Opinions and embeddings of a review file: the extractor's job is run once a file, and its event log is kept.

A log's name is what it depends on: the files' bytes, the space, who extracts, its weights and prompts. A folder of that
name is whole: the job writes into another one, which is renamed when it has ended well. One process at a time works on
a name.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final

from pydantic_settings import BaseSettings, SettingsConfigDict

from shared import archive, logs

JOB: Final = "services.extractor.backfill"
LEARNT: Final = ("*.safetensors", "*.txt")
PROVIDER: Final = "FINESTREAM_EXTRACTOR_PROVIDER"
log = logs.get(__name__)


class ExtractionFailed(Exception):
    """The job ended without an event log; what it said is on stderr."""


class Extractor(BaseSettings):
    """What of the extractor's settings decides what it finds: who extracts and embeds, and the version of both."""

    model_config = SettingsConfigDict(env_prefix="FINESTREAM_EXTRACTOR_", extra="ignore")

    provider: str = "spans"
    embeddings: str = "local"
    version: int = 1


def extracted(reviews: Path, items: Path | None, space: str, cache: Path, provider: str = "") -> Path:
    """The event log of these files, made now if there is none: about a minute for 3,500 reviews on one core.

    `provider`: who finds the opinions, instead of the one that is set. Raises OSError for a file that cannot be read,
    ExtractionFailed when the job fails.
    """
    by = Extractor()
    by.provider = provider or by.provider
    folder = cache / f"extracted-{_key(reviews, items, space, by)}"
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(folder.with_suffix(".lock")) as lock:
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)  # what a killed job left: nobody else is at it
            log.info("extracting opinions and embeddings, once for this file", file=reviews.name, into=str(folder))
            _run(reviews, items, space, by.provider, unfinished, lock)
            unfinished.rename(folder)
    return folder


def digest(path: Path) -> str:
    """sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(reviews: Path, items: Path | None, space: str, by: Extractor) -> str:
    files = (digest(reviews), digest(items) if items else "", *map(digest, _learnt()))
    told = [str(archive.FORMAT), *files, space, by.provider, by.embeddings, str(by.version)]
    return hashlib.sha256("\0".join(told).encode()).hexdigest()[:24]


def _learnt() -> list[Path]:
    """The extractor's weights and prompts."""
    found = find_spec(JOB)
    folder = Path(found.origin).parent if found and found.origin else Path()
    return sorted(path for kind in LEARNT for path in folder.rglob(kind))


@contextmanager
def _alone(path: Path) -> Iterator[IO[bytes]]:
    with path.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # waits; the system frees it when the last process that holds it ends
        yield file


def _run(reviews: Path, items: Path | None, space: str, provider: str, out: Path, lock: IO[bytes]) -> None:
    command = [sys.executable, "-m", JOB, "--reviews", str(reviews), "--out", str(out), "--space", space]
    if items is not None:
        command += ["--items", str(items)]
    # The job holds the lock too: when only we are killed, nobody may clear away what it still writes.
    ended = subprocess.run(command, check=False, pass_fds=[lock.fileno()], env={**os.environ, PROVIDER: provider})
    if ended.returncode:
        raise ExtractionFailed(f"extracting opinions from {reviews.name} failed with exit code {ended.returncode}")
