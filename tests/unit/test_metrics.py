"""What is measured: only what is listed, told as it is, and never in the way of the work."""

import errno
import json
import os
import socket
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from prometheus_client import values
from support.journey import LEASE, MemoryJourney

from lambdas.emf import LogRecorder
from shared import stage
from shared.celery_sqs import telemetry as celery_telemetry
from shared.celery_sqs.telemetry import _begin as begin_in_child
from shared.domain.batches import Stage
from shared.domain.files import Area
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.errors import Interrupted, LostLease, Refused, Unavailable
from shared.lifecycle import StageResult
from shared.stage import StageLimits
from shared.telemetry import metric_list
from shared.telemetry.logs import configure_logging
from shared.telemetry.metric_list import Metric, MetricType, Unit, UnlistedMetric
from shared.telemetry.metrics import Sample, record, record_with
from shared.telemetry.prometheus import ScrapeServer, families, record_in_files, serve_processes

ROOT = Path(__file__).parents[2]


class Notebook:
    """Keeps what is recorded."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []

    def take(self, sample: Sample) -> None:
        self.samples.append(sample)

    def values(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """Return the sum of a metric by its labels."""
        found: dict[tuple[str, ...], float] = {}
        for sample in self.samples:
            if sample.metric is metric and sample.value:
                key = tuple(sample.labels.values())
                found[key] = found.get(key, 0) + sample.value
        return found


@pytest.fixture
def notebook() -> Iterator[Notebook]:
    notebook = Notebook()
    record_with(notebook)
    yield notebook
    record_with(None)


# ---- the list ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_recorder", [True, False])
def test_what_is_not_in_the_list_cannot_be_recorded(notebook: Notebook, has_recorder: bool) -> None:
    if not has_recorder:
        record_with(None)
    own = Metric("made_up", MetricType.COUNTER, Unit.COUNT, (), frozenset(), "Nobody entered it.")

    with pytest.raises(UnlistedMetric, match="made_up"):
        record(own)
    with pytest.raises(UnlistedMetric, match=r"expected the labels queue, found source"):
        record(metric_list.MESSAGES_REFUSED, source="shop")
    assert notebook.samples == []


def test_a_recorder_that_cannot_keep_anything_stops_nothing() -> None:
    class Full:
        def take(self, _: Sample) -> None:
            raise OSError("no space left")

    stream = StringIO()
    configure_logging("tested", stream=stream)
    record_with(Full())

    record(metric_list.MESSAGES_REFUSED, queue="extract")

    record_with(None)
    assert json.loads(stream.getvalue())["event"] == "metric_not_recorded"


def test_a_signal_amid_a_record_neither_waits_for_itself_nor_is_swallowed() -> None:
    class Interrupting:
        taken = 0

        def take(self, _: Sample) -> None:
            self.taken += 1
            record(metric_list.MESSAGES_REFUSED, queue="extract")  # what a handler does on its way
            raise Interrupted("told to stop")

    recorder = Interrupting()
    record_with(recorder)

    with pytest.raises(Interrupted):
        record(metric_list.MESSAGES_REFUSED, queue="extract")
    with pytest.raises(Interrupted):
        record(metric_list.MESSAGES_REFUSED, queue="extract")

    record_with(None)
    assert recorder.taken == 2


# ---- stages and gates ----------------------------------------------------------------------------------------


def run(journey: MemoryJourney, work: Any, *, max_attempts: int = 3) -> None:
    stage.run(
        Stage.EXTRACT,
        journey.batch_id,
        work,
        ledger=journey.ledger,
        sender=journey.sender,
        worker="w",
        limits=StageLimits(LEASE, RetryPolicy(max_attempts)),
        keep_alive=lambda _: nullcontext(),
    )


def raising(error: Exception) -> Callable[[Any], StageResult]:
    def work(_: Any) -> StageResult:
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "max_attempts", "outcome", "reason"),
    [
        (lambda _: StageResult(), 3, "completed", "none"),
        (raising(Refused(Reason.NULL_CURSOR, "a secret value")), 3, "refused", "null_cursor"),
        (raising(ValueError("a secret value")), 3, "failed", "attempt_failed"),
        (raising(ValueError("a secret value")), 1, "exhausted", "attempts_exhausted"),
        (raising(Interrupted("")), 3, "interrupted", "none"),
        (raising(LostLease("")), 3, "lost_lease", "none"),
    ],
)
def test_what_comes_of_a_message_is_counted_once_with_its_reason_and_time(
    notebook: Notebook, work: Any, max_attempts: int, outcome: str, reason: str
) -> None:
    journey = MemoryJourney()
    journey.plan()

    with suppress(ValueError, Interrupted):
        run(journey, work, max_attempts=max_attempts)

    assert notebook.values(metric_list.BATCHES) == {("extract", outcome, reason): 1}
    assert list(notebook.values(metric_list.STAGE_DURATION_SECONDS)) == [("extract", outcome)]
    assert notebook.values(metric_list.LEASE_LOSSES) == ({("extract",): 1} if outcome == "lost_lease" else {})
    assert "secret" not in str(notebook.samples)


def test_a_message_that_nobody_could_claim_is_counted_and_has_no_duration(notebook: Notebook) -> None:
    class Away:
        def transaction(self) -> Any:
            raise Unavailable("the ledger is away")

    journey = MemoryJourney()
    journey.ledger = Away()  # type: ignore[assignment]

    with pytest.raises(Unavailable):
        run(journey, raising(AssertionError()))

    assert notebook.values(metric_list.BATCHES) == {("extract", "not_claimed", "none"): 1}
    assert notebook.values(metric_list.STAGE_DURATION_SECONDS) == {}


def test_rows_and_bytes_are_those_of_recorded_attempts(notebook: Notebook) -> None:
    journey = MemoryJourney()
    journey.plan()

    def write(assignment: Any) -> StageResult:
        file = journey.write_raw(assignment.attempt)
        return StageResult([file], {"rows_read": 3, "rows_written": 2, "rows_outside_window": 1})

    run(journey, write)

    assert notebook.values(metric_list.ROWS) == {
        ("extract", "rows_read"): 3,
        ("extract", "rows_written"): 2,
        ("extract", "rows_outside_window"): 1,
    }
    size = journey.file(Area.TMP).file_size_in_bytes
    assert notebook.values(metric_list.BYTES) == {("extract", "written"): size}


def test_a_gate_counts_its_verdicts_and_why_it_refused(notebook: Notebook) -> None:
    journey = MemoryJourney()
    journey.go_to(Area.TMP)
    journey.overwrite(journey.file(Area.TMP), b"altered")

    journey.check(Area.TMP)
    journey.check(Area.TMP)

    assert notebook.values(metric_list.GATE_CHECKS) == {("tmp", "refused"): 1, ("tmp", "nothing_to_do"): 1}
    assert notebook.values(metric_list.GATE_REFUSALS) == {("tmp", "size_mismatch"): 1}


def test_a_lambda_writes_its_own_metrics_as_lines_and_no_others() -> None:
    stream = StringIO()
    configure_logging("gate-tmp", stream=stream)
    record_with(LogRecorder("esclusa"))

    record(metric_list.GATE_CHECKS, area="tmp", verdict="opened")
    record(metric_list.LEASE_LOSSES, stage="extract")

    record_with(None)
    (line,) = [json.loads(text) for text in stream.getvalue().splitlines()]
    assert (line["gate_checks"], line["area"], line["verdict"], line["fleet"]) == (
        1,
        "tmp",
        "opened",
        "esclusa",
    )
    assert line["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["fleet", "area", "verdict"]]


# ---- for Prometheus ------------------------------------------------------------------------------------------

TWO_PROCESSES = textwrap.dedent(
    """
    import os, subprocess, sys, urllib.request
    from pathlib import Path
    from shared.telemetry import metric_list
    from shared.telemetry.metrics import record
    from shared.telemetry.prometheus import record_in_files, serve_processes

    if len(sys.argv) > 1:
        record_in_files(sys.argv[1])
        record(metric_list.ROWS, 10, stage="extract", count="rows_read")
        record(metric_list.STAGE_DURATION_SECONDS, 0.2, stage="extract", outcome="completed")
        os._exit(0)  # as a child does that was killed
    server = serve_processes("127.0.0.1", 0, directory=Path("."))
    record(metric_list.MESSAGES_IN_HAND, 2, queue="extract")
    record(metric_list.MESSAGES_IN_HAND, 1, queue="extract")
    # The second takes the place of the first, which is dead.
    for name in ("child-0", "child-0", "child-1"):
        subprocess.run([sys.executable, __file__, name], check=True)
    print(urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics").read().decode())
    print(sorted(path.name for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).iterdir()))
    """
)


def test_a_worker_shows_the_sum_of_its_processes_those_that_died_included(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(TWO_PROCESSES)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}

    shown = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert 'esclusa_rows_total{count="rows_read",stage="extract"} 30.0' in shown
    assert 'esclusa_stage_duration_seconds_bucket{le="0.25",outcome="completed",stage="extract"} 3.0' in shown
    assert 'esclusa_stage_duration_seconds_bucket{le="0.1",outcome="completed",stage="extract"} 0.0' in shown
    assert 'esclusa_messages_in_hand{queue="extract"} 1.0' in shown
    # Files by place, not by process: they do not pile up.
    assert shown.splitlines()[-1] == str(
        [
            f"{kind}_{process}.db"
            for kind in ("counter", "gauge_mostrecent", "histogram")
            for process in ("child-0", "child-1", "main")
        ]
    )


def test_a_port_that_is_taken_costs_the_metrics_and_not_the_worker(tmp_path: Path) -> None:
    stream = StringIO()
    configure_logging("tested", stream=stream)
    with socket.create_server(("127.0.0.1", 0)) as holder:
        server = serve_processes("127.0.0.1", holder.getsockname()[1], directory=tmp_path)

    record(metric_list.MESSAGES_REFUSED, queue="extract")

    assert server is None
    assert "PROMETHEUS_MULTIPROC_DIR" not in os.environ
    assert list(tmp_path.iterdir()) == []
    assert json.loads(stream.getvalue())["event"] == "metrics_not_served"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory in which this process may keep its counts, as a child does."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    monkeypatch.setattr(values, "ValueClass", values.ValueClass)
    yield tmp_path
    record_with(None)


def test_the_space_of_counts_is_taken_before_any_so_that_a_full_disk_kills_nobody(kept: Path) -> None:
    """Who writes into a mapped file that has no space gets SIGBUS, not an error."""
    record_in_files("child-0")

    sizes = {path.name: path.stat() for path in kept.iterdir()}
    assert len(sizes) == 3
    assert all(size.st_blocks * 512 >= size.st_size == 64 * 1024 for size in sizes.values())


@pytest.mark.parametrize(
    ("begin", "event"),
    [
        (lambda: serve_processes("127.0.0.1", 0, directory=None), "metrics_not_served"),
        (begin_in_child, "metrics_not_kept"),
    ],
    ids=["main", "child"],
)
def test_a_disk_without_space_costs_the_metrics_of_a_process_and_not_its_work(
    begin: Callable[[], None], event: str, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    stream = StringIO()
    configure_logging("tested", stream=stream)
    monkeypatch.setattr(os, "posix_fallocate", full)
    monkeypatch.setattr(tempfile, "tempdir", str(kept))
    monkeypatch.setattr(celery_telemetry, "current_process", lambda: SimpleNamespace(index=0))

    begin()
    record(metric_list.ROWS, 1, stage="extract", count="rows_read")

    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == [event]
    assert list(kept.iterdir()) == [], "an empty file of counts would fail every scrape"


class OneValue:
    """A collector with one sample."""

    def collect(self) -> Any:
        return families([Sample(metric_list.DEAD_LETTERS, 3.0, {"queue": 'a"b\nc'})])


@pytest.fixture
def server() -> Iterator[ScrapeServer]:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry(auto_describe=False)
    registry.register(OneValue())  # type: ignore[arg-type]
    server = ScrapeServer(registry, address="127.0.0.1", port=0)
    yield server
    server.close()


def test_metrics_are_shown_at_one_path_and_nothing_is_at_any_other(server: ScrapeServer) -> None:
    base = f"http://127.0.0.1:{server.port}"

    shown = requests.get(f"{base}/metrics", timeout=5).text

    assert 'esclusa_dead_letters{queue="a\\"b\\nc"} 3.0' in shown.splitlines()
    for path in ("/", "/metrics/more", "/favicon.ico"):
        assert requests.get(base + path, timeout=5).status_code == 404
    assert requests.post(f"{base}/metrics", data=b"x", timeout=5).status_code == 404


def test_who_only_holds_the_line_keeps_nobody_from_asking(server: ScrapeServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as silent:
        silent.sendall(b"GET /metr")

        assert requests.get(f"http://127.0.0.1:{server.port}/metrics", timeout=5).ok


def test_times_of_stages_fit_into_the_bounds() -> None:
    assert timedelta(seconds=metric_list.STAGE_DURATION_SECONDS.bounds[-1]) == timedelta(minutes=15)
