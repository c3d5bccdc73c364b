"""What a migration did to the ledger, read from the catalogues, and which of it the version before would not survive."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from alembic import command
from sqlalchemy import create_engine

from infra import migrations
from shared.ledger.tables import SCHEMA

#: `(column = ANY (ARRAY['a'::text, 'b'::text]))`, as PostgreSQL writes `column IN ('a', 'b')`.
_SLUGS = re.compile(r"CHECK \(\((?P<subject>.+) = ANY \(ARRAY\[(?P<slugs>[^\]]*)\]\)\)\)")


@dataclass(frozen=True, slots=True)
class Schema:
    """The ledger's schema, by the names of its objects."""

    #: `table.column` → type, whether it is NOT NULL, whether something fills it by itself.
    columns: Mapping[str, tuple[str, bool, bool]]
    #: `table.name` → kind (p, u, f, c, x), definition, columns as `table.column`.
    constraints: Mapping[str, tuple[str, str, frozenset[str]]]
    #: Those that no constraint made. `table.name` → whether unique, definition, columns.
    indexes: Mapping[str, tuple[bool, str, frozenset[str]]]
    #: `table.name` → definition.
    triggers: Mapping[str, str]
    functions: Mapping[str, str]
    edges: frozenset[tuple[str, str]]

    @property
    def tables(self) -> set[str]:
        """The tables that have columns."""
        return {column.partition(".")[0] for column in self.columns}


def read_schema(connection: psycopg.Connection) -> Schema:
    """Read the ledger's schema as the transaction of a connection sees it."""

    def rows(query: str) -> list[tuple[Any, ...]]:
        return connection.execute(query).fetchall()  # type: ignore[call-overload,no-any-return]

    here = f"'{SCHEMA}'::regnamespace AND relname NOT LIKE 'alembic\\_version%'"
    columns_of = (
        "(SELECT coalesce(array_agg(relname || '.' || attname), '{{}}') FROM pg_attribute a"
        " WHERE a.attrelid = t.oid AND a.attnum = ANY({}))"
    )
    return Schema(
        columns={
            name: (kind, is_not_null, is_filled)
            for name, kind, is_not_null, is_filled in rows(
                "SELECT relname || '.' || attname, format_type(atttypid, atttypmod), attnotnull,"
                " atthasdef OR attidentity <> '' FROM pg_attribute JOIN pg_class t ON t.oid = attrelid"
                f" WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped AND relnamespace = {here}"
            )
        },
        constraints={
            name: (kind, definition, frozenset(columns))
            for name, kind, definition, columns in rows(
                f"SELECT relname || '.' || conname, contype::text, pg_get_constraintdef(c.oid), {columns_of.format('conkey')}"
                f" FROM pg_constraint c JOIN pg_class t ON t.oid = conrelid WHERE contype <> 'n' AND relnamespace = {here}"
            )
        },
        indexes={
            name: (is_unique, definition, frozenset(columns))
            for name, is_unique, definition, columns in rows(
                "SELECT relname || '.' || indexrelid::regclass::text, indisunique, pg_get_indexdef(indexrelid),"
                f" {columns_of.format('indkey')} FROM pg_index JOIN pg_class t ON t.oid = indrelid"
                f" WHERE relnamespace = {here} AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)"
            )
        },
        triggers=dict(
            rows(
                "SELECT relname || '.' || tgname, pg_get_triggerdef(g.oid) FROM pg_trigger g"
                f" JOIN pg_class t ON t.oid = tgrelid WHERE NOT tgisinternal AND relnamespace = {here}"
            )
        ),
        functions=dict(
            rows(f"SELECT proname, prosrc FROM pg_proc WHERE pronamespace = '{SCHEMA}'::regnamespace")
        ),
        edges=frozenset(rows(f"SELECT from_state, to_state FROM {SCHEMA}.allowed_edge")),
    )


def migrate_to(dsn: str, revision: str, *, chain: migrations.Chain = migrations.PRE) -> None:
    """Bring a database to one revision of a chain: the way there is what is looked at."""
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        configuration = migrations._configuration(chain)
        configuration.attributes |= {"connection": connection, "version_table": chain.version_table}
        command.upgrade(configuration, revision)
    engine.dispose()


def mistakes(before: Schema, after: Schema, *, harmless: Mapping[str, str] | None = None) -> list[str]:
    """
    Return what a process that knows the schema `before` could stumble over in the schema `after`.

    What is wider than it was passes: a new table, a column that may stay empty or fills itself, a value more in a list,
    an index, an edge. `harmless` names objects (a trigger, a constraint …) of which a person said why they are, too.
    """
    found = [
        *_gone(before, after),
        *_columns(before, after),
        *_constraints(before, after),
        *_indexes(before, after),
        *_code(before, after),
    ]
    waived = set(harmless or {})
    return [f"{name}: {what}" for name, what in found if name.rpartition(".")[2] not in waived]


def _gone(before: Schema, after: Schema) -> list[tuple[str, str]]:
    gone = [(table, "a table was removed") for table in sorted(before.tables - after.tables)]
    gone += [
        (column, "a column was removed, or renamed")
        for column in sorted(set(before.columns) - set(after.columns))
        if column.partition(".")[0] in after.tables
    ]
    return gone + [("allowed_edge", f"{' → '.join(edge)} was removed") for edge in before.edges - after.edges]


def _columns(before: Schema, after: Schema) -> list[tuple[str, str]]:
    found = []
    for name, (kind, is_not_null, is_filled) in after.columns.items():
        if name not in before.columns:
            if name.partition(".")[0] in before.tables and is_not_null and not is_filled:
                found.append((name, "a new column that old INSERTs leave out is NOT NULL and has no default"))
            continue
        old_kind, was_not_null, was_filled = before.columns[name]
        if kind != old_kind:
            found.append((name, f"its type became {kind}, it was {old_kind}"))
        if is_not_null and not was_not_null:
            found.append((name, "it became NOT NULL"))
        if is_not_null and was_filled and not is_filled:
            found.append((name, "its default was removed"))
    return found


def _constraints(before: Schema, after: Schema) -> list[tuple[str, str]]:
    found = [
        (name, "a key was removed; ON CONFLICT needs it")
        for name, (kind, _, _) in before.constraints.items()
        if kind in "pux" and name not in after.constraints and name.partition(".")[0] in after.tables
    ]
    for name, (kind, definition, columns) in after.constraints.items():
        if name.partition(".")[0] not in before.tables:
            continue
        if name in before.constraints:
            _, old_definition, _ = before.constraints[name]
            if definition != old_definition and not _is_wider(definition, old_definition):
                found.append((name, f"became {definition}, it was {old_definition}"))
        elif not _are_left_alone(columns, before, after, is_key=kind in "pux"):
            found.append((name, f"refuses what was allowed: {definition}"))
    return found


def _indexes(before: Schema, after: Schema) -> list[tuple[str, str]]:
    return [
        (name, f"refuses what was allowed: {definition}")
        for name, (is_unique, definition, columns) in after.indexes.items()
        if is_unique
        and name.partition(".")[0] in before.tables
        and before.indexes.get(name, (False, "", None))[1] != definition
        and not _are_left_alone(columns, before, after, is_key=True)
    ] + [
        (name, "a unique index was removed; ON CONFLICT may need it")
        for name, (is_unique, _, _) in before.indexes.items()
        if is_unique and name not in after.indexes and name.partition(".")[0] in after.tables
    ]


def _code(before: Schema, after: Schema) -> list[tuple[str, str]]:
    triggers = [
        (name, "a trigger on a table that was there is new or another")
        for name, definition in after.triggers.items()
        if name.partition(".")[0] in before.tables and before.triggers.get(name) != definition
    ]
    functions = [
        (name, "a function became another, or was removed")
        for name, body in before.functions.items()
        if after.functions.get(name) != body
    ]
    return triggers + functions


def _is_wider(definition: str, old_definition: str) -> bool:
    """Whether a list of allowed values still holds all that it held."""
    new, old = _SLUGS.fullmatch(definition), _SLUGS.fullmatch(old_definition)
    if new is None or old is None or new["subject"] != old["subject"]:
        return False
    return set(old["slugs"].split(", ")) <= set(new["slugs"].split(", "))


def _are_left_alone(columns: frozenset[str], before: Schema, after: Schema, *, is_key: bool) -> bool:
    """Whether statements of the version before never write to any of these columns, nor fill them twice alike."""
    if not columns or columns & set(before.columns):
        return False
    return not is_key or not any(after.columns[column][2] for column in columns)
