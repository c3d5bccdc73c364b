"""
The ledger on PostgreSQL.

Each transaction reads what is committed (READ COMMITTED) and locks the batch it changes. That alone keeps two workers
apart; the revision of a batch and the constraints of the tables are there for the day somebody forgets to lock.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, Final, NoReturn, TypeAlias

import psycopg
import sqlalchemy
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    CursorResult,
    Executable,
    Select,
    Table,
    Text,
    and_,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    union,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.exc import IntegrityError

from shared.contract_document import from_json, to_json
from shared.domain.alarms import Alarm, AlarmKind
from shared.domain.batches import (
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
from shared.domain.compactions import CompactedBatch, Compaction, CompactionState
from shared.domain.contracts import ContractVersion, MaskEvidence, MaskKind
from shared.domain.counts import Count
from shared.domain.files import Area, DataFile, FileFormat, FileStatus, Location
from shared.domain.progress import CursorCount, Expectation, TableProgress
from shared.domain.proofs import Proof
from shared.domain.quiet_hours import QuietHours
from shared.domain.reasons import Reason
from shared.domain.recounts import Recount
from shared.domain.rollbacks import Rollback
from shared.domain.sources import SourceGuard, SourceLimits, Visit
from shared.domain.windows import (
    BACKFILL_SLOT_PREFIX,
    KEY_SWEEP_SLOT_PREFIX,
    REJECTS_SLOT_INFIX,
    SNAPSHOT_SLOT_PREFIX,
    Extent,
    Window,
)
from shared.errors import ConfigurationError, IllegalTransition, StaleRevision
from shared.ledger import tables
from shared.ledger.connection import Database
from shared.ledger.revision import require_revision
from shared.ports import BatchTally, LedgerTransaction, MaskTally, OutboxMessage, PendingMessage, QueueName

Row: TypeAlias = sqlalchemy.Row[Any]


STATEMENT_TIMEOUT_SECONDS: Final = 30
CONNECT_TIMEOUT_SECONDS: Final = 5
#: A database that answers nothing is given up by then.
LONGEST_ANSWER_SECONDS: Final = CONNECT_TIMEOUT_SECONDS + STATEMENT_TIMEOUT_SECONDS


class PostgresLedger:
    """
    The control database. Connects when first used; nothing is held between transactions but a small pool.

    `dsn` is anything libpq reads. Errors name the server and the database, never the password.

    Raises:
        ConfigurationError: if `dsn` is no connection string. Its first transaction raises it too, if the tables are
            not those that this version works with.
    """

    def __init__(
        self,
        dsn: str,
        *,
        statement_timeout_seconds: int = STATEMENT_TIMEOUT_SECONDS,
        connect_timeout_seconds: int = CONNECT_TIMEOUT_SECONDS,
    ) -> None:
        self._database = Database(
            dsn,
            statement_timeout_seconds=statement_timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
        )
        self._has_fitting_tables = False

    @contextmanager
    def transaction(self) -> Iterator[LedgerTransaction]:
        with self._begin() as connection:
            yield _PostgresTransaction(connection, self._database)

    @contextmanager
    def exclusively(self, name: str) -> Iterator[bool]:
        # Of a transaction, not of the session: poolers between us and the database share sessions out.
        with self._begin() as connection:
            with self._database.errors_translated(connection):
                lock = func.pg_try_advisory_xact_lock(_lock_number("exclusively", name))
                is_held: bool = connection.execute(select(lock)).scalar_one()
                # The last statement, for it takes no snapshot: that of a query would keep vacuum from its work
                # for as long as the lock is held.
                connection.execute(sqlalchemy.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
            yield is_held

    def close(self) -> None:
        """Close every connection. The next transaction opens new ones."""
        self._database.close()

    @contextmanager
    def _begin(self) -> Iterator[Connection]:
        with self._database.transaction() as connection:
            if not self._has_fitting_tables:
                with self._database.errors_translated(connection):
                    require_revision(connection, name=self._database.name)
                self._has_fitting_tables = True
            yield connection


class _PostgresTransaction:
    """One transaction: the words of the port as statements."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection = connection
        self._database = database

    def now(self) -> datetime:
        # Not `now()`, which stands still within a transaction.
        return _utc(self._execute(select(func.clock_timestamp())).scalar_one())

    # Contracts and watermarks.

    def latest_contract(self, source: str, table: str) -> ContractVersion | None:
        row = self._execute(
            _CONTRACTS.where(_contract.c.source == source, _contract.c.table_name == table)
            .order_by(_contract.c.version.desc())
            .limit(1)
        ).first()
        return _contract_of(row) if row else None

    def contract(self, source: str, table: str, version: int) -> ContractVersion:
        row = self._execute(
            _CONTRACTS.where(
                _contract.c.source == source,
                _contract.c.table_name == table,
                _contract.c.version == version,
            )
        ).first()
        if row is None:
            raise KeyError(f"the ledger holds no contract {source}.{table} version {version}")
        return _contract_of(row)

    def latest_contracts(self) -> list[ContractVersion]:
        newer = _contract.alias()
        is_superseded = exists().where(
            newer.c.source == _contract.c.source,
            newer.c.table_name == _contract.c.table_name,
            newer.c.version > _contract.c.version,
        )
        rows = self._execute(
            _CONTRACTS.where(~is_superseded).order_by(_contract.c.source, _contract.c.table_name)
        )
        return [_contract_of(row) for row in rows]

    def known_tables(self) -> list[tuple[str, str]]:
        query = select(_contract.c.source, _contract.c.table_name).distinct()
        rows = self._execute(query.order_by(_contract.c.source, _contract.c.table_name))
        return [(row.source, row.table_name) for row in rows]

    def insert_contract(self, contract: ContractVersion) -> bool:
        return self._insert(
            _contract,
            source=contract.contract.source,
            table_name=contract.contract.table,
            version=contract.version,
            sha256=contract.sha256,
            # Cast from text, so that what is stored is what was hashed.
            document=cast(literal(to_json(contract.contract), Text), _contract.c.document.type),
        )

    def watermark(self, source: str, table: str) -> datetime | None:
        # A row cannot be locked before it is there; its name can.
        self._execute(select(func.pg_advisory_xact_lock(_lock_number("watermark", source, table))))
        moment: datetime | None = self._execute(
            select(_watermark.c.planned_until).where(
                _watermark.c.source == source, _watermark.c.table_name == table
            )
        ).scalar()
        return moment

    def set_watermark(self, source: str, table: str, planned_until: datetime) -> None:
        self._execute(
            insert(_watermark)
            .values(source=source, table_name=table, planned_until=planned_until)
            .on_conflict_do_update(
                index_elements=[_watermark.c.source, _watermark.c.table_name],
                set_={"planned_until": planned_until},
            )
        )

    def last_key_sweep(self, source: str, table: str) -> Batch | None:
        row = self._execute(
            select(_batch)
            .where(
                _batch.c.source == source,
                _batch.c.table_name == table,
                _batch.c.slot.startswith(KEY_SWEEP_SLOT_PREFIX),
            )
            .order_by(_batch.c.planned_at.desc(), _batch.c.id.desc())
            .limit(1)
        ).first()
        return _batch_of(row) if row else None

    def cursor_count(self, source: str, table: str) -> CursorCount | None:
        row = self._execute(
            select(_cursor_count).where(_cursor_count.c.source == source, _cursor_count.c.table_name == table)
        ).first()
        if row is None:
            return None
        return CursorCount(row.column_name, row.planned_below, row.seen_at, row.seen_below)

    def set_cursor_count(self, source: str, table: str, count: CursorCount) -> None:
        values = {
            "column_name": count.column,
            "planned_below": count.planned_below,
            "seen_at": count.seen_at,
            "seen_below": count.seen_below,
        }
        self._execute(
            insert(_cursor_count)
            .values(source=source, table_name=table, **values)
            .on_conflict_do_update(
                index_elements=[_cursor_count.c.source, _cursor_count.c.table_name], set_=values
            )
        )

    # Batches, attempts, events.

    def insert_batch(self, batch: Batch) -> bool:
        return self._insert(
            _batch,
            id=batch.id,
            source=batch.source,
            table_name=batch.table,
            slot=batch.slot,
            window_start=batch.window.start,
            window_end=batch.window.end,
            **_extent_values(batch.extent),
            is_bulk=batch.is_bulk,
            bucket=batch.bucket,
            planned_at=batch.planned_at,
            revision=batch.revision,
            **_changeable_columns(batch),
        )

    def batch(self, batch_id: str, *, lock: bool = False) -> Batch | None:
        query = select(_batch).where(_batch.c.id == batch_id)
        row = self._execute(query.with_for_update() if lock else query).first()
        return _batch_of(row) if row else None

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
        query = select(_batch).limit(limit)
        if source is not None:
            query = query.where(_batch.c.source == source)
        if table is not None:
            query = query.where(_batch.c.table_name == table)
        if states is not None:
            query = query.where(_batch.c.state.in_(states))
        if bulk_only:
            query = query.where(_batch.c.is_bulk)
        if slot_prefix:
            query = query.where(_batch.c.slot.startswith(slot_prefix, autoescape=True))
        if newest_first:
            query = query.order_by(_batch.c.planned_at.desc(), _batch.c.id.desc())
        else:
            query = query.order_by(_batch.c.planned_at, _batch.c.id)
        return [_batch_of(row) for row in self._execute(query)]

    def batch_tallies(self, *, states: Collection[BatchState] | None = None) -> list[BatchTally]:
        changed_at = _batch.c.changed_at
        grouped = (_batch.c.source, _batch.c.table_name, _batch.c.state)
        query = select(
            *grouped,
            func.count().label("batch_count"),
            func.min(changed_at).label("longest_since"),
            func.max(changed_at).label("latest_since"),
        )
        if states is not None:
            query = query.where(_batch.c.state.in_(states))
        return [
            BatchTally(
                row.source,
                row.table_name,
                BatchState(row.state),
                row.batch_count,
                row.longest_since,
                row.latest_since,
            )
            for row in self._execute(query.group_by(*grouped).order_by(*grouped))
        ]

    def batches_to_wake(
        self, *, states: Collection[BatchState], woken_before: Sequence[datetime], limit: int
    ) -> list[Batch]:
        moment_by_count = dict(enumerate(woken_before, 1))
        moment = case(moment_by_count, value=func.greatest(_batch.c.wake_count, 1), else_=woken_before[-1])
        rows = self._execute(
            select(_batch)
            .where(
                _batch.c.state.in_(states),
                # Implied by the next, and what an index can use.
                _batch.c.woken_at < max(woken_before),
                case(
                    (_batch.c.not_before.is_not(None), _batch.c.not_before < woken_before[0]),
                    else_=_batch.c.woken_at < moment,
                ),
            )
            .order_by(_batch.c.woken_at, _batch.c.id)
            .limit(limit)
        )
        return [_batch_of(row) for row in rows]

    def deferred_batches(self, source: str, *, limit: int) -> list[Batch]:
        rows = self._execute(
            select(_batch)
            .where(
                _batch.c.source == source,
                _batch.c.state == BatchState.PLANNED,
                _batch.c.woken_at.is_(None),
            )
            .order_by(_batch.c.is_bulk, _batch.c.planned_at, _batch.c.id)
            .limit(limit)
        )
        return [_batch_of(row) for row in rows]

    def sources_with_deferred_batches(self) -> list[str]:
        rows = self._execute(
            select(_batch.c.source)
            .distinct()
            .where(_batch.c.state == BatchState.PLANNED, _batch.c.woken_at.is_(None))
            .order_by(_batch.c.source)
        )
        return [row.source for row in rows]

    def save_batch(self, batch: Batch) -> Batch:
        is_an_edge = exists().where(
            _allowed_edge.c.from_state == _batch.c.state, _allowed_edge.c.to_state == batch.state
        )
        saved = self._execute(
            update(_batch)
            .where(
                _batch.c.id == batch.id,
                _batch.c.revision == batch.revision,
                or_(_batch.c.state == batch.state, is_an_edge),
            )
            .values(revision=batch.revision + 1, **_changeable_columns(batch))
            .returning(_batch)
        ).first()
        if saved is None:
            self._explain_refusal(batch)
        return _batch_of(saved)

    def _explain_refusal(self, batch: Batch) -> NoReturn:
        stored = self.batch(batch.id)
        if stored is None or stored.revision != batch.revision:
            found = "no such batch" if stored is None else f"revision {stored.revision}"
            raise StaleRevision(
                f"batch {batch.id}: expected revision {batch.revision}, found {found}; read it again"
            )
        raise IllegalTransition(f"batch {batch.id}: no edge leads from {stored.state} to {batch.state}")

    def insert_attempt(self, attempt: Attempt) -> None:
        if not self._insert(
            _attempt,
            batch_id=attempt.batch_id,
            stage=attempt.stage,
            number=attempt.number,
            worker=attempt.worker,
            state=attempt.state,
            claimed_at=attempt.claimed_at,
            lease_until=attempt.lease_until,
            ended_at=attempt.ended_at,
            reason=attempt.reason,
            detail=attempt.detail,
        ):
            raise StaleRevision(
                f"batch {attempt.batch_id}: attempt {attempt.number} of {attempt.stage} is there already"
            )

    def attempt(self, batch_id: str, stage: Stage, number: int) -> Attempt | None:
        row = self._execute(select(_attempt).where(_is_attempt(batch_id, stage, number))).first()
        return _attempt_of(row) if row else None

    def attempts(self, batch_id: str) -> list[Attempt]:
        rows = self._execute(
            select(_attempt).where(_attempt.c.batch_id == batch_id).order_by(_attempt.c.claim_order)
        )
        return [_attempt_of(row) for row in rows]

    def expired_attempts(self, *, limit: int) -> list[Attempt]:
        # The time of this statement, as an index can use it; `clock_timestamp()` changes from row to row.
        rows = self._execute(
            select(_attempt)
            .where(
                _attempt.c.state == AttemptState.RUNNING,
                _attempt.c.lease_until <= func.statement_timestamp(),
            )
            .order_by(_attempt.c.lease_until, _attempt.c.batch_id)
            .limit(limit)
        )
        return [_attempt_of(row) for row in rows]

    def save_attempt(self, attempt: Attempt) -> None:
        saved = self._execute(
            update(_attempt)
            .where(_is_attempt(attempt.batch_id, attempt.stage, attempt.number))
            .values(
                state=attempt.state,
                lease_until=attempt.lease_until,
                ended_at=attempt.ended_at,
                reason=attempt.reason,
                detail=attempt.detail,
            )
            .returning(_attempt.c.number)
        ).first()
        if saved is None:
            raise KeyError(
                f"the ledger holds no attempt {attempt.number} of {attempt.stage} of batch {attempt.batch_id}"
            )

    def running_extract_count(self, source: str) -> int:
        count: int = self._execute(
            select(func.count())
            .select_from(_attempt)
            .join(_batch, _batch.c.id == _attempt.c.batch_id)
            .where(
                _attempt.c.state == AttemptState.RUNNING,
                _attempt.c.lease_until > func.statement_timestamp(),
                _attempt.c.stage == Stage.EXTRACT,
                _batch.c.source == source,
            )
        ).scalar_one()
        return count

    def append_event(self, event: BatchEvent) -> None:
        if not self._insert(
            _batch_event,
            batch_id=event.batch_id,
            sequence=event.sequence,
            from_state=event.from_state,
            to_state=event.to_state,
            at=event.at,
            actor=event.actor,
            reason=event.reason,
            detail=event.detail,
        ):
            raise StaleRevision(f"batch {event.batch_id}: event {event.sequence} is there already")

    def events(self, batch_id: str) -> list[BatchEvent]:
        rows = self._execute(
            select(_batch_event).where(_batch_event.c.batch_id == batch_id).order_by(_batch_event.c.sequence)
        )
        return [_event_of(row) for row in rows]

    def insert_manifest(
        self, batch_id: str, stage: Stage, attempt: int, document: Mapping[str, object]
    ) -> None:
        text = json.dumps(document, allow_nan=False)
        if not self._insert(
            _manifest,
            batch_id=batch_id,
            stage=stage,
            attempt=attempt,
            document=cast(literal(text, Text), _manifest.c.document.type),
        ):
            raise StaleRevision(
                f"batch {batch_id}: the manifest of attempt {attempt} of {stage} is there already"
            )

    def manifest(self, batch_id: str, stage: Stage, attempt: int) -> Mapping[str, object] | None:
        document: Mapping[str, object] | None = self._execute(
            select(_manifest.c.document).where(
                _manifest.c.batch_id == batch_id,
                _manifest.c.stage == stage,
                _manifest.c.attempt == attempt,
            )
        ).scalar()
        return document

    # Files.

    def insert_file(self, file: DataFile) -> bool:
        return self._insert(
            _data_file,
            bucket=file.location.bucket,
            key=file.location.key,
            area=file.area,
            format=file.format,
            batch_id=file.batch_id,
            compaction_id=file.compaction_id,
            attempt=file.attempt,
            part=file.part,
            record_count=file.record_count,
            file_size_in_bytes=file.file_size_in_bytes,
            sha256=file.sha256,
            recorded_at=func.clock_timestamp() if file.recorded_at is None else file.recorded_at,
            **_changeable_columns_of_file(file),
        )

    def file(self, location: Location) -> DataFile | None:
        row = self._execute(select(_data_file).where(_lies_at(location))).first()
        return _file_of(row) if row else None

    def files_at(self, bucket: str, keys: Collection[str]) -> list[DataFile]:
        rows = self._execute(
            select(_data_file).where(_data_file.c.bucket == bucket, _data_file.c.key.in_(keys))
        )
        return [_file_of(row) for row in rows]

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
        query = select(_data_file).limit(limit)
        if newest_first:
            query = query.order_by(_data_file.c.recorded_at.desc())
        query = query.order_by(_data_file.c.key, _data_file.c.bucket)
        if bucket is not None:
            query = query.where(_data_file.c.bucket == bucket)
        if table is not None:
            of_table = select(_batch.c.id).where(_batch.c.table_name == table)
            query = query.where(_data_file.c.batch_id.in_(of_table))
        if batch_id is not None:
            query = query.where(_data_file.c.batch_id == batch_id)
        if foreign_only:
            query = query.where(_data_file.c.batch_id.is_(None), _data_file.c.compaction_id.is_(None))
        if areas is not None:
            query = query.where(_data_file.c.area.in_(areas))
        if attempt is not None:
            query = query.where(_data_file.c.attempt == attempt)
        if present_only:
            query = query.where(_data_file.c.deleted_at.is_(None))
        if recorded_before is not None:
            query = query.where(_data_file.c.recorded_at < recorded_before)
        return [_file_of(row) for row in self._execute(query)]

    def save_file(self, file: DataFile) -> None:
        saved = self._execute(
            update(_data_file)
            .where(_lies_at(file.location))
            .values(**_changeable_columns_of_file(file))
            .returning(_data_file.c.key)
        ).first()
        if saved is None:
            raise KeyError(f"{file.location}: the ledger holds no such file")

    def batches_with_leftovers(self, *, limit: int) -> list[Batch]:
        rows = self._execute(
            select(_batch)
            .where(
                _batch.c.id.in_(
                    union(
                        _IDS_WITH_COPIES,
                        _IDS_WITH_UNCOMMITTED_FILES,
                        _IDS_WITH_DISCARDED_FILES,
                        _IDS_WITH_FILES_GIVEN_UP,
                    )
                )
            )
            .order_by(_batch.c.changed_at, _batch.c.id)
            .limit(limit)
        )
        return [_batch_of(row) for row in rows]

    # Sources.

    def source_guard(self, source: str) -> SourceGuard:
        self._insert(_source_guard, source=source, **_guard_values(SourceGuard(source)))
        query = select(_source_guard).where(_source_guard.c.source == source).with_for_update()
        return _guard_of(self._execute(query).one())

    def save_source_guard(self, guard: SourceGuard) -> None:
        values = _guard_values(guard)
        self._execute(
            insert(_source_guard)
            .values(source=guard.source, **values)
            .on_conflict_do_update(index_elements=[_source_guard.c.source], set_=values)
        )

    def source_guards(self) -> list[SourceGuard]:
        return [
            _guard_of(row) for row in self._execute(select(_source_guard).order_by(_source_guard.c.source))
        ]

    # Progress, alarms, proofs.

    def table_progress(self) -> list[TableProgress]:
        return [
            TableProgress(row.source, row.table_name, row.planned_until, row.published_until)
            for row in self._execute(_TABLE_PROGRESS)
        ]

    def save_expectation(self, expectation: Expectation) -> None:
        values = {"every": expectation.every, "expected_by": expectation.expected_by}
        self._execute(
            insert(_expectation)
            .values(
                source=expectation.source, table_name=expectation.table, since=expectation.since, **values
            )
            .on_conflict_do_update(
                index_elements=[_expectation.c.source, _expectation.c.table_name], set_=values
            )
        )

    def delete_expectation(self, source: str, table: str) -> None:
        self._execute(
            delete(_expectation).where(_expectation.c.source == source, _expectation.c.table_name == table)
        )

    def expectations(self) -> list[Expectation]:
        rows = self._execute(select(_expectation).order_by(_expectation.c.source, _expectation.c.table_name))
        return [
            Expectation(row.source, row.table_name, row.every, row.expected_by, row.since) for row in rows
        ]

    def save_alarm(self, alarm: Alarm) -> None:
        values = {
            "detail": alarm.detail,
            "resolved_at": alarm.resolved_at,
            "raise_told_at": alarm.raise_told_at,
            "resolve_told_at": alarm.resolve_told_at,
        }
        self._execute(
            insert(_alarm)
            .values(kind=alarm.kind, subject=alarm.subject, raised_at=alarm.raised_at, **values)
            .on_conflict_do_update(
                index_elements=[_alarm.c.kind, _alarm.c.subject, _alarm.c.raised_at], set_=values
            )
        )

    def alarms(self, *, unsettled_only: bool = False, limit: int | None = None) -> list[Alarm]:
        query = select(_alarm).order_by(_alarm.c.raised_at.desc(), _alarm.c.kind, _alarm.c.subject)
        if unsettled_only:
            query = query.where(
                or_(
                    _alarm.c.resolved_at.is_(None),
                    _alarm.c.raise_told_at.is_(None),
                    _alarm.c.resolve_told_at.is_(None),
                )
            )
        return [_alarm_of(row) for row in self._execute(query.limit(limit))]

    def insert_proof(self, proof: Proof) -> None:
        self._execute(
            insert(_proof).values(
                source=proof.source,
                table_name=proof.table,
                window_start=proof.window.start,
                window_end=proof.window.end,
                **_extent_values(proof.extent),
                proved_at=proof.proved_at,
                is_equal=proof.is_equal,
                detail=proof.detail,
                sides=dict(proof.sides),
            )
        )

    def latest_proofs(
        self, source: str | None = None, table: str | None = None, *, differing_only: bool = False
    ) -> list[Proof]:
        query = (
            select(_proof)
            .where(~_HAS_NEWER_PROOF)
            .order_by(
                _proof.c.source,
                _proof.c.table_name,
                _proof.c.window_start.nulls_first(),
                _proof.c.window_end,
                # Of the parts of one window: as they were proved.
                _proof.c.id,
            )
        )
        if source is not None:
            query = query.where(_proof.c.source == source)
        if table is not None:
            query = query.where(_proof.c.table_name == table)
        if differing_only:
            query = query.where(_proof.c.is_equal.is_(False))
        return [_proof_of(row) for row in self._execute(query)]

    def save_recounts(self, recounts: Sequence[Recount]) -> None:
        if recounts:
            counted = insert(_recount)
            columns = {"counted_at": counted.excluded.counted_at, "row_count": counted.excluded.row_count}
            self._execute(
                counted.on_conflict_do_update(index_elements=[_recount.c.batch_id], set_=columns),
                [
                    {"batch_id": item.batch_id, "counted_at": item.counted_at, "row_count": item.row_count}
                    for item in recounts
                ],
            )

    def recounts(self, source: str, table: str) -> list[Recount]:
        query = (
            select(_recount)
            .join(_batch, _batch.c.id == _recount.c.batch_id)
            .where(_batch.c.source == source, _batch.c.table_name == table)
            .order_by(_batch.c.planned_at, _batch.c.id)
        )
        return [Recount(row.batch_id, row.counted_at, row.row_count) for row in self._execute(query)]

    # Compactions and rollbacks.

    def insert_compaction(self, compaction: Compaction) -> None:
        self._execute(
            insert(_compaction).values(
                id=compaction.id,
                source=compaction.source,
                table_name=compaction.table,
                bucket=compaction.bucket,
                day=compaction.day,
                contract_version=compaction.contract_version,
                types_version=compaction.types_version,
                batches=[batch.document() for batch in compaction.batches],
                begun_at=compaction.begun_at,
                **_changeable_columns_of_compaction(compaction),
            )
        )

    def compaction(self, compaction_id: str, *, lock: bool = False) -> Compaction | None:
        query = select(_compaction).where(_compaction.c.id == compaction_id)
        row = self._execute(query.with_for_update() if lock else query).first()
        return _compaction_of(row) if row else None

    def compactions(
        self, source: str, table: str, *, states: Collection[CompactionState] | None = None
    ) -> list[Compaction]:
        query = (
            select(_compaction)
            .where(_compaction.c.source == source, _compaction.c.table_name == table)
            .order_by(_compaction.c.begun_at, _compaction.c.id)
        )
        if states is not None:
            query = query.where(_compaction.c.state.in_(states))
        return [_compaction_of(row) for row in self._execute(query)]

    def compactions_to_clean(self, *, limit: int) -> list[Compaction]:
        query = (
            select(_compaction)
            .where(
                _compaction.c.cleaned_at.is_(None),
                _compaction.c.shown_at.is_not(None),
                _compaction.c.delete_after < func.clock_timestamp(),
            )
            .order_by(_compaction.c.delete_after, _compaction.c.id)
            .limit(limit)
        )
        return [_compaction_of(row) for row in self._execute(query)]

    def save_compaction(self, compaction: Compaction) -> None:
        self._update_one(
            update(_compaction)
            .where(_compaction.c.id == compaction.id)
            .values(**_changeable_columns_of_compaction(compaction))
            .returning(_compaction.c.id),
            what=f"compaction {compaction.id}",
        )

    def insert_rollback(self, rollback: Rollback) -> None:
        self._execute(
            insert(_rollback).values(
                id=rollback.id,
                source=rollback.source,
                table_name=rollback.table,
                last_batch_id=rollback.last_batch_id,
                withdrawn_batch_ids=list(rollback.withdrawn_batch_ids),
                begun_at=rollback.begun_at,
                actor=rollback.actor,
                detail=rollback.detail,
                done_at=rollback.done_at,
            )
        )

    def rollbacks(self, source: str, table: str) -> list[Rollback]:
        query = (
            select(_rollback)
            .where(_rollback.c.source == source, _rollback.c.table_name == table)
            .order_by(_rollback.c.begun_at, _rollback.c.id)
        )
        return [
            Rollback(
                id=row.id,
                source=row.source,
                table=row.table_name,
                last_batch_id=row.last_batch_id,
                withdrawn_batch_ids=tuple(row.withdrawn_batch_ids),
                begun_at=row.begun_at,
                actor=row.actor,
                detail=row.detail,
                done_at=row.done_at,
            )
            for row in self._execute(query)
        ]

    def save_rollback(self, rollback: Rollback) -> None:
        self._update_one(
            update(_rollback)
            .where(_rollback.c.id == rollback.id)
            .values(done_at=rollback.done_at)
            .returning(_rollback.c.id),
            what=f"rollback {rollback.id}",
        )

    def _update_one(self, statement: Any, *, what: str) -> None:
        if self._execute(statement).first() is None:
            raise KeyError(f"the ledger holds no {what}")

    def published_row_count(self, source: str, table: str) -> int:
        rows = func.coalesce(func.sum(cast(_batch.c.counts[Count.ROWS_IN_FINAL].astext, BigInteger)), 0)
        query = select(rows).where(
            _batch.c.source == source,
            _batch.c.table_name == table,
            _batch.c.state == BatchState.PUBLISHED,
            ~_batch.c.slot.startswith(KEY_SWEEP_SLOT_PREFIX),
        )
        return int(self._execute(query).scalar_one())

    # Scheduled parts.

    def record_run(self, name: str) -> None:
        now = func.clock_timestamp()
        self._execute(
            insert(_last_run)
            .values(name=name, ran_at=now)
            .on_conflict_do_update(index_elements=[_last_run.c.name], set_={"ran_at": now})
        )

    def last_run(self, name: str) -> datetime | None:
        ran_at: datetime | None = self._execute(
            select(_last_run.c.ran_at).where(_last_run.c.name == name)
        ).scalar_one_or_none()
        return ran_at

    # Evidence.

    def insert_mask_evidence(self, evidence: Sequence[MaskEvidence]) -> None:
        if evidence:
            self._execute(
                insert(_mask_evidence).on_conflict_do_nothing(),
                [
                    {
                        "batch_id": item.batch_id,
                        "attempt": item.attempt,
                        "column_name": item.column,
                        "mask": item.mask,
                        "key_id": item.key_id,
                        "masked_value_count": item.masked_value_count,
                    }
                    for item in evidence
                ],
            )

    def mask_evidence(self, batch_id: str) -> list[MaskEvidence]:
        rows = self._execute(
            select(_mask_evidence)
            .where(_mask_evidence.c.batch_id == batch_id)
            .order_by(_mask_evidence.c.attempt, _mask_evidence.c.column_name)
        )
        return [_evidence_of(row) for row in rows]

    def mask_tallies(self, source: str, table: str) -> list[MaskTally]:
        later = _mask_evidence.alias()
        is_superseded = exists().where(
            later.c.batch_id == _mask_evidence.c.batch_id, later.c.attempt > _mask_evidence.c.attempt
        )
        grouped = (
            _batch.c.contract_version,
            _mask_evidence.c.column_name,
            _mask_evidence.c.mask,
            _mask_evidence.c.key_id,
        )
        by_window = (_batch.c.window_end, _batch.c.id)
        query = (
            select(
                *grouped,
                func.count().label("batch_count"),
                cast(func.sum(_mask_evidence.c.masked_value_count), BigInteger).label("masked_value_count"),
                func.array_agg(aggregate_order_by(_batch.c.id, *by_window)).label("batch_ids"),
                func.min(_batch.c.window_end).label("first_window_end"),
                func.max(_batch.c.window_end).label("last_window_end"),
            )
            .join_from(_mask_evidence, _batch, _batch.c.id == _mask_evidence.c.batch_id)
            .where(*_was_read(source, table), ~is_superseded)
            .group_by(*grouped)
        ).subquery()
        ids = query.c.batch_ids
        rows = self._execute(
            select(
                query, ids[1].label("first_batch_id"), ids[func.cardinality(ids)].label("last_batch_id")
            ).order_by(query.c.contract_version, query.c.column_name, query.c.mask, query.c.key_id)
        )
        return [
            MaskTally(
                contract_version=row.contract_version,
                column=row.column_name,
                mask=MaskKind(row.mask),
                key_id=row.key_id,
                batch_count=row.batch_count,
                masked_value_count=row.masked_value_count,
                first_batch_id=row.first_batch_id,
                last_batch_id=row.last_batch_id,
                first_window_end=row.first_window_end,
                last_window_end=row.last_window_end,
            )
            for row in rows
        ]

    def read_batch_counts(self, source: str, table: str) -> dict[int, int]:
        version = _batch.c.contract_version
        query = select(version, func.count().label("batch_count")).where(*_was_read(source, table))
        rows = self._execute(query.group_by(version).order_by(version))
        return {row.contract_version: row.batch_count for row in rows}

    # Outbox.

    def post(self, message: OutboxMessage) -> None:
        self._execute(
            insert(_outbox).values(
                queue=message.queue,
                body=message.body,
                message_group=message.group,
                traceparent=message.traceparent,
            )
        )

    def pending_messages(self, *, limit: int, without: Collection[QueueName] = ()) -> list[PendingMessage]:
        rows = self._execute(
            select(_outbox)
            .where(_outbox.c.queue.not_in(without))
            .order_by(_outbox.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        return [
            PendingMessage(
                row.id,
                OutboxMessage(QueueName(row.queue), row.body, row.message_group, row.traceparent),
            )
            for row in rows
        ]

    def mark_sent(self, message_ids: Collection[int]) -> None:
        self._execute(delete(_outbox).where(_outbox.c.id.in_(message_ids)))

    def pending_message_count(self) -> int:
        number: int = self._execute(select(func.count()).select_from(_outbox)).scalar_one()
        return number

    def oldest_pending_at(self) -> datetime | None:
        # By id, which has an index: the order of posting, but for transactions that overlap.
        query = select(_outbox.c.posted_at).order_by(_outbox.c.id).limit(1)
        posted_at: datetime | None = self._execute(query).scalar_one_or_none()
        return posted_at

    # Statements.

    def _insert(self, table: Table, **values: Any) -> bool:
        """Add a row; False, and nothing changed, if one of its identity is there."""
        statement = insert(table).values(**values).on_conflict_do_nothing()
        return self._execute(statement.returning(*table.primary_key)).first() is not None

    def _execute(self, statement: Executable, rows: list[dict[str, Any]] | None = None) -> CursorResult[Any]:
        with self._database.errors_translated(self._connection):
            try:
                return self._connection.execute(statement, rows)
            except IntegrityError as error:
                _explain_violation(error)
                raise


def _explain_violation(error: IntegrityError) -> None:
    cause = error.orig
    if not isinstance(cause, psycopg.IntegrityError):
        return
    constraint = cause.diag.constraint_name or ""
    if constraint in tables.CONSTRAINTS_OF_THE_WAY:
        raise IllegalTransition(f"{cause.diag.message_primary}: {cause.diag.message_detail}") from cause
    if isinstance(cause, psycopg.errors.ForeignKeyViolation):
        raise KeyError(f"the ledger holds no such row: {cause.diag.message_detail}") from cause


# ---- parts of statements -------------------------------------------------------------------------------------

_contract = tables.contract
_watermark = tables.watermark
_cursor_count = tables.cursor_count
_allowed_edge = tables.allowed_edge
_batch = tables.batch
_attempt = tables.attempt
_batch_event = tables.batch_event
_manifest = tables.manifest
_data_file = tables.data_file
_mask_evidence = tables.mask_evidence
_outbox = tables.outbox
_source_guard = tables.source_guard
_expectation = tables.expectation
_alarm = tables.alarm
_proof = tables.proof
_recount = tables.recount
_last_run = tables.last_run
_compaction = tables.compaction
_rollback = tables.rollback

_CONTRACTS = select(
    _contract.c.version, _contract.c.sha256, cast(_contract.c.document, Text).label("document")
)

#: Batches whose copies in the transient areas may go.
_IDS_WITH_COPIES = (
    select(_batch.c.id)
    .join(_data_file, _data_file.c.batch_id == _batch.c.id)
    .where(
        _batch.c.state.in_(STATES_IN_FINAL | STATES_AT_REST),
        _data_file.c.is_in_transit,
    )
)

#: Batches at rest with files in `final/` that readers do not see: all that `Batch.may_show` says no to.
_IDS_WITH_UNCOMMITTED_FILES = (
    select(_batch.c.id)
    .join(_data_file, _data_file.c.batch_id == _batch.c.id)
    .where(
        tables.CAN_HAVE_UNCOMMITTED_FILES,
        _batch.c.state.in_(STATES_AT_REST),
        _data_file.c.area == Area.FINAL,
        _data_file.c.deleted_at.is_(None),
        or_(
            _batch.c.committed_attempt.is_(None),
            _data_file.c.attempt > _batch.c.committed_attempt,
            and_(
                _data_file.c.attempt < _batch.c.committed_attempt,
                _batch.c.state.in_((BatchState.PUBLISHED, BatchState.SUPERSEDED)),
            ),
        ),
    )
)


#: Batches of which somebody gave up what was set aside.
_IDS_WITH_FILES_GIVEN_UP = select(_data_file.c.batch_id).where(
    _data_file.c.area == Area.QUARANTINE,
    _data_file.c.reason == Reason.DISCARDED,
    _data_file.c.deleted_at.is_(None),
)

#: Batches that were given up, with objects that were set aside.
_IDS_WITH_DISCARDED_FILES = (
    select(_batch.c.id)
    .join(_data_file, _data_file.c.batch_id == _batch.c.id)
    .where(
        _batch.c.state == BatchState.DISCARDED,
        _data_file.c.area == Area.QUARANTINE,
        _data_file.c.deleted_at.is_(None),
    )
)


def _table_progress() -> Select[Any]:
    """
    Say for each table up to where everything is published: where its first open window begins, if it has one.

    Looks at open batches, which are few; at published ones only of tables with an open snapshot.
    """
    is_snapshot = _batch.c.slot.startswith(SNAPSHOT_SLOT_PREFIX)
    first_start = func.min(func.coalesce(_batch.c.window_start, sqlalchemy.text("'-infinity'::timestamptz")))
    open_batches = (
        select(
            _batch.c.source,
            _batch.c.table_name,
            first_start.filter(~is_snapshot).label("first_start"),
            func.bool_or(is_snapshot).label("has_snapshot"),
        )
        .where(
            _batch.c.state.in_(frozenset(BatchState) - FINAL_STATES),
            # As `is_second_reading` has it.
            ~_batch.c.slot.contains(REJECTS_SLOT_INFIX),
            ~_batch.c.slot.startswith(BACKFILL_SLOT_PREFIX),
            ~_batch.c.slot.startswith(KEY_SWEEP_SLOT_PREFIX),
        )
        .group_by(_batch.c.source, _batch.c.table_name)
        .subquery()
    )
    last_end = (
        select(func.max(_batch.c.window_end))
        .where(
            _batch.c.source == _watermark.c.source,
            _batch.c.table_name == _watermark.c.table_name,
            _batch.c.state.in_(FINAL_STATES),
        )
        .scalar_subquery()
    )
    return (
        select(
            _watermark.c.source,
            _watermark.c.table_name,
            _watermark.c.planned_until,
            case(
                (
                    open_batches.c.first_start.is_not(None),
                    func.nullif(open_batches.c.first_start, sqlalchemy.text("'-infinity'::timestamptz")),
                ),
                (open_batches.c.has_snapshot, last_end),
                else_=_watermark.c.planned_until,
            ).label("published_until"),
        )
        .outerjoin(
            open_batches,
            and_(
                open_batches.c.source == _watermark.c.source,
                open_batches.c.table_name == _watermark.c.table_name,
            ),
        )
        .order_by(_watermark.c.source, _watermark.c.table_name)
    )


_TABLE_PROGRESS = _table_progress()

_newer_proof = _proof.alias("newer_proof")

_HAS_NEWER_PROOF = exists().where(
    _newer_proof.c.source == _proof.c.source,
    _newer_proof.c.table_name == _proof.c.table_name,
    _newer_proof.c.window_start.is_not_distinct_from(_proof.c.window_start),
    _newer_proof.c.window_end == _proof.c.window_end,
    _newer_proof.c.extent_low.is_not_distinct_from(_proof.c.extent_low),
    _newer_proof.c.extent_high.is_not_distinct_from(_proof.c.extent_high),
    sqlalchemy.tuple_(_newer_proof.c.proved_at, _newer_proof.c.id)
    > sqlalchemy.tuple_(_proof.c.proved_at, _proof.c.id),
)


def _is_attempt(batch_id: str, stage: Stage, number: int) -> ColumnElement[bool]:
    return and_(_attempt.c.batch_id == batch_id, _attempt.c.stage == stage, _attempt.c.number == number)


def _lies_at(location: Location) -> ColumnElement[bool]:
    return and_(_data_file.c.bucket == location.bucket, _data_file.c.key == location.key)


def _lock_number(*names: str) -> int:
    """Return the number of an advisory lock: those of PostgreSQL have no names but 64 bits."""
    digest = hashlib.sha256("\0".join(("esclusa", *names)).encode()).digest()
    return int.from_bytes(digest[:8], "big", signed=True)


# ---- rows and what they say ----------------------------------------------------------------------------------


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC)


def _contract_of(row: Row) -> ContractVersion:
    try:
        contract = from_json(row.document)
    except ValueError as error:
        raise ConfigurationError(
            f"the ledger's contract {row.sha256[:12]}, version {row.version} of its table: {error}; a newer version of "
            "Esclusa registered it, and this one leaves its table alone"
        ) from error
    return ContractVersion(row.version, row.sha256, contract)


def _changeable_columns(batch: Batch) -> dict[str, Any]:
    """Return what a batch may change: not its identity, window, bucket and planning."""
    return {
        "contract_version": batch.contract_version,
        "configuration_sha256": batch.configuration_sha256,
        "state": batch.state,
        "changed_at": batch.changed_at,
        **{f"{stage}_attempt": batch.attempts.get(stage, 0) for stage in Stage},
        **{f"{stage}_attempts_before_replay": batch.attempts_before_replay.get(stage, 0) for stage in Stage},
        "committed_attempt": batch.committed_attempt,
        "counts": batch.counts,
        "reason": batch.reason,
        "detail": batch.detail,
        "woken_at": batch.woken_at,
        "wake_count": batch.wake_count,
        "not_before": batch.not_before,
        "is_approved": batch.is_approved,
        "trace_id": batch.trace_id,
    }


def _batch_of(row: Row) -> Batch:
    return Batch(
        id=row.id,
        source=row.source,
        table=row.table_name,
        slot=row.slot,
        window=Window(row.window_start, row.window_end),
        contract_version=row.contract_version,
        configuration_sha256=row.configuration_sha256,
        bucket=row.bucket,
        state=BatchState(row.state),
        planned_at=row.planned_at,
        changed_at=row.changed_at,
        attempts=_by_stage(row, "attempt"),
        attempts_before_replay=_by_stage(row, "attempts_before_replay"),
        committed_attempt=row.committed_attempt,
        counts=row.counts,
        reason=_reason_of(row),
        detail=row.detail,
        woken_at=row.woken_at,
        wake_count=row.wake_count,
        not_before=row.not_before,
        extent=_extent_of(row),
        is_bulk=row.is_bulk,
        is_approved=row.is_approved,
        trace_id=row.trace_id,
        revision=row.revision,
    )


def _extent_values(extent: Extent | None) -> dict[str, str | None]:
    return {
        "extent_column": extent.column if extent else None,
        "extent_low": extent.low if extent else None,
        "extent_high": extent.high if extent else None,
    }


def _extent_of(row: Row) -> Extent | None:
    if row.extent_column is None:
        return None
    return Extent(row.extent_column, row.extent_low, row.extent_high)


def _by_stage(row: Row, what: str) -> dict[Stage, int]:
    numbers = {stage: row._mapping[f"{stage}_{what}"] for stage in Stage}  # noqa: SLF001  SQLAlchemy's public name
    return {stage: number for stage, number in numbers.items() if number}


def _reason_of(row: Row) -> Reason | None:
    return None if row.reason is None else Reason(row.reason)


def _attempt_of(row: Row) -> Attempt:
    return Attempt(
        batch_id=row.batch_id,
        stage=Stage(row.stage),
        number=row.number,
        worker=row.worker,
        state=AttemptState(row.state),
        claimed_at=row.claimed_at,
        lease_until=row.lease_until,
        ended_at=row.ended_at,
        reason=_reason_of(row),
        detail=row.detail,
    )


def _event_of(row: Row) -> BatchEvent:
    return BatchEvent(
        batch_id=row.batch_id,
        sequence=row.sequence,
        from_state=None if row.from_state is None else BatchState(row.from_state),
        to_state=BatchState(row.to_state),
        at=row.at,
        actor=row.actor,
        reason=_reason_of(row),
        detail=row.detail,
    )


def _changeable_columns_of_file(file: DataFile) -> dict[str, Any]:
    """Return what changes of a file: what its gate and the cleaner say of it, never what it is."""
    return {
        "status": file.status,
        "reason": file.reason,
        "detail": file.detail,
        "checked_at": file.checked_at,
        "deleted_at": file.deleted_at,
    }


def _file_of(row: Row) -> DataFile:
    return DataFile(
        location=Location(row.bucket, row.key),
        area=Area(row.area),
        format=FileFormat(row.format),
        batch_id=row.batch_id,
        attempt=row.attempt,
        part=row.part,
        record_count=row.record_count,
        file_size_in_bytes=row.file_size_in_bytes,
        sha256=row.sha256,
        status=FileStatus(row.status),
        reason=_reason_of(row),
        detail=row.detail,
        recorded_at=row.recorded_at,
        checked_at=row.checked_at,
        deleted_at=row.deleted_at,
        compaction_id=row.compaction_id,
    )


def _changeable_columns_of_compaction(compaction: Compaction) -> dict[str, Any]:
    return {
        "state": compaction.state,
        "lease_until": compaction.lease_until,
        "decided_at": compaction.decided_at,
        "shown_at": compaction.shown_at,
        "delete_after": compaction.delete_after,
        "deletes_begun_at": compaction.deletes_begun_at,
        "cleaned_at": compaction.cleaned_at,
        "detail": compaction.detail,
    }


def _compaction_of(row: Row) -> Compaction:
    return Compaction(
        id=row.id,
        source=row.source,
        table=row.table_name,
        bucket=row.bucket,
        day=row.day,
        contract_version=row.contract_version,
        types_version=row.types_version,
        state=CompactionState(row.state),
        batches=tuple(CompactedBatch.of(document) for document in row.batches),
        begun_at=row.begun_at,
        lease_until=row.lease_until,
        decided_at=row.decided_at,
        shown_at=row.shown_at,
        delete_after=row.delete_after,
        deletes_begun_at=row.deletes_begun_at,
        cleaned_at=row.cleaned_at,
        detail=row.detail,
    )


def _was_read(source: str, table: str) -> tuple[ColumnElement[bool], ...]:
    return (
        _batch.c.source == source,
        _batch.c.table_name == table,
        _batch.c.state.in_(sorted(STATES_AFTER_READING)),
        ~_batch.c.slot.startswith(KEY_SWEEP_SLOT_PREFIX),
    )


def _evidence_of(row: Row) -> MaskEvidence:
    return MaskEvidence(
        batch_id=row.batch_id,
        attempt=row.attempt,
        column=row.column_name,
        mask=MaskKind(row.mask),
        key_id=row.key_id,
        masked_value_count=row.masked_value_count,
    )


def _guard_values(guard: SourceGuard) -> dict[str, Any]:
    return {
        "max_concurrent_extracts": guard.limits.max_concurrent_extracts,
        "rows_per_second": guard.limits.rows_per_second,
        "deadline": guard.limits.deadline,
        "quiet_hours": [str(hours) for hours in guard.limits.quiet_hours],
        "failures_in_a_row": guard.failures_in_a_row,
        "open_until": guard.open_until,
        "max_connections": guard.limits.max_connections,
        "visits": [
            {
                "id": visit.id,
                "who": visit.who,
                "connection_count": visit.connection_count,
                "lease_until": visit.lease_until.isoformat(),
            }
            for visit in guard.visits
        ],
    }


def _guard_of(row: Row) -> SourceGuard:
    limits = SourceLimits(
        row.max_concurrent_extracts,
        row.rows_per_second,
        row.deadline,
        tuple(QuietHours.parse(text) for text in row.quiet_hours),
        row.max_connections,
    )
    visits = tuple(
        Visit(
            visit["id"],
            visit["who"],
            visit["connection_count"],
            datetime.fromisoformat(visit["lease_until"]),
        )
        for visit in row.visits or ()
    )
    return SourceGuard(row.source, limits, row.failures_in_a_row, row.open_until, visits)


def _alarm_of(row: Row) -> Alarm:
    return Alarm(
        kind=AlarmKind(row.kind),
        subject=row.subject,
        raised_at=row.raised_at,
        detail=row.detail,
        resolved_at=row.resolved_at,
        raise_told_at=row.raise_told_at,
        resolve_told_at=row.resolve_told_at,
    )


def _proof_of(row: Row) -> Proof:
    return Proof(
        source=row.source,
        table=row.table_name,
        window=Window(row.window_start, row.window_end),
        extent=_extent_of(row),
        proved_at=row.proved_at,
        is_equal=row.is_equal,
        detail=row.detail,
        sides=row.sides,
    )
