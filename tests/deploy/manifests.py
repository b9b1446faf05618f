"""What the tests of deploy/ and k8s/ share: the tools, the rendered overlays, the settings that the services read."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic_settings import BaseSettings

from shared.local.layout import SERVICES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
K8S = ROOT / "k8s"
OVERLAYS = ("dev", "prod")
SERVICE_NAMES = tuple(service.name for service in SERVICES)  # graph_updater; where it is a host name: graph-updater
Manifest = dict[str, Any]


def tool(name: str, reason: str = "") -> str:
    """The path of a tool: of this virtual environment, else of the machine. Skips, with the reason, without one."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed{': ' + reason if reason else ''}")
    return found


def run(*command: str | Path, stdin: str = "") -> str:
    """Run a tool; its output where it says yes, else the test fails with it."""
    done = subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@cache
def rendered(folder: Path) -> str:
    """What kubectl would apply, as YAML."""
    done = subprocess.run([tool("kubectl"), "kustomize", folder], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return done.stdout


@cache
def manifests(overlay: str) -> tuple[Manifest, ...]:
    return tuple(found for found in yaml.safe_load_all(rendered(K8S / "overlays" / overlay)) if found)


def of_kind(overlay: str, *kinds: str) -> dict[str, Manifest]:
    """Name -> manifest."""
    return {found["metadata"]["name"]: found for found in manifests(overlay) if found["kind"] in kinds}


def workloads(overlay: str) -> dict[str, Manifest]:
    """Name -> Deployment, StatefulSet or CronJob, those of Kafka and Qdrant included."""
    return of_kind(overlay, "Deployment", "StatefulSet", "CronJob")


def pod(workload: Manifest) -> Manifest:
    """The pod template, with metadata and spec."""
    spec = workload["spec"]
    template: Manifest = (spec["jobTemplate"]["spec"] if workload["kind"] == "CronJob" else spec)["template"]
    return template


def container(workload: Manifest) -> Manifest:
    (only,) = pod(workload)["spec"]["containers"]
    found: Manifest = only
    return found


def ours(overlay: str) -> dict[str, Manifest]:
    """Name -> workload, of our own image."""
    return {name: found for name, found in workloads(overlay).items() if "finestream" in container(found)["image"]}


def environment(overlay: str, workload: Manifest) -> dict[str, str]:
    """The variables that the container gets; what only the cluster knows is stood in for."""
    found: dict[str, str] = {}
    configs = of_kind(overlay, "ConfigMap")
    for source in container(workload).get("envFrom", ()):
        found |= configs[source["configMapRef"]["name"]]["data"]
    for entry in container(workload).get("env", ()):
        found[entry["name"]] = entry["value"] if "value" in entry else _stand_in(entry["valueFrom"])
    return found


def compose() -> Manifest:
    found: Manifest = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def settings_kind(service: str) -> type[BaseSettings]:
    """The settings class of a service (or of the trainer), by the name of its package."""
    prefix = f"FINESTREAM_{service.upper()}_"
    (kind,) = (
        kind
        for kind in vars(import_module(f"services.{service}.settings")).values()
        if isinstance(kind, type) and issubclass(kind, BaseSettings) and kind.model_config.get("env_prefix") == prefix
    )
    return kind


def variables(kind: type[BaseSettings]) -> Iterator[str]:
    """Every environment variable that a settings class reads, those of its nested classes included."""
    prefix = str(kind.model_config.get("env_prefix", ""))
    for name, field in kind.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseSettings):
            yield from variables(inner)
        else:
            yield prefix + name.upper()


def _stand_in(source: Manifest) -> str:
    if "fieldRef" in source:
        assert source["fieldRef"]["fieldPath"] == "metadata.labels['apps.kubernetes.io/pod-index']"
        return "0"
    return "secret" if source["secretKeyRef"] else ""
