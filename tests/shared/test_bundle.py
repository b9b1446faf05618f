import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from shared import bundle
from shared.bundle import BadBundle, Meta
from tests.parts import full_disk

META = Meta(
    kind="popularity", space="s", data_from=1.0, data_timestamp=2.0, metrics={"model": {"ndcg@10": 0.1}},
    offsets={"interactions": {0: 7}},
)  # fmt: skip


class Killed(BaseException):
    """What a SIGKILL looks like from inside: no handler of ours catches it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "model"
    (made / "sub").mkdir(parents=True)
    (made / "config.json").write_text('{"kind": "popularity"}')
    (made / "weights.safetensors").write_bytes(bytes(range(256)))
    (made / "sub" / "report.md").write_text("# report")
    return made


@pytest.fixture(params=["local", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "store") if request.param == "local" else f"memory://{uuid4().hex}/bundles"


def test_what_is_published_is_current_and_comes_back_verified(url: str, folder: Path, tmp_path: Path) -> None:
    assert bundle.current(url) is None
    assert bundle.versions(url) == []
    version = bundle.publish(url, folder, META)
    current = bundle.current(url)
    assert current is not None
    assert (current.version, current.data_timestamp) == (version, 2.0)
    for _ in range(2):  # from the store, then from the cache
        got = bundle.fetch(url, version, tmp_path / "cache")
        assert (got.folder / "weights.safetensors").read_bytes() == bytes(range(256))
        assert (got.folder / "sub" / "report.md").read_text() == "# report"
        assert (got.meta.kind, got.meta.offsets) == ("popularity", {"interactions": {0: 7}})
        assert got.meta.created_at == current.created_at
    assert bundle.meta_of(url, version) == got.meta


@pytest.mark.parametrize("file_bytes", [0, 20, 100, 300])
def test_a_disk_that_is_full_leaves_what_was_current_and_nothing_half_done(
    folder: Path, tmp_path: Path, file_bytes: int
) -> None:
    url, cache = str(tmp_path / "store"), tmp_path / "cache"
    before = bundle.publish(url, folder, META)
    kept = sorted(path for path in (tmp_path / "store").rglob("*"))
    with full_disk(file_bytes), pytest.raises(OSError, match="too large"):
        bundle.publish(url, folder, META)
    assert sorted(path for path in (tmp_path / "store").rglob("*")) == kept
    with full_disk(file_bytes), pytest.raises(OSError, match="too large"):
        bundle.fetch(url, before, cache)
    assert list(cache.iterdir()) == []
    current = bundle.current(url)
    assert current is not None
    assert current.version == before
    after = bundle.publish(url, folder, META)
    assert bundle.fetch(url, after, cache).version == after


def test_the_newest_n_versions_are_kept(url: str, folder: Path) -> None:
    published = [bundle.publish(url, folder, META, keep=3) for _ in range(5)]
    assert published == sorted(published)
    assert bundle.versions(url) == published[-3:]
    last = bundle.publish(url, folder, META, keep=1)
    assert bundle.versions(url) == [last]
    with pytest.raises(ValueError, match="keep"):
        bundle.publish(url, folder, META, keep=0)


def test_what_is_published_beside_the_current_one_leaves_it_current_and_in_the_store(url: str, folder: Path) -> None:
    first = bundle.publish(url, folder, META)
    others = [bundle.publish(url, folder, META, keep=2, current=False) for _ in range(4)]
    current = bundle.current(url)
    assert current is not None
    assert current.version == first
    assert bundle.versions(url) == [first, *others[-2:]]
    assert bundle.publish(url, folder, META, keep=2) not in others
    assert first not in bundle.versions(url)


def test_rollback_goes_to_the_version_before_or_to_a_named_one(url: str, folder: Path) -> None:
    first, second, third = (bundle.publish(url, folder, META) for _ in range(3))
    assert bundle.rollback(url) == second
    assert bundle.rollback(url) == first
    with pytest.raises(BadBundle, match="no version before"):
        bundle.rollback(url)
    assert bundle.rollback(url, third) == third
    assert version_of(url) == third
    with pytest.raises(BadBundle, match="no complete version 'x'"):
        bundle.rollback(url, "x")


def test_a_rollback_to_a_damaged_version_is_refused(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "store")
    first, second = bundle.publish(url, folder, META), bundle.publish(url, folder, META)
    (Path(url) / "versions" / first / "weights.safetensors").write_bytes(b"other")
    with pytest.raises(BadBundle, match="weights"):
        bundle.rollback(url)
    assert version_of(url) == second


@pytest.mark.parametrize("name", ["config.json", "weights.safetensors", "meta.json", "checksums.json", "READY"])
@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_bundle_is_refused(tmp_path: Path, folder: Path, name: str, harm: str) -> None:
    url = str(tmp_path / "store")
    version = bundle.publish(url, folder, META)
    damage(Path(url) / "versions" / version / name, harm)
    with pytest.raises(BadBundle):
        bundle.fetch(url, version, tmp_path / "cache")
    assert list((tmp_path / "cache").glob("*")) == []


@pytest.mark.parametrize("harm", ["cut", "changed", "gone"])
def test_a_damaged_cache_is_fetched_again(tmp_path: Path, folder: Path, harm: str) -> None:
    url = str(tmp_path / "store")
    version = bundle.publish(url, folder, META)
    got = bundle.fetch(url, version, tmp_path / "cache")
    damage(got.folder / "weights.safetensors", harm)
    again = bundle.fetch(url, version, tmp_path / "cache")
    assert (again.folder / "weights.safetensors").read_bytes() == bytes(range(256))


@pytest.mark.parametrize("version", ["", "..", "../..", "a/b", ".hidden"])
def test_a_name_that_leaves_the_store_is_refused(tmp_path: Path, version: str) -> None:
    with pytest.raises(BadBundle):
        bundle.fetch(str(tmp_path), version, tmp_path / "cache")


def test_checksums_that_name_files_outside_are_refused(tmp_path: Path, folder: Path) -> None:
    url = str(tmp_path / "store")
    version = bundle.publish(url, folder, META)
    held = Path(url) / "versions" / version
    sums = json.dumps({"meta.json": "0", "../../../escaped": "0"}).encode()
    (held / "checksums.json").write_bytes(sums)
    (held / "READY").write_text(bundle._hash(sums))
    with pytest.raises(BadBundle, match="outside"):
        bundle.fetch(url, version, tmp_path / "cache")


def test_a_torn_current_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "current.json").write_text('{"version": "2')
    with pytest.raises(BadBundle, match=r"current\.json"):
        bundle.current(str(tmp_path))


def test_a_publisher_killed_at_any_step_leaves_current_complete(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = str(tmp_path / "store")
    before = bundle.publish(url, folder, META, keep=2)
    steps = 0
    for step in itertools.count():
        with monkeypatch.context() as patched:
            kill_at(step, patched)
            try:
                bundle.publish(url, folder, META, keep=2)
            except Killed:
                steps += 1
            else:
                break
        named = version_of(url)
        assert named >= before
        bundle.fetch(url, named, tmp_path / f"cache{step}")  # complete, or this raises
        before = named
    assert steps > 12  # every file, its fsync, the pointer and the deletions were each a place to die at
    assert len(list((Path(url) / "versions").iterdir())) <= 2 + 1


def damage(path: Path, harm: str) -> None:
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:-1] if harm == "cut" else bytes([data[0] ^ 1]) + data[1:])


def version_of(url: str) -> str:
    current = bundle.current(url)
    assert current is not None
    return current.version


def kill_at(step: int, patched: pytest.MonkeyPatch) -> None:
    """Die at the step-th effect on the store: before it, or half through where it writes a file."""
    count: Iterator[int] = itertools.count()

    def dying(act: Callable[..., Any]) -> Callable[..., Any]:
        def acted(*args: Any) -> Any:
            if next(count) == step:
                raise Killed
            return act(*args)

        return acted

    patched.setattr(bundle, "_sync", dying(bundle._sync))  # after the bytes, before they count as written
    patched.setattr(bundle, "_sync_folder", dying(bundle._sync_folder))
    for name in ("put", "upload", "replace", "delete"):
        patched.setattr(bundle._Store, name, dying(getattr(bundle._Store, name)))
