"""Ledger and queues for Prometheus: read when somebody asks, and no more often than is good for them."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Final

import structlog

from shared.errors import EsclusaError
from shared.fleet_metrics import read_ledger, read_queues
from shared.ports import Ledger, QueueInspector
from shared.telemetry import metric_list
from shared.telemetry.metrics import Sample, sample
from shared.telemetry.prometheus import families

log = structlog.get_logger()

QUEUES_PATIENCE: Final = timedelta(seconds=5)


class Exporter:
    """
    A collector of prometheus_client. Of many who ask at once one reads, and the others wait for what it finds.

    What could not be read is not told: Prometheus sees that it is missing, where an old value would look alive.
    """

    def __init__(
        self,
        ledger: Ledger,
        inspector: QueueInspector,
        *,
        read_every: timedelta,
        table_limit: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._inspector = inspector
        self._read_every_seconds = read_every.total_seconds()
        self._table_limit = table_limit
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._read_at = float("-inf")
        self._samples: list[Sample] = []
        self._ledger_read_at: float | None = None
        self._failures: Counter[str] = Counter({"ledger": 0, "queues": 0})

    def collect(self) -> Iterable[Any]:
        """Return what Prometheus is told."""
        return families(self.samples())

    def samples(self) -> list[Sample]:
        """Return what was read last, or now if that is too long ago."""
        with self._lock:
            if self._monotonic() - self._read_at >= self._read_every_seconds:
                self._samples = self._read()
                self._read_at = self._monotonic()
            return self._samples

    def failures(self) -> dict[str, int]:
        """Return how often each part brought nothing."""
        return dict(self._failures)

    def _read(self) -> list[Sample]:
        begun = self._monotonic()
        from_ledger = self._try("ledger", lambda: read_ledger(self._ledger, table_limit=self._table_limit))
        if from_ledger:
            self._ledger_read_at = time.time()
        from_queues = self._try("queues", lambda: read_queues(self._inspector, patience=QUEUES_PATIENCE))
        own = [
            sample(metric_list.EXPORTER_READ_DURATION_SECONDS, self._monotonic() - begun),
            *(sample(metric_list.EXPORTER_FAILURES, n, part=part) for part, n in self._failures.items()),
        ]
        if self._ledger_read_at is not None:
            own.append(sample(metric_list.EXPORTER_READ_TIMESTAMP_SECONDS, self._ledger_read_at))
        return [*from_ledger, *from_queues, *own]

    def _try(self, part: str, read: Callable[[], list[Sample]]) -> list[Sample]:
        try:
            return read()
        except EsclusaError as error:
            self._failures[part] += 1
            log.warning("metrics_not_read", part=part, detail=str(error))
            return []
