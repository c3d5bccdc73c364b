"""The relations of the PostgreSQL warehouse: schemas, base tables, and the views that analysts see."""

from collections.abc import Collection, Generator, Mapping, Sequence
from contextlib import contextmanager

import psycopg
import structlog

from services.publisher import marker_statements, statements
from services.publisher.catalog import says_masked
from services.publisher.postgres_session import Cursor, count, transaction
from services.publisher.statements import TargetTable
from services.publisher.warehouse import LOADS_VIEW, NativeLoad
from shared.domain.contracts import PublishMode
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, Refused

log = structlog.get_logger()


def ensure_schemas(
    connection: psycopg.Connection,
    load: NativeLoad,
    target: TargetTable,
    settings: Mapping[str, str],
    *,
    analysts_role: str,
) -> None:
    """
    Create what every table of a source needs, if it is not there, in a transaction before the load's.

    Its schemas, the table of markers and the view over them; and what the analysts' role may read from now on.

    Raises:
        ConfigurationError: if there is no such role.
    """
    source = load.contract.source
    schemas = [statements.OWN_SCHEMA, source, statements.base_schema_of(source)]
    relations = [(statements.OWN_SCHEMA, "loads"), (statements.OWN_SCHEMA, "rebuilds"), (source, LOADS_VIEW)]
    with transaction(connection, settings) as cursor:
        found = count(cursor, statements.COUNT_SCHEMAS, [schemas])
        found += count(
            cursor, marker_statements.COUNT_RELATIONS, list(map(list, zip(*relations, strict=True)))
        )
        if found == len(schemas) + len(relations) and _may_read(cursor, source, role=analysts_role):
            return
        # In spite of its IF NOT EXISTS, CREATE fails if two of them meet.
        cursor.execute(statements.LOCK, ["esclusa schemas"])
        for schema in (
            statements.quote_identifier(statements.OWN_SCHEMA),
            target.view_schema,
            target.base_schema,
        ):
            cursor.execute(statements.create_schema(schema))
        for statement in (
            marker_statements.CREATE_LOADS,
            marker_statements.INDEX_LOADS,
            marker_statements.CREATE_REBUILDS,
            marker_statements.create_loads_view(source),
            marker_statements.comment_loads_view(source),
        ):
            cursor.execute(statement)
        if not _may_read(cursor, source, role=analysts_role):
            for statement in marker_statements.grant_reading(source, role=analysts_role):
                cursor.execute(statement)
            log.info("analysts_may_read", source=source, role=analysts_role)


def _may_read(cursor: Cursor, source: str, *, role: str) -> bool:
    """Return whether the analysts' role, if one is set, may read what is in a source's schema and whatever will be."""
    if not role:
        return True
    found = cursor.execute(marker_statements.FIND_READER, [role, source]).fetchone()
    if found is None:
        raise ConfigurationError(
            f"ESCLUSA_WAREHOUSE_ANALYSTS_ROLE: the warehouse has no role {role!r}; create it, or name another"
        )
    return bool(found[0])


def prepare_base(cursor: Cursor, load: NativeLoad, target: TargetTable, *, may_widen: bool) -> None:
    """Create the base table, or bring it to the contract; its types only to a contract that is the newest."""
    names = base_names(load)
    found = {name: type_ for name, type_, _ in cursor.execute(statements.FIND_COLUMNS, names).fetchall()}
    if not found:
        cursor.execute(statements.create_base(target))
    else:
        outgrown = [
            column
            for column in target.columns
            if may_widen
            and statements.can_be_widened(found.get(column.name, ""), column.type)
            # A column that took smaller numbers before takes them still.
            and not statements.holds(found[column.name], column.type)
        ]
        refuse_unfit_columns(found, target, but={column.name for column in outgrown})
        if missing := [column for column in target.columns if column.name not in found]:
            cursor.execute(statements.add_columns(target, missing))
        if outgrown:
            with _view_taken_away(cursor, load, target):
                cursor.execute(statements.widen_columns(target, outgrown))
            types = {column.name: [found[column.name], column.type] for column in outgrown}
            log.warning("native_columns_widened", table=target.name, columns=types)
    if load.contract.publishing.mode is PublishMode.MERGE:
        keys = [set(row[0]) for row in cursor.execute(statements.FIND_UNIQUE_KEYS, names).fetchall()]
        if set(load.contract.key) not in keys:
            cursor.execute(statements.create_unique_key(target))


def refuse_unfit_columns(found: Mapping[str, str], target: TargetTable, *, but: Collection[str]) -> None:
    wanted = {column.name: column.type for column in target.columns if column.name not in but}
    wanted |= {statements.BATCH_COLUMN: "text", statements.WINDOW_COLUMN: "timestamp with time zone"}
    hidden = {statements.BATCH_COLUMN, statements.WINDOW_COLUMN}
    unfit = [
        f"column {name!r} should be {type_}, found {found.get(name, 'none')}"
        for name, type_ in wanted.items()
        if (name in found or name in hidden) and not statements.holds(found.get(name, ""), type_)
    ]
    if unfit:
        raise Refused(
            Reason.TARGET_INCOMPATIBLE,
            f"{target.name}: its base table {target.base} does not fit the contract: {'; '.join(unfit)}; change "
            "the base table or give the column another name, then replay the batch",
        )


def show_view(cursor: Cursor, load: NativeLoad, target: TargetTable) -> None:
    """Bring the analysts' view to the contract, if it is not there yet. What was granted on it stays."""
    names = view_names(load)
    base_types = {
        name: type_ for name, type_, _ in cursor.execute(statements.FIND_COLUMNS, base_names(load)).fetchall()
    }
    wanted = [(column.name, base_types[column.name], column.comment) for column in target.columns]
    relation = cursor.execute(statements.FIND_RELATION, names).fetchone()
    if relation is None:
        cursor.execute(statements.create_view(target))
    else:
        kind, comment, _ = relation
        if kind != "v":
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{target.name}: expected to make the view {target.view}, but another relation has its name; rename it, "
                "then replay the batch",
            )
        found = cursor.execute(statements.FIND_COLUMNS, names).fetchall()
        if found == wanted and comment == target.comment:
            return
        _report_newly_masked(target, found)
        if [column[:2] for column in found] == [column[:2] for column in wanted[: len(found)]]:
            cursor.execute(statements.create_view(target))
        else:
            # PostgreSQL replaces a view only by one that begins with the same columns.
            with _view_taken_away(cursor, load, target):
                pass
    for statement in statements.comments(target):
        cursor.execute(statement)


def _report_newly_masked(target: TargetTable, shown: Sequence[tuple[str, str, str]]) -> None:
    """Say so if older rows hold in clear what is masked from now on: only people can decide what becomes of them."""
    clear = {name for name, _, comment in shown if not says_masked(comment)}
    newly_masked = [
        column.name for column in target.columns if column.name in clear and says_masked(column.comment)
    ]
    if newly_masked:
        log.warning("clear_values_remain", table=target.name, columns=newly_masked)


@contextmanager
def _view_taken_away(cursor: Cursor, load: NativeLoad, target: TargetTable) -> Generator[None]:
    """Drop the analysts' view for a while, if there is one, and make it anew by the contract, with its grants."""
    kind, _, view_id = cursor.execute(statements.FIND_RELATION, view_names(load)).fetchone() or ("", "", 0)
    if kind != "v":
        yield
        return
    grants = cursor.execute(statements.FIND_GRANTS, [view_id]).fetchall()
    cursor.execute(statements.drop_view(target))
    yield
    cursor.execute(statements.create_view(target))
    for role, privilege, is_grantable in grants:
        cursor.execute(statements.grant(target, role=role, privilege=privilege, is_grantable=is_grantable))


def view_names(load: NativeLoad) -> list[str]:
    return [load.contract.source, load.contract.table]


def base_names(load: NativeLoad) -> list[str]:
    return [statements.base_schema_of(load.contract.source), load.contract.table]
