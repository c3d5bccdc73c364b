"""The commands that look: status, files, why, query."""

import re
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from support.commands import OneAnswer, Shell
from support.ledger_rows import BUCKET, NOON, a_contract, a_foreign_file, a_raw_file

from cli.explain import CURES, cure, next_step
from cli.output import ExitCode
from services.publisher.warehouse import QueryFailed, QueryResult
from shared import lifecycle
from shared.domain.batches import (
    HELD_STATES,
    STATES_AT_REST,
    Attempt,
    Batch,
    BatchState,
    Stage,
    batch_id,
)
from shared.domain.contracts import MaskEvidence, MaskKind
from shared.domain.files import Area, FileStatus
from shared.domain.quiet_hours import QuietHours
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.sources import SourceGuard, SourceLimits
from shared.domain.windows import PlannedWindow, Window, slot_of
from shared.lifecycle import StageResult

LEASE = timedelta(minutes=2)
ATTACK = "\x1b[2J[red]"


def plan(shell: Shell, *, hour: int = 0, table: str = "orders", source: str = "shop") -> str:
    """Plan the batch of one hour and return its id."""
    start = NOON + timedelta(hours=hour)
    contract = a_contract(table, source=source)
    with shell.ledger.transaction() as tx:
        tx.insert_contract(contract)
        window = PlannedWindow(slot_of(start), Window(start, start + timedelta(hours=1)))
        assert lifecycle.plan(tx, contract, planned=window, bucket=f"esclusa-{source}")
    return batch_id(source, table, slot_of(start))


def claim(shell: Shell, batch: str) -> Attempt:
    with shell.ledger.transaction() as tx:
        attempt = lifecycle.claim(
            tx, batch, Stage.EXTRACT, worker="worker-1", lease=LEASE, retry=RetryPolicy(3)
        )
    assert attempt is not None
    return attempt


def extract(shell: Shell, batch: str) -> Batch:
    """Let an attempt write one file of three rows."""
    attempt = claim(shell, batch)
    with shell.ledger.transaction() as tx:
        row = tx.batch(batch)
        assert row is not None
        result = StageResult(
            files=[a_raw_file(row)],
            counts={"rows_read": 3, "rows_written": 3},
            evidence=[MaskEvidence(batch, 1, "email", MaskKind.HMAC, "k1", 3)],
        )
        return lifecycle.complete(tx, attempt, result)


def quarantine(shell: Shell, batch: str, *, detail: str = "column 'x' is gone") -> None:
    attempt = claim(shell, batch)
    with shell.ledger.transaction() as tx:
        lifecycle.refuse_attempt(tx, attempt, reason=Reason.COLUMN_MISSING, detail=detail)


# ---- status ------------------------------------------------------------------------------------------------


def test_status_counts_batches_per_table_and_state() -> None:
    shell = Shell()
    extract(shell, plan(shell))
    shell.clock.advance(minutes=5)
    plan(shell, hour=1)
    quarantine(shell, plan(shell, hour=2))
    plan(shell, source="crm", table="deals")
    with shell.ledger.transaction() as tx:
        tx.set_watermark("shop", "orders", NOON + timedelta(hours=3))

    document = shell.run("status", "--json").document

    assert document["at"] == "2026-11-22T12:05:00Z"
    crm, orders = document["tables"]
    assert (crm["source"], crm["table"], crm["batches"]) == ("crm", "deals", {"planned": 1})
    assert orders == {
        "source": "shop",
        "table": "orders",
        "contract_version": 1,
        "planned_until": "2026-11-22T15:00:00Z",
        "batches": {"extracted": 1, "planned": 1, "quarantined": 1},
        "last_published_at": None,
        "waiting_since": "2026-11-22T12:00:00Z",
        "differing_window_count": 0,
        "is_late": False,
    }


def test_status_tells_when_a_table_was_last_published() -> None:
    shell = Shell()
    with shell.ledger.transaction() as tx:
        tx.insert_contract(a_contract())
    for hour in (0, 1):
        batch = plan(shell, hour=hour)
        shell.clock.advance(minutes=1)
        publish(shell, batch)

    (orders,) = shell.run("status", "--json").document["tables"]

    assert orders["last_published_at"] == "2026-11-22T12:02:00Z"
    assert orders["waiting_since"] is None


def publish(shell: Shell, batch: str) -> None:
    """Lead a batch along the straight way to its end."""
    way = [state for state in BatchState if state not in {BatchState.PLANNED, *HELD_STATES}]
    for state in way[: way.index(BatchState.PUBLISHED) + 1]:
        with shell.ledger.transaction() as tx:
            row = tx.batch(batch)
            assert row is not None
            tx.save_batch(replace(row, state=state, changed_at=shell.clock()))


def test_status_tells_how_much_the_outbox_holds() -> None:
    shell = Shell()
    plan(shell)

    assert shell.run("status", "--json").document["outbox_message_count"] == 1
    assert "outbox: 1 messages to send" in shell.run("status").output


def test_status_names_the_batches_that_need_a_person() -> None:
    shell = Shell()
    batch = plan(shell)
    quarantine(shell, batch)

    ended = shell.run("status")

    assert ended.exit_code == ExitCode.OK
    assert f"  {batch}  shop.orders  quarantined  column_missing" in ended.output


def test_status_of_one_source_shows_nothing_of_others() -> None:
    shell = Shell()
    plan(shell)
    plan(shell, source="crm", table="deals")

    document = shell.run("status", "--source", "crm", "--json").document

    assert [table["source"] for table in document["tables"]] == ["crm"]


def test_status_of_an_unknown_source_is_not_found() -> None:
    ended = Shell().run("status", "--source", "nowhere")

    assert ended.exit_code == ExitCode.NOT_FOUND
    assert "'nowhere'" in ended.errors


def test_status_of_an_empty_ledger_says_what_to_do() -> None:
    assert "esclusa enqueue" in Shell().run("status").output


# ---- files -------------------------------------------------------------------------------------------------


def test_files_are_listed_with_what_the_ledger_knows() -> None:
    shell = Shell()
    batch = plan(shell)
    extract(shell, batch)

    (file,) = shell.run("files", "--json").document["files"]

    assert file["bucket"] == BUCKET
    assert file["key"].startswith("tmp/orders/")
    assert (file["batch_id"], file["area"], file["status"]) == (batch, "tmp", "announced")
    assert (file["record_count"], file["file_size_in_bytes"], file["sha256"]) == (3, 120, "c5" * 32)
    assert file["key"] in shell.run("files").output


def test_files_can_be_narrowed_by_source_table_area_and_batch() -> None:
    shell = Shell()
    batch = plan(shell)
    extract(shell, batch)
    extract(shell, plan(shell, table="customers"))
    plan(shell, source="crm", table="deals")
    with shell.ledger.transaction() as tx:
        tx.insert_file(a_foreign_file())

    def count(*narrowed: str) -> int:
        return len(shell.run("files", *narrowed, "--json").document["files"])

    assert count() == 3
    assert count("--source", "shop") == 3
    assert count("--source", "crm") == 0
    assert count("--table", "orders") == 1
    assert count("--batch", batch) == 1
    assert count("--area", "tmp") == 3
    assert count("--area", "final", "--area", "quarantine") == 0


def test_files_are_cut_at_the_limit_and_it_is_said() -> None:
    shell = Shell()
    for hour in range(3):
        extract(shell, plan(shell, hour=hour))

    assert shell.run("files", "--limit", "2", "--json").document["is_cut"] is True
    assert "more than 2" in shell.run("files", "--limit", "2").errors
    assert shell.run("files", "--limit", "3", "--json").document["is_cut"] is False


def test_files_of_an_unknown_source_are_not_found() -> None:
    ended = Shell().run("files", "--source", "nowhere")

    assert ended.exit_code == ExitCode.NOT_FOUND
    assert "'nowhere'" in ended.errors


def test_files_of_an_unknown_batch_are_not_found() -> None:
    assert Shell().run("files", "--batch", "b0").exit_code == ExitCode.NOT_FOUND


def test_a_hostile_key_reaches_no_terminal() -> None:
    shell = Shell()
    with shell.ledger.transaction() as tx:
        tx.insert_file(a_foreign_file(f"tmp/{ATTACK}", detail=ATTACK))

    output = shell.run("files").output

    assert "\x1b" not in output
    assert r"tmp/\x1b[2J[red]" in output


# ---- why ---------------------------------------------------------------------------------------------------


def test_why_tells_everything_of_a_batch() -> None:
    shell = Shell()
    batch = plan(shell)
    extract(shell, batch)

    document = shell.run("why", batch, "--json").document

    assert document["batch"]["state"] == "extracted"
    assert [event["to_state"] for event in document["history"]] == ["planned", "extracting", "extracted"]
    assert [(a["stage"], a["number"], a["state"]) for a in document["attempts"]] == [
        ("extract", 1, "succeeded")
    ]
    assert [file["area"] for file in document["files"]] == ["tmp"]
    assert document["masks"][0]["column"] == "email"
    assert document["masks"][0]["masked_value_count"] == 3
    assert "gate of tmp/" in document["next"]
    assert document["cure"] is None
    assert document["file"] is None
    assert re.fullmatch("[0-9a-f]{32}", document["batch"]["trace_id"])


def test_why_tells_people_the_same() -> None:
    shell = Shell()
    batch = plan(shell)
    extract(shell, batch)

    output = shell.run("why", batch).output

    trace_id = shell.run("why", batch, "--json").document["batch"]["trace_id"]
    for told in (
        f"batch {batch}",
        trace_id,
        "shop.orders",
        "extract#1",
        "worker-1",
        "email",
        "hmac",
        "gate of tmp/",
    ):
        assert told in output


def test_why_tells_what_cures_a_batch_that_is_held() -> None:
    shell = Shell()
    batch = plan(shell)
    quarantine(shell, batch)

    document = shell.run("why", batch, "--json").document

    assert document["batch"]["reason"] == "column_missing"
    assert document["cure"].endswith(f"esclusa quarantine replay {batch}")
    assert CURES[Reason.COLUMN_MISSING] in shell.run("why", batch).output


@pytest.mark.parametrize("form", ["s3://{bucket}/{key}", "{key}"])
def test_why_finds_the_batch_of_a_file(form: str) -> None:
    shell = Shell()
    batch = plan(shell)
    extract(shell, batch)
    (file,) = shell.run("files", "--json").document["files"]

    document = shell.run("why", form.format(**file), "--json").document

    assert document["file"]["key"] == file["key"]
    assert document["batch"]["id"] == batch


@pytest.mark.parametrize("target", [str(a_foreign_file().location), "tmp/stray.bin"])
def test_why_tells_of_an_object_that_no_batch_wrote(target: str) -> None:
    shell = Shell()
    plan(shell)
    foreign = a_foreign_file(status=FileStatus.INCORRECT, reason=Reason.FOREIGN_OBJECT, detail="by hand")
    with shell.ledger.transaction() as tx:
        tx.insert_file(foreign)

    document = shell.run("why", target, "--json").document
    output = shell.run("why", target).output

    assert document["batch"] is None
    assert document["file"]["reason"] == "foreign_object"
    assert f"s3://{BUCKET}/quarantine/tmp/stray.bin@" in output
    assert CURES[Reason.FOREIGN_OBJECT] in output


@pytest.mark.parametrize("target", ["b" + "0" * 24, "nonsense", "s3://bucket", "s3:///", "tmp/x", "", "\x1b"])
def test_why_of_what_nobody_knows_is_not_found(target: str) -> None:
    shell = Shell()
    plan(shell)

    ended = shell.run("why", target)

    assert ended.exit_code == ExitCode.NOT_FOUND
    assert "\x1b" not in ended.errors
    assert ended.output == ""


def test_a_hostile_reason_reaches_no_terminal() -> None:
    shell = Shell()
    batch = plan(shell)
    quarantine(shell, batch, detail=f"the source says {ATTACK}\nstate: published")

    output = shell.run("why", batch).output

    assert "\x1b" not in output
    assert r"the source says \x1b[2J[red]\nstate: published" in output


def test_every_reason_has_a_cure_and_every_state_a_next_step() -> None:
    shell = Shell()
    plan(shell)
    with shell.ledger.transaction() as tx:
        (batch,) = tx.batches()

    for state in BatchState:
        assert next_step(replace(batch, state=state), [], now=NOON)
    for reason in Reason:
        held = replace(batch, state=BatchState.QUARANTINED, reason=reason)
        assert (cure(held) or "").endswith(f"esclusa quarantine replay {batch.id}")
    for state in STATES_AT_REST - HELD_STATES:
        assert cure(replace(batch, state=state)) is None


@pytest.mark.parametrize(
    ("guard", "told"),
    [
        (SourceGuard("shop", SourceLimits(1)), "one of the 1 places at its source, shop"),
        (
            SourceGuard("shop", failures_in_a_row=3, open_until=NOON + timedelta(minutes=5)),
            "to be tried after 2026-11-22T12:05:00Z",
        ),
        (
            SourceGuard("shop", SourceLimits(quiet_hours=(QuietHours.parse("11:00-13:30 UTC"),))),
            "the quiet hours of its source, shop, to end at 2026-11-22T13:30:00Z",
        ),
    ],
)
def test_a_deferred_batch_tells_what_it_waits_for(guard: SourceGuard, told: str) -> None:
    shell = Shell()
    batch = plan(shell)
    with shell.ledger.transaction() as tx:
        tx.save_source_guard(guard)
        (planned,) = tx.batches()
        tx.save_batch(replace(planned, woken_at=None))

    assert told in shell.run("why", batch, "--json").document["next"]


def test_status_tells_of_which_sources_nothing_is_begun_now_and_why() -> None:
    shell = Shell()
    plan(shell)
    quiet = SourceLimits(quiet_hours=(QuietHours.parse("11:00-13:30 UTC"),))
    with shell.ledger.transaction() as tx:
        tx.save_source_guard(SourceGuard("shop", quiet))
        tx.save_source_guard(SourceGuard("crm", failures_in_a_row=3, open_until=NOON + timedelta(minutes=5)))
        tx.save_source_guard(SourceGuard("sound"))

    document = shell.run("status", "--json").document
    lines = shell.run("status").output.splitlines()

    assert document["resting_sources"] == [
        {"source": "crm", "until": "2026-11-22T12:05:00Z", "is_quiet": False},
        {"source": "shop", "until": "2026-11-22T13:30:00Z", "is_quiet": True},
    ]
    assert [line for line in lines if line.startswith("resting:")] == [
        "resting: crm failed time and again and is left alone until 2026-11-22T12:05:00Z",
        "resting: shop has quiet hours until 2026-11-22T13:30:00Z",
    ]


def test_a_running_attempt_is_told_apart_from_one_that_is_lost() -> None:
    shell = Shell()
    batch = plan(shell)
    claim(shell, batch)

    at_work = shell.run("why", batch, "--json").document["next"]
    shell.clock.moment += LEASE
    lost = shell.run("why", batch, "--json").document["next"]

    assert at_work == "Attempt 1 of extract is at work on worker-1."
    assert "no sign of life" in lost


# ---- query -------------------------------------------------------------------------------------------------


def answering(
    *rows: tuple[object, ...], columns: tuple[str, ...] = ("a", "b"), is_cut: bool = False
) -> Shell:
    return Shell(warehouse=OneAnswer(QueryResult(columns, rows, is_cut=is_cut)))


def test_a_query_is_answered_as_a_table() -> None:
    ended = answering((1, None), (2, Decimal("0.10"))).run("query", "SELECT 1")

    assert ended.exit_code == ExitCode.OK
    assert [line.split() for line in ended.output.splitlines()] == [["a", "b"], ["1", "NULL"], ["2", "0.10"]]


def test_a_query_is_answered_as_json_that_keeps_null_text_and_digits_apart() -> None:
    shell = answering(
        (None, "NULL"), ("", Decimal("1.10")), (datetime(2026, 1, 1, tzinfo=NOON.tzinfo), b"\xff")
    )

    assert shell.run("query", "SELECT 1", "--json").document == {
        "columns": ["a", "b"],
        "rows": [[None, "NULL"], ["", "1.10"], ["2026-01-01T00:00:00Z", "ff"]],
        "is_cut": False,
    }


def test_limit_and_timeout_of_a_query_are_handed_on() -> None:
    shell = answering()

    shell.run("query", "SELECT 2", "--limit", "7", "--timeout", "3")

    assert shell.warehouse.asked == [("SELECT 2", 7, 3)]


def test_a_cut_answer_says_so() -> None:
    assert "raise --limit" in answering((1, 2), is_cut=True).run("query", "SELECT 1").errors


def test_an_answer_without_rows_names_its_columns() -> None:
    assert answering().run("query", "SELECT 1").output == "no rows (a, b)\n"


def test_a_query_that_the_warehouse_refuses_is_an_error_in_its_words() -> None:
    shell = Shell(warehouse=OneAnswer(QueryFailed('relation "x" does not exist')))

    ended = shell.run("query", "SELECT * FROM x")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert 'relation "x" does not exist' in ended.errors


def test_hostile_values_and_column_names_reach_no_terminal() -> None:
    ended = answering((ATTACK, 1), columns=(ATTACK, "b")).run("query", "SELECT 1")

    assert "\x1b" not in ended.output
    assert ended.output.count(r"\x1b[2J[red]") == 2


def test_areas_that_are_none_are_a_usage_error() -> None:
    assert Shell().run("files", "--area", "attic").exit_code == ExitCode.CONFIGURATION
    assert {str(area) for area in Area} == {"tmp", "input", "processing", "final", "quarantine"}
