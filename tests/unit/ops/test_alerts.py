"""Alerts and dashboard: each expression asks for metrics that exist, and tasks without takers are told in time."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshd.ops import catalogue

DEPLOY = Path(__file__).resolve().parents[3] / "deploy"
SCRAPE_S = 5
TOLD_WITHIN_S = 15

GROUP: Any = yaml.safe_load((DEPLOY / "prometheus-rules.yaml").read_text())["groups"][0]
RULES: dict[str, Any] = {rule["alert"]: rule for rule in GROUP["rules"]}
DASHBOARD: Any = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]

NOT_METRICS = {"by", "or", "and", "unless"}


def sample_names() -> set[str]:
    names = {"up"}
    for metric in catalogue.every_metric():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == "histogram" else ("",)
        names |= {metric.shown_name + suffix for suffix in suffixes}
    return names


def metrics_in(expression: str) -> set[str]:
    """Names in a query that are neither labels, functions nor operators."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\bby\s*\([^)]*\)", " ", expression)
    return set(re.findall(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()", bare)) - NOT_METRICS


def seconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([smh])", text).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "m": 60, "h": 3_600}[unit]


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    for panel in PANELS:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], re.sub(r", \w+\)$", ")", variable["query"]["query"])


def test_metrics_are_told_from_all_else_in_a_query() -> None:
    query = 'histogram_quantile(0.9, sum by (le, job) (rate(a_bucket{x="y"}[5m]))) > 0.5 or b == 0 and up'
    assert metrics_in(query) == {"a_bucket", "b", "up"}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_an_alert_asks_for_metrics_that_exist_and_says_what_to_do(rule: dict[str, Any]) -> None:
    asked = metrics_in(rule["expr"])
    assert asked
    assert asked <= sample_names()
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"].keys() == {"summary", "next_step"}


@pytest.mark.parametrize(("title", "expression"), list(dashboard_expressions()))
def test_a_panel_asks_for_metrics_that_exist(title: str, expression: str) -> None:
    asked = metrics_in(expression)
    assert asked, title
    assert asked <= sample_names(), title


def test_panels_do_not_cover_each_other() -> None:
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_tasks_without_takers_are_told_in_time() -> None:
    interval_s = seconds(GROUP["interval"])
    lasting_s = seconds(RULES["MeshTasksUnplaceable"]["for"])
    # Until scraped, until seen by a rule, and then whole intervals until it has lasted.
    worst_s = SCRAPE_S + interval_s + math.ceil(lasting_s / interval_s) * interval_s
    assert worst_s <= TOLD_WITHIN_S
    assert f"scrape_interval: {SCRAPE_S}s" in catalogue.page()


@pytest.mark.parametrize(
    "subject",
    [
        "ready",
        "unplaceable",
        "queue_oldest",
        "attempts_lost",
        "poison",
        "open_fds",
        "certificate",
        "stalled",
        "loop_lag",
        "storage_low",
        "refused",
    ],
)
def test_what_must_wake_somebody_has_an_alert(subject: str) -> None:
    assert [
        name for name, rule in RULES.items() if f"meshd_{subject}" in rule["expr"] or subject in rule["expr"]
    ]
