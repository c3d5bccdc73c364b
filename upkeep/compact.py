"""
Compaction: the many small committed files of a table's days, written anew as few.

Each group is a transaction of the ledger of its own: the new file first, whole and proven; one commit that names
it; one request that has the catalog show it. Whoever dies in between leaves a state that readers do not notice,
and the next run goes on from it.
"""

import secrets
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate, groupby
from pathlib import Path
from typing import TypeAlias

import polars as pl
import structlog

from services.processor.checksum import Checksum, fingerprint
from services.processor.decode import position_name
from services.processor.parquet import Part, PartLayout, arrow_schema, row_groups, write_parts
from services.publisher.catalog import (
    MAX_PARTITIONS_PER_REQUEST,
    ExternalBatch,
    ExternalTable,
    LakeCatalog,
    external_table,
)
from services.publisher.partitions import partitions_of, shown_table
from services.publisher.rows import in_types, read_blocks
from shared import compactions
from shared.compactions import CommittedRows
from shared.domain.batches import Batch, BatchState
from shared.domain.compactions import CompactedBatch, Compaction, CompactionState
from shared.domain.contracts import PublishMode, TableContract, Target
from shared.domain.files import (
    Area,
    DataFile,
    FileFormat,
    FileStatus,
    day_of_key,
)
from shared.domain.reasons import Reason
from shared.domain.windows import Window, is_key_sweep
from shared.errors import EsclusaError, LostLease, Refused
from shared.parquet_footer import METADATA_PREFIX, check_columns, expected_columns, read_footer
from shared.ports import Ledger, LedgerTransaction, ObjectStore
from shared.rollbacks import rollback_of

log = structlog.get_logger()

# Source: Amazon Redshift Developer Guide, "Creating data files for queries in Amazon Redshift Spectrum": 64 MB to 1 GB,
# of about the same size.
DEFAULT_TARGET_SIZE_IN_BYTES = 192 * 1024 * 1024
#: How long the files stay that nobody reads any more.
DEFAULT_RETENTION = timedelta(days=7)
#: Reading, writing and proving a group takes minutes; a writer that is gone holds its batches no longer than this.
LEASE = timedelta(hours=1)

_ROW_GROUP_SIZE_IN_BYTES = 64 * 1024 * 1024
_UPLOAD_BLOCK_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Member:
    """A batch of a group, with its committed files in their order."""

    batch: Batch
    #: Under which it was read.
    contract: TableContract
    files: tuple[DataFile, ...]

    @property
    def record_count(self) -> int:
        """Rows in its files."""
        return sum(file.record_count for file in self.files)

    @property
    def size_in_bytes(self) -> int:
        """Bytes of its files."""
        return sum(file.file_size_in_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Group:
    """Batches of one day of a table whose rows fit into one file, and whose contracts write them alike."""

    #: By which the file is written.
    contract: TableContract
    contract_version: int
    bucket: str
    day: str
    members: tuple[Member, ...]
    #: Of a widening: the contract whose types the file gets.
    types_version: int | None = None
    #: The file of a compaction that has the rows of all members, in their order; None: each has files of its own.
    shared_file: DataFile | None = None

    @property
    def record_count(self) -> int:
        """Rows of all members."""
        return sum(member.record_count for member in self.members)

    @property
    def files(self) -> list[DataFile]:
        """The files that are read for it."""
        if self.shared_file is not None:
            return [self.shared_file]
        return [file for member in self.members for file in member.files]

    @property
    def size_in_bytes(self) -> int:
        """Bytes of these files."""
        return sum(file.file_size_in_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class Tools:
    """What a compaction works with."""

    ledger: Ledger
    store: ObjectStore
    catalog: LakeCatalog
    retention: timedelta = DEFAULT_RETENTION


# ---- what there is to do -----------------------------------------------------------------------------------


def find_groups(
    source: str,
    table: str,
    *,
    ledger: Ledger,
    covers: Callable[[Window], bool],
    target_size_in_bytes: int = DEFAULT_TARGET_SIZE_IN_BYTES,
) -> list[Group]:
    """
    Return what can be compacted of a table, oldest day first.

    Published batches whose windows are asked for, neighbours of one day, of at least two files together; never more
    of them than one request to the catalog can switch. A replaced table has one snapshot, and nothing to compact.

    Raises:
        Refused: if the table is held at an earlier state.
    """
    with ledger.transaction() as tx:
        refuse_held(tx, source, table)
        rows = CommittedRows.of(tx, source, table)
        written = tx.compactions(source, table, states=[CompactionState.WRITING, CompactionState.PREPARED])
        now = tx.now()
        busy = {
            part.batch_id
            for compaction in written
            if compaction.state is CompactionState.PREPARED or now < compaction.lease_until
            for part in compaction.batches
        }
        contracts: dict[int, TableContract] = {}
        days: dict[str, list[Member]] = {}
        for batch in tx.batches(source=source, table=table, states=[BatchState.PUBLISHED]):
            if is_key_sweep(batch.slot) or batch.id in busy or rows.compaction_of(batch.id):
                continue
            if not covers(batch.window):
                continue
            version = batch.contract_version
            if version not in contracts:
                contracts[version] = tx.contract(source, table, version).contract
            files = tuple(rows.files_of(tx, batch))
            if contracts[version].publishing.mode is not PublishMode.REPLACE and files:
                days.setdefault(day_of_key(files[0].location.key), []).append(
                    Member(batch, contracts[version], files)
                )
    return [
        group
        for day in sorted(days)
        for group in groups_of(day, days[day], contracts, target_size_in_bytes=target_size_in_bytes)
        if len(group.members) > 1
    ]


def refuse_held(tx: LedgerTransaction, source: str, table: str) -> None:
    """Refuse a table that is held at an earlier state."""
    if rollback_of(tx, source, table) is not None:
        raise Refused(
            Reason.ROLLED_BACK,
            f"{source}.{table}: it is held at an earlier state; `esclusa rollback {source}.{table} --forward` first",
        )


def groups_of(
    day: str, members: Sequence[Member], contracts: Mapping[int, TableContract], *, target_size_in_bytes: int
) -> Iterator[Group]:
    """
    Cut the batches of a day into groups, in the order of their windows.

    `contracts`: by version, those by which their rows are written anew.
    """
    group: list[Member] = []
    for member in sorted(members, key=lambda member: (member.batch.as_of, member.batch.id)):
        if group and not _fits(group, member, contracts, target_size_in_bytes=target_size_in_bytes):
            yield _group_of(day, group, contracts)
            group = []
        group.append(member)
    yield _group_of(day, group, contracts)


def _fits(
    group: Sequence[Member],
    member: Member,
    contracts: Mapping[int, TableContract],
    *,
    target_size_in_bytes: int,
) -> bool:
    last = group[-1].batch
    return (
        len(group) < MAX_PARTITIONS_PER_REQUEST
        and sum(one.size_in_bytes for one in group) + member.size_in_bytes <= target_size_in_bytes
        and is_written_alike(contracts[last.contract_version], contracts[member.batch.contract_version])
        and _is_shown(contracts[last.contract_version]) == _is_shown(contracts[member.batch.contract_version])
    )


def _is_shown(contract: TableContract) -> bool:
    """Whether the catalog has a partition of each of its batches."""
    return contract.publishing.target is not Target.NATIVE


def is_written_alike(one: TableContract, other: TableContract) -> bool:
    """Whether files of two contracts have the same columns, of the same types, masked alike."""

    def written(contract: TableContract) -> list[tuple[object, ...]]:
        return [(column.name, column.output_type, column.mask) for column in contract.output_columns]

    return written(one) == written(other)


def _group_of(day: str, members: Sequence[Member], contracts: Mapping[int, TableContract]) -> Group:
    version = max(member.batch.contract_version for member in members)
    return Group(contracts[version], version, members[0].batch.bucket, day, tuple(members))


# ---- one group ---------------------------------------------------------------------------------------------


def compact_group(group: Group, *, tools: Tools, detail: str) -> Compaction:
    """
    Write the rows of a group as one file, have it read in place of theirs, and return the compaction.

    Raises:
        LostLease: if it took longer than its lease, or a batch was compacted by somebody else meanwhile.
        Refused: if a file is not the one that the ledger knows, or the file written does not hold the same rows.
        Unavailable: if ledger, store or catalog did not answer. The next run goes on.
    """
    committed = write_group(
        group,
        tools=tools,
        detail=detail,
        keep=lambda tx, id_, file: compactions.commit(tx, id_, file=file, retention=tools.retention),
    )
    return show(committed, tools=tools)


def write_group(
    group: Group, *, tools: Tools, detail: str, keep: Callable[[LedgerTransaction, str, DataFile], Compaction]
) -> Compaction:
    """
    Write the rows of a group as one file, prove it, have a transaction of the ledger keep it, and return the compaction.

    Raises:
        LostLease: if it took longer than its lease, or `keep` finds the batches changed.
        Refused: if a file is not the one that the ledger knows, or the file written does not hold the same rows.
        Unavailable: if ledger or store did not answer.
    """
    compaction = _begin(group, tools=tools, detail=detail)
    log.info("compaction_begun", compaction=compaction.id, batch_count=len(group.members))
    try:
        file = _write(group, compaction, store=tools.store)
        with tools.ledger.transaction() as tx:
            kept = keep(tx, compaction.id, file)
    except EsclusaError as error:
        with tools.ledger.transaction() as tx:
            compactions.abandon(tx, compaction.id, detail=str(error))
        raise
    log.info(
        "compaction_written",
        compaction=kept.id,
        state=kept.state,
        record_count=kept.row_count,
        file_size_in_bytes=file.file_size_in_bytes,
    )
    return kept


def _begin(group: Group, *, tools: Tools, detail: str) -> Compaction:
    first_row = 0
    parts = []
    for member in group.members:
        parts.append(CompactedBatch(member.batch.id, first_row, member.record_count))
        first_row += member.record_count
    with tools.ledger.transaction() as tx:
        now = tx.now()
        compaction = Compaction(
            id=f"c{secrets.token_hex(12)}",
            source=group.contract.source,
            table=group.contract.table,
            bucket=group.bucket,
            day=group.day,
            contract_version=group.contract_version,
            types_version=group.types_version,
            state=CompactionState.WRITING,
            batches=tuple(parts),
            begun_at=now,
            lease_until=now + LEASE,
            detail=detail,
        )
        tx.insert_compaction(compaction)
    return compaction


def _write(group: Group, compaction: Compaction, *, store: ObjectStore) -> DataFile:
    """Write the file of a compaction, and prove that it holds the rows of its batches."""
    with tempfile.TemporaryDirectory(prefix="esclusa-compact-") as directory:
        checksums = [Checksum() for _ in group.members]
        (part,) = write_parts(
            row_groups(
                _rows(group, checksums, store=store),
                schema=arrow_schema(group.contract),
                text_size_in_bytes=_ROW_GROUP_SIZE_IN_BYTES,
            ),
            folder=Path(directory) / "parts",
            layout=PartLayout(
                schema=arrow_schema(group.contract),
                metadata=lambda record_count: {
                    f"{METADATA_PREFIX}compaction_id": compaction.id,
                    f"{METADATA_PREFIX}record_count": str(record_count),
                },
                target_file_size_in_bytes=sys.maxsize,
            ),
        )
        file = _upload(part, compaction, store=store)
    _prove(group, file, checksums, store=store)
    return file


def _rows(
    group: Group, checksums: list[Checksum], *, store: ObjectStore
) -> Iterator[tuple[pl.DataFrame, int]]:
    """Read the rows of each batch after those of the one before, and note what each comes to."""
    for number, block in _blocks(group, store=store):
        checksums[number] += _checksum(block, group.members[number])
        rows = in_types(
            block, group.contract.output_columns, where=f"{group.contract.source}.{group.contract.table}"
        )
        yield rows, int(rows.estimated_size())


def _blocks(group: Group, *, store: ObjectStore) -> Iterator[tuple[int, pl.DataFrame]]:
    """Read the rows of each batch, with its number in the group."""
    if group.shared_file is not None:
        columns = group.contract.output_columns
        yield from _by_member(read_blocks(group.shared_file, columns=columns, store=store), group.members)
        return
    for number, member in enumerate(group.members):
        for file in member.files:
            for block in read_blocks(file, columns=member.contract.output_columns, store=store):
                yield number, block


def _by_member(
    blocks: Iterator[pl.DataFrame], members: Sequence[Member]
) -> Iterator[tuple[int, pl.DataFrame]]:
    """Cut the rows of a file, which lie batch after batch, into those of each."""
    ends = list(accumulate(member.record_count for member in members))
    position = 0
    for block in blocks:
        for number in range(bisect_right(ends, position), len(ends)):
            start = max(ends[number] - members[number].record_count, position)
            if start >= position + block.height:
                break
            yield number, block[start - position : min(ends[number], position + block.height) - position]
        position += block.height


def _checksum(rows: pl.DataFrame, member: Member) -> Checksum:
    """Return the checksum of rows of a batch in the types in which it brought them, whatever those of their file are."""
    columns = member.contract.output_columns
    own = in_types(rows, columns, where=f"batch {member.batch.id}")
    numbered = pl.DataFrame(
        [values.alias(position_name(position)) for position, values in enumerate(own.get_columns())]
    )
    cells = [(pl.col(position_name(position)), column.output_type) for position, column in enumerate(columns)]
    return Checksum.of(numbered.select(fingerprint(cells).alias("row"))["row"])


def _upload(part: Part, compaction: Compaction, *, store: ObjectStore) -> DataFile:
    location = compactions.file_of(compaction)
    upload = store.open_upload(location, metadata={"compaction-id": compaction.id})
    try:
        with part.path.open("rb") as body:
            while block := body.read(_UPLOAD_BLOCK_BYTES):
                upload.write(block)
        upload.complete()
    finally:
        upload.abort()
    return DataFile(
        location=location,
        area=Area.FINAL,
        format=FileFormat.PARQUET,
        batch_id=None,
        attempt=0,
        part=0,
        record_count=part.record_count,
        file_size_in_bytes=upload.file_size_in_bytes,
        sha256=upload.sha256,
        status=FileStatus.CORRECT,
        compaction_id=compaction.id,
    )


def _prove(group: Group, file: DataFile, expected: Sequence[Checksum], *, store: ObjectStore) -> None:
    """
    Read the file that was written back from the store, and compare the rows of each batch.

    Raises:
        Refused: PROOF_FAILED if they are not those of its own files, FOOTER_MISMATCH or CHECKSUM_MISMATCH if the file
            is another.
    """
    footer = read_footer(store, file.location, file_size_in_bytes=file.file_size_in_bytes)
    check_columns(footer.columns, expected_columns(group.contract), file.location)
    found = [Checksum() for _ in group.members]
    blocks = read_blocks(file, columns=group.contract.output_columns, store=store)
    for number, own in _by_member(blocks, group.members):
        found[number] += _checksum(own, group.members[number])
    for member, one, other in zip(group.members, expected, found, strict=True):
        if one != other or one.row_count != member.record_count:
            raise Refused(
                Reason.PROOF_FAILED,
                f"{file.location}: the rows of batch {member.batch.id} should be {member.record_count} with the checksum "
                f"{one.text}, found {other.row_count} with {other.text}; nothing was changed",
            )


# ---- the catalog -------------------------------------------------------------------------------------------


def finish(source: str, table: str, *, tools: Tools) -> list[Compaction]:
    """
    Have the catalog show what earlier runs committed or took back and did not come to show; return these.

    Raises:
        Unavailable: if ledger or catalog do not answer.
    """
    with tools.ledger.transaction() as tx:
        states = [CompactionState.COMMITTED, CompactionState.UNDONE]
        found = [one for one in tx.compactions(source, table, states=states) if one.shown_at is None]
    # Types first: whatever else is to be shown is shown in them.
    done = show_widened([one for one in found if one.types_version is not None], tools=tools)
    return done + [show(one, tools=tools) for one in found if one.types_version is None]


def undo(compaction_id: str, *, tools: Tools, detail: str) -> Compaction:
    """
    Have the files of the batches of a compaction read again, and return it.

    Raises:
        Refused: if it is none that can be undone.
        Unavailable: if ledger or catalog did not answer; do it again.
    """
    try:
        with tools.ledger.transaction() as tx:
            found = tx.compaction(compaction_id)
            if found is not None and found.state is CompactionState.UNDONE and found.shown_at is None:
                undone = found  # a run before this one died on the way to the catalog
            else:
                undone = compactions.undo(tx, compaction_id, retention=tools.retention, detail=detail)
    except LostLease as error:
        raise Refused(Reason.TARGET_INCOMPATIBLE, str(error)) from error
    log.info("compaction_undone", compaction=undone.id)
    return show(undone, tools=tools)


def show(compaction: Compaction, *, tools: Tools) -> Compaction:
    """
    Bring the catalog to the state of a compaction, by one request, and record it.

    The partition of its first batch leads to the file, those of the others to nothing: an engine that has asked for the
    partitions before reads the files of before, which stay. Undone, each leads to its own folder again.

    What the ledger says may change on the way to the catalog: somebody undoes a compaction that is being shown. So it
    is asked again after the switch, and whoever comes last leaves what is right.
    """
    _lead([compaction], tools=tools)
    with tools.ledger.transaction() as tx:
        compactions.record_shown(tx, compaction)
        shown = tx.compaction(compaction.id)
    log.info("compaction_shown", compaction=compaction.id, state=compaction.state)
    return shown or compaction


def show_widened(widened: Sequence[Compaction], *, tools: Tools) -> list[Compaction]:
    """
    Bring the catalog to the types of a table's committed widenings and to their files, and record it; return these.

    The table's types by one request, then a hundred partitions in each. In between a query that meets a partition of the
    other type fails in Spectrum: Glue knows no transaction.
    """
    if not widened:
        return []
    first, version = widened[0], max(one.types_version or 0 for one in widened)
    with tools.ledger.transaction() as tx:
        contract = tx.contract(first.source, first.table, version).contract
    table = external_table(contract, contract_version=version, bucket=first.bucket)
    _lead(widened, tools=tools, first=lambda: tools.catalog.change_types(table))
    with tools.ledger.transaction() as tx:
        compactions.record_widened(tx, widened)
        shown = [found for one in widened if (found := tx.compaction(one.id))]
    log.info("widening_shown", source=first.source, table=first.table, compaction_count=len(widened))
    return shown


#: Partitions that are led to other folders at once, and their table as their contract has it.
_Request: TypeAlias = tuple[ExternalTable, list[ExternalBatch]]


def _lead(some: Sequence[Compaction], *, tools: Tools, first: Callable[[], None] = lambda: None) -> None:
    """
    Lead the partitions of compactions where the ledger says, after something that has to be done right before.

    It is asked again afterwards: what it says may have changed meanwhile.
    """
    done: list[_Request] = []
    wanted = _requests(some, tools=tools)
    first()
    while done != wanted:
        for number, (table, batches) in enumerate(wanted):
            if done[number : number + 1] != [(table, batches)]:
                tools.catalog.switch_partitions(table, batches)
        done, wanted = wanted, _requests(some, tools=tools)


def _requests(some: Sequence[Compaction], *, tools: Tools) -> list[_Request]:
    """Return what leads partitions where the ledger says: of each compaction all by one request."""
    found: list[_Request] = []
    by_version = sorted(some, key=lambda one: (one.contract_version, one.day, one.id))
    with tools.ledger.transaction() as tx:
        for version, same in groupby(by_version, key=lambda one: one.contract_version):
            of_version = list(same)
            first = of_version[0]
            contract = tx.contract(first.source, first.table, version).contract
            if contract.publishing.target is Target.NATIVE:
                continue
            table = shown_table(tx, contract, contract_version=version, bucket=first.bucket)
            ids = [part.batch_id for one in of_version for part in one.batches]
            batches = [batch for id_ in ids if (batch := tx.batch(id_))]
            partitions = {batch.batch_id: batch for batch in partitions_of(tx, table, batches)}
            request: list[ExternalBatch] = []
            for one in of_version:
                own = [partitions[part.batch_id] for part in one.batches]
                if request and len(request) + len(own) > MAX_PARTITIONS_PER_REQUEST:
                    found.append((table, request))
                    request = []
                request = [*request, *own]
            found.append((table, request))
    return found
