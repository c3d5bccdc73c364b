"""
Metrics of Lambdas, as records that CloudWatch reads out of the log.

Each is one JSON line in the Embedded Metric Format, so that no Lambda calls or waits for CloudWatch. `docs/metrics.md`
lists the metrics; what they are told apart by is bounded.
Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format".
"""

from datetime import UTC, datetime
from typing import Final

import structlog

from shared.telemetry.metric_list import Metric, Teller, Unit
from shared.telemetry.metrics import Sample

log = structlog.get_logger()

NAMESPACE: Final = "Esclusa"

#: CloudWatch knows neither rows nor messages.
CLOUDWATCH_UNITS: Final = {
    Unit.SECONDS: "Seconds",
    Unit.BYTES: "Bytes",
    Unit.ROWS: "Count",
    Unit.COUNT: "Count",
}

MAX_DIMENSION_CHARACTERS: Final = 250


class LogRecorder:
    """Writes each sample that Lambdas tell as one line of the log."""

    def __init__(self, fleet: str) -> None:
        """Take the prefix of the fleet's buckets, which every metric is told apart by."""
        self._fleet = fleet

    def take(self, sample: Sample) -> None:
        """Write a sample, if it is one of a Lambda: the ledger's own code measures for workers, too."""
        if Teller.LAMBDA in sample.metric.tellers:
            tell(sample, fleet=self._fleet, at=datetime.now(UTC))


def tell(sample: Sample, *, fleet: str, at: datetime) -> None:
    """Write a sample as one line of the log."""
    log.info("metric", **metric_fields(sample, fleet=fleet, at=at))


def metric_fields(sample: Sample, *, fleet: str, at: datetime) -> dict[str, object]:
    """Return the fields of the log record of a sample."""
    labels = {"fleet": fleet, **{name: _dimension(value) for name, value in sample.labels.items()}}
    return {
        "_aws": _directive(sample.metric, list(labels), at=at),
        **labels,
        sample.metric.name: sample.value,
    }


def _directive(metric: Metric, dimensions: list[str], *, at: datetime) -> dict[str, object]:
    return {
        "Timestamp": int(at.timestamp() * 1000),
        "CloudWatchMetrics": [
            {
                "Namespace": NAMESPACE,
                "Dimensions": [dimensions],
                "Metrics": [{"Name": metric.name, "Unit": CLOUDWATCH_UNITS[metric.unit]}],
            }
        ],
    }


def _dimension(text: str) -> str:
    """
    Return a name as CloudWatch takes it: printable ASCII. Any legal name of a table has to be told by some value.

    >>> _dimension("größe")
    'gr\\\\xf6\\\\xdfe'
    """
    return text.encode("ascii", "backslashreplace").decode()[:MAX_DIMENSION_CHARACTERS]
