"""
The tables of the ledger, as the queries of `shared.ledger.postgres` see them. One dialect: PostgreSQL.

`infra/migrations` creates them, and a test holds both equal. What only the database can hold is there: triggers that
refuse to change an event or to delete a file.

Text that something is sorted by has the collation "C", the order of code points: the same on every server, and the
same as in Python.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Dialect,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB

from shared.domain.alarms import AlarmKind
from shared.domain.batches import AttemptState, BatchState, Stage
from shared.domain.compactions import CompactionState
from shared.domain.contracts import MaskKind
from shared.domain.files import TRANSIENT_AREAS, Area, FileFormat, FileStatus
from shared.domain.reasons import Reason
from shared.ports import QueueName

SCHEMA = "esclusa"

metadata = MetaData(schema=SCHEMA)


class Moment(TypeDecorator[datetime]):
    """A `timestamptz`: aware on the way in, in UTC on the way out, whatever time zone the session has."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time in the ledger must be aware, got {value!r}")
        return value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.astimezone(UTC)


class Sentence(TypeDecorator[str]):
    """
    Text for people that may come from anywhere, such as the error of a source.

    What PostgreSQL cannot store (NUL, halves of surrogate pairs) becomes a mark: an attempt whose error is odd must
    still be able to say that it failed.
    """

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


def _name(column: str, *, nullable: bool = False, comment: str | None = None) -> Column[str]:
    return Column(column, Text(collation="C"), nullable=nullable, comment=comment)


def _text(column: str, *, nullable: bool = False, comment: str | None = None) -> Column[str]:
    return Column(column, Text, nullable=nullable, comment=comment)


def _detail(comment: str) -> Column[str]:
    return Column("detail", Sentence, nullable=False, comment=comment)


def _integer(column: str, *, nullable: bool = False, comment: str | None = None) -> Column[int]:
    return Column(column, Integer, nullable=nullable, comment=comment)


def _moment(column: str, *, nullable: bool = False, comment: str | None = None) -> Column[datetime]:
    return Column(column, Moment, nullable=nullable, comment=comment)


def _moment_of_insert(column: str, *, comment: str | None = None) -> Column[datetime]:
    return Column(column, Moment, nullable=False, server_default=func.clock_timestamp(), comment=comment)


def _slugs(column: str, slugs: type[StrEnum], *, table: str) -> CheckConstraint:
    listed = ", ".join(f"'{slug}'" for slug in slugs)
    return CheckConstraint(f"{column} IN ({listed})", name=f"{table}_{column}_is_known")


_TRANSIENT_AREAS = ", ".join(f"'{area}'" for area in TRANSIENT_AREAS)


def _refers(
    table: str, columns: Sequence[str], target: str, target_columns: Sequence[str]
) -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        columns, [f"{SCHEMA}.{target}.{column}" for column in target_columns], name=f"{table}_{target}_exists"
    )


contract = Table(
    "contract",
    metadata,
    _name("source"),
    _name("table_name"),
    _integer("version", comment="Counts up from 1 with every change of the contract."),
    _text("sha256", comment="Of the document as it is stored."),
    Column(
        "document",
        JSON,
        nullable=False,
        comment="Canonical JSON: columns, types, masks, key, cursor, schedule. Secrets are references.",
    ),
    _moment_of_insert("registered_at"),
    PrimaryKeyConstraint("source", "table_name", "version", name="contract_key"),
    CheckConstraint("version >= 1", name="contract_version_is_from_1"),
    comment="What was agreed on a table, frozen by version. Rows are added, never changed.",
)

watermark = Table(
    "watermark",
    metadata,
    _name("source"),
    _name("table_name"),
    _moment("planned_until", comment="Windows are planned up to here, exclusive."),
    PrimaryKeyConstraint("source", "table_name", name="watermark_key"),
    comment="Up to where each table is planned. Says nothing of what is published.",
)

cursor_count = Table(
    "cursor_count",
    metadata,
    _name("source"),
    _name("table_name"),
    _text("column_name", comment="The cursor whose numbers they are."),
    Column(
        "planned_below", BigInteger, comment="Numbers below it are planned; NULL before the first window."
    ),
    _moment("seen_at", comment="On the source's clock."),
    Column("seen_below", BigInteger, comment="Every number was below it then; NULL of an empty table."),
    PrimaryKeyConstraint("source", "table_name", name="cursor_count_key"),
    comment="How far cursors that count were planned and seen.",
)

allowed_edge = Table(
    "allowed_edge",
    metadata,
    _text("from_state"),
    _text("to_state"),
    PrimaryKeyConstraint("from_state", "to_state", name="allowed_edge_key"),
    _slugs("from_state", BatchState, table="allowed_edge"),
    _slugs("to_state", BatchState, table="allowed_edge"),
    comment="Every transition a batch may make. Any other is refused.",
)

batch = Table(
    "batch",
    metadata,
    _name("id", comment="A pure function of source, table and slot."),
    _name("source"),
    _name("table_name"),
    _text("slot", comment="`initial`, or the start of the window: what gives the batch its identity."),
    _moment("window_start", nullable=True, comment="Inclusive; NULL reads from the beginning."),
    _moment("window_end", comment="Exclusive."),
    _text("extent_column", nullable=True, comment="Narrows the window; NULL: all of it."),
    _text("extent_low", nullable=True, comment="Inclusive, as the source spells it; NULL: no bound."),
    _text("extent_high", nullable=True, comment="Exclusive."),
    Column("is_bulk", Boolean, nullable=False, comment="Waits behind the windows that are due now."),
    _integer("contract_version", comment="Frozen by the first insert; only a replay may change it."),
    _text("configuration_sha256", comment="The SHA-256 of that contract."),
    _text("bucket"),
    _text("state"),
    _moment("planned_at"),
    _moment("changed_at", comment="When the state was entered."),
    _integer("extract_attempt", comment="The number of the latest attempt; 0 before the first."),
    _integer("process_attempt"),
    _integer("publish_attempt"),
    _integer("extract_attempts_before_replay", comment="The allowed number of attempts counts from here."),
    _integer("process_attempts_before_replay"),
    _integer("publish_attempts_before_replay"),
    _integer(
        "committed_attempt",
        nullable=True,
        comment="The process attempt whose files in final/ readers may see; NULL before a gate found them correct.",
    ),
    Column("counts", JSONB, nullable=False, comment="Rows by name: rows_read, rows_written, rows_in_final …"),
    _text("reason", nullable=True, comment="Why it is held, or why its last attempt failed."),
    _detail("The same as a sentence."),
    _moment(
        "woken_at",
        nullable=True,
        comment="When a message last went out for this state; NULL in `planned`: waits for a place at its source.",
    ),
    _integer("wake_count", comment="How many messages went out for this state."),
    _moment("not_before", nullable=True, comment="The next attempt begins no earlier."),
    Column(
        "is_approved",
        Boolean,
        nullable=False,
        comment="An operator approved what its limits would hold back.",
    ),
    Column(
        "revision",
        BigInteger,
        nullable=False,
        comment="Counts up with every change; who saves an older one is refused.",
    ),
    _text(
        "trace_id",
        nullable=True,
        comment="Of its run; NULL before there were traces. In log lines and spans.",
    ),
    PrimaryKeyConstraint("id", name="batch_key"),
    UniqueConstraint("source", "table_name", "slot", name="batch_slot_is_planned_once"),
    _refers(
        "batch", ["source", "table_name", "contract_version"], "contract", ["source", "table_name", "version"]
    ),
    _slugs("state", BatchState, table="batch"),
    _slugs("reason", Reason, table="batch"),
    CheckConstraint("window_start < window_end", name="batch_window_starts_before_it_ends"),
    Index("batch_by_table", "source", "table_name", "planned_at", "id"),
    Index("batch_by_planned_at", "planned_at", "id"),
    Index("batch_by_state", "state", "planned_at", "id"),
    comment="One window of one table: planned, retried, quarantined and published whole.",
)
# Batches at rest are most of the table, and nobody waits for them.
Index(
    "batch_by_woken_at",
    batch.c.state,
    batch.c.woken_at,
    batch.c.id,
    postgresql_where=batch.c.woken_at.is_not(None),
)
Index(
    "batch_deferred",
    batch.c.source,
    batch.c.is_bulk,
    batch.c.planned_at,
    batch.c.id,
    postgresql_where=(batch.c.state == BatchState.PLANNED.value) & batch.c.woken_at.is_(None),
)
Index("batch_discarded", batch.c.id, postgresql_where=batch.c.state == BatchState.DISCARDED.value)
#: The few batches that can have files in `final/` which readers do not see: of a second attempt or a lost one.
CAN_HAVE_UNCOMMITTED_FILES = (batch.c.process_attempt > 1) | (
    (batch.c.process_attempt == 1) & batch.c.committed_attempt.is_(None)
)
Index("batch_with_uncommitted_files", batch.c.id, postgresql_where=CAN_HAVE_UNCOMMITTED_FILES)

attempt = Table(
    "attempt",
    metadata,
    _name("batch_id"),
    _text("stage"),
    _integer(
        "number", comment="Counts up from 1 within batch and stage. In the keys of the attempt's files."
    ),
    Column(
        "claim_order", BigInteger, Identity(always=True), nullable=False, comment="Sorts a batch's attempts."
    ),
    _text("worker"),
    _text("state"),
    _moment("claimed_at"),
    _moment("lease_until", comment="From then on another attempt may take over."),
    _moment("ended_at", nullable=True),
    _text("reason", nullable=True),
    _detail("Why it failed, as a sentence."),
    PrimaryKeyConstraint("batch_id", "stage", "number", name="attempt_key"),
    _refers("attempt", ["batch_id"], "batch", ["id"]),
    _slugs("stage", Stage, table="attempt"),
    _slugs("state", AttemptState, table="attempt"),
    _slugs("reason", Reason, table="attempt"),
    CheckConstraint("number >= 1", name="attempt_number_is_from_1"),
    comment="One claimed try of one stage of one batch.",
)
Index(
    "attempt_running", attempt.c.lease_until, postgresql_where=attempt.c.state == AttemptState.RUNNING.value
)

batch_event = Table(
    "batch_event",
    metadata,
    _name("batch_id"),
    _integer("sequence", comment="Counts up from 1 within a batch, without gaps."),
    Column(
        "previous_sequence",
        Integer,
        Computed("NULLIF(sequence - 1, 0)", persisted=True),
        comment="Ties the event to the one before it.",
    ),
    _text("from_state", nullable=True, comment="The state that the event before led to; NULL for the first."),
    _text("to_state"),
    _moment("at"),
    _text("actor", comment="Who spoke: planner, extract#2, gate:tmp, sweeper, operator."),
    _text("reason", nullable=True),
    _detail("The reason as a sentence."),
    PrimaryKeyConstraint("batch_id", "sequence", name="batch_event_key"),
    UniqueConstraint("batch_id", "sequence", "to_state", name="batch_event_can_be_followed"),
    _refers("batch_event", ["batch_id"], "batch", ["id"]),
    _refers("batch_event", ["from_state", "to_state"], "allowed_edge", ["from_state", "to_state"]),
    ForeignKeyConstraint(
        ["batch_id", "previous_sequence", "from_state"],
        [f"{SCHEMA}.batch_event.{column}" for column in ("batch_id", "sequence", "to_state")],
        name="batch_event_follows_the_last",
    ),
    _slugs("to_state", BatchState, table="batch_event"),
    _slugs("reason", Reason, table="batch_event"),
    CheckConstraint("sequence >= 1", name="batch_event_sequence_is_from_1"),
    CheckConstraint(
        "(sequence = 1) = (from_state IS NULL)", name="batch_event_only_the_first_comes_from_nowhere"
    ),
    CheckConstraint(
        "from_state IS NOT NULL OR to_state = 'planned'", name="batch_event_history_begins_planned"
    ),
    comment="The history of every batch: each transition, who made it and why. Added to, never changed.",
)

#: What a transition along no edge, or one that does not follow the last, violates.
CONSTRAINTS_OF_THE_WAY = frozenset(
    {
        "batch_event_allowed_edge_exists",
        "batch_event_follows_the_last",
        "batch_event_only_the_first_comes_from_nowhere",
        "batch_event_history_begins_planned",
    }
)

manifest = Table(
    "manifest",
    metadata,
    _name("batch_id"),
    _text("stage"),
    _integer("attempt"),
    Column(
        "document", JSON, nullable=False, comment="What the attempt wrote down of its files, as it wrote it."
    ),
    PrimaryKeyConstraint("batch_id", "stage", "attempt", name="manifest_key"),
    _refers("manifest", ["batch_id", "stage", "attempt"], "attempt", ["batch_id", "stage", "number"]),
    comment="The typed manifest of every attempt that succeeded.",
)

data_file = Table(
    "data_file",
    metadata,
    _name("bucket"),
    _name("key"),
    _text("area"),
    _text("format"),
    _name("batch_id", nullable=True, comment="NULL for an object that no attempt wrote."),
    _integer(
        "attempt", comment="Of extract for CSV, of process for Parquet; a copy has that of its original."
    ),
    _integer("part"),
    Column("record_count", BigInteger, nullable=False),
    Column("file_size_in_bytes", BigInteger, nullable=False),
    _text("sha256"),
    _text("status", comment="announced by its writer, then correct or incorrect by its gate."),
    _text("reason", nullable=True, comment="Why a gate refused it."),
    _detail("The same as a sentence."),
    _moment("recorded_at"),
    _moment("checked_at", nullable=True, comment="When its gate last looked at it."),
    _moment("deleted_at", nullable=True, comment="When the object was deleted; this row stays."),
    _name("compaction_id", nullable=True, comment="The compaction that wrote it; then no batch has."),
    # A column of its own has statistics of its own. That files in these areas are deleted and files in final/ are
    # not, the planner would not know: it would expect half of the table.
    Column(
        "is_in_transit",
        Boolean,
        Computed(f"deleted_at IS NULL AND area IN ({_TRANSIENT_AREAS})", persisted=True),
        comment="Still in tmp/, input/ or processing/; false for every file of a batch that is done.",
    ),
    PrimaryKeyConstraint("bucket", "key", name="data_file_key"),
    _refers("data_file", ["batch_id"], "batch", ["id"]),
    _slugs("area", Area, table="data_file"),
    _slugs("format", FileFormat, table="data_file"),
    _slugs("status", FileStatus, table="data_file"),
    _slugs("reason", Reason, table="data_file"),
    CheckConstraint(
        "attempt >= 0 AND part >= 0 AND record_count >= 0 AND file_size_in_bytes >= 0",
        name="data_file_numbers_are_not_negative",
    ),
    Index("data_file_by_batch", "batch_id", "area", "key"),
    comment="One object in one area, and what is known of it. Rows are never deleted.",
)
Index("data_file_in_transit", data_file.c.batch_id, postgresql_where=data_file.c.is_in_transit)
Index(
    "data_file_present",
    data_file.c.area,
    data_file.c.key,
    data_file.c.bucket,
    postgresql_where=data_file.c.deleted_at.is_(None),
)

mask_evidence = Table(
    "mask_evidence",
    metadata,
    _name("batch_id"),
    _integer("attempt", comment="Of extract."),
    _name("column_name"),
    _text("mask"),
    _text("key_id", comment="The id of the key of a pseudonym; empty for masks without a key."),
    Column(
        "masked_value_count",
        BigInteger,
        nullable=False,
        comment="Values that left masked; NULLs are not counted. 0 for columns that did not leave.",
    ),
    PrimaryKeyConstraint("batch_id", "attempt", "column_name", name="mask_evidence_key"),
    _refers("mask_evidence", ["batch_id"], "batch", ["id"]),
    _slugs("mask", MaskKind, table="mask_evidence"),
    CheckConstraint("masked_value_count >= 0", name="mask_evidence_count_is_not_negative"),
    comment="What was done to each column of each extract attempt: the proof that personal data was masked.",
)

source_guard = Table(
    "source_guard",
    metadata,
    _name("source"),
    _integer("max_concurrent_extracts", comment="Of the whole fleet; as the source file says."),
    _integer("rows_per_second", nullable=True, comment="Of the whole fleet; as the source file says."),
    Column("deadline", Interval, nullable=False, comment="The reading of one batch takes no longer."),
    Column(
        "quiet_hours",
        ARRAY(Text),
        nullable=False,
        comment="No batch begins in these; spelled as in the source file.",
    ),
    _integer(
        "failures_in_a_row", comment="Extract attempts that failed or died since the last that did not."
    ),
    _moment("open_until", nullable=True, comment="The breaker: nothing of the source is claimed before."),
    _integer("max_connections", nullable=True, comment="Of the whole fleet; as the source file says."),
    Column(
        "visits",
        JSONB,
        nullable=True,
        comment="Who is there beside the batches: id, who, connection_count, lease_until.",
    ),
    PrimaryKeyConstraint("source", name="source_guard_key"),
    CheckConstraint(
        "max_concurrent_extracts >= 1 AND rows_per_second >= 1 AND failures_in_a_row >= 0",
        name="source_guard_numbers_make_sense",
    ),
    comment="What the fleet may take of a source, and whether it answers.",
)

expectation = Table(
    "expectation",
    metadata,
    _name("source"),
    _name("table_name"),
    Column("every", Interval, nullable=False, comment="How often a window of the table ends."),
    Column(
        "expected_by",
        Interval,
        nullable=False,
        comment="A window's rows are expected in the warehouse by so long after its end.",
    ),
    _moment("since", comment="When the table was first expected."),
    PrimaryKeyConstraint("source", "table_name", name="expectation_key"),
    comment="By when the rows of each table are expected, as the source files say.",
)

alarm = Table(
    "alarm",
    metadata,
    _text("kind"),
    _name("subject", comment="What it is about: a table, a batch, a queue, a source."),
    _moment("raised_at"),
    _detail("What was found and what to do."),
    _moment("resolved_at", nullable=True, comment="When the condition was found to be gone."),
    _moment("raise_told_at", nullable=True, comment="When a notice of it left."),
    _moment("resolve_told_at", nullable=True, comment="When a notice of its end left."),
    PrimaryKeyConstraint("kind", "subject", "raised_at", name="alarm_key"),
    _slugs("kind", AlarmKind, table="alarm"),
    comment="What people are told of without asking. One row for each time a condition came up.",
)
Index(
    "alarm_open_once",
    alarm.c.kind,
    alarm.c.subject,
    unique=True,
    postgresql_where=alarm.c.resolved_at.is_(None),
)
Index("alarm_by_raised_at", alarm.c.raised_at.desc())

proof = Table(
    "proof",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False),
    _name("source"),
    _name("table_name"),
    _moment("window_start", nullable=True),
    _moment("window_end"),
    _text("extent_column", nullable=True, comment="Which part of the window; NULL: all of it."),
    _text("extent_low", nullable=True),
    _text("extent_high", nullable=True),
    _moment("proved_at"),
    Column("is_equal", Boolean, nullable=False),
    _detail("The first difference, without values."),
    Column("sides", JSONB, nullable=False, comment="Counts and checksums that each side showed."),
    PrimaryKeyConstraint("id", name="proof_key"),
    Index("proof_by_window", "source", "table_name", "window_start", "window_end", "proved_at"),
    comment="What each comparison of source, CSV, Parquet and warehouse found. Added to, never changed.",
)
Index("proof_differing", proof.c.source, proof.c.table_name, postgresql_where=proof.c.is_equal.is_(False))

recount = Table(
    "recount",
    metadata,
    _name("batch_id"),
    _moment("counted_at"),
    Column(
        "row_count",
        BigInteger,
        nullable=False,
        comment="Rows at the source within what the batch reads, overlap included.",
    ),
    PrimaryKeyConstraint("batch_id", name="recount_key"),
    _refers("recount", ["batch_id"], "batch", ["id"]),
    comment="The last count of what each batch has read, taken after it was published.",
)

last_run = Table(
    "last_run",
    metadata,
    _name("name", comment="Of a scheduled part of the fleet, such as the watcher."),
    _moment("ran_at"),
    PrimaryKeyConstraint("name", name="last_run_key"),
    comment="When each scheduled part of the fleet last did its work.",
)

compaction = Table(
    "compaction",
    metadata,
    _name("id", comment="In the key of its file."),
    _name("source"),
    _name("table_name"),
    _text("bucket"),
    _text("day", comment="Of the windows of its batches."),
    _integer("contract_version", comment="The newest of its batches; its file has its columns."),
    _integer("types_version", nullable=True, comment="Of a widening: the contract whose types its file has."),
    _text("state"),
    Column("batches", JSONB, nullable=False, comment="Its batches, and which rows of the file are theirs."),
    _moment("begun_at"),
    _moment("lease_until", comment="Until then its writer lives."),
    _moment("decided_at", nullable=True, comment="When it came to its state."),
    _moment("shown_at", nullable=True, comment="When the catalog was brought to the state."),
    _moment("delete_after", nullable=True, comment="Then the files that nobody reads any more may go."),
    _moment("deletes_begun_at", nullable=True, comment="From then on there is no way back."),
    _moment("cleaned_at", nullable=True, comment="When the last of them was gone."),
    _detail("Who asked for it, and why."),
    PrimaryKeyConstraint("id", name="compaction_key"),
    _slugs("state", CompactionState, table="compaction"),
    Index("compaction_by_table", "source", "table_name", "begun_at", "id"),
    comment="One file in place of those of some batches of one day of a table. Rows are never deleted.",
)
Index("compaction_to_clean", compaction.c.delete_after, postgresql_where=compaction.c.cleaned_at.is_(None))

rollback = Table(
    "rollback",
    metadata,
    _name("id"),
    _name("source"),
    _name("table_name"),
    _name(
        "last_batch_id", nullable=True, comment="The last batch that the table has; NULL: it has all again."
    ),
    Column(
        "withdrawn_batch_ids", ARRAY(Text), nullable=False, comment="The batches that are not in the table."
    ),
    _moment("begun_at"),
    _text("actor"),
    _detail("Why."),
    _moment("done_at", nullable=True, comment="When warehouse and catalog were brought there."),
    PrimaryKeyConstraint("id", name="rollback_key"),
    Index("rollback_by_table", "source", "table_name", "begun_at", "id"),
    comment="Each time a table was led back to an earlier state, or forward again.",
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), nullable=False, comment="The order of sending."),
    _text("queue"),
    _text("body", comment="Readable JSON: ids only, no rows, no secrets."),
    _text("message_group", comment="The source: no source delays another."),
    _moment_of_insert("posted_at"),
    _text("traceparent", nullable=True, comment="Goes beside the body, as W3C Trace Context has it."),
    PrimaryKeyConstraint("id", name="outbox_key"),
    _slugs("queue", QueueName, table="outbox"),
    comment="Messages that were decided and are not known to be sent. A row goes when its message has left.",
)
