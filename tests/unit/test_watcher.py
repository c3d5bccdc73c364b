"""The watcher looks, records, measures and tells, one at a time, whatever else is broken."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
import structlog
from pydantic import ValidationError
from support.ledger_rows import NOON
from support.ledgers import SteppingClock

from lambdas.emf import metric_fields
from lambdas.watcher.settings import WatcherSettings
from lambdas.watcher.watch import WatchReport, samples, watch
from shared.alarms import WATCHER, AlarmLimits, Facts
from shared.domain.alarms import AlarmKind
from shared.domain.progress import Expectation, TableProgress
from shared.errors import Unavailable
from shared.ledger.memory import MemoryLedger
from shared.notices.memory import MemoryNotifier
from shared.ports import OutboxMessage, QueueName
from shared.queues.memory import MemoryQueues
from shared.telemetry.logs import configure_logging

MINUTE = timedelta(minutes=1)
EXPECTED = Expectation("shop", "orders", every=MINUTE, expected_by=MINUTE, since=NOON)


@pytest.fixture
def clock() -> SteppingClock:
    return SteppingClock()


@pytest.fixture
def ledger(clock: SteppingClock) -> MemoryLedger:
    ledger = MemoryLedger(clock)
    with ledger.transaction() as tx:
        tx.save_expectation(EXPECTED)
    clock.advance(minutes=9)
    return ledger


def run(ledger: MemoryLedger, notifier: MemoryNotifier | None = None) -> WatchReport:
    return watch(
        ledger=ledger, inspector=MemoryQueues(), notifier=notifier, limits=AlarmLimits(), fleet="esclusa"
    )


def last_run(ledger: MemoryLedger) -> Any:
    with ledger.transaction() as tx:
        return tx.last_run(WATCHER)


def test_a_run_raises_tells_and_says_that_it_ran(ledger: MemoryLedger, clock: SteppingClock) -> None:
    notifier = MemoryNotifier()

    reports = [run(ledger, notifier), run(ledger, notifier)]

    assert [(report.raised_count, report.told_count) for report in reports] == [(1, 1), (0, 0)]
    assert reports[1].open_counts == {AlarmKind.TABLE_LATE: 1}
    assert [len(notice.raised) for notice in notifier.notices] == [1]
    assert last_run(ledger) == clock.moment


def test_a_second_watcher_beside_a_running_one_does_nothing(ledger: MemoryLedger) -> None:
    with ledger.exclusively(WATCHER) as is_alone:
        report = run(ledger)

    assert is_alone
    assert report == WatchReport()
    assert last_run(ledger) is None


def test_a_receiver_that_is_away_keeps_nothing_from_being_recorded(ledger: MemoryLedger) -> None:
    report = run(ledger, MemoryNotifier(error=Unavailable("away")))

    assert (report.raised_count, report.told_count) == (1, 0)
    assert last_run(ledger) is not None


# ---- metrics -----------------------------------------------------------------------------------------------------


def test_every_metric_is_a_line_that_cloudwatch_reads(ledger: MemoryLedger) -> None:
    stream = StringIO()
    configure_logging("watcher", stream=stream)

    run(ledger)

    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    metrics = [line for line in lines if line["event"] == "metric"]
    assert {line["event"] for line in lines} == {"metric", "alarm_raised", "watched"}
    names = set()
    for line in metrics:
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        (metric,) = directive["Metrics"]
        (dimensions,) = directive["Dimensions"]
        names.add(metric["Name"])
        assert directive["Namespace"] == "Esclusa"
        assert line["_aws"]["Timestamp"] == int((NOON + 9 * MINUTE).timestamp() * 1000)
        assert isinstance(line[metric["Name"]], int | float)
        assert all(line[dimension] and line[dimension].isascii() for dimension in dimensions)
        assert dimensions[0] == "fleet"
    assert names == {"freshness_seconds", "open_alarms", "dead_letters", "outbox_age_seconds"}


def records(facts: Facts) -> list[dict[str, Any]]:
    found = samples(facts, {AlarmKind.TABLE_LATE: 2})
    return [metric_fields(sample, fleet="esclusa", at=facts.now) for sample in found]


def values(facts: Facts, name: str) -> list[Any]:
    return [record[name] for record in records(facts) if name in record]


def test_what_is_measured_is_what_was_found() -> None:
    facts = Facts(
        NOON + 9 * MINUTE,
        expectations=[EXPECTED],
        progress={("shop", "orders"): TableProgress("shop", "orders", NOON, NOON + 7 * MINUTE)},
        dead_letters={QueueName.EXTRACT: 3},
        oldest_message_at=NOON + 8 * MINUTE,
    )

    assert values(facts, "freshness_seconds") == [120.0]
    assert values(facts, "open_alarms") == [2, 0, 0, 0, 0, 0]
    assert values(facts, "dead_letters") == [3]
    assert values(facts, "outbox_age_seconds") == [60.0]


def test_a_source_whose_clock_is_ahead_is_fresh_and_an_empty_outbox_has_no_age() -> None:
    ahead = TableProgress("shop", "orders", NOON, NOON + MINUTE)
    facts = Facts(NOON, expectations=[EXPECTED], progress={("shop", "orders"): ahead})

    assert values(facts, "freshness_seconds") == [0.0]
    assert values(facts, "outbox_age_seconds") == [0.0]


@pytest.mark.parametrize("table", ["größe", "日" * 42, "a\u202eb"])
def test_any_table_has_a_dimension_that_cloudwatch_takes(table: str) -> None:
    facts = Facts(NOON, expectations=[Expectation("shop", table, MINUTE, MINUTE, NOON)])

    (record,) = (record for record in records(facts) if "freshness_seconds" in record)

    dimension = record["table"]
    assert isinstance(dimension, str)
    assert dimension.isascii()
    assert 1 <= len(dimension) <= 1_024
    assert dimension.strip()


# ---- settings ----------------------------------------------------------------------------------------------------


def test_without_settings_nobody_is_told_but_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = WatcherSettings()

    assert (settings.alarm_webhook_url, settings.alarm_topic_arn) == (None, None)
    assert settings.limits() == AlarmLimits()


@pytest.mark.parametrize(
    "environment",
    [
        {"ALARM_WEBHOOK_URL": "env:URL", "ALARM_TOPIC_ARN": "arn:aws:sns:eu-west-1:000000000000:on-call"},
        {"ALARM_WEBHOOK_KEY": "env:KEY"},
        {"ALARM_WEBHOOK_URL": "https://hooks.example/s3cret"},
        {"ALARM_WEBHOOK_URL": "env:URL", "ALARM_WEBHOOK_KEY": "s3cret"},
        {"ALARM_TOPIC_ARN": "on-call"},
    ],
)
def test_settings_that_contradict_each_other_or_hold_a_secret_stop_the_watcher(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(f"ESCLUSA_{name}", value)

    with pytest.raises(ValidationError) as caught:
        WatcherSettings()

    assert "s3cret" not in str(caught.value)


def test_an_outage_of_the_ledger_is_not_swallowed() -> None:
    class Away(MemoryLedger):
        def exclusively(self, name: str) -> Any:
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        run(Away(SteppingClock()))


def test_a_message_that_does_not_leave_is_measured_and_alarming(
    ledger: MemoryLedger, clock: SteppingClock
) -> None:
    with ledger.transaction() as tx:
        tx.post(OutboxMessage(QueueName.EXTRACT, "{}", "shop"))
    clock.advance(minutes=6)

    with structlog.testing.capture_logs() as logs:
        report = run(ledger)

    assert report.open_counts[AlarmKind.OUTBOX_STUCK] == 1
    assert [entry["outbox_age_seconds"] for entry in logs if "outbox_age_seconds" in entry] == [360.0]
