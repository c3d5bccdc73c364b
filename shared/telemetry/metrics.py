"""
Recording metrics, whoever keeps them: `record(metric_list.BATCHES, stage=..., outcome=..., reason=...)`.

A process that nobody asks for metrics has no recorder, and a record costs it the look whether there is one. What a
recorder cannot keep is lost: nothing that is measured stops or fails the work that it measures.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

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


_LISTED: Final = {metric.name: metric for metric in METRICS}

_recorders: list[Recorder] = []
_this_thread = threading.local()


def record_with(recorder: Recorder | None) -> None:
    """Let this process record with a recorder from now on; None: with none."""
    _recorders[:] = [] if recorder is None else [recorder]


def sample(metric: Metric, value: float = 1.0, /, **labels: str) -> Sample:
    """
    Return a sample.

    Raises:
        UnlistedMetric: if the metric is not in the list, or the labels are not those it has there.
    """
    if _LISTED.get(metric.name) is not metric:
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
    if getattr(_this_thread, "is_recording", False):
        # In the handler of a signal, amid another record: the locks of recorders are not re-entrant.
        return
    _this_thread.is_recording = True
    try:
        for recorder in _recorders:
            recorder.take(made)
    except (OSError, ValueError) as error:  # a full disk, say
        # No other: a signal may raise here that the task has to end, and the task has to hear it.
        log.warning("metric_not_recorded", metric=metric.name, error=type(error).__name__)
    finally:
        _this_thread.is_recording = False
