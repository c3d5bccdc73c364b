"""
Metrics as Prometheus reads them: kept by prometheus_client, shown over HTTP.

A worker is several processes. Each keeps its values in files of its own in one directory, and the main process shows
the sum (the library's multiprocess mode). A child's files are named by its place in the pool, not by its pid: a child
that takes a dead one's place goes on counting where it ended, and files do not pile up. The space of a file is taken
before anybody counts: to write into a mapped file whose disk is full kills the process, by SIGBUS.
Source: prometheus_client documentation, "Multiprocess Mode"; prometheus_client 0.26, `prometheus_client.values` and
`prometheus_client.mmap_dict`.
"""

import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

import structlog

from shared.telemetry.metric_list import METRICS, Metric, MetricType, Teller
from shared.telemetry.metrics import Sample, record_with

if TYPE_CHECKING:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    PrometheusFamily = CounterMetricFamily | GaugeMetricFamily

log = structlog.get_logger()

PREFIX: Final = "esclusa_"

#: Where prometheus_client looks for the directory, in the main process and in those it spawns.
DIRECTORY_VARIABLE: Final = "PROMETHEUS_MULTIPROC_DIR"
MAIN_PROCESS: Final = "main"

#: The files of a process, and how large the library makes each; far more than all that a worker counts.
_FILE_PREFIXES: Final = ("counter", "gauge_mostrecent", "histogram")
_FILE_SIZE_IN_BYTES: Final = 1 << 16

#: Who asks has to have asked by then, and taken the answer: a connection that only waits holds a thread.
_REQUEST_TIMEOUT_SECONDS: Final = 10


def exposed_name(metric: Metric) -> str:
    """Return the name of a metric as Prometheus shows it; those of a histogram have an ending behind it."""
    return f"{PREFIX}{metric.name}{'_total' if metric.type is MetricType.COUNTER else ''}"


class PrometheusRecorder:
    """Keeps what a worker measures."""

    def __init__(self) -> None:
        import prometheus_client

        kinds: dict[MetricType, Callable[..., Any]] = {
            MetricType.COUNTER: prometheus_client.Counter,
            MetricType.GAUGE: prometheus_client.Gauge,
            MetricType.HISTOGRAM: prometheus_client.Histogram,
        }
        options: dict[MetricType, dict[str, Any]] = {
            # Set by the main process only.
            MetricType.GAUGE: {"multiprocess_mode": "mostrecent"},
        }
        self._kept = {
            metric.name: kinds[metric.type](
                f"{PREFIX}{metric.name}",
                metric.help,
                metric.labels,
                registry=None,
                **options.get(metric.type, {}),
                **({"buckets": metric.bounds} if metric.bounds else {}),
            )
            for metric in METRICS
            if Teller.WORKER in metric.tellers
        }

    def take(self, sample: Sample) -> None:
        """Keep a sample, if it is one of a worker."""
        kept = self._kept.get(sample.metric.name)
        if kept is None:
            return
        if sample.labels:
            kept = kept.labels(**sample.labels)
        match sample.metric.type:
            case MetricType.COUNTER:
                kept.inc(sample.value)
            case MetricType.GAUGE:
                kept.set(sample.value)
            case MetricType.HISTOGRAM:
                kept.observe(sample.value)


def families(samples: Iterable[Sample]) -> "list[PrometheusFamily]":
    """Return samples as a collector of prometheus_client has to: grouped by metric. Of counters and gauges."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    kinds = {MetricType.COUNTER: CounterMetricFamily, MetricType.GAUGE: GaugeMetricFamily}
    found: dict[str, PrometheusFamily] = {}
    for sample in samples:
        metric = sample.metric
        if metric.name not in found:
            found[metric.name] = kinds[metric.type](
                f"{PREFIX}{metric.name}", metric.help, labels=metric.labels
            )
        found[metric.name].add_metric(list(sample.labels.values()), sample.value)
    return list(found.values())


def record_in_files(process: str) -> None:
    """
    Let this process keep its metrics in the directory that its main process made, under a name of its own.

    Raises:
        OSError: if the directory is gone, or its disk has no place for them. Then nothing is recorded.
    """
    from prometheus_client import values

    for prefix in _FILE_PREFIXES:
        _take_space(Path(os.environ[DIRECTORY_VARIABLE]) / f"{prefix}_{process}.db")
    values.ValueClass = values.MultiProcessValue(process_identifier=lambda: process)  # type: ignore[no-untyped-call]
    record_with(PrometheusRecorder())


def _take_space(path: Path) -> None:
    if path.exists():  # of a process that died in this place
        return
    taken = path.with_suffix(".new")  # no file of counts before it is whole: a scrape may look at any moment
    try:
        with taken.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, _FILE_SIZE_IN_BYTES)
        taken.rename(path)
    except OSError:
        taken.unlink(missing_ok=True)
        raise


def serve_processes(address: str, port: int, *, directory: Path | None) -> "ScrapeServer | None":
    """
    Record in this process and in those it spawns, and show the sum; None, and a line in the log, if it cannot.

    `directory`: where a directory for the files is made; None: where temporary files go.
    """
    files = ""
    try:
        files = tempfile.mkdtemp(prefix="esclusa-metrics-", dir=directory)
        os.environ[DIRECTORY_VARIABLE] = files
        record_in_files(MAIN_PROCESS)

        from prometheus_client import CollectorRegistry, multiprocess

        registry = CollectorRegistry()
        multiprocess.MultiProcessCollector(registry, path=files)  # type: ignore[no-untyped-call]
        return ScrapeServer(registry, address=address, port=port)
    except (ImportError, OSError) as error:
        # Batches are worth more than what is counted of them. That nothing is there to scrape is an alert.
        record_with(None)
        os.environ.pop(DIRECTORY_VARIABLE, None)
        shutil.rmtree(files, ignore_errors=True)
        log.error("metrics_not_served", address=address, port=port, error=f"{type(error).__name__}: {error}")  # noqa: TRY400
        return None


class ScrapeServer:
    """Answers `GET /metrics` on a thread of its own, until the process ends or it is closed."""

    def __init__(self, registry: Any, *, address: str, port: int) -> None:
        """
        Begin to answer. Port 0 takes any that is free: see `port`.

        Raises:
            OSError: if the port is taken, or the address is none of this machine.
        """
        from prometheus_client import make_wsgi_app

        self._server = _Server(address, port)
        self._server.set_app(_only_metrics(make_wsgi_app(registry, disable_compression=True)))
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        super().__init__((address, port), _QuietHandler)

    def server_bind(self) -> None:
        # The standard library's asks the name server who we are, and waits for the answer.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "metrics", int(self.server_address[1])
        self.setup_environ()


class _QuietHandler(WSGIRequestHandler):
    timeout = _REQUEST_TIMEOUT_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the standard library's name
        """Write nothing: one line for each scrape says nothing."""


def _only_metrics(app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != "/metrics" or environ.get("REQUEST_METHOD") != "GET":
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"/metrics is here, and nothing else\n"]
        return app(environ, start_response)

    return answer
