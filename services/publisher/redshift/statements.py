"""
The SQL text of the Redshift warehouse that brings rows: pure functions, each one statement. `definitions.py` has the rest.

Values stand in the text, because a batch of the Data API binds none: identifiers, numbers, moments and ids of ours, quoted
by `names.py` alone. Rows come from files and from nowhere else. `b` is the base table, `s` the staged rows.

Redshift holds `'a'` and `'a '` for equal when it compares them, so texts are compared by their lengths too.
Source: Amazon Redshift Developer Guide, "Character types", significance of trailing blanks.
"""

from collections.abc import Sequence
from decimal import Decimal

from services.publisher.redshift.names import quote_text
from services.publisher.redshift.plan import Guard, Statement, Wrong, guard_sql
from services.publisher.redshift.target import BATCH_COLUMN, WINDOW_COLUMN, Target, moment
from services.publisher.redshift.types import TEXT_KINDS, TypedColumn
from services.publisher.warehouse import RESERVED_PREFIX, LoadResult, NativeLoad
from shared.domain.contracts import ColumnKind
from shared.measures import ColumnMeasure

STAGE = f'"{RESERVED_PREFIX}stage"'
FRESH = f'"{RESERVED_PREFIX}fresh"'
GONE = f'"{RESERVED_PREFIX}gone"'
_BATCH, _WINDOW = f'"{BATCH_COLUMN}"', f'"{WINDOW_COLUMN}"'
_VERSION, _NEW, _CHANGED = (f'"{RESERVED_PREFIX}{word}"' for word in ("version", "is_new", "is_changed"))

#: What stands in place of the publish mode in the marker of a key sweep, which brings nothing.
PRUNE_MODE = "prune"

#: A proof of many columns is taken to pieces of about so many bytes, well below what the Data API takes.
PROOF_SIZE_IN_BYTES = 60_000

MARKER_COLUMNS = (
    "batch_id, source, table_name, mode, slot, window_start, window_end, contract_version, publish_attempt, "
    "manifest_sha256, rows_staged, rows_inserted, rows_updated, rows_unchanged, rows_deleted"
)


# ---- whose turn it is --------------------------------------------------------------------------------------


def lock_turn(target: Target) -> Statement:
    """
    Hold back other loads of the table until the transaction ends.

    LOCK holds back readers too, so it takes a table that nobody else reads; and it comes first, because the first
    statement that reads or writes takes the snapshot.
    Source: Amazon Redshift Developer Guide, LOCK, and "Serializable isolation".
    """
    return Statement("lock the table's turn", f"LOCK TABLE {target.turn}", touches_rows=False)


def guard_turn(target: Target, turn: int) -> Statement:
    """Go on only if nobody changed the table since the plan was made."""
    newest = 'COALESCE(MAX("turn"), 0)'
    return Statement(
        "see whose turn it is",
        guard_sql({"turn": Wrong(f"{newest} <> {turn}", (newest,))}, target.turn),
        guard=Guard.TURN,
        touches_rows=False,
    )


def take_turn(target: Target, turn: int) -> Statement:
    """Say that the table changed."""
    return Statement(
        "take the turn", f'INSERT INTO {target.turn} ("turn") VALUES ({turn + 1})', touches_rows=False
    )


# ---- the stage ---------------------------------------------------------------------------------------------


def create_stage(target: Target) -> Statement:
    """Create the staging table of this session, in the types of the files."""
    columns = ", ".join(f"{column.quoted} {column.staged_type}" for column in target.columns)
    return Statement("create the stage", f"CREATE TEMPORARY TABLE {STAGE} ({columns})", touches_rows=False)


def copy_into_stage(target: Target, *, manifest: str, role_arn: str) -> Statement:
    """
    Fetch exactly the files of a manifest.

    Columns of Parquet are taken by their position, so the list has all of them, in the order of the footer.
    Source: Amazon Redshift Developer Guide, "COPY from columnar data formats".
    """
    columns = ", ".join(column.quoted for column in target.columns)
    return Statement(
        "copy the files",
        f"COPY {STAGE} ({columns}) FROM {quote_text(manifest)} IAM_ROLE {quote_text(role_arn)} "
        "FORMAT AS PARQUET MANIFEST",
    )


def proofs(target: Target, measures: Sequence[ColumnMeasure], *, record_count: int) -> list[Statement]:
    """Go on only if the staged rows are those of the files: as many, with as many NULLs, and the same sums."""
    pieces = [{"rows": Wrong(f"COUNT(*) <> {record_count}", ("COUNT(*)",))}]
    size = 0
    for number, (column, measure) in enumerate(zip(target.columns, measures, strict=True), start=1):
        wrongs = {f"{what} {number}": wrong for what, wrong in _wrongs(column, measure).items()}
        length = sum(len(wrong.condition.encode()) + 200 for wrong in wrongs.values())
        if size + length > PROOF_SIZE_IN_BYTES:
            pieces.append({})
            size = 0
        pieces[-1] |= wrongs
        size += length
    return [
        Statement("prove what was staged", guard_sql(piece, STAGE), guard=Guard.PROOF) for piece in pieces
    ]


def _wrongs(column: TypedColumn, measure: ColumnMeasure) -> dict[str, Wrong]:
    """Return what would be wrong about a column. Of its values only counts are told."""
    name, rows = column.quoted, ("COUNT(*)",)
    nulls = f"COUNT(*) - COUNT({name})"
    wrong = {"nulls": Wrong(f"{nulls} <> {measure.null_count}", (nulls,))}
    if column.kind in TEXT_KINDS or column.kind is ColumnKind.BINARY:
        size = f"COALESCE(SUM(CAST(OCTET_LENGTH({name}) AS BIGINT)), 0)"
        wrong["bytes"] = Wrong(f"{size} <> {measure.size_in_bytes or 0}", rows)
    elif column.kind is ColumnKind.BOOLEAN:
        wrong["total"] = Wrong(
            f"COALESCE(SUM(CASE WHEN {name} THEN 1 ELSE 0 END), 0) <> {measure.total or 0}", rows
        )
    elif measure.total is not None:
        scale = _scale(column)
        total = Decimal(measure.total).scaleb(-scale)
        as_decimal = f"DECIMAL(38,{scale})"
        summed = f"SUM(CAST({name} AS {as_decimal}))"
        wrong["total"] = Wrong(f"COALESCE({summed}, 0) <> CAST('{total:f}' AS {as_decimal})", rows)
    elif measure.earliest is not None and measure.latest is not None:
        type_ = column.staged_type
        wrong["earliest"] = Wrong(f"MIN({name}) <> CAST('{measure.earliest}' AS {type_})", rows)
        wrong["latest"] = Wrong(f"MAX({name}) <> CAST('{measure.latest}' AS {type_})", rows)
    return wrong


def _scale(column: TypedColumn) -> int:
    if column.kind is not ColumnKind.DECIMAL:
        return 0
    return int(column.staged_type.removesuffix(")").rpartition(",")[2])


# ---- what of it is fresh -----------------------------------------------------------------------------------


def create_fresh_merge(target: Target, *, as_of: str, carried: Sequence[str]) -> Statement:
    """
    Choose the rows that go into the table: of each key the latest, if it is new or at least as new as what is there.

    `carried`: columns of the table that the contract does not have; they keep what is in them.
    """
    staged = _table_values(target) + [f"b.{name} AS {name}" for name in carried]
    is_new = f"b.{_BATCH} IS NULL"
    condition = f"({is_new} OR {_is_newer(target, as_of)})"
    return Statement(
        "choose what is fresh",
        f"CREATE TEMPORARY TABLE {FRESH} AS SELECT {', '.join(staged)}, "
        f"CASE WHEN {is_new} THEN 1 ELSE 0 END AS {_NEW}, {_differs(target)} AS {_CHANGED} "
        f"FROM {_latest(target)} AS s LEFT JOIN {target.base} AS b ON {_same_key(target, 'b', 's')} "
        f"WHERE s.{_VERSION} = 1 AND {condition}",
    )


def create_fresh_snapshot(target: Target) -> Statement:
    """Choose the rows of a snapshot: of each key the latest, or all if there is no key."""
    source = f"{_latest(target)} AS s WHERE s.{_VERSION} = 1" if target.key else f"{STAGE} AS s"
    return Statement(
        "choose what is fresh",
        f"CREATE TEMPORARY TABLE {FRESH} AS SELECT {', '.join(_table_values(target))} FROM {source}",
    )


def _table_values(target: Target) -> list[str]:
    return [
        f"{value} AS {part.quoted}"
        for column in target.columns
        for part, value in zip(column.table_columns, column.values("s"), strict=True)
    ]


def _latest(target: Target) -> str:
    """Number the staged versions of each key, the latest first: by cursor, and of equal ones any."""
    by_key = ", ".join(_told_apart("s", column) for column in target.key)
    order = f"s.{target.ordering.quoted} DESC NULLS LAST" if target.ordering else by_key
    return (
        f"(SELECT s.*, ROW_NUMBER() OVER (PARTITION BY {by_key} ORDER BY {order}) AS {_VERSION} "
        f"FROM {STAGE} AS s)"
    )


def _told_apart(alias: str, column: TypedColumn) -> str:
    name = f"{alias}.{column.quoted}"
    return f"{name}, OCTET_LENGTH({name})" if column.kind in TEXT_KINDS else name


def _same_key(target: Target, one: str, staged: str, *, is_converted: bool = False) -> str:
    """Compare keys by plain equalities, which is all that a join of Redshift can spread over its nodes."""
    pairs = []
    for column in target.key:
        there = f"{one}.{column.quoted}"
        here = f"{staged}.{column.quoted}" if is_converted else column.values(staged)[0]
        pairs.append(f"{there} = {here}")
        if column.kind in TEXT_KINDS:
            pairs.append(f"OCTET_LENGTH({there}) = OCTET_LENGTH({here})")
    return " AND ".join(pairs)


def _is_newer(target: Target, as_of: str) -> str:
    """Whether the staged row is at least as new: by cursor, then by the end of the window."""
    by_window = f"{as_of} >= b.{_WINDOW}"
    if target.ordering is None:
        return by_window
    staged, there = target.ordering.values("s")[0], f"b.{target.ordering.quoted}"
    return (
        f"({staged} > {there} OR ({there} IS NULL AND {staged} IS NOT NULL)"
        f" OR (({staged} = {there} OR ({there} IS NULL AND {staged} IS NULL)) AND {by_window}))"
    )


def _differs(target: Target) -> str:
    # Redshift has no IS DISTINCT FROM.
    return f"CASE WHEN {' AND '.join(_is_same(column) for column in target.columns)} THEN 0 ELSE 1 END"


def _is_same(column: TypedColumn) -> str:
    staged, there = column.values("s")[-1], f"b.{column.text}"
    are_equal = f"{staged} = {there}"
    if column.kind in TEXT_KINDS:
        are_equal += f" AND OCTET_LENGTH({staged}) = OCTET_LENGTH({there})"
    return f"({are_equal} OR ({staged} IS NULL AND {there} IS NULL))"


# ---- into the table ----------------------------------------------------------------------------------------


def guard_doubles(target: Target) -> Statement:
    """Go on only if no key has two rows in the table, which a merge would multiply."""
    by_key = ", ".join(
        part
        for column in target.key
        for part in [f"f.{column.quoted}"]
        + ([f"OCTET_LENGTH(f.{column.quoted})"] if column.kind in TEXT_KINDS else [])
    )
    doubles = f'(SELECT COUNT(*) AS "n" FROM {FRESH} AS f GROUP BY {by_key} HAVING COUNT(*) > 1) AS d'
    return Statement(
        "see that no key is there twice",
        guard_sql({"doubles": Wrong("COUNT(*) > 0", ("COUNT(*)",))}, doubles),
        guard=Guard.DOUBLES,
    )


def delete_fresh_keys(target: Target) -> Statement:
    """Delete the rows that fresh ones replace."""
    same = _same_key(target, target.base_alias, FRESH, is_converted=True)
    return Statement("delete what is replaced", f"DELETE FROM {target.base} USING {FRESH} WHERE {same}")


def insert_fresh(target: Target, load: NativeLoad, *, carried: Sequence[str] = ()) -> Statement:
    """Add the rows that were chosen."""
    columns = [part.quoted for part in target.table_columns] + list(carried)
    values = [f"f.{name}" for name in columns]
    return _insert(target, load, columns, values, f"{FRESH} AS f")


def insert_staged(target: Target, load: NativeLoad) -> Statement:
    """Add every staged row."""
    columns = [part.quoted for part in target.table_columns]
    values = [value for column in target.columns for value in column.values("s")]
    return _insert(target, load, columns, values, f"{STAGE} AS s")


def _insert(
    target: Target, load: NativeLoad, columns: Sequence[str], values: Sequence[str], source: str
) -> Statement:
    hidden = [quote_text(load.batch_id), moment(load.as_of)]
    return Statement(
        "insert the rows",
        f"INSERT INTO {target.base} ({', '.join([*columns, _BATCH, _WINDOW])}) "
        f"SELECT {', '.join([*values, *hidden])} FROM {source}",
    )


def delete_batch(target: Target, load: NativeLoad) -> Statement:
    """Delete the rows that an earlier load of the batch brought."""
    return Statement(
        "delete the rows of an earlier load of the batch",
        f"DELETE FROM {target.base} WHERE {_BATCH} = {quote_text(load.batch_id)}",
    )


def delete_all(target: Target) -> Statement:
    """Delete every row. TRUNCATE would commit; readers see the rows until the transaction ends."""
    return Statement("delete the snapshot before", f"DELETE FROM {target.base}")


def guard_missing(target: Target) -> Statement:
    """Go on only if every staged key is in the table, once."""
    keys = ", ".join(f"{column.values('s')[0]} AS {column.quoted}" for column in target.key)
    lengths = [
        f'OCTET_LENGTH(s.{column.quoted}) AS "{RESERVED_PREFIX}length_{number}"'
        for number, column in enumerate(target.key)
        if column.kind in TEXT_KINDS
    ]
    distinct = f"(SELECT DISTINCT {', '.join([keys, *lengths])} FROM {STAGE} AS s)"
    source = (
        f"{distinct} AS k LEFT JOIN {target.base} AS b ON {_same_key(target, 'b', 'k', is_converted=True)}"
    )
    missing = f"COUNT(*) - COUNT(b.{_BATCH})"
    return Statement(
        "see that no key is missing",
        guard_sql({"missing": Wrong(f"{missing} <> 0", (missing,))}, source),
        guard=Guard.MISSING,
    )


def guard_snapshot(target: Target) -> Statement:
    """Go on only if the table has the rows of the snapshot and no others."""
    counted = (
        f'(SELECT COUNT(*) AS "n" FROM {target.base}) AS t '
        f'CROSS JOIN (SELECT COUNT(*) AS "n" FROM {FRESH}) AS f'
    )
    return Statement(
        "see that the snapshot is whole",
        guard_sql({"snapshot": Wrong('MAX(t."n") <> MAX(f."n")', ('MAX(f."n")', 'MAX(t."n")'))}, counted),
        guard=Guard.SNAPSHOT,
    )


# ---- key sweeps --------------------------------------------------------------------------------------------


def create_gone(target: Target, load: NativeLoad) -> Statement:
    """
    Choose the keys that were not staged, though the sweep can tell.

    It can of rows that are as of its moment or earlier and came under the same keys: in these versions of the contract.
    """
    versions = ", ".join(str(int(version)) for version in load.same_key_versions)
    markers = (
        "(SELECT batch_id, contract_version, "
        "ROW_NUMBER() OVER (PARTITION BY batch_id ORDER BY publish_attempt DESC) AS n "
        f"FROM {target.loads})"
    )
    keys = ", ".join(f"b.{column.quoted} AS {column.quoted}" for column in target.key)
    first = target.key[0].quoted
    return Statement(
        "choose what is gone",
        f"CREATE TEMPORARY TABLE {GONE} AS SELECT {keys} FROM {target.base} AS b "
        f"INNER JOIN {markers} AS m ON m.batch_id = b.{_BATCH} "
        f"LEFT JOIN {STAGE} AS s ON {_same_key(target, 'b', 's')} "
        f"WHERE m.n = 1 AND m.contract_version IN ({versions}) AND b.{_WINDOW} <= {moment(load.as_of)} "
        f"AND s.{first} IS NULL",
    )


def guard_burst(target: Target, load: NativeLoad) -> Statement:
    """Go on only if what is gone is little enough to be believed."""
    gone, limits = 'MAX(g."n")', load.contract.deletes
    if load.record_count == 0:
        condition = f"{gone} > 0"
    else:
        ratio = f"CAST({limits.max_ratio!r} AS DOUBLE PRECISION)"
        condition = f'{gone} > {limits.max_rows} AND {gone} > {ratio} * MAX(t."n")'
    source = f'(SELECT COUNT(*) AS "n" FROM {GONE}) AS g CROSS JOIN (SELECT COUNT(*) AS "n" FROM {target.base}) AS t'
    return Statement(
        "see that not too many are gone",
        guard_sql({"burst": Wrong(condition, (gone, 'MAX(t."n")'))}, source),
        guard=Guard.BURST,
    )


def delete_gone(target: Target) -> Statement:
    """Delete the rows that are gone at the source."""
    same = _same_key(target, target.base_alias, GONE, is_converted=True)
    return Statement("delete what is gone", f"DELETE FROM {target.base} USING {GONE} WHERE {same}")


# ---- the marker --------------------------------------------------------------------------------------------


def save_marker(target: Target, load: NativeLoad, result: LoadResult) -> Statement:
    """Set the marker of a batch whose counts are known beforehand."""
    counts = (result.rows_staged, result.rows_inserted, result.rows_updated, result.rows_unchanged, 0)
    return _marker(target, load, str(load.contract.publishing.mode), [str(count) for count in counts])


def save_merge_marker(target: Target, load: NativeLoad) -> Statement:
    """Set the marker of a merge, with the counts of what was fresh."""
    inserted = f"COALESCE(SUM({_NEW}), 0)"
    updated = f"COALESCE(SUM(CASE WHEN {_NEW} = 0 THEN {_CHANGED} ELSE 0 END), 0)"
    staged = str(load.record_count)
    counts = [staged, inserted, updated, f"{staged} - {inserted} - {updated}", "0"]
    return _marker(target, load, str(load.contract.publishing.mode), counts, source=FRESH)


def save_snapshot_marker(target: Target, load: NativeLoad) -> Statement:
    """Set the marker of a snapshot, with the count of its rows."""
    counts = [str(load.record_count), "COUNT(*)", "0", f"{load.record_count} - COUNT(*)", "0"]
    return _marker(target, load, str(load.contract.publishing.mode), counts, source=FRESH)


def save_prune_marker(target: Target, load: NativeLoad, *, has_keys: bool) -> Statement:
    """Set the marker of a key sweep, with the count of what it deleted."""
    staged = str(load.record_count)
    source = GONE if has_keys else None
    return _marker(
        target, load, PRUNE_MODE, [staged, "0", "0", "0", "COUNT(*)" if has_keys else "0"], source=source
    )


def _marker(
    target: Target, load: NativeLoad, mode: str, counts: Sequence[str], *, source: str | None = None
) -> Statement:
    # Only added, never changed: loads of two tables then never read what the other wrote.
    window_start = "CAST(NULL AS TIMESTAMPTZ)" if load.window.start is None else moment(load.window.start)
    values = [
        quote_text(load.batch_id),
        quote_text(load.contract.source),
        quote_text(load.contract.table),
        quote_text(mode),
        quote_text(load.slot),
        window_start,
        moment(load.window.end),
        str(load.contract_version),
        str(load.attempt),
        quote_text(load.manifest_sha256),
        *counts,
    ]
    taken_from = f" FROM {source}" if source else ""
    return Statement(
        "set the marker",
        f"INSERT INTO {target.loads} ({MARKER_COLUMNS}) SELECT {', '.join(values)}{taken_from}",
    )
