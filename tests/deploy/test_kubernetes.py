"""k8s/: by the API's own schemas, and by what must hold between the manifests and the code."""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from services.extractor.main import stream_of
from shared import topics
from shared.kafka import group_of
from shared.settings import KafkaSettings, ServiceSettings
from tests.deploy.manifests import (
    K8S,
    OVERLAYS,
    ROOT,
    SERVICE_NAMES,
    Manifest,
    container,
    environment,
    manifests,
    of_kind,
    ours,
    pod,
    rendered,
    run,
    settings_kind,
    tool,
    variables,
    workloads,
)

# Both are bundled with kubernetes-validate. The older one is where StatefulSets' pod-index label became stable.
KUBERNETES_VERSIONS = ("1.32.0", "1.37.0")
WITHOUT_SCHEMA = {"ScaledObject", "TriggerAuthentication", "PodMonitor"}  # CRDs of KEDA and the Prometheus operator
NAMES = [(overlay, name) for overlay in OVERLAYS for name in (*SERVICE_NAMES, "trainer")]


def host(service: str) -> str:
    return service.replace("_", "-")


def pods(overlay: str) -> Iterator[tuple[str, Manifest, Manifest]]:
    """Name, pod template and container of every workload."""
    for name, workload in workloads(overlay).items():
        yield name, pod(workload), container(workload)


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_manifest_is_valid_for_the_api(overlay: str, version: str) -> None:
    output = run(
        tool("kubernetes-validate"), "--strict", "-k", version, "-", stdin=rendered(K8S / "overlays" / overlay)
    )
    unknown = set(re.findall(r"Couldn't find schema for kind (\w+)", output))
    assert unknown <= WITHOUT_SCHEMA, output


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_unknown_key_would_be_found(overlay: str) -> None:
    broken = rendered(K8S / "overlays" / overlay).replace("readinessProbe:", "readynessProbe:")
    with pytest.raises(AssertionError):
        run(tool("kubernetes-validate"), "--strict", "-k", KUBERNETES_VERSIONS[0], "-", stdin=broken)


def test_the_gpu_component_puts_ranking_and_the_trainer_on_a_gpu_with_the_cuda_image(tmp_path: Path) -> None:
    base, gpu = (os.path.relpath(K8S / name, tmp_path.resolve()) for name in ("base", "components/gpu"))
    (tmp_path / "kustomization.yaml").write_text(
        f"{{resources: [{base}], components: [{gpu}], images: [{{name: finestream-cuda, newTag: 0.1.0-cuda}}]}}"
    )
    folder = tmp_path.resolve()
    found = {m["metadata"]["name"]: container(m) for m in yaml.safe_load_all(rendered(folder)) if _is_workload(m)}
    on_gpu = {name for name, main in found.items() if "nvidia.com/gpu" in main["resources"]["limits"]}
    assert on_gpu == {"ranking", "trainer"}
    for name in on_gpu:
        assert found[name]["image"] == "finestream-cuda:0.1.0-cuda"
        assert {"name": f"FINESTREAM_{name.upper()}_DEVICE", "value": "cuda"} in found[name]["env"]
    run(tool("kubernetes-validate"), "--strict", "-k", KUBERNETES_VERSIONS[0], "-", stdin=rendered(folder))


def _is_workload(manifest: Manifest) -> bool:
    return manifest["kind"] in ("Deployment", "CronJob", "StatefulSet")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_service_of_the_design_runs_its_own_main_and_a_rebuild_is_started_by_hand(overlay: str) -> None:
    mains = {host(name): ["python", "-m", f"services.{name}.main"] for name in (*SERVICE_NAMES, "trainer")}
    assert {name: container(found)["command"] for name, found in ours(overlay).items()} == {
        **mains, "rebuild": ["finestream", "rebuild"],
    }  # fmt: skip
    assert of_kind(overlay, "CronJob")["rebuild"]["spec"]["suspend"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_rebuild_takes_the_settings_of_graph_updater_and_reads_the_archive(
    overlay: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(overlay, ours(overlay)["rebuild"])
    of_service = environment(overlay, ours(overlay)["graph-updater"])
    wanted = ("FINESTREAM_KAFKA_", "FINESTREAM_QDRANT_", "FINESTREAM_SPACE_")
    assert {n: v for n, v in of_service.items() if n.startswith(wanted)}.items() <= given.items()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert settings_kind("graph_updater")().kafka.bootstrap == given["FINESTREAM_KAFKA_BOOTSTRAP"]  # type: ignore[attr-defined]
    (mount,) = [m for m in container(ours(overlay)["rebuild"])["volumeMounts"] if "archive" in m["name"]]
    assert mount == {"name": "archive", "mountPath": given["FINESTREAM_ARCHIVE_URL"], "readOnly": True}


@pytest.mark.parametrize(("overlay", "service"), NAMES)
def test_the_service_takes_the_settings_that_its_pod_gets(
    overlay: str, service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = environment(overlay, ours(overlay)[host(service)])
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = settings_kind(service)()
    if isinstance(settings, ServiceSettings):
        assert settings.metrics_host == "0.0.0.0", "the default is loopback, which no probe reaches"
        assert settings.port == 0 or settings.host == "0.0.0.0"
        assert settings.kafka.bootstrap == given["FINESTREAM_KAFKA_BOOTSTRAP"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_variable_is_a_setting_of_some_service(overlay: str) -> None:
    known = {variable for name in (*SERVICE_NAMES, "trainer") for variable in variables(settings_kind(name))}
    given = {v for found in ours(overlay).values() for v in environment(overlay, found) if v.startswith("FINESTREAM_")}
    assert given <= known


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_ports_are_the_defaults_of_the_settings_and_probes_ask_the_metrics_port(overlay: str, service: str) -> None:
    fields, found = settings_kind(service).model_fields, container(ours(overlay)[host(service)])
    ports = {port["name"]: port["containerPort"] for port in found["ports"]}
    assert ports.pop("metrics") == fields["metrics_port"].default
    assert ports == ({"grpc": fields["port"].default} if fields["port"].default else {})
    for probe, path in {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
        assert found[probe]["httpGet"] == {"path": path, "port": "metrics"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_services_are_headless_and_lead_to_ports_that_are_open(overlay: str) -> None:
    found = of_kind(overlay, "Service")
    assert {host(name) for name in SERVICE_NAMES} <= set(found)
    for name, service in found.items():
        assert service["spec"]["clusterIP"] == "None", "behind one address a gRPC client stays with one replica"
        target = workloads(overlay)[name]
        assert service["spec"]["selector"].items() <= pod(target)["metadata"]["labels"].items()
        open_ports = {port["name"]: port["containerPort"] for port in container(target)["ports"]}
        for port in service["spec"]["ports"]:
            assert open_ports[port["targetPort"]] == port["port"]
    address = environment(overlay, ours(overlay)["ranking"])["FINESTREAM_GRAPH_ADDRESS"]
    assert address == f"dns:///graph-updater:{settings_kind('graph_updater').model_fields['port'].default}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_meets_the_restricted_standard_and_carries_no_api_token(overlay: str) -> None:
    for name, template, main in pods(overlay):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] > 0
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        assert main["securityContext"]["allowPrivilegeEscalation"] is False
        assert main["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert main["securityContext"].get("readOnlyRootFilesystem") or name == "kafka"
        assert main["resources"]["requests"].keys() >= {"cpu", "memory"}
        assert "memory" in main["resources"]["limits"]
        assert not {"hostPath"} & {kind for volume in spec.get("volumes", ()) for kind in volume}
        assert ":" in main["image"].rsplit("/", 1)[-1], "an image has a version"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_writable_paths_of_the_settings_are_mounted(overlay: str) -> None:
    for name, found in ours(overlay).items():
        mounts = {mount["mountPath"]: mount for mount in container(found)["volumeMounts"]}
        given = environment(overlay, found)
        assert "/tmp" in mounts
        if name in ("archiver", "trainer"):
            assert bool(mounts[given["FINESTREAM_ARCHIVE_URL"]].get("readOnly")) is (name == "trainer")
        if name in ("ranking", "trainer"):
            assert bool(mounts[given["FINESTREAM_BUNDLES_URL"]].get("readOnly")) is (name == "ranking")
        if name == "extractor":
            assert not mounts[given["FINESTREAM_EXTRACTOR_STATE"]].get("readOnly")
            [claim] = found["spec"]["volumeClaimTemplates"]
            assert claim["spec"]["accessModes"] == ["ReadWriteOnce"], "each replica has its own"
        if name == "ranking":
            cache = given["FINESTREAM_RANKING_BUNDLE_CACHE"]
            assert any(cache.startswith(path + "/") and not m.get("readOnly") for path, m in mounts.items())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_replica_would_be_idle_or_without_a_share(overlay: str) -> None:
    every = ours(overlay)
    given = environment(overlay, every["archiver"])
    partitions = int(given.get("FINESTREAM_KAFKA_PARTITIONS", KafkaSettings.model_fields["partitions"].default))
    assert every["archiver"]["spec"]["replicas"] == int(given["FINESTREAM_ARCHIVER_WORKERS"]) <= partitions
    assert every["graph-updater"]["spec"]["replicas"] <= partitions
    for scaled in of_kind(overlay, "ScaledObject").values():
        assert 1 <= scaled["spec"]["minReplicaCount"] <= scaled["spec"]["maxReplicaCount"] <= partitions


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_worker_of_a_group_has_a_slot_that_outlives_it(overlay: str) -> None:
    for name in ("extractor", "graph-updater", "archiver"):
        found = ours(overlay)[name]
        assert found["kind"] == "StatefulSet"
        variable = f"FINESTREAM_{name.replace('-', '_').upper()}_WORKER"
        (slot,) = (entry for entry in container(found)["env"] if entry["name"] == variable)
        assert "pod-index" in slot["valueFrom"]["fieldRef"]["fieldPath"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_retraining_never_overlaps_and_gives_up(overlay: str) -> None:
    spec = of_kind(overlay, "CronJob")["trainer"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    assert spec["startingDeadlineSeconds"] > 0
    assert spec["jobTemplate"]["spec"]["backoffLimit"] <= 2
    assert spec["jobTemplate"]["spec"]["activeDeadlineSeconds"] < 86_400


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_policies_deny_by_default_and_name_pods_and_ports_that_exist(overlay: str) -> None:
    policies, every = of_kind(overlay, "NetworkPolicy"), workloads(overlay)
    default = policies["finestream-default"]["spec"]
    assert default["policyTypes"] == ["Ingress", "Egress"]
    assert default["podSelector"] == {"matchLabels": {"app.kubernetes.io/part-of": "finestream"}}
    for found in ours(overlay).values():
        assert pod(found)["metadata"]["labels"]["app.kubernetes.io/part-of"] == "finestream"
    text = yaml.safe_dump(list(policies.values()))
    assert set(re.findall(r"app.kubernetes.io/name: (\S+)", text)) <= set(every)
    for policy in policies.values():
        for expression in policy["spec"]["podSelector"].get("matchExpressions", ()):
            assert set(expression["values"]) <= set(every)
    open_ports = {port["name"] for found in every.values() for port in container(found).get("ports", ())}
    assert set(re.findall(r"port: ([a-z]+)", text)) <= open_ports


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_drain_takes_one_replica_of_a_service_at_a_time(overlay: str) -> None:
    budgets = of_kind(overlay, "PodDisruptionBudget")
    assert set(budgets) == {host(name) for name in SERVICE_NAMES}
    for name, budget in budgets.items():
        assert budget["spec"]["maxUnavailable"] == 1
        labels = pod(ours(overlay)[name])["metadata"]["labels"]
        assert budget["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_production_scales_itself_and_what_has_an_autoscaler_has_no_fixed_replicas() -> None:
    scaled = {**of_kind("prod", "HorizontalPodAutoscaler"), **of_kind("prod", "ScaledObject")}
    assert set(scaled) == {"gateway", "ranking", "extractor"}
    for name, scaler in scaled.items():
        target = ours("prod")[name]
        assert scaler["spec"]["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": target["kind"], "name": name}
        assert "replicas" not in target["spec"], "an apply would undo what the autoscaler did"
    assert of_kind("dev", "HorizontalPodAutoscaler", "ScaledObject") == {}


def test_keda_watches_the_groups_and_topics_of_the_extractor() -> None:
    for trigger in of_kind("prod", "ScaledObject")["extractor"]["spec"]["triggers"]:
        topic = trigger["metadata"]["topic"]
        assert topic in (topics.REVIEWS, topics.ITEMS)
        assert trigger["metadata"]["consumerGroup"] == group_of(KafkaSettings(), stream_of(topic))


def test_a_changed_setting_is_a_rollout() -> None:
    (name,) = of_kind("prod", "ConfigMap")
    assert re.fullmatch(r"finestream-[a-z0-9]{10}", name)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_repository_holds_no_secret(overlay: str) -> None:
    assert of_kind(overlay, "Secret") == {}
    for found in manifests(overlay):
        if found["kind"] == "ConfigMap":
            assert not [name for name in found["data"] if re.search(r"(API_KEY|TOKEN|PASSWORD)$", name)]


def test_yaml_is_tidy() -> None:
    rules = {
        "extends": "default",
        "rules": {
            "line-length": "disable",  # a runbook is a sentence, a series is one line
            "document-start": "disable",
            "braces": {"max-spaces-inside": 1},
            "comments": {"min-spaces-from-content": 1},
        },
    }
    run(tool("yamllint"), "-s", "-d", json.dumps(rules), K8S, ROOT / "deploy")
