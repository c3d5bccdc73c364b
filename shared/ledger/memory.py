"""
A ledger in memory, for tests and simulations: the semantics of the real one, thousands of transactions a second.

One transaction runs at a time; others wait for it, so nobody ever meets a lock. What a transaction changed is undone,
last change first, if it raises.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import TypeVar

from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import (
    EDGES,
    FINAL_STATES,
    STATES_AFTER_READING,
    STATES_AT_REST,
    STATES_IN_FINAL,
    Attempt,
    AttemptState,
    Batch,
    BatchEvent,
    BatchState,
    Stage,
)
from shared.domain.compactions import Compaction, CompactionState
from shared.domain.contracts import ContractVersion, MaskEvidence, MaskKind
from shared.domain.counts import Count
from shared.domain.files import TRANSIENT_AREAS, Area, DataFile, Location
from shared.domain.progress import CursorCount, Expectation, TableProgress
from shared.domain.proofs import Proof
from shared.domain.reasons import Reason
from shared.domain.recounts import Recount
from shared.domain.rollbacks import Rollback
from shared.domain.sources import SourceGuard
from shared.domain.windows import SNAPSHOT_SLOT_PREFIX, Extent, is_key_sweep, is_second_reading
from shared.errors import IllegalTransition, StaleRevision
from shared.ports import BatchTally, LedgerTransaction, MaskTally, OutboxMessage, PendingMessage, QueueName

Key = TypeVar("Key")
Value = TypeVar("Value")

_Undo = Callable[[], object]

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


class MemoryLedger:
    """The tables, and the one transaction that may change them."""

    def __init__(self, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self._tables = _Tables()
        self._lock = threading.Lock()
        self._holder: int | None = None
        self._named_locks: set[str] = set()

    @contextmanager
    def transaction(self) -> Iterator[LedgerTransaction]:
        """
        Begin a transaction, after the one that is under way.

        Raises:
            RuntimeError: if this thread is in a transaction already; it would wait for itself.
        """
        if self._holder == threading.get_ident():
            raise RuntimeError("this thread is in a transaction of the ledger already; end it first")
        with self._lock:
            self._holder = threading.get_ident()
            transaction = _MemoryTransaction(self._tables, self._clock)
            try:
                yield transaction
            except BaseException:
                transaction.roll_back()
                raise
            finally:
                transaction.end()
                self._holder = None

    @contextmanager
    def exclusively(self, name: str) -> Iterator[bool]:
        """Hold a named lock during the block, if nobody else does."""
        with self._lock:
            is_free = name not in self._named_locks
            if is_free:
                self._named_locks.add(name)
        try:
            yield is_free
        finally:
            if is_free:
                with self._lock:
                    self._named_locks.discard(name)


class _Tables:
    """Every row, by its identity; rows of one batch also by batch."""

    def __init__(self) -> None:
        #: The versions of a table's contract, by source and table.
        self.contracts: dict[tuple[str, str], dict[int, ContractVersion]] = {}
        self.watermarks: dict[tuple[str, str], datetime] = {}
        self.cursor_counts: dict[tuple[str, str], CursorCount] = {}
        self.batches: dict[str, Batch] = {}
        self.batch_of_slot: dict[tuple[str, str, str], str] = {}
        self.attempts: dict[str, dict[tuple[Stage, int], Attempt]] = {}
        self.running: dict[tuple[str, Stage, int], datetime] = {}
        self.events: dict[str, list[BatchEvent]] = {}
        self.manifests: dict[tuple[str, Stage, int], str] = {}
        self.files: dict[Location, DataFile] = {}
        self.files_of_batch: dict[str, dict[Location, None]] = {}
        self.evidence: dict[str, dict[tuple[int, str], MaskEvidence]] = {}
        #: Each message with the moment it was posted.
        self.outbox: dict[int, tuple[OutboxMessage, datetime]] = {}
        self.runs: dict[str, datetime] = {}
        self.guards: dict[str, SourceGuard] = {}
        self.expectations: dict[tuple[str, str], Expectation] = {}
        self.alarms: dict[tuple[AlarmKind, str, datetime], Alarm] = {}
        self.proofs: list[Proof] = []
        self.recounts: dict[str, Recount] = {}
        self.compactions: dict[str, Compaction] = {}
        self.rollbacks: dict[str, Rollback] = {}
        # As a sequence of the database, it does not go back with a transaction.
        self.message_ids = count(1)


class _MemoryTransaction:
    """One transaction: what it changed, and how to undo that."""

    def __init__(self, tables: _Tables, clock: Callable[[], datetime]) -> None:
        self._open_tables: _Tables | None = tables
        self._clock = clock
        self._undo: list[_Undo] = []

    def roll_back(self) -> None:
        """Undo every change, the last one first."""
        while self._undo:
            self._undo.pop()()

    def end(self) -> None:
        """Let nobody write through this transaction any more."""
        self._open_tables = None

    @property
    def _tables(self) -> _Tables:
        if self._open_tables is None:
            raise RuntimeError("this transaction of the ledger has ended; begin another one")
        return self._open_tables

    def now(self) -> datetime:
        return self._clock()

    # Contracts and watermarks.

    def latest_contract(self, source: str, table: str) -> ContractVersion | None:
        versions = self._tables.contracts.get((source, table))
        return versions[max(versions)] if versions else None

    def contract(self, source: str, table: str, version: int) -> ContractVersion:
        found = self._tables.contracts.get((source, table), {}).get(version)
        if found is None:
            raise KeyError(f"the ledger holds no contract {source}.{table} version {version}")
        return found

    def latest_contracts(self) -> list[ContractVersion]:
        return [versions[max(versions)] for _, versions in sorted(self._tables.contracts.items()) if versions]

    def known_tables(self) -> list[tuple[str, str]]:
        return sorted(name for name, versions in self._tables.contracts.items() if versions)

    def insert_contract(self, contract: ContractVersion) -> bool:
        table = (contract.contract.source, contract.contract.table)
        return self._insert(self._tables.contracts.setdefault(table, {}), contract.version, contract)

    def watermark(self, source: str, table: str) -> datetime | None:
        return self._tables.watermarks.get((source, table))

    def set_watermark(self, source: str, table: str, planned_until: datetime) -> None:
        self._put(self._tables.watermarks, (source, table), planned_until)

    def last_key_sweep(self, source: str, table: str) -> Batch | None:
        found = self.batches(source=source, table=table, bulk_only=True, newest_first=True)
        return next((batch for batch in found if is_key_sweep(batch.slot)), None)

    def cursor_count(self, source: str, table: str) -> CursorCount | None:
        return self._tables.cursor_counts.get((source, table))

    def set_cursor_count(self, source: str, table: str, count: CursorCount) -> None:
        self._put(self._tables.cursor_counts, (source, table), count)

    # Batches, attempts, events.

    def insert_batch(self, batch: Batch) -> bool:
        self.contract(batch.source, batch.table, batch.contract_version)
        slot = (batch.source, batch.table, batch.slot)
        if batch.id in self._tables.batches or slot in self._tables.batch_of_slot:
            return False
        self._put(self._tables.batches, batch.id, batch)
        self._put(self._tables.batch_of_slot, slot, batch.id)
        return True

    def batch(self, batch_id: str, *, lock: bool = False) -> Batch | None:  # noqa: ARG002 - nobody else is here
        return self._tables.batches.get(batch_id)

    def batches(
        self,
        *,
        source: str | None = None,
        table: str | None = None,
        states: Collection[BatchState] | None = None,
        bulk_only: bool = False,
        slot_prefix: str = "",
        limit: int | None = None,
        newest_first: bool = False,
    ) -> list[Batch]:
        found = [
            batch
            for batch in self._tables.batches.values()
            if (source is None or batch.source == source)
            and (table is None or batch.table == table)
            and (states is None or batch.state in states)
            and (batch.is_bulk or not bulk_only)
            and batch.slot.startswith(slot_prefix)
        ]
        found.sort(key=lambda batch: (batch.planned_at, batch.id), reverse=newest_first)
        return found[:limit]

    def batch_tallies(self, *, states: Collection[BatchState] | None = None) -> list[BatchTally]:
        moments: dict[tuple[str, str, BatchState], list[datetime]] = {}
        for batch in self._tables.batches.values():
            if states is None or batch.state in states:
                moments.setdefault((batch.source, batch.table, batch.state), []).append(batch.changed_at)
        return [BatchTally(*key, len(at), min(at), max(at)) for key, at in sorted(moments.items())]

    def batches_to_wake(
        self, *, states: Collection[BatchState], woken_before: Sequence[datetime], limit: int
    ) -> list[Batch]:
        sleeping = sorted(
            (batch.woken_at, batch.id)
            for batch in self._tables.batches.values()
            if batch.state in states
            and batch.woken_at is not None
            and self._may_be_woken(batch, batch.woken_at, woken_before)
        )
        return [self._tables.batches[batch_id] for _, batch_id in sleeping[:limit]]

    def _may_be_woken(self, batch: Batch, woken_at: datetime, woken_before: Sequence[datetime]) -> bool:
        if batch.not_before is not None:
            return batch.not_before < woken_before[0]
        return woken_at < woken_before[min(max(batch.wake_count, 1), len(woken_before)) - 1]

    def deferred_batches(self, source: str, *, limit: int) -> list[Batch]:
        found = self.batches(source=source, states=[BatchState.PLANNED])
        found.sort(key=lambda batch: batch.is_bulk)
        return [batch for batch in found if batch.woken_at is None][:limit]

    def sources_with_deferred_batches(self) -> list[str]:
        planned = self.batches(states=[BatchState.PLANNED])
        return sorted({batch.source for batch in planned if batch.woken_at is None})

    def save_batch(self, batch: Batch) -> Batch:
        stored = self._tables.batches.get(batch.id)
        if stored is None or stored.revision != batch.revision:
            found = "no such batch" if stored is None else f"revision {stored.revision}"
            raise StaleRevision(
                f"batch {batch.id}: expected revision {batch.revision}, found {found}; read it again"
            )
        if stored.state is not batch.state and (stored.state, batch.state) not in EDGES:
            raise IllegalTransition(f"batch {batch.id}: no edge leads from {stored.state} to {batch.state}")
        saved = replace(
            batch,
            source=stored.source,
            table=stored.table,
            slot=stored.slot,
            window=stored.window,
            extent=stored.extent,
            is_bulk=stored.is_bulk,
            bucket=stored.bucket,
            planned_at=stored.planned_at,
            revision=batch.revision + 1,
        )
        self._put(self._tables.batches, batch.id, saved)
        return saved

    def insert_attempt(self, attempt: Attempt) -> None:
        self._require_batch(attempt.batch_id)
        attempts = self._tables.attempts.setdefault(attempt.batch_id, {})
        if not self._insert(attempts, (attempt.stage, attempt.number), attempt):
            raise StaleRevision(
                f"batch {attempt.batch_id}: attempt {attempt.number} of {attempt.stage} is there already"
            )
        self._note_lease(attempt)

    def attempt(self, batch_id: str, stage: Stage, number: int) -> Attempt | None:
        return self._tables.attempts.get(batch_id, {}).get((stage, number))

    def attempts(self, batch_id: str) -> list[Attempt]:
        return list(self._tables.attempts.get(batch_id, {}).values())

    def expired_attempts(self, *, limit: int) -> list[Attempt]:
        now = self._clock()
        expired = sorted((lease, key) for key, lease in self._tables.running.items() if lease <= now)
        return [self._tables.attempts[batch_id][stage, n] for _, (batch_id, stage, n) in expired[:limit]]

    def save_attempt(self, attempt: Attempt) -> None:
        stored = self.attempt(attempt.batch_id, attempt.stage, attempt.number)
        if stored is None:
            raise KeyError(
                f"the ledger holds no attempt {attempt.number} of {attempt.stage} of batch {attempt.batch_id}"
            )
        saved = replace(attempt, worker=stored.worker, claimed_at=stored.claimed_at)
        self._put(self._tables.attempts[attempt.batch_id], (attempt.stage, attempt.number), saved)
        self._note_lease(saved)

    def running_extract_count(self, source: str) -> int:
        now = self._clock()
        return sum(
            1
            for (batch_id, stage, _), lease_until in self._tables.running.items()
            if stage is Stage.EXTRACT
            and lease_until > now
            and self._tables.batches[batch_id].source == source
        )

    def _note_lease(self, attempt: Attempt) -> None:
        key = (attempt.batch_id, attempt.stage, attempt.number)
        if attempt.state is AttemptState.RUNNING:
            self._put(self._tables.running, key, attempt.lease_until)
        else:
            self._remove(self._tables.running, key)

    def append_event(self, event: BatchEvent) -> None:
        self._require_batch(event.batch_id)
        events = self._tables.events.setdefault(event.batch_id, [])
        if event.sequence <= len(events):
            raise StaleRevision(f"batch {event.batch_id}: event {event.sequence} is there already")
        last_state = events[-1].to_state if events else None
        follows = event.sequence == len(events) + 1 and event.from_state is last_state
        allowed = (
            event.to_state is BatchState.PLANNED
            if event.from_state is None
            else (event.from_state, event.to_state) in EDGES
        )
        if not (follows and allowed):
            raise IllegalTransition(
                f"batch {event.batch_id}: event {event.sequence} leads from {event.from_state} to "
                f"{event.to_state}, but its history ends with event {len(events)} in {last_state}"
            )
        events.append(event)
        self._undo.append(events.pop)

    def events(self, batch_id: str) -> list[BatchEvent]:
        return list(self._tables.events.get(batch_id, ()))

    def insert_manifest(
        self, batch_id: str, stage: Stage, attempt: int, document: Mapping[str, object]
    ) -> None:
        text = json.dumps(document, allow_nan=False)
        if self.attempt(batch_id, stage, attempt) is None:
            raise KeyError(f"the ledger holds no attempt {attempt} of {stage} of batch {batch_id}")
        if not self._insert(self._tables.manifests, (batch_id, stage, attempt), text):
            raise StaleRevision(
                f"batch {batch_id}: the manifest of attempt {attempt} of {stage} is there already"
            )

    def manifest(self, batch_id: str, stage: Stage, attempt: int) -> Mapping[str, object] | None:
        text = self._tables.manifests.get((batch_id, stage, attempt))
        if text is None:
            return None
        document: dict[str, object] = json.loads(text)
        return document

    # Files.

    def insert_file(self, file: DataFile) -> bool:
        if file.batch_id is not None:
            self._require_batch(file.batch_id)
        if file.recorded_at is None:
            file = replace(file, recorded_at=self._clock())
        if not self._insert(self._tables.files, file.location, file):
            return False
        if file.batch_id is not None:
            self._insert(self._tables.files_of_batch.setdefault(file.batch_id, {}), file.location, None)
        return True

    def file(self, location: Location) -> DataFile | None:
        return self._tables.files.get(location)

    def files_at(self, bucket: str, keys: Collection[str]) -> list[DataFile]:
        found = (self.file(Location(bucket, key)) for key in keys)
        return [file for file in found if file is not None]

    def files(
        self,
        *,
        batch_id: str | None = None,
        areas: Collection[Area] | None = None,
        attempt: int | None = None,
        present_only: bool = False,
        bucket: str | None = None,
        table: str | None = None,
        recorded_before: datetime | None = None,
        foreign_only: bool = False,
        newest_first: bool = False,
        limit: int | None = None,
    ) -> list[DataFile]:
        found = [
            file
            for file in self._files(batch_id)
            if (areas is None or file.area in areas)
            and (attempt is None or file.attempt == attempt)
            and not (present_only and file.deleted_at is not None)
            and not (foreign_only and not file.is_foreign)
            and (bucket is None or file.location.bucket == bucket)
            and (table is None or self._table_of(file) == table)
            and (recorded_before is None or (file.recorded_at or _LONG_AGO) < recorded_before)
        ]
        found.sort(key=lambda file: (file.location.key, file.location.bucket))
        if newest_first:
            found.sort(key=lambda file: file.recorded_at or _LONG_AGO, reverse=True)
        return found[:limit]

    def _table_of(self, file: DataFile) -> str | None:
        return None if file.batch_id is None else self._tables.batches[file.batch_id].table

    def _files(self, batch_id: str | None) -> Iterator[DataFile]:
        if batch_id is None:
            return iter(self._tables.files.values())
        locations = self._tables.files_of_batch.get(batch_id, {})
        return (self._tables.files[location] for location in locations)

    def save_file(self, file: DataFile) -> None:
        stored = self.file(file.location)
        if stored is None:
            raise KeyError(f"{file.location}: the ledger holds no such file")
        saved = replace(
            stored,
            status=file.status,
            reason=file.reason,
            detail=file.detail,
            checked_at=file.checked_at,
            deleted_at=file.deleted_at,
        )
        self._put(self._tables.files, file.location, saved)

    def batches_with_leftovers(self, *, limit: int) -> list[Batch]:
        found = [batch for batch in self._tables.batches.values() if self._has_leftovers(batch)]
        found.sort(key=lambda batch: (batch.changed_at, batch.id))
        return found[:limit]

    def _has_leftovers(self, batch: Batch) -> bool:
        if batch.state not in STATES_AT_REST | STATES_IN_FINAL:
            return False
        return any(
            file.area in TRANSIENT_AREAS
            or (
                file.area is Area.FINAL and batch.state in STATES_AT_REST and not batch.may_show(file.attempt)
            )
            or (
                file.area is Area.QUARANTINE
                and (batch.state is BatchState.DISCARDED or file.reason is Reason.DISCARDED)
            )
            for file in self._files(batch.id)
            if file.deleted_at is None
        )

    # Sources.

    def source_guard(self, source: str) -> SourceGuard:
        if source not in self._tables.guards:
            self._put(self._tables.guards, source, SourceGuard(source))
        return self._tables.guards[source]

    def save_source_guard(self, guard: SourceGuard) -> None:
        self._put(self._tables.guards, guard.source, guard)

    def source_guards(self) -> list[SourceGuard]:
        return [guard for _, guard in sorted(self._tables.guards.items())]

    # Progress, alarms, proofs.

    def table_progress(self) -> list[TableProgress]:
        tables = sorted(self._tables.watermarks)
        return [self._progress_of(*name) for name in tables]

    def _progress_of(self, source: str, table: str) -> TableProgress:
        batches = self.batches(source=source, table=table)
        planned_until = self._tables.watermarks[source, table]
        open_batches = [
            batch
            for batch in batches
            if batch.state not in FINAL_STATES and not is_second_reading(batch.slot)
        ]
        windows = [batch for batch in open_batches if not batch.slot.startswith(SNAPSHOT_SLOT_PREFIX)]
        published_until: datetime | None = planned_until
        if windows:
            starts = [batch.window.start for batch in windows]
            published_until = None if None in starts else min(start for start in starts if start is not None)
        elif open_batches:
            ends = [batch.window.end for batch in batches if batch.state in FINAL_STATES]
            published_until = max(ends, default=None)
        return TableProgress(source, table, planned_until, published_until)

    def save_expectation(self, expectation: Expectation) -> None:
        key = expectation.source, expectation.table
        if (stored := self._tables.expectations.get(key)) is not None:
            expectation = replace(expectation, since=stored.since)
        self._put(self._tables.expectations, key, expectation)

    def delete_expectation(self, source: str, table: str) -> None:
        self._remove(self._tables.expectations, (source, table))

    def expectations(self) -> list[Expectation]:
        return [expectation for _, expectation in sorted(self._tables.expectations.items())]

    def save_alarm(self, alarm: Alarm) -> None:
        self._put(self._tables.alarms, (alarm.kind, alarm.subject, alarm.raised_at), alarm)

    def alarms(self, *, unsettled_only: bool = False, limit: int | None = None) -> list[Alarm]:
        found = [
            alarm
            for alarm in self._tables.alarms.values()
            if not unsettled_only
            or alarm.resolved_at is None
            or alarm.raise_told_at is None
            or alarm.resolve_told_at is None
        ]
        found.sort(key=lambda alarm: (alarm.kind, alarm.subject))
        found.sort(key=lambda alarm: alarm.raised_at, reverse=True)
        return found[:limit]

    def insert_proof(self, proof: Proof) -> None:
        stored = replace(proof, sides=json.loads(json.dumps(proof.sides, allow_nan=False)))
        self._tables.proofs.append(stored)
        self._undo.append(self._tables.proofs.pop)

    def latest_proofs(
        self, source: str | None = None, table: str | None = None, *, differing_only: bool = False
    ) -> list[Proof]:
        latest: dict[tuple[str, str, datetime, datetime, Extent | None], Proof] = {}
        for proof in sorted(self._tables.proofs, key=lambda proof: proof.proved_at):
            if source in {None, proof.source} and table in {None, proof.table}:
                start = proof.window.start or _LONG_AGO
                latest[proof.source, proof.table, start, proof.window.end, proof.extent] = proof
        found = [latest[part] for part in sorted(latest, key=lambda part: part[:4])]
        return [proof for proof in found if not (differing_only and proof.is_equal)]

    def save_recounts(self, recounts: Sequence[Recount]) -> None:
        for recount in recounts:
            self._require_batch(recount.batch_id)
            self._put(self._tables.recounts, recount.batch_id, recount)

    def recounts(self, source: str, table: str) -> list[Recount]:
        found = self._tables.recounts
        return [found[batch.id] for batch in self.batches(source=source, table=table) if batch.id in found]

    # Compactions and rollbacks.

    def insert_compaction(self, compaction: Compaction) -> None:
        if not self._insert(self._tables.compactions, compaction.id, compaction):
            raise KeyError(f"compaction {compaction.id} is there already")

    def compaction(self, compaction_id: str, *, lock: bool = False) -> Compaction | None:  # noqa: ARG002
        return self._tables.compactions.get(compaction_id)

    def compactions(
        self, source: str, table: str, *, states: Collection[CompactionState] | None = None
    ) -> list[Compaction]:
        found = [
            compaction
            for compaction in self._tables.compactions.values()
            if (compaction.source, compaction.table) == (source, table)
            and (states is None or compaction.state in states)
        ]
        return sorted(found, key=lambda compaction: (compaction.begun_at, compaction.id))

    def compactions_to_clean(self, *, limit: int) -> list[Compaction]:
        now = self._clock()
        found = [
            (compaction.delete_after, compaction.id, compaction)
            for compaction in self._tables.compactions.values()
            if compaction.cleaned_at is None
            and compaction.shown_at is not None
            and compaction.delete_after is not None
            and compaction.delete_after < now
        ]
        return [compaction for *_, compaction in sorted(found, key=lambda item: item[:2])][:limit]

    def save_compaction(self, compaction: Compaction) -> None:
        if compaction.id not in self._tables.compactions:
            raise KeyError(f"the ledger holds no compaction {compaction.id}")
        self._put(self._tables.compactions, compaction.id, compaction)

    def insert_rollback(self, rollback: Rollback) -> None:
        if not self._insert(self._tables.rollbacks, rollback.id, rollback):
            raise KeyError(f"rollback {rollback.id} is there already")

    def rollbacks(self, source: str, table: str) -> list[Rollback]:
        found = [
            rollback
            for rollback in self._tables.rollbacks.values()
            if (rollback.source, rollback.table) == (source, table)
        ]
        return sorted(found, key=lambda rollback: (rollback.begun_at, rollback.id))

    def save_rollback(self, rollback: Rollback) -> None:
        if rollback.id not in self._tables.rollbacks:
            raise KeyError(f"the ledger holds no rollback {rollback.id}")
        self._put(self._tables.rollbacks, rollback.id, rollback)

    def published_row_count(self, source: str, table: str) -> int:
        published = self.batches(source=source, table=table, states=[BatchState.PUBLISHED])
        return sum(
            batch.counts.get(Count.ROWS_IN_FINAL, 0) for batch in published if not is_key_sweep(batch.slot)
        )

    # Scheduled parts.

    def record_run(self, name: str) -> None:
        self._put(self._tables.runs, name, self._clock())

    def last_run(self, name: str) -> datetime | None:
        return self._tables.runs.get(name)

    # Evidence.

    def insert_mask_evidence(self, evidence: Sequence[MaskEvidence]) -> None:
        for item in evidence:
            self._require_batch(item.batch_id)
            rows = self._tables.evidence.setdefault(item.batch_id, {})
            self._insert(rows, (item.attempt, item.column), item)

    def mask_evidence(self, batch_id: str) -> list[MaskEvidence]:
        return [item for _, item in sorted(self._tables.evidence.get(batch_id, {}).items())]

    def mask_tallies(self, source: str, table: str) -> list[MaskTally]:
        found: dict[tuple[int, str, MaskKind, str], list[tuple[Batch, MaskEvidence]]] = {}
        for batch in sorted(
            self._read_batches(source, table), key=lambda batch: (batch.window.end, batch.id)
        ):
            evidence = self.mask_evidence(batch.id)
            last = max((item.attempt for item in evidence), default=0)
            for item in evidence:
                if item.attempt == last:
                    key = batch.contract_version, item.column, item.mask, item.key_id
                    found.setdefault(key, []).append((batch, item))
        return [
            MaskTally(
                *key,
                batch_count=len(items),
                masked_value_count=sum(item.masked_value_count for _, item in items),
                first_batch_id=items[0][0].id,
                last_batch_id=items[-1][0].id,
                first_window_end=items[0][0].window.end,
                last_window_end=items[-1][0].window.end,
            )
            for key, items in sorted(found.items())
        ]

    def read_batch_counts(self, source: str, table: str) -> dict[int, int]:
        versions = Counter(batch.contract_version for batch in self._read_batches(source, table))
        return dict(sorted(versions.items()))

    def _read_batches(self, source: str, table: str) -> list[Batch]:
        return [
            batch
            for batch in self._tables.batches.values()
            if (batch.source, batch.table) == (source, table)
            and batch.state in STATES_AFTER_READING
            and not is_key_sweep(batch.slot)
        ]

    # Outbox.

    def post(self, message: OutboxMessage) -> None:
        self._put(self._tables.outbox, next(self._tables.message_ids), (message, self._clock()))

    def pending_messages(self, *, limit: int, without: Collection[QueueName] = ()) -> list[PendingMessage]:
        # Sorted, for a rollback puts back at the end what it gives back.
        ids = [
            key for key, (message, _) in sorted(self._tables.outbox.items()) if message.queue not in without
        ]
        return [PendingMessage(key, self._tables.outbox[key][0]) for key in ids[:limit]]

    def mark_sent(self, message_ids: Collection[int]) -> None:
        for message_id in message_ids:
            self._remove(self._tables.outbox, message_id)

    def pending_message_count(self) -> int:
        return len(self._tables.outbox)

    def oldest_pending_at(self) -> datetime | None:
        return min((posted_at for _, posted_at in self._tables.outbox.values()), default=None)

    # Changes that can be undone.

    def _put(self, rows: dict[Key, Value], key: Key, value: Value) -> None:
        if key in rows:
            before = rows[key]
            self._undo.append(lambda: rows.__setitem__(key, before))
        else:
            self._undo.append(lambda: rows.pop(key))
        rows[key] = value

    def _insert(self, rows: dict[Key, Value], key: Key, value: Value) -> bool:
        if key in rows:
            return False
        self._put(rows, key, value)
        return True

    def _remove(self, rows: dict[Key, Value], key: Key) -> None:
        if key in rows:
            before = rows.pop(key)
            self._undo.append(lambda: rows.__setitem__(key, before))

    def _require_batch(self, batch_id: str) -> None:
        if batch_id not in self._tables.batches:
            raise KeyError(f"the ledger holds no batch {batch_id}")
