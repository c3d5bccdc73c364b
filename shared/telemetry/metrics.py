"""
Recording metrics, whoever keeps them: `record(metric_list.BATCHES, stage=..., outcome=..., reason=...)`.

A process that nobody asks for metrics has no recorder, and a record costs it the look whether there is one. What a
recorder cannot keep is lost: nothing that is measured stops or fails the work that it measures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import structlog

from shared.telemetry.metric_list import METRICS, Metric, UnlistedMetric

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric. Made by `sample`."""

    metric: Metric
    value: float
    #: In the order of the list.
    labels: Mapping[str, str]


class Recorder(Protocol):
    """Where samples go: a counter grows by the value, a gauge becomes it, a histogram notes it."""

    def take(self, sample: Sample) -> None:
        """Keep a sample."""
        ...


_recorders: list[Recorder] = []


def record_with(recorder: Recorder | None) -> None:
    """Let this process record with a recorder from now on; None: with none."""
    _recorders[:] = [] if recorder is None else [recorder]


def sample(metric: Metric, value: float = 1.0, /, **labels: str) -> Sample:
    """
    Return a sample.

    Raises:
        UnlistedMetric: if the metric is not in the list, or the labels are not those it has there.
    """
    if metric not in METRICS:
        raise UnlistedMetric(f"metric {metric.name!r}: enter it in shared/telemetry/metric_list.py first")
    if labels.keys() != set(metric.labels):
        raise UnlistedMetric(
            f"metric {metric.name!r}: expected the labels {', '.join(metric.labels) or '(none)'}, "
            f"found {', '.join(labels) or '(none)'}"
        )
    return Sample(metric, value, {name: str(labels[name]) for name in metric.labels})


def record(metric: Metric, value: float = 1.0, /, **labels: str) -> None:
    """
    Record a value of a metric.

    Raises:
        UnlistedMetric: as `sample`, also where nothing is recorded: tests find it.
    """
    made = sample(metric, value, **labels)
    for recorder in _recorders:
        try:
            recorder.take(made)
        except Exception as error:  # noqa: BLE001  a full disk, say: the work goes on
            log.warning("metric_not_recorded", metric=metric.name, error=type(error).__name__)
