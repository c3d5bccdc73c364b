"""
Widening: the files of an external table written anew in the wider types of its newest contract.

Spectrum reads a file only by its own type, so all of a table's partitions change at once, or as nearly so as Glue can: each
file is written and proven first, and nobody reads it; then one transaction of the ledger has all of them read in place of
those before; then the catalog follows. A run that dies is taken up by the same again; once the ledger reads the new files,
also by the next compaction.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import structlog

from services.publisher.catalog import ANOTHER_NAME, ExternalTable, external_table, hive_type
from shared import compactions, lifecycle
from shared.compactions import CommittedRows, file_of, in_types
from shared.domain.batches import HELD_STATES, Batch, BatchState
from shared.domain.compactions import Compaction, CompactionState
from shared.domain.contracts import Column, ContractVersion, MaskKind, PublishMode, TableContract, Target
from shared.domain.files import DataFile, day_of_key
from shared.domain.reasons import Reason
from shared.domain.windows import is_key_sweep
from shared.errors import LostLease, Refused, Unavailable
from shared.ports import Ledger, LedgerTransaction
from upkeep.compact import (
    DEFAULT_TARGET_SIZE_IN_BYTES,
    Group,
    Member,
    Tools,
    finish,
    groups_of,
    is_written_alike,
    refuse_held,
    show_widened,
    write_group,
)

log = structlog.get_logger()

#: So often batches of the older contract may be published, or compacted, while the files are written.
MAX_ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Widening:
    """What is left to be done until all files of a table have the types of its newest contract."""

    source: str
    table: str
    #: The newest contract.
    contract_version: int
    #: Column, its narrower and its wider type.
    columns: tuple[tuple[str, str, str], ...] = ()
    #: Files that are written already, and wait.
    prepared: tuple[Compaction, ...] = ()
    #: Files that wait and serve nothing any more: their batches were compacted otherwise, or a newer contract came.
    stale: tuple[Compaction, ...] = ()
    #: Files that are to be written.
    groups: tuple[Group, ...] = ()
    #: Why there is nothing to do; empty if there is something.
    why_nothing: str = ""
    #: A batch of narrower types that is being published: its partition may have been made before the catalog had the wider.
    under_way: Batch | None = None
    #: As the newest contract has it; None if the lake shows nothing of it.
    external: ExternalTable | None = None

    @property
    def batch_count(self) -> int:
        """How many partitions are led to other files."""
        return sum(len(group.members) for group in self.groups) + sum(
            len(compaction.batches) for compaction in self.prepared
        )


# ---- what there is to do -----------------------------------------------------------------------------------


def find_widening(source: str, table: str, *, ledger: Ledger) -> Widening:
    """
    Return what brings a table's files to the types of its newest contract.

    Raises:
        KeyError: if the ledger knows no contract of the table.
        Refused: if the table is held at an earlier state, or its files cannot be brought there; it names the columns.
    """
    with ledger.transaction() as tx:
        return _look(tx, source, table).widening(tx)


def plan_widening(source: str, table: str, *, ledger: Ledger) -> Widening:
    """
    Return what `find_widening` does, and give files up that wait in vain: all of them, if none can be brought there.

    Raises:
        KeyError: if the ledger knows no contract of the table.
        Refused: if the table is held at an earlier state, or its files cannot be brought there; it names the columns.
    """
    try:
        widening = find_widening(source, table, ledger=ledger)
    except Refused as refusal:
        if refusal.reason is Reason.TARGET_INCOMPATIBLE:
            with ledger.transaction() as tx:
                waiting = tx.compactions(source, table, states=[CompactionState.PREPARED])
            _give_up(waiting, ledger=ledger)
        raise
    _give_up(widening.stale, ledger=ledger)
    return widening


@dataclass(frozen=True, slots=True)
class _Look:
    """What the ledger says of a table at one moment."""

    newest: ContractVersion
    rows: CommittedRows
    columns: tuple[tuple[str, str, str], ...] = ()
    #: Whose files have narrower types, and are not written anew yet.
    uncovered: tuple[Batch, ...] = ()
    prepared: tuple[Compaction, ...] = ()
    stale: tuple[Compaction, ...] = ()
    why_nothing: str = ""
    under_way: Batch | None = None
    external: ExternalTable | None = None

    def widening(self, tx: LedgerTransaction) -> Widening:
        contract = self.newest.contract
        return Widening(
            contract.source,
            contract.table,
            self.newest.version,
            self.columns,
            self.prepared,
            self.stale,
            tuple(_groups(tx, self)),
            self.why_nothing,
            self.under_way,
            self.external,
        )


def _look(tx: LedgerTransaction, source: str, table: str) -> _Look:
    newest = tx.latest_contract(source, table)
    if newest is None:
        raise KeyError(f"the ledger knows no contract of {source}.{table}")
    rows = CommittedRows.of(tx, source, table)
    prepared = tx.compactions(source, table, states=[CompactionState.PREPARED])
    publishing = newest.contract.publishing
    if publishing.target is Target.NATIVE:
        why_nothing = "it is published to `native` alone, where columns are widened in place"
        return _Look(newest, rows, stale=tuple(prepared), why_nothing=why_nothing)
    if publishing.mode is PublishMode.REPLACE:
        why_nothing = "each snapshot replaces the one before, and brings its own types"
        return _Look(newest, rows, stale=tuple(prepared), why_nothing=why_nothing)
    refuse_held(tx, source, table)
    # Before those that are published: whoever is through meanwhile is found among them.
    at_work = tx.batches(source=source, table=table, states=[BatchState.PUBLISHING])
    published = tx.batches(source=source, table=table, states=[BatchState.PUBLISHED])
    # Once the ledger reads new files, the catalog has to take this contract's types: one that it cannot carry is refused here.
    bucket = published[0].bucket if published else ""
    external = external_table(newest.contract, contract_version=newest.version, bucket=bucket)
    narrower: dict[str, Batch] = {}
    types = _Types(tx, newest)
    for batch in published:
        if not is_key_sweep(batch.slot) and types.are_narrower(batch, rows.compaction_of(batch.id)):
            narrower[batch.id] = batch
    types.refuse_others()
    useful, stale = [], []
    for compaction in prepared:
        batch_ids = {part.batch_id for part in compaction.batches}
        if types.are_those_of(compaction) and _are_free(batch_ids, narrower, rows):
            useful.append(compaction)
            for batch_id in batch_ids:
                del narrower[batch_id]
        else:
            stale.append(compaction)
    return _Look(
        newest,
        rows,
        tuple(sorted(types.widened)),
        tuple(narrower.values()),
        tuple(useful),
        tuple(stale),
        "" if useful or narrower else _why_nothing(tx, newest),
        _under_way(at_work, rows, _Types(tx, newest)),
        external if published else None,
    )


def _under_way(at_work: Sequence[Batch], rows: CommittedRows, types: "_Types") -> Batch | None:
    if rows.types_version is None:
        return None
    return next((batch for batch in at_work if types.are_narrower(batch, None)), None)


def _why_nothing(tx: LedgerTransaction, newest: ContractVersion) -> str:
    contract = newest.contract
    committed = tx.compactions(contract.source, contract.table, states=[CompactionState.COMMITTED])
    is_shown = all(one.shown_at for one in committed if one.types_version is not None)
    return f"its files have the types of contract {newest.version}" + (
        "" if is_shown else ", and the catalog has still to be led to them: run it without --dry-run"
    )


def _are_free(batch_ids: set[str], narrower: dict[str, Batch], rows: CommittedRows) -> bool:
    """Whether batches have narrower types and no file that they share with others."""
    sharing = [compaction for batch_id in batch_ids if (compaction := rows.compaction_of(batch_id))]
    return batch_ids <= narrower.keys() and all(
        part.batch_id in batch_ids for compaction in sharing for part in compaction.batches
    )


class _Types:
    """Compares the types of files with those of the newest contract, and notes what keeps these from being reached."""

    def __init__(self, tx: LedgerTransaction, newest: ContractVersion) -> None:
        self._tx = tx
        self._newest = newest
        self._written: dict[tuple[int, int | None], TableContract] = {}
        self._narrower: dict[tuple[int, int | None], bool] = {}
        #: Column, narrower and wider type.
        self.widened: set[tuple[str, str, str]] = set()
        self._others: set[str] = set()

    def are_narrower(self, batch: Batch, compaction: Compaction | None) -> bool:
        """Return whether the file that has the rows of a batch has a narrower type, and engines look into it."""
        versions: tuple[int, int | None] = (batch.contract_version, None)
        if compaction is not None:
            versions = (compaction.contract_version, compaction.types_version)
        if versions not in self._narrower:
            self._narrower[versions] = self._is_narrower(self.written(*versions), self.wanted(versions[0]))
        return self._narrower[versions]

    def _is_narrower(self, written: TableContract, wanted: TableContract) -> bool:
        if written.publishing.target is Target.NATIVE or written.publishing.mode is PublishMode.REPLACE:
            return False
        is_narrower = wanted != written
        self._compare(written, is_written_anew=is_narrower)
        return is_narrower

    def are_those_of(self, compaction: Compaction) -> bool:
        """Return whether a file that waits has the types that are wanted, and its contract wants no others of any column."""
        newest, version = self._newest.contract, compaction.types_version
        types = (
            newest if version is None else self._tx.contract(newest.source, newest.table, version).contract
        )
        return is_written_alike(types, newest) and self.written(
            compaction.contract_version, version
        ) == self.wanted(compaction.contract_version)

    def wanted(self, version: int) -> TableContract:
        """Return the contract by which files are to be written."""
        return self.written(version, self._newest.version)

    def written(self, version: int, types_version: int | None) -> TableContract:
        """Return the contract by which files are written."""
        if (version, types_version) not in self._written:
            newest = self._newest.contract
            own = self._tx.contract(newest.source, newest.table, version).contract
            self._written[version, types_version] = in_types(self._tx, own, types_version)
        return self._written[version, types_version]

    def refuse_others(self) -> None:
        """Refuse what is no widening."""
        if self._others:
            newest = self._newest.contract
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{newest.source}.{newest.table}: its files cannot be brought to contract {self._newest.version}: "
                f"{'; '.join(sorted(self._others))}; {ANOTHER_NAME}",
            )

    def _compare(self, written: TableContract, *, is_written_anew: bool) -> None:
        wanted = {column.name.lower(): column for column in self._newest.contract.columns}
        for column in written.output_columns:
            now = wanted.get(column.name.lower())
            if now is not None:
                self._compare_column(column, now, is_written_anew=is_written_anew)

    def _compare_column(self, column: Column, now: Column, *, is_written_anew: bool) -> None:
        before, after = column.output_type, now.output_type
        if column.mask.kind is MaskKind.KEEP and now.mask.kind is not MaskKind.KEEP:
            # What was published in clear stays as it is; nobody writes it once more.
            if is_written_anew:
                self._others.add(
                    f"column {column.name!r} is masked or dropped by now, and older files have it in clear"
                )
        elif now.leaves and after.widens(before):
            if column.mask == now.mask:
                self.widened.add((column.name, str(before), str(after)))
            else:
                self._others.add(f"column {column.name!r} is masked otherwise than in older files")
        elif now.leaves and hive_type(after) != hive_type(before):
            self._others.add(f"column {column.name!r} should be {after}, found {before}")


def _groups(tx: LedgerTransaction, look: _Look) -> Iterator[Group]:
    """Return the files that are to be written: of each compaction one, and of a day's other batches few."""
    newest, types = look.newest, _Types(tx, look.newest)
    shared: dict[str, Compaction] = {}
    days: dict[str, list[Member]] = {}
    members: dict[str, Member] = {}
    for batch in look.uncovered:
        contract = types.written(batch.contract_version, None)
        member = members[batch.id] = Member(batch, contract, tuple(look.rows.files_of(tx, batch)))
        compaction = look.rows.compaction_of(batch.id)
        if compaction is not None:
            shared[compaction.id] = compaction
        else:
            days.setdefault(day_of_key(member.files[0].location.key), []).append(member)
    for compaction in shared.values():
        yield Group(
            types.wanted(compaction.contract_version),
            compaction.contract_version,
            compaction.bucket,
            compaction.day,
            tuple(members[part.batch_id] for part in compaction.batches),
            newest.version,
            tx.file(file_of(compaction)),
        )
    versions = {member.batch.contract_version for of_day in days.values() for member in of_day}
    contracts = {version: types.wanted(version) for version in versions}
    for day in sorted(days):
        for group in groups_of(day, days[day], contracts, target_size_in_bytes=DEFAULT_TARGET_SIZE_IN_BYTES):
            yield replace(group, types_version=newest.version)


# ---- doing it ----------------------------------------------------------------------------------------------


def widen(
    source: str,
    table: str,
    *,
    tools: Tools,
    detail: str,
    on_group: Callable[[Group], object] = lambda _: None,
) -> list[Compaction]:
    """
    Bring a table's files to the types of its newest contract, and the catalog to these; return what was written.

    `on_group` is called once a file is written.

    Raises:
        KeyError: if the ledger knows no contract of the table.
        LostLease: if the table is led to an earlier state or forward, or compacted again and again, meanwhile.
        Refused: if its files cannot be brought there, a file is not the one that the ledger knows, or the file written
            does not hold the same rows. What is read is as it was.
        Unavailable: if ledger, store or catalog did not answer, or a batch of the older contract is on its way. The same
            again goes on.
    """
    done = [one for one in finish(source, table, tools=tools) if one.types_version is not None]
    for _ in range(MAX_ROUNDS):
        widening = plan_widening(source, table, ledger=tools.ledger)
        if widening.why_nothing:
            _require_none_under_way(widening)
            if widening.external is not None:
                # A publisher may have told a narrower type of a column, and died before any file had it.
                tools.catalog.change_types(widening.external)
            return done
        for group in widening.groups:
            write_group(group, tools=tools, detail=detail, keep=_keep)
            on_group(group)
        lost: LostLease | None = None
        try:
            with tools.ledger.transaction() as tx:
                committed = _commit(tx, source, table, tools=tools)
        except LostLease as error:
            lost = error
            continue
        done += show_widened(committed, tools=tools)
    raise lost or Unavailable(
        f"{source}.{table}: batches of an older contract were published {MAX_ROUNDS} times meanwhile; run the same again"
    )


def _keep(tx: LedgerTransaction, compaction_id: str, file: DataFile) -> Compaction:
    return compactions.prepare(tx, compaction_id, file=file)


def _give_up(stale: Sequence[Compaction], *, ledger: Ledger) -> None:
    """Give files up that wait in vain."""
    for compaction in stale:
        with ledger.transaction() as tx:
            compactions.abandon(
                tx, compaction.id, detail="its batches, or the types that are wanted, are others by now"
            )


def _commit(tx: LedgerTransaction, source: str, table: str, *, tools: Tools) -> list[Compaction]:
    """Have all files that wait read, if there are those of all batches; if not, nothing changes."""
    look = _look(tx, source, table)
    if look.uncovered or not look.prepared:
        return []
    committed = compactions.commit_widenings(
        tx, [compaction.id for compaction in look.prepared], retention=tools.retention
    )
    log.info("widening_committed", source=source, table=table, compaction_count=len(committed))
    return committed


def _require_none_under_way(widening: Widening) -> None:
    """
    Make sure that no batch comes after it whose partition was made before: its publisher may not have said so yet.

    Raises:
        Unavailable: if one may. The same again takes it in.
    """
    batch = widening.under_way
    if batch is not None:
        raise Unavailable(
            f"{widening.source}.{widening.table}: batch {batch.id} of the older contract {batch.contract_version} is being "
            f"published; run the same again once it is through (`esclusa why {batch.id}`)"
        )


# ---- the batches that were held ----------------------------------------------------------------------------


def held_batches(source: str, table: str, *, ledger: Ledger) -> list[Batch]:
    """Return the batches of a table that wait because its target could not take their types."""
    with ledger.transaction() as tx:
        return _held(tx, source, table)


def replay_held(source: str, table: str, *, ledger: Ledger) -> list[Batch]:
    """
    Send the batches of the newest contract that were held on their way again; return them.

    They go on from their committed files. One of an older contract is not sent: it has to be read anew.
    """
    with ledger.transaction() as tx:
        newest = tx.latest_contract(source, table)
        replayed = [
            lifecycle.replay(tx, batch.id, contract=newest, detail="the table has its types")
            for batch in _held(tx, source, table)
            if newest is not None and batch.contract_version == newest.version
        ]
    return [batch for batch in replayed if batch is not None]


def _held(tx: LedgerTransaction, source: str, table: str) -> list[Batch]:
    found = tx.batches(source=source, table=table, states=HELD_STATES)
    return [batch for batch in found if batch.reason is Reason.TARGET_INCOMPATIBLE]
