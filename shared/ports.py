"""
The seams to the outside: ledger, object store, queues, secrets. Each has a memory adapter beside the real one.

Clock: the ledger's `now()` is the only clock that decides anything.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Protocol

from shared.domain.alarms import Alarm
from shared.domain.batches import Attempt, Batch, BatchEvent, BatchState, Stage
from shared.domain.compactions import Compaction, CompactionState
from shared.domain.contracts import ContractVersion, MaskEvidence, MaskKind
from shared.domain.files import Area, DataFile, Location
from shared.domain.progress import CursorCount, Expectation, TableProgress
from shared.domain.proofs import Proof
from shared.domain.recounts import Recount
from shared.domain.rollbacks import Rollback
from shared.domain.sources import SourceGuard


class QueueName(StrEnum):
    """Every queue of the fleet. A deployment gives each a URL."""

    EXTRACT = "extract"
    #: Extracts that wait behind those that are due now: parts of first loads, and backfills.
    BACKFILL = "backfill"
    PROCESS = "process"
    PUBLISH = "publish"
    GATE_TMP = "gate-tmp"
    GATE_INPUT = "gate-input"
    GATE_PROCESSING = "gate-processing"
    GATE_FINAL = "gate-final"
    CLEAN = "clean"


@dataclass(frozen=True, slots=True)
class OutboxMessage:
    """A message that the ledger decided to send. `group` is the source: no source delays another."""

    queue: QueueName
    body: str
    group: str
    #: Goes beside the body, so that readers who know nothing of it lose nothing. None: not traced.
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class PendingMessage:
    """A message of the outbox that is not known to be sent."""

    id: int
    message: OutboxMessage


@dataclass(frozen=True, slots=True)
class BatchTally:
    """The batches of one table that are in one state."""

    source: str
    table: str
    state: BatchState
    count: int
    #: When the one that is in it longest entered the state, and when the one that is in it shortest.
    longest_since: datetime
    latest_since: datetime


@dataclass(frozen=True, slots=True)
class MaskTally:
    """What the evidence of some batches of a table adds up to: one column under one version of the contract."""

    contract_version: int
    column: str
    mask: MaskKind
    #: Empty for masks without a key.
    key_id: str
    batch_count: int
    masked_value_count: int
    #: The batches whose windows end first and last.
    first_batch_id: str
    last_batch_id: str
    first_window_end: datetime
    last_window_end: datetime


class LedgerTransaction(Protocol):
    """
    Reads and writes of one transaction. Rows locked here stay locked until it ends.

    Holds no rules: `shared.lifecycle` does. What an adapter must refuse all the same: an edge that is not
    in `EDGES`, a second row of one identity, a change of a stale copy, a change of an event.
    """

    def now(self) -> datetime:
        """Return the ledger's own clock, aware and in UTC. It moves within a transaction."""
        ...

    # Contracts and watermarks.
    def latest_contract(self, source: str, table: str) -> ContractVersion | None:
        """Return the newest contract of a table."""
        ...

    def contract(self, source: str, table: str, version: int) -> ContractVersion:
        """Return one contract. Raises `KeyError` if the ledger has none such."""
        ...

    def latest_contracts(self) -> list[ContractVersion]:
        """Return the newest contract of every table, by source and table."""
        ...

    def known_tables(self) -> list[tuple[str, str]]:
        """Return source and table of every contract, in their order; also where this version cannot read the contract."""
        ...

    def insert_contract(self, contract: ContractVersion) -> bool:
        """Add a contract; False if that version of the table is there already."""
        ...

    def watermark(self, source: str, table: str) -> datetime | None:
        """Return up to where a table is planned, and lock it for this transaction; None before the first."""
        ...

    def set_watermark(self, source: str, table: str, planned_until: datetime) -> None:
        """Set up to where a table is planned."""
        ...

    def last_key_sweep(self, source: str, table: str) -> Batch | None:
        """Return the key sweep of a table that was planned last."""
        ...

    def cursor_count(self, source: str, table: str) -> CursorCount | None:
        """Return how far the counting cursor of a table was planned and seen; None before it was seen."""
        ...

    def set_cursor_count(self, source: str, table: str, count: CursorCount) -> None:
        """Set how far the counting cursor of a table was planned and seen."""
        ...

    # Batches, attempts, events.
    def insert_batch(self, batch: Batch) -> bool:
        """Add a batch; False, and nothing changed, if its id is there already."""
        ...

    def batch(self, batch_id: str, *, lock: bool = False) -> Batch | None:
        """Return a batch, locked for this transaction if asked."""
        ...

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
        """
        Return batches by the time they were planned.

        `bulk_only`: parts of first loads and of backfills. `slot_prefix`: those alone whose slot begins so.
        """
        ...

    def batch_tallies(self, *, states: Collection[BatchState] | None = None) -> list[BatchTally]:
        """
        Return how many batches stand where, by source, table and state. States without batches are left out.

        Of the given states only: those that are final hold almost all batches there ever were.
        """
        ...

    def batches_to_wake(
        self, *, states: Collection[BatchState], woken_before: Sequence[datetime], limit: int
    ) -> list[Batch]:
        """
        Return batches in these states that were last woken before a moment, longest ago first.

        The first moment is for batches woken once, the second for those woken twice, the last for any others. A
        batch whose next attempt may not begin yet is left out; one for which that time passed before the first
        moment is returned however often it was woken.
        """
        ...

    def deferred_batches(self, source: str, *, limit: int) -> list[Batch]:
        """Return planned batches that wait for a place at their source: those in bulk last, else as they were planned."""
        ...

    def sources_with_deferred_batches(self) -> list[str]:
        """Return the sources of planned batches that wait for a place, by name."""
        ...

    def save_batch(self, batch: Batch) -> Batch:
        """
        Write a changed batch and return it with its new revision.

        Raises:
            StaleRevision: if it was changed since it was read.
            IllegalTransition: if its state was changed along no edge.
        """
        ...

    def insert_attempt(self, attempt: Attempt) -> None:
        """Add an attempt."""
        ...

    def attempt(self, batch_id: str, stage: Stage, number: int) -> Attempt | None:
        """Return an attempt."""
        ...

    def attempts(self, batch_id: str) -> list[Attempt]:
        """Return the attempts of a batch in the order they were claimed."""
        ...

    def expired_attempts(self, *, limit: int) -> list[Attempt]:
        """Return running attempts whose lease is over by the ledger's clock, oldest first."""
        ...

    def save_attempt(self, attempt: Attempt) -> None:
        """Write a changed attempt."""
        ...

    def running_extract_count(self, source: str) -> int:
        """Return how many extract attempts of a source run, and have a lease by the ledger's clock."""
        ...

    def append_event(self, event: BatchEvent) -> None:
        """Add a transition to a batch's history. `sequence` continues the last one from 1."""
        ...

    def events(self, batch_id: str) -> list[BatchEvent]:
        """Return the history of a batch, oldest first."""
        ...

    def insert_manifest(
        self, batch_id: str, stage: Stage, attempt: int, document: Mapping[str, object]
    ) -> None:
        """Keep the manifest of an attempt: JSON values only."""
        ...

    def manifest(self, batch_id: str, stage: Stage, attempt: int) -> Mapping[str, object] | None:
        """Return the manifest of an attempt."""
        ...

    # Files.
    def insert_file(self, file: DataFile) -> bool:
        """Add a file; False, and nothing changed, if the location is there already."""
        ...

    def file(self, location: Location) -> DataFile | None:
        """Return the file at a location."""
        ...

    def files_at(self, bucket: str, keys: Collection[str]) -> list[DataFile]:
        """Return the files that the ledger knows of so many keys of a bucket."""
        ...

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
        """
        Return files by location key, or the last recorded first.

        `present_only` leaves out those recorded as deleted; `table`, those that no batch of that table wrote;
        `foreign_only`, those that a batch wrote.
        """
        ...

    def save_file(self, file: DataFile) -> None:
        """Write a changed file: status, reason, detail, times."""
        ...

    def batches_with_leftovers(self, *, limit: int) -> list[Batch]:
        """Return batches at rest or safely in `final/` that still have present files in transient areas."""
        ...

    # Compactions and rollbacks.
    def insert_compaction(self, compaction: Compaction) -> None:
        """Add a compaction."""
        ...

    def compaction(self, compaction_id: str, *, lock: bool = False) -> Compaction | None:
        """Return a compaction, locked for this transaction if asked."""
        ...

    def compactions(
        self, source: str, table: str, *, states: Collection[CompactionState] | None = None
    ) -> list[Compaction]:
        """Return the compactions of a table, in the order in which they began."""
        ...

    def compactions_to_clean(self, *, limit: int) -> list[Compaction]:
        """Return compactions that are shown and whose unread files may go by the ledger's clock, longest ago first."""
        ...

    def save_compaction(self, compaction: Compaction) -> None:
        """Write a changed compaction: its state and its moments."""
        ...

    def insert_rollback(self, rollback: Rollback) -> None:
        """Add a rollback."""
        ...

    def rollbacks(self, source: str, table: str) -> list[Rollback]:
        """Return how a table was led back and forward, in the order in which it began."""
        ...

    def save_rollback(self, rollback: Rollback) -> None:
        """Write when a rollback was done."""
        ...

    def published_row_count(self, source: str, table: str) -> int:
        """Return how many rows all published batches of a table have in `final/`."""
        ...

    # Sources.
    def source_guard(self, source: str) -> SourceGuard:
        """Return the guard of a source, made if need be, and lock it for this transaction."""
        ...

    def save_source_guard(self, guard: SourceGuard) -> None:
        """Write a changed guard."""
        ...

    def source_guards(self) -> list[SourceGuard]:
        """Return the guards of all sources by name, without locking them."""
        ...

    # Progress, alarms, proofs.
    def table_progress(self) -> list[TableProgress]:
        """Return how far each planned table has come, by source and table. Locks nothing."""
        ...

    def save_expectation(self, expectation: Expectation) -> None:
        """Write by when a table is expected; `since` of one that is there already stays."""
        ...

    def delete_expectation(self, source: str, table: str) -> None:
        """Expect a table no more. Doing it again is no error."""
        ...

    def expectations(self) -> list[Expectation]:
        """Return by when tables are expected, by source and table."""
        ...

    def save_alarm(self, alarm: Alarm) -> None:
        """Add an alarm, or write a changed one: `kind`, `subject` and `raised_at` are its identity."""
        ...

    def alarms(self, *, unsettled_only: bool = False, limit: int | None = None) -> list[Alarm]:
        """Return alarms, the last raised first. `unsettled_only`: those that last, or of which a notice is due."""
        ...

    def insert_proof(self, proof: Proof) -> None:
        """Add what a comparison found."""
        ...

    def latest_proofs(
        self, source: str | None = None, table: str | None = None, *, differing_only: bool = False
    ) -> list[Proof]:
        """
        Return the newest proof of each window, and of each part of one, by source, table and start.

        `differing_only` leaves out the windows whose newest proof found them equal.
        """
        ...

    def save_recounts(self, recounts: Sequence[Recount]) -> None:
        """Write how many rows were counted of batches; each takes the place of the one before."""
        ...

    def recounts(self, source: str, table: str) -> list[Recount]:
        """Return the last count of each batch of a table that was counted again."""
        ...

    # Scheduled parts.
    def record_run(self, name: str) -> None:
        """Record that a scheduled part of the fleet, such as the watcher, did its work now."""
        ...

    def last_run(self, name: str) -> datetime | None:
        """Return when a scheduled part last did its work; None if it never did."""
        ...

    # Evidence.
    def insert_mask_evidence(self, evidence: Sequence[MaskEvidence]) -> None:
        """Add what was masked; repeating it changes nothing."""
        ...

    def mask_evidence(self, batch_id: str) -> list[MaskEvidence]:
        """Return what was masked in a batch."""
        ...

    def mask_tallies(self, source: str, table: str) -> list[MaskTally]:
        """
        Return what was masked in the batches of a table, by contract version, column, mask and key.

        Of batches that are in `STATES_AFTER_READING`, and of each its last reading. Key sweeps are none of them: they
        drop what is no key, whatever the contract says of it.
        """
        ...

    def read_batch_counts(self, source: str, table: str) -> dict[int, int]:
        """Return how many batches of a table `mask_tallies` looks at, by contract version."""
        ...

    # Outbox.
    def post(self, message: OutboxMessage) -> None:
        """Add a message; it leaves after the commit."""
        ...

    def pending_messages(self, *, limit: int, without: Collection[QueueName] = ()) -> list[PendingMessage]:
        """Return unsent messages that no other transaction holds, oldest first, and lock them."""
        ...

    def mark_sent(self, message_ids: Collection[int]) -> None:
        """Record that messages left."""
        ...

    def pending_message_count(self) -> int:
        """Return how many messages are unsent."""
        ...

    def oldest_pending_at(self) -> datetime | None:
        """Return when the oldest unsent message was posted; None if every message left."""
        ...


class Ledger(Protocol):
    """The control database."""

    def transaction(self) -> AbstractContextManager[LedgerTransaction]:
        """
        Begin a transaction: committed at the end of the block, rolled back if it raises.

        Raises:
            Unavailable: if the database cannot be reached or broke off. Whether the transaction was
                committed is then unknown; every caller repeats idempotently.
        """
        ...

    def exclusively(self, name: str) -> AbstractContextManager[bool]:
        """
        Hold a named lock during the block; False if somebody else holds it, and nothing is held then.

        The lock goes with the process that holds it, and with its connection.

        Raises:
            Unavailable: if the database cannot be reached.
        """
        ...


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it."""

    location: Location
    file_size_in_bytes: int
    entity_tag: str
    last_modified: datetime
    #: Keys in lower case.
    metadata: Mapping[str, str]


class Upload(Protocol):
    """
    An object being written in pieces of bounded size. Nobody sees it before `complete`.

    The counts and the SHA-256 are of everything written so far.
    """

    @property
    def file_size_in_bytes(self) -> int:
        """Bytes written."""
        ...

    @property
    def sha256(self) -> str:
        """Lower-case hexadecimal."""
        ...

    def write(self, data: bytes) -> None:
        """Add bytes."""
        ...

    def complete(self) -> None:
        """
        Make the object appear, whole. If it fails, the upload is aborted.

        Raises:
            ObjectConflict: if the key holds other bytes.
        """
        ...

    def abort(self) -> None:
        """
        Give up; nothing stays. Harmless after `complete`, and repeated.

        Raises nothing: what a store that is away keeps open, the sweeper finds by `open_uploads`.
        """
        ...


class ByteReader(Protocol):
    """A body being read."""

    def read(self, size: int = -1, /) -> bytes:
        """Return at most so many bytes; empty at the end."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


@dataclass(frozen=True, slots=True)
class OpenUpload:
    """A multipart upload that was begun and neither completed nor aborted."""

    location: Location
    upload_id: str
    initiated_at: datetime


class ObjectStore(Protocol):
    """S3, as far as we use it: write once, read, copy, delete by exact key. Raises `Unavailable` for outages."""

    def put(
        self, location: Location, body: bytes | bytearray, *, sha256: str, metadata: Mapping[str, str]
    ) -> None:
        """
        Write an object once, in one piece. Repeating it with the same bytes is no error.

        Raises:
            ObjectConflict: if the key holds other bytes.
            Unavailable: also if the bytes that arrived are not those of `sha256`; nothing was stored then.
            ValueError: if no HTTP header can carry the metadata: keys of `a-z0-9_-`, values of printable ASCII.
        """
        ...

    def open_upload(self, location: Location, *, metadata: Mapping[str, str]) -> Upload:
        """
        Begin an object of unknown size.

        S3 takes the metadata before the first part, so it holds what is known beforehand (batch, attempt,
        part). Counts and checksums are known only at the end: they are in the ledger.
        """
        ...

    def head(self, location: Location) -> ObjectInfo | None:
        """Return what is known of an object; None if there is none."""
        ...

    def sha256(self, location: Location) -> str:
        """
        Return the SHA-256 of an object in lower-case hexadecimal: the store's own if it has one of the
        whole object, else computed by reading it once in bounded memory.

        Raises:
            ObjectNotFound: if there is none.
        """
        ...

    def read(self, location: Location, *, start: int | None = None, length: int | None = None) -> bytes:
        """
        Return an object's bytes, as the slice `[start : start + length]`; `start` negative counts from the end.

        Raises:
            ObjectNotFound: if there is none.
        """
        ...

    def open(self, location: Location) -> AbstractContextManager[ByteReader]:
        """
        Read an object as a stream.

        Raises:
            ObjectNotFound: if there is none.
        """
        ...

    def copy(self, source: Location, target: Location, *, sha256: str) -> None:
        """
        Copy an object with its metadata, once. Repeating it is no error.

        Raises:
            ObjectNotFound: if neither the target nor the source is there.
            ObjectConflict: if the target holds other bytes, or the source is known to.
            ValueError: if the source is above 5 GiB, more than one copy can carry.
        """
        ...

    def delete(self, location: Location) -> None:
        """Delete an object by exact key. Deleting what is not there is no error."""
        ...

    def list(self, bucket: str, prefix: str, *, after: str = "") -> Iterator[ObjectInfo]:
        """
        Return objects by key, in the order of its bytes, without their metadata; `after`: only later keys.

        For the sweeper; nothing else decides by listing.
        """
        ...

    def open_uploads(self, bucket: str) -> Iterator[OpenUpload]:
        """Return multipart uploads that were left open."""
        ...

    def abort_upload(self, upload: OpenUpload) -> None:
        """Abort an upload that was left open. Repeating it is no error."""
        ...


class QueueSender(Protocol):
    """What the outbox sends through."""

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        """
        Send messages and return the indexes of those that left. What one queue refuses holds up no other.

        Raises:
            Unavailable: if the service does not answer and nothing left.
        """
        ...


@dataclass(frozen=True, slots=True)
class QueueDepth:
    """How full a queue is. All numbers are approximate, as SQS gives them."""

    visible: int
    in_flight: int
    delayed: int

    @property
    def total(self) -> int:
        """All messages of the queue."""
        return self.visible + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True)
class SeenMessage:
    """A message in the hands of somebody who looks at it: hidden from everybody else until it is given back."""

    queue: QueueName
    #: Whether it was found among the dead letters of the queue.
    is_dead: bool
    id: str
    body: str
    #: Absent if its sender gave none, as S3 does.
    group: str | None
    #: When it was first sent. Dying does not change it.
    sent_at: datetime
    #: How often it was received, this look included.
    receive_count: int
    #: Names this look when the message is given back or deleted.
    receipt: str


class QueueInspector(Protocol):
    """What people look into queues with, and put them in order. Raises `Unavailable` for outages."""

    def depth(self, queue: QueueName, *, dead_letters: bool = False) -> QueueDepth:
        """Return how full a queue or its dead-letter queue is."""
        ...

    def oldest_ages(self, *, dead_letters: bool = False) -> dict[QueueName, timedelta]:
        """
        Return the age of the oldest message of each queue, or of its dead letters, where it is measured.

        What nobody measured is left out; it raises nothing.
        """
        ...

    def look(
        self, queue: QueueName, *, dead_letters: bool, max_messages: int, hidden_seconds: int
    ) -> list[SeenMessage]:
        """
        Receive up to ten messages, and hide them from everybody else for so long; none if none is visible.

        On a live queue each look is one of the deliveries that a message has before it is dead. Dead letters
        have no such count.

        Raises:
            ConfigurationError: if the dead letters have a redrive policy of their own, so that looking would
                move them on.
        """
        ...

    def give_back(self, messages: Sequence[SeenMessage]) -> None:
        """Let everybody see messages again. Those whose time was up, or that are gone, are no error."""
        ...

    def resend(self, message: SeenMessage) -> None:
        """Send the same body, with the same group, to the live queue; return once it is there."""
        ...

    def delete(self, message: SeenMessage) -> None:
        """Delete a message that is being looked at."""
        ...

    def empty(self, queue: QueueName, *, dead_letters: bool) -> None:
        """
        Delete every message of a queue or of its dead letters, those in flight too.

        Raises:
            Unavailable: also if it was done less than 60 seconds ago.
        """
        ...


@dataclass(frozen=True, slots=True)
class Notice:
    """What people are told at once: every alarm that came or went since the notice before."""

    #: The same again if the same notice is sent again.
    id: str
    #: Whose alarms they are: the prefix of the fleet's buckets.
    fleet: str
    told_at: datetime
    raised: tuple[Alarm, ...] = ()
    resolved: tuple[Alarm, ...] = ()


class Notifier(Protocol):
    """Where notices go."""

    def notify(self, notice: Notice) -> None:
        """
        Deliver a notice, in bounded time.

        Raises:
            Unavailable: if nobody answers, or the answer is no success; later it may be one.
            SecretNotFound: if what it needs to know leads nowhere.
        """
        ...


class SecretStore(Protocol):
    """Where references to secrets lead."""

    def resolve(self, reference: str) -> str:
        """
        Return the secret that a reference such as `env:SHOP_DSN` names.

        Raises:
            SecretNotFound: if it leads nowhere; the message names the reference, never a value.
            Unavailable: if the store behind it does not answer.
        """
        ...
