"""What every ledger keeps, in memory and on PostgreSQL alike."""

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from support.ledger_rows import (
    BUCKET,
    NOON,
    a_batch,
    a_contract,
    a_final_file,
    a_foreign_file,
    a_raw_file,
    add_batch,
    an_attempt,
    an_event,
)

from shared import lifecycle
from shared.domain.batches import EDGES, AttemptState, Batch, BatchState, Stage
from shared.domain.contracts import MaskEvidence, MaskKind
from shared.domain.files import Area, FileStatus
from shared.domain.progress import CursorCount
from shared.domain.reasons import Reason
from shared.domain.retries import RetryPolicy
from shared.domain.windows import PlannedWindow, Window, slot_of
from shared.errors import IllegalTransition, LostLease, StaleRevision
from shared.ports import Ledger, OutboxMessage, QueueName

HOUR = timedelta(hours=1)
LEASE = timedelta(minutes=10)


def stored(ledger: Ledger, *batches: Batch) -> None:
    with ledger.transaction() as tx:
        for batch in batches:
            add_batch(tx, batch)


def together(*works: Callable[[], object]) -> list[object]:
    """Run works at the same time, each in a thread, and return what came of each: a result or an error."""
    results: list[object] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(index: int) -> None:
        start.wait(timeout=30)
        try:
            results[index] = works[index]()
        except Exception as error:  # noqa: BLE001  the test looks at it
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    return results


# ---- transactions --------------------------------------------------------------------------------------------


def test_the_clock_is_in_utc_and_moves_within_a_transaction(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        first = tx.now()
        while (second := tx.now()) == first:
            continue

    assert first.tzinfo is UTC
    assert first < second


def test_a_transaction_that_raises_leaves_nothing_behind(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    with ledger.transaction() as tx:
        tx.append_event(an_event(batch))
        tx.insert_attempt(an_attempt(batch))
        tx.insert_file(a_raw_file(batch))
        tx.post(OutboxMessage(QueueName.EXTRACT, "{}", "shop"))
        tx.set_watermark("shop", "orders", NOON)

    with pytest.raises(RuntimeError, match="the worker died"), ledger.transaction() as tx:  # noqa: PT012  the whole block is undone
        changed = tx.save_batch(replace(batch, state=BatchState.EXTRACTING, attempts={Stage.EXTRACT: 1}))
        tx.append_event(an_event(changed, 2, from_state=BatchState.PLANNED, to_state=BatchState.EXTRACTING))
        tx.save_attempt(an_attempt(batch, state=AttemptState.FAILED))
        tx.insert_attempt(an_attempt(batch, number=2))
        tx.insert_manifest(batch.id, Stage.EXTRACT, 1, {})
        tx.save_file(a_raw_file(batch, deleted_at=NOON))
        tx.insert_file(a_raw_file(batch, part=1))
        tx.insert_mask_evidence([MaskEvidence(batch.id, 1, "email", MaskKind.HMAC, "k1", 3)])
        tx.insert_contract(a_contract(version=2))
        tx.insert_batch(a_batch("other"))
        tx.set_watermark("shop", "orders", NOON + HOUR)
        tx.mark_sent([message.id for message in tx.pending_messages(limit=10)])
        tx.post(OutboxMessage(QueueName.CLEAN, "{}", "shop"))
        raise RuntimeError("the worker died")

    with ledger.transaction() as tx:
        assert tx.batches() == [batch]
        assert [event.to_state for event in tx.events(batch.id)] == [BatchState.PLANNED]
        assert tx.attempts(batch.id) == [an_attempt(batch)]
        assert tx.expired_attempts(limit=10) == [an_attempt(batch)]
        assert tx.manifest(batch.id, Stage.EXTRACT, 1) is None
        assert [file.deleted_at for file in tx.files()] == [None]
        assert tx.mask_evidence(batch.id) == []
        assert tx.latest_contract("shop", "orders") == a_contract()
        assert tx.watermark("shop", "orders") == NOON
        assert [pending.message.queue for pending in tx.pending_messages(limit=10)] == [QueueName.EXTRACT]


def test_a_refused_change_leaves_the_transaction_usable(ledger: Ledger) -> None:
    batch = a_batch()

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        with pytest.raises(StaleRevision):
            tx.save_batch(replace(batch, revision=7))
        with pytest.raises(IllegalTransition):
            tx.save_batch(replace(batch, state=BatchState.PUBLISHED))
        tx.save_batch(replace(batch, detail="still here"))

    with ledger.transaction() as tx:
        assert tx.batches() == [replace(batch, detail="still here", revision=1)]


# ---- contracts and watermarks --------------------------------------------------------------------------------


def test_what_was_seen_of_a_cursor_that_counts_is_kept_of_each_table(ledger: Ledger) -> None:
    seen = CursorCount("seq", None, NOON, -5)
    largest = CursorCount("version", 2**63 - 1, NOON + HOUR, 2**63 - 1)

    with ledger.transaction() as tx:
        tx.set_cursor_count("shop", "orders", CursorCount("seq", 3, NOON, None))
        tx.set_cursor_count("shop", "orders", seen)
        tx.set_cursor_count("shop", "customers", largest)

    with ledger.transaction() as tx:
        assert tx.cursor_count("shop", "orders") == seen
        assert tx.cursor_count("shop", "customers") == largest
        assert tx.cursor_count("crm", "orders") is None


def test_the_newest_contract_of_a_table_is_the_latest(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for version in (1, 3, 2):
            assert tx.insert_contract(a_contract(version=version))

    with ledger.transaction() as tx:
        assert tx.latest_contract("shop", "orders") == a_contract(version=3)
        assert tx.contract("shop", "orders", 2) == a_contract(version=2)


def test_a_version_of_a_contract_is_added_once(ledger: Ledger) -> None:
    other = replace(a_contract(version=2), version=1)

    with ledger.transaction() as tx:
        assert tx.insert_contract(a_contract())
        assert not tx.insert_contract(other)
        assert tx.contract("shop", "orders", 1) == a_contract()


def test_a_contract_that_is_not_there_is_none_or_an_error(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract())

        assert tx.latest_contract("shop", "customers") is None
        with pytest.raises(KeyError, match=r"shop\.orders version 2"):
            tx.contract("shop", "orders", 2)
        with pytest.raises(KeyError, match=r"shop\.customers version 1"):
            tx.contract("shop", "customers", 1)


def test_the_latest_contracts_come_by_source_and_table(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for source, table, version in [
            ("shop", "orders", 1),
            ("shop", "orders", 2),
            ("shop", "Items", 1),
            ("crm", "übersicht", 1),
            ("crm", "zebras", 1),
        ]:
            tx.insert_contract(a_contract(table, source=source, version=version))

        found = [(c.contract.source, c.contract.table, c.version) for c in tx.latest_contracts()]
        known = tx.known_tables()

    assert known == [(source, table) for source, table, _ in found]
    assert found == [
        ("crm", "zebras", 1),
        ("crm", "übersicht", 1),
        ("shop", "Items", 1),
        ("shop", "orders", 2),
    ]


def test_a_watermark_is_absent_then_set_then_moved(ledger: Ledger) -> None:
    seen = []
    for moment in (NOON, NOON + HOUR, NOON + HOUR + timedelta(microseconds=1)):
        with ledger.transaction() as tx:
            seen.append(tx.watermark("shop", "orders"))
            tx.set_watermark("shop", "orders", moment)

    assert seen == [None, NOON, NOON + HOUR]


def test_watermarks_of_two_tables_are_two(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.set_watermark("shop", "orders", NOON)

        assert tx.watermark("shop", "customers") is None
        assert tx.watermark("crm", "orders") is None


# ---- batches -------------------------------------------------------------------------------------------------


def test_a_batch_comes_back_as_it_was_added(ledger: Ledger) -> None:
    batch = a_batch(
        slot_of(NOON),
        window=Window(NOON, NOON + timedelta(microseconds=1)),
        attempts={Stage.EXTRACT: 3, Stage.PROCESS: 1},
        attempts_before_replay={Stage.EXTRACT: 2},
        committed_attempt=1,
        counts={"rows_read": 3_000_000_000},
        reason=Reason.REPLAYED,
        detail="naïve ☃ 'quoted' %s :name",
        woken_at=None,
        wake_count=0,
    )

    stored(ledger, batch)

    with ledger.transaction() as tx:
        assert tx.batch(batch.id) == batch
        assert tx.batch(batch.id, lock=True) == batch


def test_times_come_back_in_utc_whatever_zone_they_had(ledger: Ledger) -> None:
    there = timezone(timedelta(hours=5, minutes=30))
    batch = a_batch(planned_at=NOON.astimezone(there))

    stored(ledger, batch)

    with ledger.transaction() as tx:
        found = tx.batch(batch.id)
    assert found is not None
    assert found.planned_at == NOON


def test_a_batch_that_is_not_there_is_none(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        assert tx.batch("b0") is None
        assert tx.batch("b0", lock=True) is None
        assert (tx.events("b0"), tx.attempts("b0"), tx.mask_evidence("b0")) == ([], [], [])


def test_a_batch_is_added_once_and_the_first_window_stays(ledger: Ledger) -> None:
    first = a_batch(window=Window(None, NOON))
    second = a_batch(window=Window(None, NOON + HOUR), bucket="elsewhere")

    with ledger.transaction() as tx:
        add_batch(tx, first)
        assert not tx.insert_batch(second)
        assert tx.batches() == [first]


def test_a_slot_belongs_to_one_batch_whatever_its_id(ledger: Ledger) -> None:
    stored(ledger, a_batch())

    with ledger.transaction() as tx:
        assert not tx.insert_batch(a_batch(id="b-other"))
        assert tx.batch("b-other") is None


def test_a_batch_needs_its_contract(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.transaction() as tx:
        tx.insert_batch(a_batch())


def test_batches_come_by_the_time_they_were_planned(ledger: Ledger) -> None:
    batches = [a_batch(f"slot {hour}", planned_at=NOON + hour * HOUR) for hour in (2, 0, 1)]
    stored(ledger, *batches)

    with ledger.transaction() as tx:
        oldest_first = [batch.slot for batch in tx.batches()]
        newest_first = [batch.slot for batch in tx.batches(newest_first=True)]
        limited = [batch.slot for batch in tx.batches(newest_first=True, limit=2)]

    assert oldest_first == ["slot 0", "slot 1", "slot 2"]
    assert newest_first == ["slot 2", "slot 1", "slot 0"]
    assert limited == ["slot 2", "slot 1"]


def test_batches_planned_at_one_moment_come_by_id_and_reversed(ledger: Ledger) -> None:
    batches = [a_batch(f"slot {number}") for number in range(5)]
    stored(ledger, *batches)

    with ledger.transaction() as tx:
        forwards = [batch.id for batch in tx.batches()]
        backwards = [batch.id for batch in tx.batches(newest_first=True)]

    assert forwards == sorted(batch.id for batch in batches)
    assert backwards == forwards[::-1]


def test_batches_are_found_by_source_table_and_state(ledger: Ledger) -> None:
    stored(
        ledger,
        a_batch(),
        a_batch(table="customers", state=BatchState.FAILED),
        a_batch(source="crm", table="contacts", state=BatchState.FAILED),
    )

    with ledger.transaction() as tx:
        assert {batch.table for batch in tx.batches(source="shop")} == {"orders", "customers"}
        assert [batch.source for batch in tx.batches(table="contacts")] == ["crm"]
        assert {batch.table for batch in tx.batches(states={BatchState.FAILED})} == {"customers", "contacts"}
        assert [b.table for b in tx.batches(source="shop", states=[BatchState.FAILED])] == ["customers"]
        assert tx.batches(states=[]) == []
        assert tx.batches(source="shop", table="contacts") == []


def test_batches_to_wake_are_those_woken_longest_ago(ledger: Ledger) -> None:
    waiting = {BatchState.PLANNED, BatchState.EXTRACTED}
    stored(
        ledger,
        a_batch("recently", woken_at=NOON),
        a_batch("an hour ago", woken_at=NOON - HOUR),
        a_batch("two hours ago", woken_at=NOON - 2 * HOUR, state=BatchState.EXTRACTED),
        a_batch("not waiting", woken_at=NOON - 3 * HOUR, state=BatchState.FAILED),
        a_batch("never", woken_at=None),
    )

    with ledger.transaction() as tx:
        found = tx.batches_to_wake(states=waiting, woken_before=[NOON], limit=10)
        first = tx.batches_to_wake(states=waiting, woken_before=[NOON], limit=1)

    assert [batch.slot for batch in found] == ["two hours ago", "an hour ago"]
    assert [batch.slot for batch in first] == ["two hours ago"]


def test_batches_that_were_woken_more_often_wait_longer(ledger: Ledger) -> None:
    stored(
        ledger,
        *(a_batch(f"woken {count}", woken_at=NOON - 2 * HOUR, wake_count=count) for count in range(5)),
    )

    def found(*woken_before: datetime) -> list[str]:
        with ledger.transaction() as tx:
            batches = tx.batches_to_wake(states=[BatchState.PLANNED], woken_before=woken_before, limit=10)
            return sorted(batch.slot for batch in batches)

    assert found(NOON, NOON - HOUR, NOON - 3 * HOUR) == ["woken 0", "woken 1", "woken 2"]
    assert found(NOON - 3 * HOUR, NOON) == ["woken 2", "woken 3", "woken 4"]


def test_a_saved_batch_has_a_new_revision(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    changed = replace(
        batch,
        state=BatchState.EXTRACTING,
        changed_at=NOON + HOUR,
        contract_version=1,
        configuration_sha256="00",
        attempts={Stage.EXTRACT: 1},
        attempts_before_replay={Stage.PUBLISH: 4},
        committed_attempt=2,
        counts={"rows_read": 1},
        reason=Reason.LEASE_EXPIRED,
        detail="why",
        woken_at=None,
        wake_count=9,
    )

    with ledger.transaction() as tx:
        saved = tx.save_batch(changed)

    assert saved == replace(changed, revision=1)
    with ledger.transaction() as tx:
        assert tx.batch(batch.id) == saved


def test_a_saved_batch_keeps_identity_and_window(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)

    with ledger.transaction() as tx:
        saved = tx.save_batch(
            replace(
                batch,
                slot="x",
                source="x",
                window=Window(None, NOON + HOUR),
                bucket="x",
                planned_at=NOON + HOUR,
            )
        )

        assert saved == tx.batch(batch.id) == replace(batch, revision=1)


def test_a_change_of_a_stale_copy_is_refused(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    with ledger.transaction() as tx:
        tx.save_batch(replace(batch, detail="first"))

    with (
        pytest.raises(StaleRevision, match="expected revision 0, found revision 1"),
        ledger.transaction() as tx,
    ):
        tx.save_batch(replace(batch, detail="second"))


def test_a_change_of_a_batch_that_is_not_there_is_refused(ledger: Ledger) -> None:
    with pytest.raises(StaleRevision, match="no such batch"), ledger.transaction() as tx:
        tx.save_batch(a_batch())


def test_a_state_changes_along_edges_only(ledger: Ledger) -> None:
    """Every pair of states at once: the adapter's list of edges is that of the domain."""
    allowed = set()
    with ledger.transaction() as tx:
        for from_state in BatchState:
            for to_state in BatchState:
                batch = add_batch(tx, a_batch(f"{from_state} {to_state}", state=from_state))
                try:
                    tx.save_batch(replace(batch, state=to_state))
                    allowed.add((from_state, to_state))
                except IllegalTransition:
                    continue

    assert allowed == EDGES | {(state, state) for state in BatchState}


# ---- attempts ------------------------------------------------------------------------------------------------


def test_attempts_come_in_the_order_they_were_claimed(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    claims = [(Stage.EXTRACT, 1), (Stage.PUBLISH, 1), (Stage.EXTRACT, 2), (Stage.PROCESS, 1)]

    with ledger.transaction() as tx:
        for stage, number in claims:
            tx.insert_attempt(an_attempt(batch, stage, number))

    with ledger.transaction() as tx:
        assert [(attempt.stage, attempt.number) for attempt in tx.attempts(batch.id)] == claims
        assert tx.attempt(batch.id, Stage.EXTRACT, 2) == an_attempt(batch, Stage.EXTRACT, 2)
        assert tx.attempt(batch.id, Stage.EXTRACT, 3) is None


def test_an_attempt_is_added_once(ledger: Ledger) -> None:
    batch = a_batch()

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_attempt(an_attempt(batch))
        with pytest.raises(StaleRevision, match="attempt 1 of extract is there already"):
            tx.insert_attempt(an_attempt(batch, worker="another"))
        assert tx.attempts(batch.id) == [an_attempt(batch)]


def test_an_attempt_needs_its_batch(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.transaction() as tx:
        tx.insert_attempt(an_attempt(a_batch()))


def test_a_saved_attempt_keeps_who_claimed_it_and_when(ledger: Ledger) -> None:
    batch = a_batch()
    ended = an_attempt(
        batch,
        state=AttemptState.FAILED,
        lease_until=NOON + HOUR,
        ended_at=NOON + HOUR,
        reason=Reason.ATTEMPT_FAILED,
        detail="connection refused",
    )

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_attempt(an_attempt(batch))
        tx.save_attempt(replace(ended, worker="another", claimed_at=NOON + HOUR))
        assert tx.attempt(batch.id, Stage.EXTRACT, 1) == ended


def test_an_attempt_that_is_not_there_cannot_be_saved(ledger: Ledger) -> None:
    with pytest.raises(KeyError, match="no attempt 1 of extract"), ledger.transaction() as tx:
        tx.save_attempt(an_attempt(a_batch()))


def test_expired_attempts_are_running_ones_whose_lease_is_over_oldest_first(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    with ledger.transaction() as tx:
        now = tx.now()
        for number, (state, lease_until) in enumerate(
            [
                (AttemptState.RUNNING, now - HOUR),
                (AttemptState.RUNNING, now - 2 * HOUR),
                (AttemptState.RUNNING, now + HOUR),
                (AttemptState.EXPIRED, now - HOUR),
                (AttemptState.SUCCEEDED, now - HOUR),
            ],
            start=1,
        ):
            tx.insert_attempt(an_attempt(batch, number=number, state=state, lease_until=lease_until))

    with ledger.transaction() as tx:
        assert [attempt.number for attempt in tx.expired_attempts(limit=10)] == [2, 1]
        assert [attempt.number for attempt in tx.expired_attempts(limit=1)] == [2]


def test_an_attempt_that_ended_or_was_renewed_is_not_expired(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    with ledger.transaction() as tx:
        now = tx.now()
        for number in (1, 2):
            tx.insert_attempt(an_attempt(batch, number=number, lease_until=now - HOUR))

    with ledger.transaction() as tx:
        tx.save_attempt(an_attempt(batch, number=1, state=AttemptState.SUCCEEDED, lease_until=now - HOUR))
        tx.save_attempt(an_attempt(batch, number=2, lease_until=now + HOUR))
        assert tx.expired_attempts(limit=10) == []


# ---- events --------------------------------------------------------------------------------------------------


def test_a_history_is_added_to_in_order(ledger: Ledger) -> None:
    batch = a_batch()
    first = an_event(batch)
    second = an_event(
        batch,
        2,
        from_state=BatchState.PLANNED,
        to_state=BatchState.EXTRACTING,
        actor="extract#1",
        reason=Reason.ATTEMPT_FAILED,
        detail="why",
    )

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.append_event(first)
        tx.append_event(second)

    with ledger.transaction() as tx:
        assert tx.events(batch.id) == [first, second]


@pytest.mark.parametrize(
    ("sequence", "from_state", "to_state"),
    [
        pytest.param(2, BatchState.PLANNED, BatchState.PUBLISHED, id="no such edge"),
        pytest.param(2, BatchState.READY, BatchState.PROCESSING, id="not from where the last one led to"),
        pytest.param(3, BatchState.PLANNED, BatchState.EXTRACTING, id="a gap"),
        pytest.param(2, None, BatchState.PLANNED, id="a second beginning"),
    ],
)
def test_a_transition_that_does_not_follow_the_last_is_refused(
    ledger: Ledger, sequence: int, from_state: BatchState | None, to_state: BatchState
) -> None:
    batch = a_batch()
    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.append_event(an_event(batch))

    with pytest.raises(IllegalTransition), ledger.transaction() as tx:
        tx.append_event(an_event(batch, sequence, from_state=from_state, to_state=to_state))

    with ledger.transaction() as tx:
        assert tx.events(batch.id) == [an_event(batch)]


@pytest.mark.parametrize("state", [BatchState.EXTRACTING, BatchState.PUBLISHED])
def test_a_history_begins_planned(ledger: Ledger, state: BatchState) -> None:
    batch = a_batch()
    stored(ledger, batch)

    with pytest.raises(IllegalTransition), ledger.transaction() as tx:
        tx.append_event(an_event(batch, to_state=state))


def test_an_event_is_never_replaced(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)
    with ledger.transaction() as tx:
        tx.append_event(an_event(batch))

    with pytest.raises(StaleRevision, match="event 1 is there already"), ledger.transaction() as tx:
        tx.append_event(an_event(batch, actor="somebody else"))


def test_an_event_needs_its_batch(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.transaction() as tx:
        tx.append_event(an_event(a_batch()))


# ---- manifests and evidence ----------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was_written(ledger: Ledger) -> None:
    batch = a_batch()
    document = {
        "z": [1, 2.5, None, True],
        "a": {"name": "naïve ☃ \0 \ud800", "rows": 2**53 + 1},
        "": "NULL",
    }

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_attempt(an_attempt(batch))
        tx.insert_manifest(batch.id, Stage.EXTRACT, 1, document)

    with ledger.transaction() as tx:
        found = tx.manifest(batch.id, Stage.EXTRACT, 1)
        assert tx.manifest(batch.id, Stage.PROCESS, 1) is None
    assert found == document
    assert found is not document


def test_a_manifest_is_written_once_and_by_an_attempt(ledger: Ledger) -> None:
    batch = a_batch()

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_attempt(an_attempt(batch))
        tx.insert_manifest(batch.id, Stage.EXTRACT, 1, {"first": True})
        with pytest.raises(StaleRevision, match="manifest of attempt 1 of extract"):
            tx.insert_manifest(batch.id, Stage.EXTRACT, 1, {"first": False})
        assert tx.manifest(batch.id, Stage.EXTRACT, 1) == {"first": True}

    with pytest.raises(KeyError), ledger.transaction() as tx:
        tx.insert_manifest(batch.id, Stage.EXTRACT, 2, {})


@pytest.mark.parametrize(("value", "error"), [(float("nan"), ValueError), (NOON, TypeError)])
def test_a_manifest_holds_json_values_only(ledger: Ledger, value: object, error: type[Exception]) -> None:
    batch = a_batch()

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_attempt(an_attempt(batch))
        with pytest.raises(error):
            tx.insert_manifest(batch.id, Stage.EXTRACT, 1, {"value": value})


def test_evidence_is_kept_by_attempt_and_column_and_repeating_it_changes_nothing(ledger: Ledger) -> None:
    batch = a_batch()
    email = MaskEvidence(batch.id, 1, "email", MaskKind.HMAC, "k1", 3_000_000_000)
    phone = MaskEvidence(batch.id, 1, "Phone", MaskKind.WITHHOLD, "", 0)
    again = MaskEvidence(batch.id, 2, "email", MaskKind.HMAC, "k2", 4)

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_mask_evidence([again, email, phone])
        tx.insert_mask_evidence([replace(email, masked_value_count=0)])
        tx.insert_mask_evidence([])

    with ledger.transaction() as tx:
        assert tx.mask_evidence(batch.id) == [phone, email, again]


# ---- files ---------------------------------------------------------------------------------------------------


def test_a_file_comes_back_as_it_was_added(ledger: Ledger) -> None:
    batch = a_batch()
    file = a_raw_file(
        batch,
        file_size_in_bytes=5 * 1024**4,
        record_count=3_000_000_000,
        status=FileStatus.INCORRECT,
        reason=Reason.SIZE_MISMATCH,
        detail="expected 120 bytes, found 7",
        recorded_at=NOON,
        checked_at=NOON + HOUR,
        deleted_at=NOON + 2 * HOUR,
    )

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        assert tx.insert_file(file)

    with ledger.transaction() as tx:
        assert tx.file(file.location) == file
        assert tx.file(a_raw_file(batch, part=1).location) is None


def test_a_file_without_a_time_was_recorded_when_it_was_added(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        before = tx.now()
        tx.insert_file(a_foreign_file())
        after = tx.now()
        found = tx.file(a_foreign_file().location)

    assert found is not None
    assert found.recorded_at is not None
    assert before <= found.recorded_at <= after


def test_a_file_is_added_once_and_the_first_stays(ledger: Ledger) -> None:
    batch = a_batch()

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        assert tx.insert_file(a_raw_file(batch, recorded_at=NOON))
        assert not tx.insert_file(a_raw_file(batch, record_count=9, batch_id=None))
        assert tx.files() == [a_raw_file(batch, recorded_at=NOON)]


def test_a_file_of_a_batch_needs_the_batch(ledger: Ledger) -> None:
    with pytest.raises(KeyError), ledger.transaction() as tx:
        tx.insert_file(a_raw_file(a_batch()))


def test_files_come_by_key_in_the_order_of_code_points(ledger: Ledger) -> None:
    keys = ["tmp/a", "tmp/B", "tmp/_", "tmp/ä", "tmp/a/b", "tmp/a-b", "tmp/😀", "tmp/\ufb01"]

    with ledger.transaction() as tx:
        for key in reversed(keys):
            tx.insert_file(a_foreign_file(key))
        found = [file.location.key for file in tx.files()]
        first = [file.location.key for file in tx.files(limit=2)]

    assert found == sorted(keys)
    assert first == sorted(keys)[:2]


def test_files_are_found_by_batch_area_attempt_and_presence(ledger: Ledger) -> None:
    batch, other = a_batch(), a_batch("other")
    stored(ledger, batch, other)
    with ledger.transaction() as tx:
        tx.insert_file(a_raw_file(batch, Area.TMP, deleted_at=NOON))
        tx.insert_file(a_raw_file(batch, Area.INPUT))
        tx.insert_file(a_raw_file(batch, Area.INPUT, attempt=2))
        tx.insert_file(a_final_file(batch))
        tx.insert_file(a_raw_file(other, Area.TMP))
        tx.insert_file(a_foreign_file())

    with ledger.transaction() as tx:

        def areas(**conditions: object) -> list[str]:
            return [f"{file.area} {file.attempt}" for file in tx.files(**conditions)]  # type: ignore[arg-type]

        assert areas(batch_id=batch.id) == ["final 1", "input 1", "input 2", "tmp 1"]
        assert areas(batch_id=batch.id, areas=[Area.INPUT, Area.TMP]) == ["input 1", "input 2", "tmp 1"]
        assert areas(batch_id=batch.id, areas=[Area.INPUT], attempt=2) == ["input 2"]
        assert areas(batch_id=batch.id, present_only=True) == ["final 1", "input 1", "input 2"]
        assert areas(areas=[Area.TMP], present_only=True) == ["tmp 1", "tmp 0"]
        assert areas(areas=[]) == []
        assert areas(batch_id="b0") == []


def test_a_saved_file_changes_in_what_is_known_of_it_not_in_what_it_is(ledger: Ledger) -> None:
    batch = a_batch()
    file = a_raw_file(batch, recorded_at=NOON)
    known = {
        "status": FileStatus.INCORRECT,
        "reason": Reason.CHECKSUM_MISMATCH,
        "detail": "why",
        "checked_at": NOON + HOUR,
        "deleted_at": NOON + 2 * HOUR,
    }

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.insert_file(file)
        tx.save_file(replace(file, record_count=9, sha256="00", attempt=7, recorded_at=NOON + HOUR, **known))  # type: ignore[arg-type]
        found = tx.file(file.location)

    assert found == replace(file, **known)  # type: ignore[arg-type]


def test_a_file_that_is_not_there_cannot_be_saved(ledger: Ledger) -> None:
    with pytest.raises(KeyError, match=r"s3://esclusa-shop/tmp/stray\.bin"), ledger.transaction() as tx:
        tx.save_file(a_foreign_file())


def test_details_may_hold_what_a_database_cannot_store(ledger: Ledger) -> None:
    odd = "NUL \0 and half a pair \ud800"
    batch = a_batch()

    with ledger.transaction() as tx:
        add_batch(tx, batch)
        tx.append_event(an_event(batch, detail=odd))
        tx.insert_attempt(an_attempt(batch, detail=odd))
        tx.insert_file(a_raw_file(batch, detail=odd))
        saved = tx.save_batch(replace(batch, detail=odd))

    assert saved.detail.startswith("NUL ")
    assert " and half a pair " in saved.detail


# ---- leftovers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", BatchState)
def test_leftovers_are_found_wherever_the_lifecycle_sees_some(ledger: Ledger, state: BatchState) -> None:
    """For every state, attempts and files, the search of the ledger and the rule of the lifecycle agree."""
    with ledger.transaction() as tx:
        for process_attempt in (0, 1, 2):
            for committed_attempt in (None, 1, 2):
                for kind in ("none", "tmp", "deleted", "final 1", "final 2", "quarantine"):
                    batch = add_batch(
                        tx,
                        a_batch(
                            f"{process_attempt} {committed_attempt} {kind}",
                            state=state,
                            attempts={Stage.PROCESS: process_attempt} if process_attempt else {},
                            committed_attempt=committed_attempt,
                        ),
                    )
                    if (committed_attempt or 0) > process_attempt:
                        continue
                    if kind == "tmp":
                        tx.insert_file(a_raw_file(batch))
                    elif kind == "deleted":
                        tx.insert_file(a_raw_file(batch, Area.PROCESSING, deleted_at=NOON))
                    elif kind == "quarantine":
                        tx.insert_file(a_raw_file(batch, Area.QUARANTINE))
                    elif kind != "none" and int(kind[-1]) <= process_attempt:
                        tx.insert_file(a_final_file(batch, attempt=int(kind[-1])))

        found = {batch.id for batch in tx.batches_with_leftovers(limit=1000)}
        expected = {batch.id for batch in tx.batches() if lifecycle.leftovers(tx, batch)}

    assert found == expected


def test_batches_with_leftovers_come_by_how_long_they_stand(ledger: Ledger) -> None:
    batches = [
        a_batch(f"slot {hour}", state=BatchState.COMMITTED, changed_at=NOON + hour * HOUR)
        for hour in (2, 0, 1)
    ]
    stored(ledger, *batches)
    with ledger.transaction() as tx:
        for batch in batches:
            tx.insert_file(a_raw_file(batch, part=0))
            tx.insert_file(a_raw_file(batch, part=1))

    with ledger.transaction() as tx:
        found = [batch.slot for batch in tx.batches_with_leftovers(limit=2)]

    assert found == ["slot 0", "slot 1"]


def test_files_are_found_by_many_keys_at_once(ledger: Ledger) -> None:
    batch = a_batch()
    one, other, elsewhere = (a_raw_file(batch, part=part) for part in range(3))
    with ledger.transaction() as tx:
        add_batch(tx, batch)
        for file in (one, other, elsewhere):
            tx.insert_file(file)

    with ledger.transaction() as tx:
        found = tx.files_at(BUCKET, [other.location.key, one.location.key, "tmp/unknown"])

        assert {file.location for file in found} == {one.location, other.location}
        assert tx.files_at("another-bucket", [one.location.key]) == []
        assert tx.files_at(BUCKET, []) == []


# ---- outbox --------------------------------------------------------------------------------------------------


def a_message(body: str) -> OutboxMessage:
    trace = None if body == "second" else "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    return OutboxMessage(QueueName.GATE_TMP, body, "shop", trace)


def test_messages_wait_in_the_order_they_were_posted_until_they_are_sent(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for body in ("first", "second", "third"):
            tx.post(a_message(body))

    with ledger.transaction() as tx:
        pending = tx.pending_messages(limit=2)
        tx.mark_sent([pending[1].id])

    assert [item.message for item in pending] == [a_message("first"), a_message("second")]
    with ledger.transaction() as tx:
        assert tx.pending_message_count() == 2
        assert [item.message.body for item in tx.pending_messages(limit=10)] == ["first", "third"]


def test_messages_for_queues_that_are_left_out_stay_behind(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.post(OutboxMessage(QueueName.PUBLISH, "for a queue that is gone", "shop"))
        tx.post(a_message("good"))

    with ledger.transaction() as tx:
        pending = tx.pending_messages(limit=1, without={QueueName.PUBLISH})

    assert [item.message.body for item in pending] == ["good"]


def test_messages_that_were_not_sent_after_all_keep_their_place(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for body in ("first", "second"):
            tx.post(a_message(body))

    with pytest.raises(RuntimeError), ledger.transaction() as tx:  # noqa: PT012  the block is undone
        tx.mark_sent([tx.pending_messages(limit=1)[0].id])
        raise RuntimeError("the queue is away")

    with ledger.transaction() as tx:
        assert [item.message.body for item in tx.pending_messages(limit=10)] == ["first", "second"]


def test_marking_a_message_twice_or_none_is_harmless(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.post(a_message("only"))
        ids = [item.id for item in tx.pending_messages(limit=10)]
        for sent in (ids, ids, []):
            tx.mark_sent(sent)

        assert tx.pending_message_count() == 0


def test_two_senders_send_each_message_once(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        for number in range(20):
            tx.post(a_message(str(number)))

    def send() -> list[str]:
        sent: list[str] = []
        while True:
            with ledger.transaction() as tx:
                pending = tx.pending_messages(limit=3)
                tx.mark_sent([item.id for item in pending])
            if not pending:
                return sent
            sent += [item.message.body for item in pending]

    first, second = together(send, send)

    assert isinstance(first, list)
    assert isinstance(second, list)
    assert sorted(map(int, first + second)) == list(range(20))


# ---- two at once ---------------------------------------------------------------------------------------------


def test_of_two_workers_that_claim_one_batch_one_wins(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract())
        lifecycle.plan(tx, a_contract(), planned=PlannedWindow("s", Window(None, NOON)), bucket=BUCKET)
        (batch,) = tx.batches()

    def claim() -> object:
        with ledger.transaction() as tx:
            return lifecycle.claim(tx, batch.id, Stage.EXTRACT, worker="w", lease=LEASE, retry=RetryPolicy(3))

    claims = together(claim, claim, claim)

    assert sorted(type(claimed).__name__ for claimed in claims) == ["Attempt", "NoneType", "NoneType"]
    with ledger.transaction() as tx:
        assert [attempt.number for attempt in tx.attempts(batch.id)] == [1]


def test_two_planners_meet_in_one_batch(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract())

    def plan(end: datetime) -> bool:
        with ledger.transaction() as tx:
            if tx.watermark("shop", "orders") is not None:
                return False
            planned = PlannedWindow("initial", Window(None, end))
            added = lifecycle.plan(tx, a_contract(), planned=planned, bucket=BUCKET)
            tx.set_watermark("shop", "orders", end)
            return added

    plans = together(lambda: plan(NOON), lambda: plan(NOON + HOUR))

    assert sorted(map(bool, plans)) == [False, True]
    with ledger.transaction() as tx:
        (batch,) = tx.batches()
        assert batch.window.end == tx.watermark("shop", "orders")


def test_two_changes_of_one_revision_cannot_both_be_kept(ledger: Ledger) -> None:
    batch = a_batch()
    stored(ledger, batch)

    def change(detail: str) -> Batch:
        with ledger.transaction() as tx:
            return tx.save_batch(replace(batch, detail=detail))

    changes = together(lambda: change("one"), lambda: change("other"))

    assert sorted(type(change).__name__ for change in changes) == ["Batch", "StaleRevision"]


def test_a_zombie_cannot_complete_what_another_took_over(ledger: Ledger) -> None:
    with ledger.transaction() as tx:
        tx.insert_contract(a_contract())
        lifecycle.plan(tx, a_contract(), planned=PlannedWindow("s", Window(None, NOON)), bucket=BUCKET)
        (batch,) = tx.batches()

    def claim(lease: timedelta) -> object:
        with ledger.transaction() as tx:
            return lifecycle.claim(tx, batch.id, Stage.EXTRACT, worker="w", lease=lease, retry=RetryPolicy(3))

    zombie, successor = claim(-HOUR), claim(LEASE)

    with pytest.raises(LostLease), ledger.transaction() as tx:
        lifecycle.complete(tx, zombie, lifecycle.StageResult())  # type: ignore[arg-type]
    with ledger.transaction() as tx:
        lifecycle.complete(tx, successor, lifecycle.StageResult())  # type: ignore[arg-type]
        assert [attempt.state for attempt in tx.attempts(batch.id)] == [
            AttemptState.EXPIRED,
            AttemptState.SUCCEEDED,
        ]
