"""A load of the PostgreSQL warehouse, step by step, and what else changes rows: key sweeps and rebuilds."""

from collections.abc import Callable, Mapping

import polars as pl

from services.publisher import marker_statements, statements
from services.publisher.catalog import says_masked
from services.publisher.postgres_session import Cursor, count, milliseconds, one
from services.publisher.postgres_tables import (
    base_names,
    prepare_base,
    refuse_unfit_columns,
    show_view,
    view_names,
)
from services.publisher.rows import read_blocks
from services.publisher.statements import TargetTable
from services.publisher.totals import Totals
from services.publisher.warehouse import (
    LoadResult,
    NativeLoad,
    PruneResult,
    Rebuild,
    RebuildResult,
    refuse_burst,
    refuse_clear_values,
    refuse_empty_replace,
    refuse_while_rolled_back,
)
from shared.domain.contracts import PublishMode
from shared.domain.reasons import Reason
from shared.domain.windows import is_key_sweep
from shared.errors import LostLease, Refused
from shared.ports import ObjectStore

# DDL waits for the running queries of analysts, and new ones wait behind it.
DDL_LOCK_TIMEOUT_SECONDS = 30.0


def load_batch(cursor: Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore) -> LoadResult:
    _lock_table(cursor, target)
    if (before := _find_load_before(cursor, load)) and before.was_loaded_before:
        return before
    refuse_while_rolled_back(load, _hold_of(cursor, load))
    newest_window_end, newest_contract = one(
        cursor,
        marker_statements.FIND_TABLE_STATE,
        [load.contract.source, load.contract.table, load.batch_id],
    )
    if load.contract.publishing.mode is PublishMode.REPLACE:
        if newest_window_end is not None and load.as_of < newest_window_end:
            return LoadResult(is_superseded=True)
        refuse_empty_replace(load)
    if newest_contract is not None and newest_contract > load.contract_version:
        refuse_clear_values(load, masked=_masked_columns(cursor, load))
    is_newest_contract = newest_contract is None or load.contract_version >= newest_contract
    prepare_base(cursor, load, target, may_widen=is_newest_contract)
    _stage(cursor, load, target, store=store)
    mode = _MODES[load.contract.publishing.mode]
    if before is not None and load.contract.publishing.mode is PublishMode.APPEND:
        # A replay. Without a marker no row of the batch is there, and looking for some reads the whole table.
        cursor.execute(statements.delete_batch(target), [load.batch_id])
    result = mode(cursor, load, target)
    _save_marker(cursor, load, result)
    if is_newest_contract:
        show_view(cursor, load, target)
    return result


def _masked_columns(cursor: Cursor, load: NativeLoad) -> set[str]:
    """Return the columns that analysts see masked, by what the view says of them."""
    shown = cursor.execute(statements.FIND_COLUMNS, view_names(load)).fetchall()
    return {name for name, _, comment in shown if says_masked(comment)}


def _hold_of(cursor: Cursor, load: NativeLoad) -> str | None:
    """Return the rebuild that holds the table of a load at an earlier state; None if none does."""
    names = [load.contract.source, load.contract.table]
    found: tuple[str] | None = cursor.execute(marker_statements.FIND_HOLD, names).fetchone()
    return found[0] if found else None


def _lock_table(cursor: Cursor, target: TargetTable) -> None:
    cursor.execute(statements.LOCK, [f"esclusa load {target.name}"])
    cursor.execute(
        statements.SET_FOR_TRANSACTION, [["lock_timeout"], [milliseconds(DDL_LOCK_TIMEOUT_SECONDS)]]
    )


def _find_load_before(cursor: Cursor, load: NativeLoad) -> LoadResult | None:
    """Return what an earlier load of the batch came to; None if there was none."""
    row = cursor.execute(marker_statements.FIND_LOAD, [load.batch_id]).fetchone()
    if row is None:
        return None
    attempt, manifest, staged, inserted, updated, unchanged, _ = row
    if attempt > load.attempt:
        raise LostLease(
            f"batch {load.batch_id}: attempt {attempt} of publish has loaded it, this is attempt {load.attempt}"
        )
    return LoadResult(
        staged, inserted, updated, unchanged, was_loaded_before=manifest == load.manifest_sha256
    )


def _stage(cursor: Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore) -> None:
    """
    Copy all rows of the batch into the staging table, and prove that they arrived.

    They are as many as the ledger says, with as many NULLs in each column and the same sums, minima and maxima of
    numbers as in the files.

    Raises:
        Refused: PROOF_FAILED if they are not, NULL_KEY if a merge could not find them again.
    """
    columns = load.contract.output_columns
    in_files = Totals.of(columns)
    cursor.execute(statements.create_stage(target))
    with cursor.copy(statements.copy_into_stage(target)) as copy:
        for file in load.files:
            for block in read_blocks(file, columns=columns, store=store):
                in_files.add(block)
                copy.write(as_csv(block))
    prove(target, "staged rows", expected=load.record_count, found=count(cursor, statements.COUNT_STAGED))
    questions = statements.measure_stage(target, numbers=in_files.numbers)
    staged = [answer for question in questions for answer in one(cursor, question)]
    in_files.refuse_difference(staged, where=f"{target.name}: batch {load.batch_id}")
    cursor.execute(statements.ANALYZE_STAGE)
    if target.key and (null_keys := count(cursor, statements.count_null_keys(target))):
        raise Refused(
            Reason.NULL_KEY,
            f"{target.name}: {null_keys} rows of batch {load.batch_id} have NULL in the key {', '.join(target.key)}",
        )


def _append(cursor: Cursor, load: NativeLoad, target: TargetTable) -> LoadResult:
    staged = load.record_count
    cursor.execute(statements.insert_all_from_stage(target), [load.as_of, load.batch_id])
    prove(target, "inserted rows", expected=staged, found=cursor.rowcount)
    return LoadResult(rows_staged=staged, rows_inserted=staged)


def _merge(cursor: Cursor, load: NativeLoad, target: TargetTable) -> LoadResult:
    cursor.execute(statements.delete_older_versions(target))
    inserted, updated = one(cursor, statements.count_merge(target), [load.as_of])
    cursor.execute(statements.update_from_stage(target), [load.as_of, load.batch_id])
    cursor.execute(statements.insert_new_from_stage(target), [load.as_of, load.batch_id])
    prove(target, "inserted rows", expected=inserted, found=cursor.rowcount)
    missing = count(cursor, statements.count_missing_keys(target))
    prove(target, "keys of the batch that are missing after the merge", expected=0, found=missing)
    return LoadResult(
        rows_staged=load.record_count,
        rows_inserted=inserted,
        rows_updated=updated,
        rows_unchanged=load.record_count - inserted - updated,
    )


def _replace(cursor: Cursor, load: NativeLoad, target: TargetTable) -> LoadResult:
    if target.key:
        cursor.execute(statements.delete_older_versions(target))
    snapshot_count = count(cursor, statements.COUNT_STAGED)
    cursor.execute(statements.delete_all(target))
    cursor.execute(statements.insert_all_from_stage(target), [load.as_of, load.batch_id])
    found = count(cursor, statements.count_base(target))
    prove(target, "rows of the snapshot", expected=snapshot_count, found=found)
    return LoadResult(
        rows_staged=load.record_count,
        rows_inserted=snapshot_count,
        rows_unchanged=load.record_count - snapshot_count,
    )


def prune_gone(cursor: Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore) -> PruneResult:
    _lock_table(cursor, target)
    row = cursor.execute(marker_statements.FIND_LOAD, [load.batch_id]).fetchone()
    if (before := _find_load_before(cursor, load)) and before.was_loaded_before and row is not None:
        return PruneResult(before.rows_staged, row[-1], was_loaded_before=True)
    refuse_while_rolled_back(load, _hold_of(cursor, load))
    return _delete_gone(cursor, load, target, store=store, may_burst=False)


def _delete_gone(
    cursor: Cursor, load: NativeLoad, target: TargetTable, *, store: ObjectStore, may_burst: bool
) -> PruneResult:
    deleted = 0
    if _has_keys(cursor, load, target):
        _stage(cursor, load, target, store=store)
        told = [load.as_of, list(load.same_key_versions)]
        gone, total = one(cursor, statements.count_gone(target), told)
        if not may_burst:
            refuse_burst(load, deleted=gone, total=total)
        cursor.execute(statements.delete_gone(target), told)
        deleted = cursor.rowcount
        prove(target, "deleted rows", expected=gone, found=deleted)
    result = LoadResult(rows_staged=load.record_count)
    _save_marker(cursor, load, result, mode=marker_statements.PRUNE_MODE, deleted=deleted)
    return PruneResult(load.record_count, deleted)


def _has_keys(cursor: Cursor, load: NativeLoad, target: TargetTable) -> bool:
    """
    Return whether a table has the columns of the key. One without, or that is not there yet, has no row of it.

    Raises:
        Refused: TARGET_INCOMPATIBLE if they are of types that cannot be compared with the key's.
    """
    found = {name: type_ for name, type_, _ in cursor.execute(statements.FIND_COLUMNS, base_names(load))}
    if any(column.name not in found for column in target.columns):
        return False
    widened_later = {
        column.name for column in target.columns if statements.can_be_widened(found[column.name], column.type)
    }
    refuse_unfit_columns(found, target, but=widened_later)
    return True


def rebuild_table(
    cursor: Cursor, rebuild: Rebuild, target: TargetTable, *, store: ObjectStore
) -> RebuildResult:
    """Make a table anew of the batches given, one after the other; see `Warehouse.rebuild`."""
    _lock_table(cursor, target)
    before = cursor.execute(marker_statements.FIND_REBUILD, [rebuild.id]).fetchone()
    if before is not None:
        return RebuildResult(before[0], was_done_before=True)
    masked = _masked_columns(cursor, rebuild.newest)
    prepare_base(cursor, rebuild.newest, target, may_widen=True)
    cursor.execute(statements.delete_all(target))
    for load in rebuild.loads:
        own = statements.target_table(load)
        if is_key_sweep(load.slot):
            _delete_gone(cursor, load, own, store=store, may_burst=True)
        else:
            refuse_clear_values(load, masked=masked)
            prepare_base(cursor, load, own, may_widen=False)
            _stage(cursor, load, own, store=store)
            _save_marker(cursor, load, _MODES[load.contract.publishing.mode](cursor, load, own))
        cursor.execute(statements.DROP_STAGE)
    cursor.execute(marker_statements.DELETE_LOADS, [list(rebuild.withdrawn_batch_ids)])
    rows = count(cursor, statements.count_base(target))
    contract = rebuild.newest.contract
    cursor.execute(
        marker_statements.SAVE_REBUILD, [rebuild.id, contract.source, contract.table, rebuild.is_held, rows]
    )
    if not cursor.execute(statements.FIND_RELATION, view_names(rebuild.newest)).fetchone():
        show_view(cursor, rebuild.newest, target)
    return RebuildResult(rows)


_MODES: Mapping[PublishMode, Callable[[Cursor, NativeLoad, TargetTable], LoadResult]] = {
    PublishMode.APPEND: _append,
    PublishMode.MERGE: _merge,
    PublishMode.REPLACE: _replace,
}


def _save_marker(
    cursor: Cursor, load: NativeLoad, result: LoadResult, *, mode: str = "", deleted: int = 0
) -> None:
    cursor.execute(
        marker_statements.SAVE_LOAD,
        [
            load.batch_id,
            load.contract.source,
            load.contract.table,
            mode or load.contract.publishing.mode,
            load.slot,
            load.window.start,
            load.window.end,
            load.contract_version,
            load.attempt,
            load.manifest_sha256,
            result.rows_staged,
            result.rows_inserted,
            result.rows_updated,
            result.rows_unchanged,
            deleted,
        ],
    )


def as_csv(block: pl.DataFrame) -> str:
    """
    Return rows as the CSV that COPY reads: strings quoted, NULL as nothing, bytes in hexadecimal.

    >>> as_csv(pl.DataFrame({"a": ["", None, "x"], "b": [b"\\xff", None, b""]}))
    '"","\\\\xff"\\n,\\n"x","\\\\x"\\n'
    """
    # By position: Polars takes names such as `*` and `^a$` for patterns.
    numbered = pl.DataFrame(
        [column.alias(f"c{position}") for position, column in enumerate(block.get_columns())]
    )
    expressions = [_readable(column) for column in numbered.get_columns()]
    return numbered.select(expressions).write_csv(include_header=False, quote_style="non_numeric")


def _readable(column: pl.Series) -> pl.Expr:
    expression = pl.col(column.name)
    if column.dtype == pl.Binary:
        return (pl.lit("\\x") + expression.bin.encode("hex")).alias(column.name)
    if column.dtype == pl.Date or column.dtype.base_type() == pl.Datetime:
        return _readable_moment(column)
    return expression


def _readable_moment(column: pl.Series) -> pl.Expr:
    """Polars writes years as ISO 8601 does, `+10000` and `0000`; PostgreSQL reads `10000` and `0001 BC`."""
    expression = pl.col(column.name)
    years = column.dt.year()
    if column.null_count() == len(column) or (int(years.min()) >= 1 and int(years.max()) <= 9999):  # type: ignore[arg-type]
        return expression
    pattern = "-%m-%d" if column.dtype == pl.Date else "-%m-%dT%H:%M:%S%.6f"
    year, rest = expression.dt.year(), expression.dt.to_string(pattern)
    common = year.cast(pl.String).str.zfill(4) + rest
    before_christ = (1 - year).cast(pl.String).str.zfill(4) + rest + " BC"
    return pl.when(year < 1).then(before_christ).otherwise(common).alias(column.name)


def prove(target: TargetTable, what: str, *, expected: int, found: int) -> None:
    if expected != found:
        raise Refused(Reason.PROOF_FAILED, f"{target.name}: {what}: expected {expected}, found {found}")
