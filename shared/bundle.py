"""Bundles: published models, on any fsspec URL.

    <url>/versions/<id>/   the model's files, meta.json, report.*, checksums.json, READY
    <url>/current.json     {version, data_timestamp, created_at}

READY is written last and holds the hash of checksums.json, which holds the hash of everything else; then
current.json is replaced in one step. So whatever current.json names is complete, whenever the publisher died.
Readers trust nothing that does not hash right.
"""

import hashlib
import os
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import fsspec
import msgspec
from fsspec.implementations.local import LocalFileSystem
from msgspec import Struct

from shared import logs

VERSIONS: Final = "versions"
CURRENT: Final = "current.json"
META: Final = "meta.json"
CHECKSUMS: Final = "checksums.json"
READY: Final = "READY"
KEEP: Final = 5
log = logs.get(__name__)


class BadBundle(Exception):
    """A bundle that must not be served: what is wrong, and where."""


class Current(Struct, frozen=True):
    """What current.json says. `data_timestamp`: the newest event time that the model has seen."""

    version: str
    data_timestamp: float
    created_at: float


class Meta(Struct, frozen=True, kw_only=True):
    """What a bundle says of itself. `offsets`: of the archive that it reflects, topic -> partition -> next."""

    kind: str
    space: str
    data_from: float
    data_timestamp: float
    created_at: float = 0.0
    metrics: dict[str, Any] = msgspec.field(default_factory=dict)
    offsets: dict[str, dict[int, int]] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Bundle:
    """A verified bundle on this machine."""

    version: str
    folder: Path
    meta: Meta


def current(url: str) -> Current | None:
    """What is published now; None where nothing is yet. Raises BadBundle where current.json is not one."""
    store = _Store(url)
    try:
        data = store.get(CURRENT)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=Current)
    except msgspec.DecodeError as error:
        raise BadBundle(f"{url}/{CURRENT} is no pointer to a bundle: {error}") from error


def publish(url: str, folder: Path, meta: Meta, keep: int = KEEP, *, current: bool = True) -> str:
    """Copy a model's folder to the store as a new version, make it current unless it is for an experiment, and answer
    its id.

    Versions beyond the newest `keep` are deleted, never the current one. Raises ValueError for keep < 1.
    """
    if keep < 1:
        raise ValueError("keep must be at least 1: the version just published")
    store = _Store(url)
    version = _new_version(store)
    created_at = time.time()
    contents = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    reserved = {META, CHECKSUMS, READY} & contents.keys()
    if reserved:
        raise ValueError(f"the folder has files of the bundle's own: {', '.join(sorted(reserved))}")
    try:
        _write(store, version, contents, _encode(msgspec.structs.replace(meta, created_at=created_at)))
    except Exception:
        _discard(store, version)  # on a full disk every try would leave another one
        raise
    if current:
        store.replace(CURRENT, _encode(Current(version, meta.data_timestamp, created_at)))
    _retain(store, version, keep, spared=version if current else _current(url))
    return version


def _discard(store: "_Store", version: str) -> None:
    try:
        store.delete(version)
    except OSError as error:  # it may not even have been begun; what went wrong is said by who calls
        log.warning("what was written of a bundle is left", version=version, error=str(error))


def _write(store: "_Store", version: str, contents: Mapping[str, Path], meta: bytes) -> None:
    sums = {}
    for name, path in contents.items():
        sums[name] = _hash_of_file(path)
        store.upload(path, f"{VERSIONS}/{version}/{name}")
    sums[META] = _hash(meta)
    store.put(f"{VERSIONS}/{version}/{META}", meta)
    sums_bytes = _encode(sums)
    store.put(f"{VERSIONS}/{version}/{CHECKSUMS}", sums_bytes)
    store.put(f"{VERSIONS}/{version}/{READY}", _hash(sums_bytes).encode())


def versions(url: str) -> list[str]:
    """Complete versions, oldest first."""
    return _Store(url).ready()


def meta_of(url: str, version: str) -> Meta:
    """A version's meta.json, without fetching its weights. Raises BadBundle."""
    store = _Store(url)
    sums = _sums(store, version)
    return _meta(_checked(store, version, META, sums))


def rollback(url: str, version: str | None = None) -> str:
    """Make an earlier complete version current (None: the one before the current) and answer its id.

    Raises BadBundle where there is no such version or its files do not hash right.
    """
    store = _Store(url)
    ready = store.ready()
    if version is None:
        held = current(url)
        earlier = [name for name in ready if held is None or name < held.version]
        if not earlier:
            raise BadBundle(f"{url} has no version before the current one")
        version = earlier[-1]
    if version not in ready:
        raise BadBundle(f"{url} has no complete version {version!r}; it has: {', '.join(ready) or 'none'}")
    sums = _sums(store, version)
    for name, expected in sums.items():
        if store.hash(f"{VERSIONS}/{version}/{name}") != expected:
            raise BadBundle(f"{version}/{name} does not hash to what {CHECKSUMS} says")
    meta = _meta(_checked(store, version, META, sums))
    store.replace(CURRENT, _encode(Current(version, meta.data_timestamp, time.time())))
    return version


def fetch(url: str, version: str, cache: Path) -> Bundle:
    """The bundle's files under `cache`/<version>, downloaded unless they are there, and verified either way.

    Raises BadBundle for a version that is not there, not complete, or does not hash right.
    """
    _check_name(version)
    target = cache / version
    if target.is_dir():
        try:
            return _verified(target, version)
        except BadBundle:
            shutil.rmtree(target)  # damaged on our side, perhaps; what the store has decides
    store = _Store(url)
    sums = _sums(store, version)
    partial = cache / f".{version}-{uuid4().hex}"
    partial.mkdir(parents=True)
    try:
        for name in [*sums, CHECKSUMS, READY]:
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            store.download(f"{VERSIONS}/{version}/{name}", path)
        _verified(partial, version)
        _move(partial, target)
    except FileNotFoundError as error:
        raise BadBundle(f"version {version} lacks a file: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return _verified(target, version)


def _move(partial: Path, target: Path) -> None:
    try:
        partial.replace(target)
    except OSError:
        if not target.is_dir():  # else another process was first, with the same bytes
            raise


def _verified(folder: Path, version: str) -> Bundle:
    try:
        sums_bytes = (folder / CHECKSUMS).read_bytes()
        ready = (folder / READY).read_text()
    except (FileNotFoundError, UnicodeDecodeError) as error:
        raise BadBundle(f"version {version} is not complete: {error}") from error
    if ready != _hash(sums_bytes):
        raise BadBundle(f"{CHECKSUMS} of version {version} is not the one that {READY} was written for")
    for name, expected in _decode_sums(sums_bytes, version).items():
        path = folder / name
        if not path.is_file() or _hash_of_file(path) != expected:
            raise BadBundle(f"{name} of version {version} does not hash to what {CHECKSUMS} says")
    return Bundle(version, folder, _meta((folder / META).read_bytes()))


def _sums(store: "_Store", version: str) -> dict[str, str]:
    _check_name(version)
    try:
        ready, sums_bytes = (store.get(f"{VERSIONS}/{version}/{name}") for name in (READY, CHECKSUMS))
    except FileNotFoundError as error:
        raise BadBundle(f"version {version} is not there or not complete: {error}") from error
    if ready.decode(errors="replace") != _hash(sums_bytes):
        raise BadBundle(f"{CHECKSUMS} of version {version} is not the one that {READY} was written for")
    return _decode_sums(sums_bytes, version)


def _decode_sums(data: bytes, version: str) -> dict[str, str]:
    try:
        sums = msgspec.json.decode(data, type=dict[str, str])
    except msgspec.DecodeError as error:
        raise BadBundle(f"{CHECKSUMS} of version {version} cannot be read: {error}") from error
    outside = [name for name in sums if name.startswith("/") or ".." in Path(name).parts]
    if outside or META not in sums:
        raise BadBundle(f"{CHECKSUMS} of version {version} names files outside of it, or no {META}")
    return sums


def _checked(store: "_Store", version: str, name: str, sums: Mapping[str, str]) -> bytes:
    try:
        data = store.get(f"{VERSIONS}/{version}/{name}")
    except FileNotFoundError as error:
        raise BadBundle(f"version {version} lacks {name}") from error
    if _hash(data) != sums[name]:
        raise BadBundle(f"{name} of version {version} does not hash to what {CHECKSUMS} says")
    return data


def _meta(data: bytes) -> Meta:
    try:
        return msgspec.json.decode(data, type=Meta)
    except msgspec.DecodeError as error:
        raise BadBundle(f"{META} cannot be read: {error}") from error


def _retain(store: "_Store", published: str, keep: int, spared: str) -> None:
    for version in [name for name in store.all() if name < published][: -(keep - 1) or None]:
        if version != spared:
            store.delete(version)


def _current(url: str) -> str:
    """Its version; empty where there is none."""
    found = current(url)
    return found.version if found else ""


def _new_version(store: "_Store") -> str:
    """Sorts by time of publication, also within one clock tick and when the clock was set back."""
    name = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    newest = max(store.all(), default="")
    while name <= newest:
        head, _, count = newest.partition("+")
        name = f"{head}+{int(count or 0) + 1:06d}"
    return name


def _check_name(version: str) -> None:
    if not version or "/" in version or version.startswith("."):
        raise BadBundle(f"{version!r} is no name of a version")


def _encode(value: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=2)


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Store:
    """The few operations on an fsspec URL that bundles need. Names are relative to the URL."""

    def __init__(self, url: str) -> None:
        self._fs, self._root = fsspec.core.url_to_fs(url)
        self._fs.invalidate_cache()
        self._local = isinstance(self._fs, LocalFileSystem)

    def path(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def get(self, name: str) -> bytes:
        data: bytes = self._fs.cat_file(self.path(name))
        return data

    def hash(self, name: str) -> str:
        try:
            with self._fs.open(self.path(name), "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            return ""

    def put(self, name: str, data: bytes) -> None:
        """Write an object. Locally it is on disk, not only in the page cache, before the next one is begun."""
        if not self._local:
            self._fs.pipe_file(self.path(name), data)
            return
        path = Path(self.path(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            _sync(file.fileno())

    def replace(self, name: str, data: bytes) -> None:
        """Write an object in one step: who reads sees the old one or the new one. Object stores do so anyway."""
        if not self._local:
            self._fs.pipe_file(self.path(name), data)
            return
        temporary = f"{name}.{uuid4().hex}.tmp"
        try:
            self.put(temporary, data)
            Path(self.path(temporary)).replace(self.path(name))
        except BaseException:
            Path(self.path(temporary)).unlink(missing_ok=True)
            raise
        _sync_folder(Path(self.path(name)).parent)

    def upload(self, source: Path, name: str) -> None:
        if not self._local:
            self._fs.put_file(str(source), self.path(name))
            return
        target = Path(self.path(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as file, target.open("wb") as out:
            shutil.copyfileobj(file, out)
            out.flush()
            _sync(out.fileno())

    def download(self, name: str, target: Path) -> None:
        self._fs.get_file(self.path(name), str(target))

    def all(self) -> list[str]:
        """Versions begun, complete or not, by name."""
        try:
            found = self._fs.ls(self.path(VERSIONS), detail=False)
        except FileNotFoundError:
            return []
        return sorted(Path(name).name for name in found)

    def ready(self) -> list[str]:
        return [name for name in self.all() if self._fs.exists(self.path(f"{VERSIONS}/{name}/{READY}"))]

    def delete(self, version: str) -> None:
        folder = f"{VERSIONS}/{version}"
        ready = self.path(f"{folder}/{READY}")
        if self._fs.exists(ready):
            self._fs.rm_file(ready)  # first, so that a version half deleted is not taken for a whole one
        self._fs.rm(self.path(folder), recursive=True)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)
