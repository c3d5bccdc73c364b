"""
The port to the warehouse: what is loaded into a native table, what comes of it, and what people may ask.

No SQL crosses it on the way in: each warehouse renders these operations in its own dialect.
"""

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from shared.domain.contracts import Column, TableContract
from shared.domain.counts import Count
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import EsclusaError, Refused

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, slots=True)
class NativeLoad:
    """One batch on its way into the native table of its contract, by one attempt of the publisher."""

    batch_id: str
    slot: str
    window: Window
    #: Of two versions of a row with equal cursors the one that is as of a later moment stays.
    as_of: datetime
    contract: TableContract
    contract_version: int
    #: The publish attempt that speaks. A higher one that was there before makes this one void.
    attempt: int
    #: The committed Parquet files, all of them.
    files: tuple[DataFile, ...]
    #: An operator approved what the limits of the contract would hold back.
    is_approved: bool = False
    #: Of a key sweep: the versions of the contract whose rows it can find by their keys.
    same_key_versions: tuple[int, ...] = ()

    @property
    def record_count(self) -> int:
        """Rows in the files, by the ledger."""
        return sum(file.record_count for file in self.files)

    @property
    def manifest_sha256(self) -> str:
        """What identifies the content: the exact files, in their order."""
        return manifest_sha256(self.files)

    @property
    def ordering_column(self) -> Column | None:
        """The cursor column, if its own values are in the files: it tells which of two versions is the newer."""
        if self.contract.cursor is None:
            return None
        for column in self.contract.output_columns:
            if column.name == self.contract.cursor.column and not column.mask.changes_values:
                return column
        return None


def manifest_sha256(files: Sequence[DataFile]) -> str:
    """Return the SHA-256 of a list of files: where they lie, and what is in them."""
    listed = sorted(
        (
            str(file.location),
            file.record_count,
            file.sha256,
            *([file.first_row] if file.first_row is not None else []),
        )
        for file in files
    )
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What a load came to. `rows_staged` is the sum of the three others."""

    rows_staged: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    #: Rows whose key had the same or a newer version, in the table or in the batch itself.
    rows_unchanged: int = 0
    #: A newer snapshot is in the table; nothing was changed.
    is_superseded: bool = False
    #: The same files were loaded before; nothing was changed, and the counts are those of that time.
    was_loaded_before: bool = False

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts under their names in the ledger."""
        return {
            Count.ROWS_STAGED: self.rows_staged,
            Count.ROWS_INSERTED: self.rows_inserted,
            Count.ROWS_UPDATED: self.rows_updated,
            Count.ROWS_UNCHANGED: self.rows_unchanged,
        }


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What taking rows out of a table came to."""

    #: Keys that the source has.
    keys_staged: int
    rows_deleted: int
    #: The same files were used before; nothing was changed, and the counts are those of that time.
    was_loaded_before: bool = False

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts under their names in the ledger."""
        return {Count.ROWS_STAGED: self.keys_staged, Count.ROWS_DELETED: self.rows_deleted}


@dataclass(frozen=True, slots=True)
class Rebuild:
    """A native table as some of its batches make it, and no others: an earlier state, or again the present one."""

    #: Who asks. The same again is done once.
    id: str
    #: Every batch that is to be in the table, in the order of their publishing, key sweeps among them. Of a replaced
    #: table the one snapshot.
    loads: tuple[NativeLoad, ...]
    #: Batches whose rows and markers go: also those that may have been loaded and were never published.
    withdrawn_batch_ids: tuple[str, ...] = ()
    #: Nothing more is loaded or pruned until another rebuild says otherwise.
    is_held: bool = False

    @property
    def newest(self) -> NativeLoad:
        """Of the batches that stay, the one of the newest contract."""
        return max(self.loads, key=lambda load: load.contract_version)


@dataclass(frozen=True, slots=True)
class RebuildResult:
    """What a rebuild came to."""

    #: Rows of the base table, deleted ones included.
    row_count: int
    #: The same was done before; nothing was changed.
    was_done_before: bool = False


@dataclass(frozen=True, slots=True)
class QueryResult:
    """The answer to a person's query."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    #: Whether there are more rows than were asked for.
    is_cut: bool


class Warehouse(Protocol):
    """
    Where analysts find native tables: one view per table, `<source>.<table>`.

    Beside them lies the view `<source>._esclusa_loads`: a row for each batch that is in a table, in the columns of
    `LOADS_COLUMNS`, so that whoever may read the tables can ask whether they are fresh and complete.
    """

    def load(self, load: NativeLoad) -> LoadResult:
        """
        Bring a batch into its table in one transaction, together with the marker that makes repeating harmless.

        append  The rows of this batch are in the table once, however often it is loaded.
        merge   The newest version of each key stays; newer is by cursor, then by the end of the window.
        replace The batch is the table; `is_superseded` if a newer snapshot is there already.

        Raises:
            Refused: if the rows do not arrive as the ledger counts them, a replace would empty the table, the
                target cannot hold the contract's names, types or key, or the table is held at an earlier state
                (ROLLED_BACK). Nothing was changed.
            LostLease: if a later attempt has loaded the batch. Nothing was changed.
            Unavailable: if warehouse or store did not answer. It may or may not be loaded; load again.
        """
        ...

    def prune(self, load: NativeLoad) -> PruneResult:
        """
        Delete the rows whose keys a key sweep does not have, in one transaction with the marker.

        Rows as of a later moment than the sweep stay, and rows that came under other keys: it says nothing of them. Of
        the contract of `load` the columns of the key alone leave. A table that is not there yet has nothing to delete.

        Raises:
            Refused: DELETE_BURST if these are more than the contract's limits allow, or the sweep found no key at all,
                and nobody approved them; PROOF_FAILED if the keys do not arrive as the ledger counts them;
                TARGET_INCOMPATIBLE if the table's keys are of another type. Nothing was changed.
            LostLease: if a later attempt has done it. Nothing was changed.
            Unavailable: if warehouse or store did not answer. It may or may not be done; do it again.
        """
        ...

    def rebuild(self, rebuild: Rebuild) -> RebuildResult:
        """
        Make a table anew of some of its batches, in one transaction with its marker: readers see before or after.

        The markers of the batches that are in it are set, those of the withdrawn go. What the contract's limits hold
        back is not asked again: it was published before. The view keeps the columns of the newest contract.

        Raises:
            Refused: if the rows do not arrive as the ledger counts them, or a batch has in clear what a newer contract
                masks. Nothing was changed.
            Unavailable: if warehouse or store did not answer. It may or may not be done; do it again.
        """
        ...

    def row_count(self, source: str, table: str) -> int:
        """
        Return how many rows analysts see in a table.

        Raises:
            KeyError: if there is no such table.
            Unavailable: if the warehouse does not answer.
        """
        ...

    def read_rows(
        self, contract: TableContract, *, window: Window | None = None, extent: Extent | None = None
    ) -> "Iterator[pl.DataFrame]":
        """
        Return what analysts see in a table, from one snapshot and in blocks of bounded size.

        The columns are those of the contract that leave, in its order, typed as in the committed Parquet; if a
        window is given, or an extent of a cursor that counts, the rows are those whose cursor lies in it. A table that
        is not there has no rows.

        Raises:
            Refused: if the table has not these columns, or holds values that do not fit their types.
            Unavailable: if the warehouse does not answer.
        """
        ...

    def query(self, sql: str, *, row_limit: int, timeout_seconds: float) -> QueryResult:
        """
        Answer one statement of a person, who can change nothing with it.

        Raises:
            QueryFailed: if the warehouse refuses the statement, with its words.
            Unavailable: if the warehouse does not answer.
        """
        ...


class QueryFailed(EsclusaError):
    """The warehouse refused a person's query. The message is the warehouse's own."""


#: Columns of ours begin with it, in base tables and in staging tables.
RESERVED_PREFIX = "_esclusa_"
#: The view beside a source's tables that tells what is loaded, and its columns in their order.
LOADS_VIEW = f"{RESERVED_PREFIX}loads"
LOADS_COLUMNS = (
    "table_name",
    "batch_id",
    "mode",
    "window_start",
    "window_end",
    "row_count",
    "rows_inserted",
    "rows_updated",
    "rows_deleted",
    "contract_version",
    "loaded_at",
    # From the end of the window until its rows were there.
    "delay_seconds",
    # Every earlier window of the table, as far as the first one there, is loaded too.
    "is_gapless",
    # The table is held at an earlier state.
    "is_rolled_back",
)
#: Ends the schema of base tables. No source may be named so that its views fall into another's base schema.
BASE_SUFFIX = "__base"


def refuse_burst(load: NativeLoad, *, deleted: int, total: int) -> None:
    """
    Hold deletes back that are too many to be believed.

    Raises:
        Refused: if they are more than the contract's limits allow, or the source has no row left, and nobody approved
            them.
    """
    limits = load.contract.deletes
    is_empty = load.record_count == 0 and deleted > 0
    if not load.is_approved and (is_empty or limits.is_burst(deleted=deleted, total=total)):
        expected = (
            "a source that is not empty"
            if is_empty
            else f"at most {limits.max_rows} rows, or {limits.max_ratio:.0%} of them"
        )
        raise Refused(
            Reason.DELETE_BURST,
            f"{target_of(load)}: {deleted} of {total} rows have keys that the source does not have any more; expected "
            f"{expected}. If they are rightly gone, `esclusa quarantine replay {load.batch_id} --approve` deletes them",
        )


def refuse_empty_replace(load: NativeLoad) -> None:
    """
    Refuse a snapshot without rows, unless the contract believes it.

    Raises:
        Refused: EMPTY_REPLACE.
    """
    if load.record_count == 0 and not load.contract.publishing.allow_empty:
        raise Refused(
            Reason.EMPTY_REPLACE,
            f"{target_of(load)}: the snapshot of batch {load.batch_id} has no rows, and would empty the table; "
            "if the source is rightly empty, set allow_empty for the table and replay the batch",
        )


def refuse_clear_values(load: NativeLoad, *, masked: Collection[str]) -> None:
    """
    Refuse a batch whose contract leaves columns in clear that a newer contract masks.

    Such a batch was planned before the mask and comes after it: a late one, or one that was tried again. Its
    values would stand in the table beside pseudonyms, as if they were some.

    Raises:
        Refused: TARGET_INCOMPATIBLE.
    """
    clear = [
        column.name
        for column in load.contract.output_columns
        if column.name in masked and not column.mask.changes_values
    ]
    if clear:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{target_of(load)}: batch {load.batch_id} was read under contract {load.contract_version} and has "
            f"{', '.join(map(repr, clear))} in clear, which a newer contract masks; replay the batch: it is then read "
            "under the newest contract",
        )


def refuse_while_rolled_back(load: NativeLoad, rebuild_id: str | None) -> None:
    """
    Refuse a batch of a table that is held at an earlier state.

    `rebuild_id`: what holds it; None if nothing does.

    Raises:
        Refused: ROLLED_BACK.
    """
    if rebuild_id is not None:
        raise Refused(
            Reason.ROLLED_BACK,
            f"{target_of(load)}: it shows an earlier state since rollback {rebuild_id}, and batch {load.batch_id} would "
            f"come on top of it; `esclusa rollback {target_of(load)} --forward` loads everything again, this batch "
            "included",
        )


def refuse_own_names(contract: TableContract) -> None:
    """
    Refuse a table that takes a name of ours.

    Raises:
        Refused: TARGET_INCOMPATIBLE.
    """
    if contract.table.startswith(RESERVED_PREFIX):
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{contract.source}.{contract.table}: names beginning with {RESERVED_PREFIX} are Esclusa's own; give the "
            "table another name in the source's file",
        )


def target_of(load: NativeLoad) -> str:
    """Return the table of a load as people call it."""
    return f"{load.contract.source}.{load.contract.table}"
