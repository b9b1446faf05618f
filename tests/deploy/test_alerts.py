"""Prometheus's rules and Alertmanager's routes, by their own tools."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.deploy.manifests import DEPLOY, run, tool

FOLDER = DEPLOY / "prometheus"
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
APT = "apt-get install prometheus"


def test_the_configuration_and_the_rules_are_valid() -> None:
    run(tool("promtool", APT), "check", "config", FOLDER / "prometheus.yml")
    run(tool("promtool", APT), "check", "rules", FOLDER / "rules.yml")


def test_each_alert_fires_when_it_should_and_no_other_does() -> None:
    run(tool("promtool", APT), "test", "rules", FOLDER / "rules_test.yml")


def test_the_tests_of_the_rules_find_wrong_rules(tmp_path: Path) -> None:
    text = (FOLDER / "rules.yml").read_text()
    for right, wrong in (('kind=~"interaction|item"', 'kind=~"item"'), ("0.25 * min", "0.5 * min")):
        assert right in text
        text = text.replace(right, wrong)
    (tmp_path / "rules.yml").write_text(text)
    shutil.copy(FOLDER / "rules_test.yml", tmp_path)
    with pytest.raises(AssertionError, match="FAILED") as failed:
        run(tool("promtool", APT), "test", "rules", tmp_path / "rules_test.yml")
    assert "FinestreamFreshness" in str(failed.value)
    assert "FinestreamArchiverLag" in str(failed.value)


def test_every_alert_is_tested_and_says_what_to_do() -> None:
    tested = (FOLDER / "rules_test.yml").read_text()
    manual = (DEPLOY.parent / "docs" / "operations.md").read_text()
    for rule in RULES:
        assert f'alertname="{rule["alert"]}"' in tested, rule["alert"]
        assert rule["alert"] in manual, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["runbook"].endswith(".")
        assert len(rule["annotations"]["runbook"].split()) > 8, "a runbook is at least a sentence"


def test_alertmanager_takes_its_routes() -> None:
    run(
        tool("amtool", "apt-get install prometheus-alertmanager"),
        "check-config",
        DEPLOY / "alertmanager/alertmanager.yml",
    )


def test_alertmanager_holds_no_receiver_secret() -> None:
    assert not re.search(r"(url|password|token|key):", (DEPLOY / "alertmanager/alertmanager.yml").read_text())
