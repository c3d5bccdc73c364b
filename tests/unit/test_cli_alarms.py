"""The commands about what should have come: alarms, retire, and what status says of both."""

from datetime import timedelta
from pathlib import Path

import pytest
from support.commands import QueuesAway, Shell
from support.ledger_rows import NOON, a_batch, add_batch

from cli.output import ExitCode
from lambdas.watcher.watch import watch
from shared.alarms import AlarmLimits
from shared.domain.batches import BatchState
from shared.domain.progress import Expectation
from shared.domain.sources import SourceGuard
from shared.errors import Unavailable

MINUTE = timedelta(minutes=1)


def expect(shell: Shell, table: str = "orders", source: str = "shop") -> None:
    with shell.ledger.transaction() as tx:
        tx.save_expectation(Expectation(source, table, MINUTE, MINUTE, since=NOON))


def run_watcher(shell: Shell) -> None:
    watch(ledger=shell.ledger, inspector=shell.queues, notifier=None, limits=AlarmLimits(), fleet="esclusa")


# ---- alarms ------------------------------------------------------------------------------------------------


def test_a_fleet_that_is_well_has_no_alarms() -> None:
    shell = Shell()
    run_watcher(shell)

    ended = shell.run("alarms")

    assert ended.exit_code == ExitCode.OK
    assert ended.output == "no alarms\n"
    assert ended.errors == "the watcher last ran at 2026-11-22T12:00:00Z\n"


def test_an_open_alarm_is_shown_with_what_to_do_and_is_exit_code_1() -> None:
    shell = Shell()
    expect(shell)
    shell.clock.advance(minutes=3)
    run_watcher(shell)
    shell.clock.advance(minutes=1)

    ended = shell.run("alarms")

    assert ended.exit_code == ExitCode.PROBLEM
    _, line = ended.output.splitlines()
    assert line.split()[:4] == ["2026-11-22T12:03:00Z", "open", "table_late", "shop.orders"]
    assert "nothing was ever planned" in line


def test_alarms_are_found_and_resolved_by_the_command_itself_while_the_watcher_is_dead() -> None:
    shell = Shell()
    expect(shell)
    shell.clock.advance(minutes=3)
    never_ran = shell.run("alarms", "--json")
    run_watcher(shell)
    shell.clock.advance(minutes=6)
    with shell.ledger.transaction() as tx:
        tx.delete_expectation("shop", "orders")

    over = shell.run("alarms", "--json")

    assert never_ran.exit_code == ExitCode.PROBLEM
    (alarm,) = never_ran.document["alarms"]
    assert (alarm["kind"], alarm["raised_at"], alarm["raise_told_at"]) == (
        "table_late",
        "2026-11-22T12:03:00Z",
        None,
    )
    assert never_ran.document["watcher_last_ran_at"] is None
    assert "the watcher never ran" in never_ran.errors
    assert (over.exit_code, over.document["open_count"]) == (ExitCode.OK, 0)
    assert "nobody is told" in over.errors


def test_looking_at_alarms_records_nothing() -> None:
    shell = Shell()
    expect(shell)
    shell.clock.advance(minutes=9)

    shell.run("alarms")
    shell.run("status")

    with shell.ledger.transaction() as tx:
        assert tx.alarms() == []
        assert tx.last_run("watcher") is None


def test_alarms_that_are_over_are_shown_when_asked_for() -> None:
    shell = Shell()
    expect(shell)
    with shell.ledger.transaction() as tx:
        tx.save_source_guard(SourceGuard("shop", failures_in_a_row=3))
    run_watcher(shell)
    shell.clock.advance(minutes=1)
    with shell.ledger.transaction() as tx:
        tx.save_source_guard(SourceGuard("shop"))
    run_watcher(shell)

    few, every = shell.run("alarms", "--json"), shell.run("alarms", "--all", "--json")

    assert few.document["alarms"] == []
    (alarm,) = every.document["alarms"]
    assert (alarm["kind"], alarm["subject"], alarm["resolved_at"]) == (
        "source_failing",
        "shop",
        "2026-11-22T12:01:00Z",
    )
    assert every.exit_code == ExitCode.OK


def test_queues_that_do_not_answer_are_named_and_hide_no_other_alarm() -> None:
    shell = Shell()
    shell.queues = QueuesAway(Unavailable("away"))
    with shell.ledger.transaction() as tx:
        add_batch(tx, a_batch(state=BatchState.FAILED))

    ended = shell.run("alarms")

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert "batch_held" in ended.output
    assert "queues that did not answer: backfill, clean, extract" in ended.errors


def test_a_setting_that_is_wrong_is_named() -> None:
    ended = Shell().run("alarms", ESCLUSA_ALARM_OUTBOX_STUCK_AFTER_SECONDS="soon")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "ESCLUSA_ALARM_OUTBOX_STUCK_AFTER_SECONDS" in ended.errors


# ---- status ------------------------------------------------------------------------------------------------


def test_status_names_late_tables_and_counts_alarms() -> None:
    shell = Shell()
    expect(shell)
    expect(shell, "customers", "crm")
    shell.clock.advance(minutes=3)

    told, document = shell.run("status"), shell.run("status", "--json").document

    assert told.exit_code == ExitCode.OK
    assert "late: crm.customers, shop.orders" in told.output
    assert "alarms: 2 of the whole fleet are open" in told.output
    assert document["open_alarm_count"] == 2
    assert [table["is_late"] for table in document["tables"]] == [True, True]


# ---- retire ------------------------------------------------------------------------------------------------


def test_a_retired_source_is_late_no_more(tmp_path: Path) -> None:
    shell = Shell()
    expect(shell)
    expect(shell, "customers")
    shell.clock.advance(minutes=9)

    ended = shell.run("retire", "shop", "--sources", str(tmp_path))

    assert ended.exit_code == ExitCode.OK
    assert ended.output == "shop: nothing is expected of its 2 tables any more\n"
    assert shell.run("alarms").exit_code == ExitCode.OK
    assert shell.run("retire", "shop", "--sources", str(tmp_path)).exit_code == ExitCode.NOT_FOUND


@pytest.mark.parametrize("text", ["name: shop\n", "not even YAML: ["])
def test_a_source_whose_file_is_there_is_not_retired(tmp_path: Path, text: str) -> None:
    shell = Shell()
    expect(shell)
    (tmp_path / "shop.yaml").write_text(text)

    ended = shell.run("retire", "shop", "--sources", str(tmp_path))

    assert ended.exit_code == ExitCode.PROBLEM
    assert "delete it first" in ended.errors
    with shell.ledger.transaction() as tx:
        assert len(tx.expectations()) == 1
