"""The rules for Prometheus: promtool's own tests, and that whatever they and the dashboards ask for is there.

What is not here: the queries' answers (`integration/test_dashboards.py`).
"""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.scraped import metric_names
from vision_assets.service.catalogue import CATALOGUE

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
PROMTOOL = shutil.which("promtool")

RULES: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"] for rule in RULES if "alert" in rule}


@pytest.mark.skipif(PROMTOOL is None, reason="Prometheus is not installed; .ci/run installs it")
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "--lint-fatal", "rules.yml"),
        ("test", "rules", "rules_test.yml"),
    ],
    ids=" ".join,
)
def test_promtool(arguments: tuple[str, ...]) -> None:
    """Configuration and rules are valid, and the alerts come when they should."""
    assert PROMTOOL
    done = subprocess.run([PROMTOOL, *arguments], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


def test_every_alert_is_tested() -> None:
    """Each one stands in promtool's tests as firing."""
    tests = yaml.safe_load((FOLDER / "rules_test.yml").read_text())["tests"]
    fired = {one["alertname"] for test in tests for one in test.get("alert_rule_test", []) if one.get("exp_alerts")}
    samples = [
        sample["labels"]
        for test in tests
        for one in test.get("promql_expr_test", [])
        for sample in one.get("exp_samples", [])
    ]
    fired |= {name for labels in samples for name in re.findall(r'alertname="(\w+)"', labels)}
    assert fired == ALERTS


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_rules_ask_for_what_is_exported(rule: dict[str, Any]) -> None:
    """Each metric is the exporter's, recorded by another rule, or Prometheus' own `up`."""
    exported = {metric.name for metric in CATALOGUE if metric.kind != "histogram"}
    exported |= {f"{metric.name}_bucket" for metric in CATALOGUE if metric.kind == "histogram"}
    recorded = {one["record"] for one in RULES if "record" in one}
    assert metric_names(rule["expr"]) <= exported | recorded | {"up"}


@pytest.mark.parametrize("rule", [rule for rule in RULES if "alert" in rule], ids=lambda rule: rule["alert"])
def test_alerts_say_what_to_do(rule: dict[str, Any]) -> None:
    """Each has a severity, a summary, and a chapter of the documentation that names it."""
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    chapters = re.split(r"^## ", (ROOT / file).read_text(), flags=re.MULTILINE)[1:]
    by_anchor = {chapter.splitlines()[0].lower().replace(" ", "-"): chapter for chapter in chapters}
    assert f"`{rule['alert']}`" in by_anchor[anchor]
