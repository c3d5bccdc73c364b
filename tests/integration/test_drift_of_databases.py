"""Drift of MariaDB and SQLite, by the words that these servers have for their types."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.databases import MariaDbDatabase, Source, SqliteDatabase, by_odbc, by_sqlalchemy
from support.extraction import HMAC, KEEP, bodies, column, run_extract

from services.extractor.readers import open_reader
from shared.domain.contracts import Mask, TableContract
from shared.domain.drift import Change, ChangeKind, Drift
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.secrets.memory import MemorySecrets


@pytest.fixture(params=[by_odbc, by_sqlalchemy])
def mariadb(request: pytest.FixtureRequest) -> Iterator[Source]:
    database = MariaDbDatabase(
        request.getfixturevalue("mariadb_server"), request.getfixturevalue("fresh_mariadb_database")
    )
    yield request.param(database)
    database.leave()


@pytest.fixture
def sqlite(tmp_path: Path) -> Source:
    return by_sqlalchemy(SqliteDatabase(tmp_path / "source.db"))


def drift(source: Source, contract: TableContract) -> Drift:
    with open_reader(contract, secrets=MemorySecrets(source.secrets)) as reader:
        return reader.drift()


def word_of(source: Source, name: str) -> str:
    """The server's own word for the type of a column of `customers`."""
    changes = drift(source, source.contract(column("id"))).of_kind(ChangeKind.COLUMN_ADDED)
    (word,) = [change.after for change in changes if change.column == name]
    return word


def changed_type(
    source: Source, before: str, after: str, *, value: str, declared: str, mask: Mask = KEEP
) -> tuple[TableContract, Change]:
    """A table whose column is declared as its server calls it, and what the drift is once the type was altered."""
    source.run(
        f"CREATE TABLE customers (id int NOT NULL PRIMARY KEY, a {before})",
        f"INSERT INTO customers VALUES (1, {value})",
    )
    contract = source.contract(
        column("id", "int32"), column("a", declared, mask, source_type=word_of(source, "a"))
    )
    assert drift(source, contract) == Drift()
    source.run(f"ALTER TABLE customers MODIFY a {after}")
    (change,) = drift(source, contract).changes
    return contract, change


@pytest.mark.parametrize(
    ("before", "after", "value", "declared", "record"),
    [
        ("varchar(10)", "varchar(50)", "'x'", "string", b"x"),
        ("varchar(10)", "text", "'x'", "string", b"x"),
        ("tinytext", "mediumtext", "'x'", "string", b"x"),
        ("int", "bigint", "7", "int64", b"7"),
        ("int unsigned", "bigint", "3000000000", "int64", b"3000000000"),
        ("decimal(6,2)", "decimal(10,4)", "1.5", "decimal(12,4)", b"1.5000"),
        ("datetime", "datetime(6)", "'2026-01-01 10:00'", "timestamp", b"2026-01-01 10:00:00.000000"),
        ("enum('new','sent')", "enum('new','sent','back')", "'new'", "string", b"new"),
    ],
)
def test_what_mariadb_widens_is_read_exactly(
    mariadb: Source, before: str, after: str, value: str, declared: str, record: bytes
) -> None:
    contract, change = changed_type(mariadb, before, after, value=value, declared=declared)

    result, store = run_extract(contract, secrets=mariadb.secrets)

    assert change.kind is ChangeKind.TYPE_WIDENED
    assert b"".join(bodies(result, store)).replace(b'"', b"") == b"1," + record + b"\n"


@pytest.mark.parametrize(
    ("before", "after", "value", "declared", "mask", "kind"),
    [
        ("int", "bigint", "7", "int32", KEEP, ChangeKind.TYPE_OUTGROWN),
        ("int", "int unsigned", "7", "int64", KEEP, ChangeKind.TYPE_CHANGED),
        ("bigint", "int", "7", "int64", KEEP, ChangeKind.TYPE_NARROWED),
        ("text", "varchar(10)", "'x'", "string", KEEP, ChangeKind.TYPE_NARROWED),
        ("decimal(6,2)", "decimal(10,4)", "1.5", "decimal(12,4)", HMAC, ChangeKind.TYPE_OUTGROWN),
        ("enum('new','sent')", "enum('new')", "'new'", "string", KEEP, ChangeKind.TYPE_NARROWED),
        ("datetime", "date", "'2026-01-01'", "timestamp", KEEP, ChangeKind.TYPE_CHANGED),
    ],
)
def test_what_mariadb_changes_otherwise_is_held(
    mariadb: Source, before: str, after: str, value: str, declared: str, mask: Mask, kind: ChangeKind
) -> None:
    contract, change = changed_type(mariadb, before, after, value=value, declared=declared, mask=mask)

    with pytest.raises(Refused) as refused:
        run_extract(contract, secrets=mariadb.secrets)

    assert change.kind is kind
    assert refused.value.reason is Reason.TYPE_CHANGED
    assert Drift.of_document(refused.value.findings["drift"]).changes == (change,)


def test_a_key_that_mariadb_no_longer_has_is_held(mariadb: Source) -> None:
    mariadb.run("CREATE TABLE customers (id int NOT NULL PRIMARY KEY, tenant int NOT NULL)")
    contract = replace(mariadb.contract(column("id", "int32"), column("tenant", "int32")), key_is_unique=True)
    assert drift(mariadb, contract) == Drift()

    mariadb.run("ALTER TABLE customers DROP PRIMARY KEY, ADD PRIMARY KEY (tenant, id)")

    (change,) = drift(mariadb, contract).held
    assert (change.kind, change.after) == (ChangeKind.KEY_CHANGED, "(tenant, id)")


def test_any_other_word_of_sqlite_is_held_and_a_new_column_is_not(sqlite: Source) -> None:
    sqlite.run("CREATE TABLE customers (id INTEGER PRIMARY KEY, a VARCHAR(10))")
    contract = replace(
        sqlite.contract(column("id", "int64"), column("a", source_type=word_of(sqlite, "a"))),
        key_is_unique=True,
    )
    assert drift(sqlite, contract) == Drift()

    sqlite.run("DROP TABLE customers", "CREATE TABLE customers (id INTEGER, a VARCHAR(20), b TEXT)")

    kinds = {change.kind for change in drift(sqlite, contract).changes}
    assert kinds == {ChangeKind.TYPE_CHANGED, ChangeKind.KEY_CHANGED, ChangeKind.COLUMN_ADDED}
