"""The page about metrics is the one that the list makes, and the list keeps its own rules."""

import re
from pathlib import Path

import pytest

from cli import metrics_page
from shared.telemetry.metric_list import METRICS, Metric, MetricType, Teller, Unit

ROOT = Path(__file__).parents[2]

#: What a metric may be told apart by. Whoever adds one says in the list what bounds it; ids and texts are no labels.
BOUNDED_LABELS = {
    *("stage", "outcome", "reason", "count", "direction", "queue", "condition", "state", "kind"),
    *("area", "verdict", "function", "part", "source", "table"),
}


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "metrics.md").read_text()

    assert page == metrics_page.render(), "run: python -m cli.metrics_page > docs/metrics.md"


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_metric_has_a_name_with_its_unit_a_sentence_and_bounded_labels(metric: Metric) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", metric.name)
    assert not metric.name.endswith("_total"), "Prometheus gets that ending by itself"
    assert (metric.unit is Unit.SECONDS) == metric.name.endswith("_seconds")
    assert set(metric.labels) <= BOUNDED_LABELS
    assert metric.help.endswith(".") or metric.help.endswith(")")
    assert metric.tellers
    assert bool(metric.bounds) == (metric.type is MetricType.HISTOGRAM)
    assert list(metric.bounds) == sorted(metric.bounds)


def test_no_name_stands_for_two_metrics() -> None:
    names = [metric.name for metric in METRICS]

    assert len(set(names)) == len(names)


def test_only_workers_have_histograms() -> None:
    assert all(metric.tellers == {Teller.WORKER} for metric in METRICS if metric.type is MetricType.HISTOGRAM)


def test_every_metric_is_recorded_somewhere() -> None:
    code = "\n".join(
        file.read_text()
        for package in ("shared", "lambdas", "cli", "services")
        for file in (ROOT / package).glob("**/*.py")
        if file.name != "metric_list.py"
    )
    constants = re.findall(
        r"(?m)^([A-Z_]+): Final = (?:_counter|_gauge|Metric)\(",
        (ROOT / "shared/telemetry/metric_list.py").read_text(),
    )

    assert len(constants) == len(METRICS)
    assert [name for name in constants if not re.search(rf"\b{name}\b", code)] == []
