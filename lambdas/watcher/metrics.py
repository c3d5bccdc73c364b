"""
What the watcher measures, as records that CloudWatch reads as metrics out of the log.

Each is one JSON line in the Embedded Metric Format. `docs/operations.md` lists the metrics; what they are told apart
by is bounded: the tables that source files name, and the closed list of kinds.
Source: Amazon CloudWatch User Guide, "Specification: Embedded metric format".
"""

from collections.abc import Iterator, Mapping
from datetime import datetime

from shared.alarms import Facts, freshness_of
from shared.domain.alarms import AlarmKind

NAMESPACE = "Esclusa"

#: Name → unit of CloudWatch, and the dimensions beside `fleet`.
METRICS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "freshness_seconds": ("Seconds", ("source", "table")),
    "open_alarms": ("Count", ("kind",)),
    "dead_letters": ("Count", ("queue",)),
    "outbox_age_seconds": ("Seconds", ()),
}

MAX_DIMENSION_CHARACTERS = 250


def metric_records(
    facts: Facts, open_counts: Mapping[AlarmKind, int], *, fleet: str
) -> Iterator[dict[str, object]]:
    """Return the fields of one log record per value."""

    def record(name: str, value: float, **dimensions: str) -> dict[str, object]:
        unit, names = METRICS[name]
        told = {"fleet": fleet, **{key: _dimension(dimensions[key]) for key in names}}
        return {"_aws": _directive(name, unit, list(told), at=facts.now), **told, name: value}

    for expectation in facts.expectations:
        progress = facts.progress.get((expectation.source, expectation.table))
        age = freshness_of(expectation, progress, now=facts.now).total_seconds()
        # A source whose clock is ahead of the ledger's is not fresher than fresh.
        yield record("freshness_seconds", max(age, 0.0), source=expectation.source, table=expectation.table)
    for kind in AlarmKind:
        yield record("open_alarms", open_counts.get(kind, 0), kind=kind)
    for queue, count in facts.dead_letters.items():
        yield record("dead_letters", count, queue=queue)
    age = (facts.now - facts.oldest_message_at).total_seconds() if facts.oldest_message_at else 0.0
    yield record("outbox_age_seconds", max(age, 0.0))


def _directive(name: str, unit: str, dimensions: list[str], *, at: datetime) -> dict[str, object]:
    return {
        "Timestamp": int(at.timestamp() * 1000),
        "CloudWatchMetrics": [
            {
                "Namespace": NAMESPACE,
                "Dimensions": [dimensions],
                "Metrics": [{"Name": name, "Unit": unit}],
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
