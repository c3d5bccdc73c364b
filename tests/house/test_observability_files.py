"""Dashboard and rules name metrics that there are, with labels that they have, and the rules fire when they should."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.needs import lacking

from shared.domain.batches import BatchState
from shared.domain.counts import Count
from shared.ports import QueueName
from shared.telemetry.metric_list import METRICS, MetricType, Teller
from shared.telemetry.prometheus import exposed_name

FILES = Path(__file__).parents[2] / "infra" / "observability"

#: What Prometheus shows, and by which labels it can be told apart.
SHOWN = {
    exposed_name(metric) + ending: {*metric.labels, *({"le"} if ending == "_bucket" else ())}
    for metric in METRICS
    if metric.tellers & {Teller.WORKER, Teller.EXPORTER}
    for ending in (["_bucket", "_sum", "_count"] if metric.type is MetricType.HISTOGRAM else [""])
}

#: What Prometheus itself adds to every series.
OF_A_TARGET = {"job", "instance"}

CLOSED = {
    "state": set(BatchState),
    "queue": set(QueueName),
    "count": set(Count),
    "condition": {"visible", "in_flight", "delayed"},
    "kind": {"table_late"},
    "reason": {"none"},
}


def dashboard() -> Any:
    return json.loads((FILES / "dashboard.json").read_text())


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FILES / "alerts.yaml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """Return every expression, under the name of its panel or rule."""
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_an_expression_names_metrics_and_labels_that_there_are(where: str, expression: str) -> None:
    names = re.findall(r"esclusa_\w+", expression)

    assert names or expression.startswith("up{")
    assert set(names) <= set(SHOWN)
    known = OF_A_TARGET.union(*(SHOWN[name] for name in names))
    for labels in re.findall(r"(?:by|on|group_left) \(([^)]*)\)", expression):
        assert {label.strip() for label in labels.split(",") if label.strip()} <= known
    for label, _, values in re.findall(r'(\w+)\s*(=~|!=|=)\s*"([^"]*)"', expression):
        assert label in known
        if not values.startswith("$") and label in CLOSED:
            assert set(values.split("|")) <= CLOSED[label]


def test_every_metric_that_prometheus_sees_is_on_the_dashboard_or_in_a_rule() -> None:
    named = {name for _, expression in expressions() for name in re.findall(r"esclusa_\w+", expression)}
    unseen = {
        exposed_name(metric)
        for metric in METRICS
        if metric.tellers & {Teller.WORKER, Teller.EXPORTER}
        and not any(name.startswith(exposed_name(metric)) for name in named)
    }

    assert unseen == set()


def test_the_dashboard_has_panels_with_ids_of_their_own_that_do_not_overlap() -> None:
    everything = dashboard()["panels"]
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in everything)
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]

    assert len({panel["id"] for panel in everything}) == len(everything)
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) == 23
    assert [panel["title"].partition(":")[0] for panel in everything if panel["type"] == "row"] == [
        *("Fleet", "Freshness", "Sources", "Queues", "Workers")
    ]


def test_every_panel_asks_the_data_source_that_was_chosen() -> None:
    sources = {target["datasource"]["uid"] for panel in panels() for target in panel["targets"]}

    assert sources == {"${datasource}"}


def test_every_rule_says_what_to_do_and_whether_the_watcher_tells_it_too() -> None:
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["labels"]["view"] in {"second", "only"}
        assert set(rule["annotations"]) == {"summary", "description"}


def test_every_rule_is_tried_when_all_is_well_and_when_it_is_not() -> None:
    tried = yaml.safe_load((FILES / "alerts_test.yaml").read_text())["tests"]
    quiet = {
        each["alertname"] for test in tried for each in test["alert_rule_test"] if not each["exp_alerts"]
    }
    loud = {each["alertname"] for test in tried for each in test["alert_rule_test"] if each["exp_alerts"]}

    assert quiet == loud == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "rules", "alerts.yaml"],
        ["test", "rules", "alerts_test.yaml"],
        ["check", "config", "prometheus.yaml"],
    ],
)
def test_promtool_agrees(arguments: list[str]) -> None:
    if shutil.which("promtool") is None:
        lacking("promtool", cure="apt-get install prometheus")

    ended = subprocess.run(["promtool", *arguments], cwd=FILES, capture_output=True, text=True, check=False)

    assert ended.returncode == 0, ended.stdout + ended.stderr
