"""The job as it is started: its exit codes, its sentences, and what it leaves in the store."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from shared import bundle, events, space, topics
from shared.events import Event, Interaction, ItemSemantics, Opinions, Pair
from shared.graph.state import UserState
from shared.models import contract
from shared.models.contract import ItemTable
from tests.services.trainer import archives
from tests.shared.models.worlds import START, tastes

TOPIC_OF = {Interaction: topics.INTERACTIONS, Opinions: topics.OPINIONS, ItemSemantics: topics.ITEM_SEMANTICS}


def run(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {
        **os.environ,
        "FINESTREAM_ARCHIVE_URL": str(tmp_path / "archive"),
        "FINESTREAM_BUNDLES_URL": str(tmp_path / "bundles"),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [sys.executable, "-m", "services.trainer.main", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.slow
def test_two_processes_train_as_one_and_publish_one_bundle(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    archives.write(tmp_path / "archive", [of_default_space(event) for event in tastes(users=60)])
    env = {
        **os.environ,
        "FINESTREAM_ARCHIVE_URL": str(tmp_path / "archive"),
        "FINESTREAM_BUNDLES_URL": str(tmp_path / "bundles"),
        "FINESTREAM_TRAINER_OPTIONS": '{"finestream": {"epochs": 2, "d": 16}}',
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    ended = subprocess.run(
        [*command, "-m", "services.trainer.main"], env=env, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert len(bundle.versions(str(tmp_path / "bundles"))) == 1


def of_default_space(event: Event) -> tuple[str, Event]:
    """The made-up events, with vectors as long as the default space's."""
    defined = space.load()
    wide, narrow = defined.embedding_dim // 12, defined.opinion_dim // 4
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    if isinstance(event, Opinions):
        said = [
            Pair(p.attribute, p.phrase, p.vector * narrow, p.polarity, p.start, p.end, p.quote) for p in event.pairs
        ]
        fields |= {"space": defined.name, "vector": event.vector * wide, "pairs": said}
    elif isinstance(event, ItemSemantics):
        fields |= {"space": defined.name, "vector": event.vector * wide}
    return TOPIC_OF[type(event)], type(event)(**fields)  # type: ignore[index, return-value]


def test_an_archive_becomes_a_bundle_that_loads_and_ranks(tmp_path: Path) -> None:
    logged = [of_default_space(event) for event in tastes(users=60)]
    narrow = next(event for _, event in logged if isinstance(event, ItemSemantics))
    buried = msgspec.structs.replace(narrow, item_id="buried", vector=b"\x01")  # by graph_updater; the archive has it
    (tmp_path / "archive").mkdir()
    archives.write(tmp_path / "archive", [*logged, (topics.ITEM_SEMANTICS, buried)])
    ended = run(tmp_path, FINESTREAM_TRAINER_OPTIONS='{"finestream": {"epochs": 3, "d": 16}}')
    assert ended.returncode == 0, ended.stderr
    assert "ndcg@10" in ended.stdout
    url = str(tmp_path / "bundles")
    current = bundle.current(url)
    assert current is not None
    got = bundle.fetch(url, current.version, tmp_path / "cache")
    assert got.meta.space == space.DEFAULT_SPACE
    assert got.meta.metrics["published"] in ("finestream", "popularity", "recency_popularity")
    assert got.meta.offsets[topics.INTERACTIONS] == {0: 480}
    assert got.meta.data_timestamp == max(events.time_of(event) for _, event in logged)
    model, table = contract.load(got.folder), ItemTable.read(got.folder)
    assert model.kind == got.meta.kind
    scores = contract.score(model.encode_users([UserState("new")], table, START), table)
    assert scores.shape == (1, 60)
    assert {path.name for path in got.folder.iterdir()} >= {"report.json", "report.md", "items.json", "READY"}


def test_an_empty_archive_is_one_sentence_and_code_1(tmp_path: Path) -> None:
    ended = run(tmp_path)
    assert ended.returncode == 1
    assert "finestream: the archive holds no interaction yet" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert bundle.current(str(tmp_path / "bundles")) is None


def test_a_damaged_archive_is_one_sentence_and_code_1(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "manifest-0-of-1.json").write_text("{")
    ended = run(tmp_path)
    assert ended.returncode == 1
    assert "is no manifest" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("FINESTREAM_TRAINER_SPLIT", "tomorrow", "FINESTREAM_TRAINER_SPLIT: split must be a day"),
        ("FINESTREAM_TRAINER_MODELS", "finestream,oracle", "oracle"),
        ("FINESTREAM_TRAINER_DEVICE", "tpu", "FINESTREAM_TRAINER_DEVICE"),
        ("FINESTREAM_SPACE_NAME", "nowhere", "FINESTREAM_SPACE_NAME=nowhere: "),
    ],
)
def test_a_wrong_setting_is_one_line_and_code_2(tmp_path: Path, name: str, value: str, told: str) -> None:
    ended = run(tmp_path, **{name: value})
    assert ended.returncode == 2
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_arguments_are_refused(tmp_path: Path) -> None:
    ended = run(tmp_path, "--epochs", "3")
    assert ended.returncode == 2
    assert "takes no arguments" in ended.stderr
