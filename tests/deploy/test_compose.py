"""deploy/compose.yaml: by its schema, and by what must hold beyond it."""

import importlib.util
import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema.validators import validator_for  # type: ignore[import-untyped]

from shared.settings import ServiceSettings
from tests.deploy.manifests import DEPLOY, SERVICE_NAMES, Manifest, compose, settings_kind, variables

COMPOSE = compose()
SERVICES: dict[str, Manifest] = COMPOSE["services"]
OURS = {name: found for name, found in SERVICES.items() if found["image"].startswith("finestream:")}


def host(service: str) -> str:
    return service.replace("_", "-")


def env(service: Manifest) -> dict[str, str]:
    """Variables with a value. One without is passed on only where the operator sets it."""
    return {name: str(value) for name, value in service.get("environment", {}).items() if value is not None}


def test_it_follows_the_compose_specification() -> None:
    # The schema that check-jsonschema bundles; its command needs a newer click than Faust allows.
    package = importlib.util.find_spec("check_jsonschema")
    if package is None or package.origin is None:
        pytest.skip("check-jsonschema is not installed: it carries the schema of the compose specification")
    schema = json.loads((Path(package.origin).parent / "builtin_schemas/vendor/compose-spec.json").read_text())
    assert [error.message for error in validator_for(schema)(schema).iter_errors(COMPOSE)] == []


def test_every_service_of_the_design_is_there_and_starts_its_own_main() -> None:
    assert set(OURS) == {host(name) for name in SERVICE_NAMES} | {"trainer"}
    for name, service in OURS.items():
        assert service["command"] == ["python", "-m", f"services.{name.replace('-', '_')}.main"]
    assert SERVICES["trainer"]["profiles"] == ["job"], "a job is started by hand or by a timer, not by `up`"


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_privileged_unlimited_or_published_beyond_loopback(name: str) -> None:
    service = SERVICES[name]
    assert not service.get("privileged")
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service.get("read_only") or name == "kafka", "kafka's image writes its configuration at start"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert re.search(r":v?\d+\.\d+", service["image"]), "an image has a version"
    for port in service.get("ports", ()):
        assert port.startswith("127.0.0.1:")


@pytest.mark.parametrize("name", sorted(set(SERVICES) - {"trainer"}))
def test_every_part_is_waited_for_by_its_own_health_check(name: str) -> None:
    assert SERVICES[name]["healthcheck"]["test"]
    for needed, condition in SERVICES[name].get("depends_on", {}).items():
        assert needed in SERVICES
        assert condition == {"condition": "service_healthy"}


@pytest.mark.parametrize("service", SERVICE_NAMES)
def test_ports_and_health_checks_are_those_of_the_settings(service: str) -> None:
    fields, found = settings_kind(service).model_fields, SERVICES[host(service)]
    assert f":{fields['metrics_port'].default}/readyz" in found["healthcheck"]["test"][-1]
    for port in found.get("ports", ()):
        assert port == f"127.0.0.1:{fields['port'].default}:{fields['port'].default}"


@pytest.mark.parametrize("service", [*SERVICE_NAMES, "trainer"])
def test_the_service_takes_the_settings_that_compose_gives_it(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = env(SERVICES[host(service)])
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = settings_kind(service)()
    known = set(variables(type(settings)))
    assert {name for name in given if name.startswith("FINESTREAM_")} <= known
    if isinstance(settings, ServiceSettings):
        assert settings.metrics_host == "0.0.0.0", "the default is loopback, which no other container reaches"
        assert settings.kafka.bootstrap == "kafka:9092"
        assert settings.port == 0 or settings.host == "0.0.0.0"


def test_volumes_hold_what_must_outlive_a_container() -> None:
    volumes = {name: [v.split(":") for v in found.get("volumes", ())] for name, found in SERVICES.items()}
    assert ["kafka", SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"]] in volumes["kafka"]
    assert ["qdrant", "/qdrant/storage"] in volumes["qdrant"]
    assert ["extractor", env(SERVICES["extractor"])["FINESTREAM_EXTRACTOR_STATE"]] in volumes["extractor"]
    assert ["archive", env(SERVICES["archiver"])["FINESTREAM_ARCHIVE_URL"]] in volumes["archiver"]
    assert ["bundles", env(SERVICES["trainer"])["FINESTREAM_BUNDLES_URL"]] in volumes["trainer"]
    assert ["bundles", env(SERVICES["ranking"])["FINESTREAM_BUNDLES_URL"], "ro"] in volumes["ranking"]
    assert ["/tmp"] in volumes["trainer"], "without a name: on disk, and gone with the container"
    named = [mount for mounts in volumes.values() for mount in mounts if len(mount) > 1]
    used = {name for name, *_ in named if not name.startswith((".", "$"))}
    assert used == set(COMPOSE["volumes"])


def test_no_secret_is_written_down() -> None:
    secret = re.compile(r"(KEY|TOKEN|PASSWORD|SECRET)$")
    for name, service in SERVICES.items():
        for variable in env(service):
            assert not secret.search(variable), f"{name} has a value for {variable}"


def test_prometheus_scrapes_every_service_under_its_name() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus/prometheus.yml").read_text())
    (job,) = (found for found in config["scrape_configs"] if found["job_name"] == "finestream")
    targets = {found["labels"]["service"]: found["targets"] for found in job["static_configs"]}
    assert targets == {
        host(name): [f"{host(name)}:{settings_kind(name).model_fields['metrics_port'].default}"]
        for name in SERVICE_NAMES
    }


def test_grafana_is_provisioned_with_the_dashboard_and_its_datasource() -> None:
    mounts = dict(v.split(":")[:2] for v in SERVICES["grafana"]["volumes"])
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/finestream.yml").read_text())["providers"][0]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())["datasources"][0]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    dashboard = json.loads((DEPLOY / "grafana/dashboards/finestream.json").read_text())
    used = {panel["datasource"]["uid"] for panel in dashboard["panels"] if panel["type"] != "row"}
    assert used == {source["uid"]}
    assert source["url"].removeprefix("http://").split(":")[0] in SERVICES
