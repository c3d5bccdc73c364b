"""A real worker, its log, the exporter, and a Prometheus that scrapes both: what they tell is what happened."""

import json
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from support.celery_sqs import TestQueue, TestWorker, aws_environment, sqs_client, wait_until
from support.ledger_rows import a_contract
from support.ledgers import migrated_template, postgres_ledger
from support.needs import lacking
from support.otlp import Collector

from local.ports import find_free_port
from local.postgres import EmbeddedPostgres
from shared import lifecycle
from shared.domain.batches import BatchState, batch_id
from shared.domain.progress import Expectation
from shared.domain.windows import PlannedWindow, Window
from shared.ledger.postgres import PostgresLedger
from shared.outbox import send_pending
from shared.ports import QueueName
from shared.queues.sqs import SqsSender

pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]

ROOT = Path(__file__).parents[2]
RULES = ROOT / "infra" / "observability" / "alerts.yaml"
SLOTS = ("initial", "refuse", "raise", "die")
HOUR = timedelta(hours=1)


@dataclass
class Scene:
    """What runs, and where it tells of itself."""

    ledger: PostgresLedger
    queue: TestQueue
    worker: TestWorker
    worker_port: int
    exporter_port: int
    metrics_directory: Path
    collector: Collector

    def metrics(self, port: int) -> list[str]:
        return requests.get(f"http://127.0.0.1:{port}/metrics", timeout=20).text.splitlines()

    def lines_about(self, slot: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.worker.log().splitlines()]
        return [line for line in lines if line.get("batch_id") == batch_id("shop", "orders", slot)]

    def trace_id(self, slot: str) -> str | None:
        with self.ledger.transaction() as tx:
            batch = tx.batch(batch_id("shop", "orders", slot))
        assert batch is not None
        return batch.trace_id


@contextmanager
def running(command: list[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def scene(
    ministack: str, postgres_server: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Scene]:
    """Four batches of a table, done, refused, failed, and left by a process that died, by a real worker."""
    directory = tmp_path_factory.mktemp("scene")
    with migrated_template(postgres_server) as database, Collector() as collector:
        yield from play(postgres_server.dsn(database), ministack, directory, collector)


def play(dsn: str, ministack: str, directory: Path, collector: Collector) -> Iterator[Scene]:
    dsn_file = directory / "dsn"
    dsn_file.write_text(dsn)
    queue = TestQueue.create(sqs_client(ministack), f"metered-{secrets.token_hex(4)}")
    urls = {QueueName.EXTRACT: queue.url}
    fleet = {
        "deployment": "local",
        "region": "us-east-1",
        "ledger_dsn": f"file:{dsn_file}",
        "queue_urls": json.dumps(urls),
        "metrics_address": "127.0.0.1",
    }
    worker_port, exporter_port = find_free_port(), find_free_port()
    exporter = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "ESCLUSA_METRICS_READ_EVERY_SECONDS": "1",
        **{f"ESCLUSA_{name.upper()}": value for name, value in fleet.items()},
        **aws_environment(ministack),
    }
    # What failed comes back after the test.
    times = {"metrics_port": worker_port, "backoff_base_seconds": 60, "backoff_max_seconds": 60}
    metrics_directory = directory / "metrics"
    metrics_directory.mkdir()
    with postgres_ledger(dsn) as ledger:
        plan(ledger)
        send_pending(ledger, SqsSender(queue.client, urls))
        worker = TestWorker.start(
            queue,
            directory / "worker",
            endpoint=ministack,
            module="support.metered_app",
            variables={
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_BSP_SCHEDULE_DELAY": "200",
            },
            concurrency=2,
            metrics_directory=metrics_directory,
            **fleet | times,
        )
        command = [sys.executable, "-m", "cli.main", "metrics", "--port", str(exporter_port)]
        try:
            with running(command, exporter, directory / "exporter.log"):
                scene = Scene(ledger, queue, worker, worker_port, exporter_port, metrics_directory, collector)
                wait_until(
                    lambda: (
                        worker.log().count('"task_failed"') == 2
                        and all(event in worker.log() for event in ("stage_refused", "stage_completed"))
                    ),
                    timeout_seconds=100,
                    what="four messages have come to their ends",
                )
                yield scene
        finally:
            worker.stop()


def plan(ledger: PostgresLedger) -> None:
    contract, now = a_contract(), datetime.now(UTC)
    with ledger.transaction() as tx:
        tx.insert_contract(contract)
        tx.save_expectation(Expectation("shop", "orders", HOUR, HOUR, since=now - 3 * HOUR))
        tx.set_watermark("shop", "orders", now - HOUR)
        for slot in SLOTS:
            planned = PlannedWindow(slot, Window(None, now - HOUR))
            assert lifecycle.plan(tx, contract, planned=planned, bucket="esclusa-shop")


@contextmanager
def prometheus(scene: Scene, directory: Path) -> Iterator[str]:
    """Scrape every second, and answer at the URL that is given."""
    if shutil.which("prometheus") is None:
        lacking("Prometheus", cure="apt-get install prometheus")
    targets = {"esclusa-workers": scene.worker_port, "esclusa-exporter": scene.exporter_port}
    configuration = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
            for job, port in targets.items()
        ],
    }
    file, port = directory / "prometheus.yaml", find_free_port()
    file.write_text(yaml.safe_dump(configuration))
    command = [
        *("prometheus", f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}"),
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with running(command, {"PATH": os.environ["PATH"]}, directory / "prometheus.log"):
        yield f"http://127.0.0.1:{port}"


def asked(url: str, query: str) -> dict[tuple[str, ...], float]:
    """Return what a query finds: each value by its labels, which are in the order of their names."""
    try:
        answer = requests.get(f"{url}/api/v1/query", params={"query": query}, timeout=5).json()
    except requests.RequestException:
        return {}
    return {
        tuple(value for _, value in sorted(found["metric"].items())): float(found["value"][1])
        for found in answer.get("data", {}).get("result", [])
    }


def test_prometheus_scrapes_worker_and_exporter_and_finds_what_happened(scene: Scene, tmp_path: Path) -> None:
    with prometheus(scene, tmp_path) as url:
        wait_until(lambda: sum(asked(url, "up").values()) == 2, what="both are scraped")
        # By outcome, reason and stage.
        batches = "sum by (stage, outcome, reason) (esclusa_batches_total)"
        expected = {
            ("completed", "none", "extract"): 1,
            ("refused", "null_cursor", "extract"): 1,
            ("failed", "attempt_failed", "extract"): 1,
        }
        wait_until(lambda: expected.items() <= asked(url, batches).items(), what="three batches are told")
        # The fourth was never counted by the process that did it, but by the one that missed it.
        lost = "sum by (queue) (esclusa_tasks_lost_total)"
        wait_until(lambda: asked(url, lost) == {("extract",): 1}, what="the lost task is told")
        rows = asked(url, "sum by (count) (esclusa_rows_total)")
        assert rows == {("rows_read",): 3, ("rows_written",): 2, ("rows_outside_window",): 1}
        assert asked(url, "sum(esclusa_stage_duration_seconds_count)") == {(): 3}
        assert asked(url, "sum(time() - esclusa_worker_turned_timestamp_seconds < bool 30)") == {(): 1}
        # Of the ledger, by source, state and table.
        states = asked(url, "sum by (source, state, table) (esclusa_open_batches)")
        assert states[("shop", BatchState.QUARANTINED, "orders")] == 1
        assert states[("shop", BatchState.EXTRACTED, "orders")] == 1
        assert states[("shop", BatchState.EXTRACTING, "orders")] == 1
        (freshness,) = asked(url, "esclusa_freshness_seconds").values()
        (lag,) = asked(url, "esclusa_watermark_lag_seconds").values()
        assert 3 * 3600 <= freshness < 3 * 3600 + 120
        assert 3600 <= lag < 3600 + 120
        assert asked(url, 'sum by (condition) (esclusa_queue_messages{queue="extract"})').keys() == {
            ("visible",),
            ("in_flight",),
            ("delayed",),
        }
        # The rules are loaded, and judge.
        rules = requests.get(f"{url}/api/v1/rules", timeout=5).json()["data"]["groups"][0]["rules"]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert len(rules) == len(yaml.safe_load(RULES.read_text())["groups"][0]["rules"])
        held = 'ALERTS{alertname="EsclusaBatchHeld"}'
        wait_until(lambda: bool(asked(url, held)), what="the held batch is an alert")


def test_every_line_of_a_task_says_what_it_is_about_also_what_celery_says_afterwards(scene: Scene) -> None:
    children = {
        slot: [line for line in scene.lines_about(slot) if line["event"] != "task_failed"] for slot in SLOTS
    }

    for slot, lines in children.items():
        assert {(line["source"], line["table"], line["stage"]) for line in lines} == {
            ("shop", "orders", "extract")
        }
        assert {line["trace_id"] for line in lines} == {scene.trace_id(slot)}
        assert {line["attempt"] for line in lines} <= {1, 2, 3}
        assert {"stage_claimed", "work_went_on"} <= {line["event"] for line in lines}
    celery = [line for line in children["raise"] if line["logger"] == "celery.app.trace"]
    assert celery
    # Of the main process, which reads no ledger.
    (failed, *_) = [line for line in scene.lines_about("raise") if line["event"] == "task_failed"]
    assert (failed["stage"], failed["trace_id"]) == ("extract", scene.trace_id("raise"))


def test_each_process_of_a_worker_counts_for_itself(scene: Scene) -> None:
    (files,) = scene.metrics_directory.iterdir()

    processes = {path.stem.rpartition("_")[2] for path in files.iterdir()}

    assert {"main", "child-0"} <= processes <= {"main", "child-0", "child-1"}


def test_the_spans_of_a_task_leave_its_process_in_the_trace_of_its_batch(scene: Scene) -> None:
    wait_until(
        lambda: len(scene.collector.spans) >= 13,
        timeout_seconds=100,
        what="the spans of three attempts have left",
    )

    assert scene.collector.services == {"metered"}
    for slot, names in {
        "initial": {"planned", "extract", "claim", "work", "record"},
        "refuse": {"planned", "extract", "claim", "work"},
    }.items():
        trace_id = scene.trace_id(slot)
        assert {span.name for span in scene.collector.spans if span.trace_id.hex() == trace_id} == names
    assert not any("alice" in str(span) for span in scene.collector.spans)


def test_no_value_that_work_has_seen_is_told_to_prometheus(scene: Scene) -> None:
    told = "\n".join([*scene.metrics(scene.worker_port), *scene.metrics(scene.exporter_port)])

    assert "esclusa_batches_total" in told
    assert "alice" not in told
    assert batch_id("shop", "orders", "raise") not in told
