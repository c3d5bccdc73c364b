"""
The page about metrics, written from the list: `python -m cli.metrics_page > docs/metrics.md`.

A test in `tests/house/` compares the page with the list.
"""

from collections.abc import Mapping
from types import MappingProxyType

from lambdas.emf import NAMESPACE
from shared.telemetry.metric_list import METRICS, Metric, Teller
from shared.telemetry.prometheus import PREFIX, exposed_name

_HEAD = f"""\
# Metrics

Every metric there is. They are entered in `shared/telemetry/metric_list.py` first, and nothing that is not in that list
can be recorded. Which of them to look at, and when, is told in [operations](operations.md#metrics-and-traces).

This page is written from the list: `python -m cli.metrics_page > docs/metrics.md`.

Prometheus sees the names with `{PREFIX}` before them, counters with `_total` behind; histograms have `_bucket`, `_sum` and
`_count`. CloudWatch sees the names as they are, in the namespace `{NAMESPACE}`, apart also by `fleet`, the prefix of the buckets.
Moments are seconds since 1970 in UTC.

What a label may hold is bounded: members of closed lists, and the sources and tables that source files name. No label, and no
other part of a metric, holds a value of a row, the key of an object, the id of a batch, the text of an error or a secret.
"""

_SECTIONS: Mapping[Teller, str] = MappingProxyType(
    {
        Teller.WORKER: """\
## Of a worker

At `/metrics` of each worker (`ESCLUSA_METRICS_PORT`, 9464): the sum over its processes. Some 500 series each at most:
stages, outcomes and reasons are closed lists, and a worker has one stage and one queue; nothing grows with tables or batches.
""",
        Teller.EXPORTER: """\
## Of ledger and queues

By `esclusa metrics`, once for a fleet. Series: 12 states at most and three more for each table up to
`ESCLUSA_METRICS_TABLE_LIMIT` (1,000), and some hundred beside. One reading is eight short statements and two calls for each
queue, and is kept for `ESCLUSA_METRICS_READ_EVERY_SECONDS` (15).
""",
        Teller.LAMBDA: """\
## Of the Lambdas

Lines of their logs in the Embedded Metric Format (`event` is `metric`): no Lambda calls CloudWatch for it, or waits.
""",
    }
)


def render() -> str:
    """Return the whole page."""
    return "\n".join([_HEAD, *(_section(teller, text) for teller, text in _SECTIONS.items())])


def _section(teller: Teller, text: str) -> str:
    rows = [_row(metric, teller) for metric in METRICS if teller in metric.tellers]
    lines = ["| metric | type | unit | by | meaning |", "|---|---|---|---|---|", *rows]
    return f"{text}\n" + "\n".join(lines) + "\n"


def _row(metric: Metric, teller: Teller) -> str:
    name = metric.name if teller is Teller.LAMBDA else exposed_name(metric)
    labels = ", ".join(f"`{label}`" for label in metric.labels)
    bounds = f" Bounds: {', '.join(f'{bound:g}' for bound in metric.bounds)}." if metric.bounds else ""
    return f"| `{name}` | {metric.type} | {metric.unit} | {labels} | {metric.help}{bounds} |"


if __name__ == "__main__":
    print(render(), end="")
