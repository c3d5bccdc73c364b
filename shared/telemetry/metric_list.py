"""
Every metric there is, entered here first: nothing else can be recorded. `docs/metrics.md` is written from this list.

Prometheus sees `esclusa_` before each name and `_total` behind a counter's; CloudWatch sees the name as it is, in the
namespace `Esclusa`, with the label `fleet` beside its own. What a label may hold is bounded: members of closed lists
(stages, outcomes, reasons, states, queues, areas, kinds), and the tables that source files name. Never a value of a
row, a key of an object, an id of a batch, or a text of an error.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class MetricType(StrEnum):
    """How its values add up."""

    #: Only grows, while its process lives.
    COUNTER = "counter"
    #: Is what it is now.
    GAUGE = "gauge"
    #: How many values were up to each bound.
    HISTOGRAM = "histogram"


class Unit(StrEnum):
    """What is counted or measured."""

    SECONDS = "seconds"
    BYTES = "bytes"
    ROWS = "rows"
    COUNT = "count"


class Teller(StrEnum):
    """Who tells it."""

    #: A worker, at its own `/metrics`.
    WORKER = "worker"
    #: `esclusa metrics`, of ledger and queues.
    EXPORTER = "exporter"
    #: A Lambda, as a log line that CloudWatch reads.
    LAMBDA = "lambda"


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric: what it is called, and what it is."""

    name: str
    type: MetricType
    unit: Unit
    labels: tuple[str, ...]
    tellers: frozenset[Teller]
    help: str
    #: Of a histogram: its upper bounds, rising.
    bounds: tuple[float, ...] = ()


class UnlistedMetric(Exception):
    """Something was recorded that is not in the list, or not as the list has it. A defect of ours."""


_WORKER = frozenset({Teller.WORKER})
_EXPORTER = frozenset({Teller.EXPORTER})
_LAMBDA = frozenset({Teller.LAMBDA})

#: Micro-batches take from a tenth of a second to the hard time limit of a task.
_SECONDS_OF_A_STAGE = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0)


def _counter(name: str, unit: Unit, labels: tuple[str, ...], tellers: frozenset[Teller], text: str) -> Metric:
    return Metric(name, MetricType.COUNTER, unit, labels, tellers, text)


def _gauge(name: str, unit: Unit, labels: tuple[str, ...], tellers: frozenset[Teller], text: str) -> Metric:
    return Metric(name, MetricType.GAUGE, unit, labels, tellers, text)


# ---- workers -------------------------------------------------------------------------------------------------

BATCHES: Final = _counter(
    "batches",
    Unit.COUNT,
    ("stage", "outcome", "reason"),
    _WORKER,
    "Messages about a batch that a worker was done with: what came of each, and the reason if it was refused or failed.",
)
STAGE_DURATION_SECONDS: Final = Metric(
    "stage_duration_seconds",
    MetricType.HISTOGRAM,
    Unit.SECONDS,
    ("stage", "outcome"),
    _WORKER,
    "How long attempts took from claim to record.",
    _SECONDS_OF_A_STAGE,
)
ROWS: Final = _counter(
    "rows",
    Unit.ROWS,
    ("stage", "count"),
    _WORKER,
    "Rows of attempts that were recorded, by what became of them (`shared.domain.counts`).",
)
BYTES: Final = _counter(
    "bytes",
    Unit.BYTES,
    ("stage", "direction"),
    _WORKER,
    "Bytes of the data files that recorded attempts were given (`read`) and made (`written`).",
)
LEASE_RENEWALS: Final = _counter(
    "lease_renewals",
    Unit.COUNT,
    ("stage", "outcome"),
    _WORKER,
    "Renewals of the lease of a running attempt: `renewed`, `unavailable`, `lost` or `failed`.",
)
LEASE_LOSSES: Final = _counter(
    "lease_losses",
    Unit.COUNT,
    ("stage",),
    _WORKER,
    "Attempts whose work counts for nothing because another attempt spoke for the batch when they ended.",
)
MESSAGES_IN_HAND: Final = _gauge(
    "messages_in_hand",
    Unit.COUNT,
    ("queue",),
    _WORKER,
    "Messages received and neither deleted nor given back.",
)
MESSAGES_REFUSED: Final = _counter(
    "messages_refused",
    Unit.COUNT,
    ("queue",),
    _WORKER,
    "Messages that no worker can read; dead letters soon.",
)
RECEIVE_FAILURES: Final = _counter(
    "receive_failures", Unit.COUNT, ("queue",), _WORKER, "Receives that SQS did not answer, or refused."
)
VISIBILITY_RENEWALS: Final = _counter(
    "visibility_renewals",
    Unit.COUNT,
    ("queue", "outcome"),
    _WORKER,
    "Renewals of what SQS hides for this worker: `renewed`, `refused` by SQS, or `failed`, of all of them at once.",
)
TASKS_LOST: Final = _counter(
    "tasks_lost",
    Unit.COUNT,
    ("queue",),
    _WORKER,
    "Tasks whose process died or was killed at its time limit; whatever they would have counted is missing.",
)
WORKER_TURNED_TIMESTAMP_SECONDS: Final = _gauge(
    "worker_turned_timestamp_seconds",
    Unit.SECONDS,
    ("queue",),
    _WORKER,
    "When the receive loop of the worker last turned, in seconds since 1970, as its liveness probe sees it.",
)

# ---- ledger and queues ---------------------------------------------------------------------------------------

OPEN_BATCHES: Final = _gauge(
    "open_batches",
    Unit.COUNT,
    ("source", "table", "state"),
    _EXPORTER,
    "Batches on their way or held, by table and state. Those that are final are not counted: they only grow in number.",
)
OLDEST_BATCH_AGE_SECONDS: Final = _gauge(
    "oldest_batch_age_seconds",
    Unit.SECONDS,
    ("state",),
    _EXPORTER,
    "For how long the batch that is in a state longest has been in it; 0 if none is.",
)
FRESHNESS_SECONDS: Final = _gauge(
    "freshness_seconds",
    Unit.SECONDS,
    ("source", "table"),
    _EXPORTER | _LAMBDA,
    "How old the moment is up to which a table is published whole; of one never published, for how long it has been expected.",
)
LATE_AFTER_SECONDS: Final = _gauge(
    "late_after_seconds",
    Unit.SECONDS,
    ("source", "table"),
    _EXPORTER,
    "The freshness above which a table is late: its interval and its `expected_by`. Quiet hours of its source come on top.",
)
WATERMARK_LAG_SECONDS: Final = _gauge(
    "watermark_lag_seconds",
    Unit.SECONDS,
    ("source", "table"),
    _EXPORTER,
    "How old the moment is up to which windows of a table are planned.",
)
QUEUE_MESSAGES: Final = _gauge(
    "queue_messages",
    Unit.COUNT,
    ("queue", "condition"),
    _EXPORTER,
    "Messages of a queue that are `visible`, `in_flight` or `delayed`, as SQS counts them: about.",
)
DEAD_LETTERS: Final = _gauge(
    "dead_letters",
    Unit.COUNT,
    ("queue",),
    _EXPORTER | _LAMBDA,
    "Messages in a queue of dead letters. No value: SQS did not answer.",
)
OPEN_ALARMS: Final = _gauge(
    "open_alarms",
    Unit.COUNT,
    ("kind",),
    _EXPORTER | _LAMBDA,
    "Alarms of a kind that are open, as the watcher recorded them.",
)
WATCHED_TIMESTAMP_SECONDS: Final = _gauge(
    "watched_timestamp_seconds",
    Unit.SECONDS,
    (),
    _EXPORTER,
    "When the watcher last did its work, in seconds since 1970; no value if it never did.",
)
OUTBOX_MESSAGES: Final = _gauge(
    "outbox_messages", Unit.COUNT, (), _EXPORTER, "Messages that have not left the outbox."
)
OUTBOX_AGE_SECONDS: Final = _gauge(
    "outbox_age_seconds",
    Unit.SECONDS,
    (),
    _EXPORTER | _LAMBDA,
    "The age of the oldest message that has not left the outbox; 0 if all have.",
)
EXPORTER_READ_TIMESTAMP_SECONDS: Final = _gauge(
    "exporter_read_timestamp_seconds",
    Unit.SECONDS,
    (),
    _EXPORTER,
    "When the exporter last read the ledger, in seconds since 1970; no value until it could.",
)
EXPORTER_READ_DURATION_SECONDS: Final = _gauge(
    "exporter_read_duration_seconds",
    Unit.SECONDS,
    (),
    _EXPORTER,
    "How long the exporter's last reading of ledger and queues took.",
)
EXPORTER_FAILURES: Final = _counter(
    "exporter_failures",
    Unit.COUNT,
    ("part",),
    _EXPORTER,
    "Readings that brought nothing, of the `ledger` or of the `queues`. What was not read is not told: no old values.",
)
EXPORTER_TABLES_LEFT_OUT: Final = _gauge(
    "exporter_tables_left_out",
    Unit.COUNT,
    (),
    _EXPORTER,
    "Tables beyond the most that the exporter tells apart (ESCLUSA_METRICS_TABLE_LIMIT).",
)

# ---- Lambdas -------------------------------------------------------------------------------------------------

GATE_CHECKS: Final = _counter(
    "gate_checks",
    Unit.COUNT,
    ("area", "verdict"),
    _LAMBDA,
    "Messages to a gate, and what came of each.",
)
GATE_REFUSALS: Final = _counter(
    "gate_refusals",
    Unit.COUNT,
    ("area", "reason"),
    _LAMBDA,
    "Batches that a gate refused, and why.",
)
GATE_DURATION_SECONDS: Final = _gauge(
    "gate_duration_seconds", Unit.SECONDS, ("area",), _LAMBDA, "How long a message took a gate."
)
OBJECTS_DELETED: Final = _counter(
    "objects_deleted", Unit.COUNT, (), _LAMBDA, "Objects that the cleaner deleted."
)
SWEEP_ACTIONS: Final = _counter(
    "sweep_actions", Unit.COUNT, ("kind",), _LAMBDA, "What the sweeper found to heal, by kind of action."
)
MESSAGES_FAILED: Final = _counter(
    "messages_failed",
    Unit.COUNT,
    ("function",),
    _LAMBDA,
    "Messages that a Lambda could not do, and that come back.",
)

METRICS: Final = tuple(value for value in tuple(globals().values()) if isinstance(value, Metric))
