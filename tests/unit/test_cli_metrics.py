"""What ledger and queues say, for Prometheus: bounded, as it is now, and nothing in place of what cannot be read."""

import json
from datetime import timedelta
from typing import Any

import pytest
from support.commands import QueuesAway, Shell
from support.ledger_rows import NOON, a_batch, add_batch
from support.ledgers import SteppingClock

from cli.exporter import Exporter
from cli.output import ExitCode
from shared.alarms import WATCHER
from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import BatchState
from shared.domain.progress import Expectation
from shared.errors import Unavailable
from shared.ports import OutboxMessage, QueueName
from shared.telemetry.metrics import Sample

MINUTE = timedelta(minutes=1)


@pytest.fixture
def shell() -> Shell:
    shell = Shell()
    with shell.ledger.transaction() as tx:
        tx.save_expectation(Expectation("shop", "orders", MINUTE, 4 * MINUTE, since=NOON - MINUTE))
        tx.set_watermark("shop", "orders", NOON)
        add_batch(tx, a_batch("a"))
        add_batch(tx, a_batch("b", state=BatchState.FAILED, changed_at=NOON - MINUTE))
        add_batch(tx, a_batch("c", state=BatchState.PUBLISHED))
        tx.save_alarm(Alarm(AlarmKind.BATCH_HELD, "b1", raised_at=NOON, detail=""))
        tx.save_alarm(Alarm(AlarmKind.BATCH_HELD, "b2", raised_at=NOON, detail="", resolved_at=NOON))
        tx.post(OutboxMessage(QueueName.EXTRACT, "{}", "shop"))
        tx.record_run(WATCHER)
    shell.queues.send([OutboxMessage(QueueName.EXTRACT, "{}", "shop")])
    shell.clock.advance(minutes=2)
    return shell


def told(shell: Shell) -> dict[str, Any]:
    ended = shell.run("metrics", "--once", "--json")
    assert ended.exit_code == ExitCode.OK
    return {
        " ".join([item["name"], *item["labels"].values()]): item["value"]
        for item in ended.document["metrics"]
    }


def test_the_ledger_and_the_queues_are_told_as_they_are(shell: Shell) -> None:
    found = told(shell)

    assert {name: found[name] for name in found if name.startswith("esclusa_open_batches")} == {
        "esclusa_open_batches shop orders planned": 1,
        "esclusa_open_batches shop orders failed": 1,
    }
    assert found["esclusa_oldest_batch_age_seconds planned"] == 120
    assert found["esclusa_oldest_batch_age_seconds failed"] == 180
    assert found["esclusa_oldest_batch_age_seconds ready"] == 0
    assert "esclusa_oldest_batch_age_seconds published" not in found
    assert found["esclusa_freshness_seconds shop orders"] == 180
    assert found["esclusa_late_after_seconds shop orders"] == 300
    assert found["esclusa_watermark_lag_seconds shop orders"] == 120
    assert found["esclusa_open_alarms batch_held"] == 1
    assert found["esclusa_open_alarms table_late"] == 0
    assert found["esclusa_watched_timestamp_seconds"] == NOON.timestamp()
    assert (found["esclusa_outbox_messages"], found["esclusa_outbox_age_seconds"]) == (1, 120)
    assert found["esclusa_queue_messages extract visible"] == 1
    assert found["esclusa_dead_letters extract"] == 0
    assert found["esclusa_exporter_failures_total ledger"] == 0
    assert found["esclusa_exporter_tables_left_out"] == 0


def test_once_prints_what_prometheus_would_be_told(shell: Shell) -> None:
    ended = shell.run("metrics", "--once")

    assert ended.exit_code == ExitCode.OK
    lines = ended.output.splitlines()
    assert 'esclusa_open_batches{source="shop",state="failed",table="orders"} 1.0' in lines
    assert "# TYPE esclusa_exporter_failures_total counter" in lines


def test_queues_that_are_away_are_left_out_and_the_rest_is_told(shell: Shell) -> None:
    shell.queues = QueuesAway(Unavailable("away"))

    ended = shell.run("metrics", "--once", "--json")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    names = {item["name"] for item in ended.document["metrics"]}
    assert "esclusa_open_batches" in names
    assert not names & {"esclusa_queue_messages", "esclusa_dead_letters"}
    assert ended.document["failures"] == {"ledger": 0, "queues": 1}
    assert "not read: queues" in ended.errors


def test_tables_beyond_the_limit_are_left_out_and_counted_and_rules_see_it(shell: Shell) -> None:
    with shell.ledger.transaction() as tx:
        for number in range(3):
            add_batch(tx, a_batch("a", table=f"retired_{number}"))

    ended = shell.run("metrics", "--once", "--json", ESCLUSA_METRICS_TABLE_LIMIT="2")

    items = ended.document["metrics"]
    assert {item["labels"]["table"] for item in items if "table" in item["labels"]} == {"orders", "retired_0"}
    assert [item["value"] for item in items if item["name"] == "esclusa_exporter_tables_left_out"] == [2]


@pytest.mark.parametrize(
    ("arguments", "environment"),
    [
        (["--json"], {}),
        (["--port", "0"], {}),
        (["--port", "70000"], {}),
        ([], {"ESCLUSA_METRICS_PORT": "0"}),
        ([], {"ESCLUSA_METRICS_PORT": "none"}),
        (["--address", "203.0.113.1", "--port", "9464"], {}),
    ],
)
def test_what_cannot_be_is_refused_at_once(
    shell: Shell, arguments: list[str], environment: dict[str, str]
) -> None:
    ended = shell.run("metrics", *arguments, **environment)

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert ended.errors


# ---- who asks how often ----------------------------------------------------------------------------------------


class Counting:
    """A ledger that says how often it was asked, and may be away."""

    def __init__(self, shell: Shell) -> None:
        self.shell = shell
        self.asked = 0
        self.is_away = False

    def transaction(self) -> Any:
        self.asked += 1
        if self.is_away:
            raise Unavailable("away")
        return self.shell.ledger.transaction()


def exporter(ledger: Counting, seconds: SteppingClock) -> Exporter:
    return Exporter(
        ledger,  # type: ignore[arg-type]
        ledger.shell.queues,
        read_every=timedelta(seconds=15),
        table_limit=100,
        monotonic=lambda: seconds().timestamp(),
    )


def values(samples: list[Sample], name: str) -> list[float]:
    return [sample.value for sample in samples if sample.metric.name == name]


def test_however_often_somebody_asks_the_ledger_is_read_every_fifteen_seconds(shell: Shell) -> None:
    ledger, seconds = Counting(shell), SteppingClock()
    asked = exporter(ledger, seconds)

    for _ in range(4):
        asked.samples()
        seconds.advance(seconds=6)

    assert ledger.asked == 2


def test_old_values_are_not_told_in_place_of_what_cannot_be_read(shell: Shell) -> None:
    ledger, seconds = Counting(shell), SteppingClock()
    asked = exporter(ledger, seconds)
    (read_at,) = values(asked.samples(), "exporter_read_timestamp_seconds")
    ledger.is_away = True
    seconds.advance(seconds=20)

    found = asked.samples()

    assert values(found, "freshness_seconds") == []
    assert values(found, "exporter_read_timestamp_seconds") == [read_at]
    assert values(found, "exporter_failures") == [1, 0]
    assert values(found, "queue_messages")


def test_an_exporter_whose_ledger_was_never_there_does_not_say_when_it_read_it(shell: Shell) -> None:
    ledger = Counting(shell)
    ledger.is_away = True

    assert values(exporter(ledger, SteppingClock()).samples(), "exporter_read_timestamp_seconds") == []


def test_no_name_of_a_table_can_look_like_another_line(shell: Shell) -> None:
    with shell.ledger.transaction() as tx:
        add_batch(tx, a_batch("a", table='x"} 1\nesclusa_dead_letters{queue="extract'))

    lines = shell.run("metrics", "--once").output.splitlines()

    assert [line for line in lines if line.startswith('esclusa_dead_letters{queue="extract"}')] == [
        'esclusa_dead_letters{queue="extract"} 0.0'
    ]
    json.dumps(lines)
