"""What is said to SQLite, and what it answers: the real thing, in memory."""

import math
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.dialects import Carriage, CsvField, Dialect
from services.extractor.dialects.sqlite import SqliteDialect
from services.processor.decode import parse_records
from shared.domain.contracts import ColumnType

DIALECT: Dialect = SqliteDialect()

FATES = {
    "INTEGER": "int64",
    "unsigned big int": "int64",
    "TINYINT(1)": "int64",
    "BOOLEAN": "boolean",
    "VARCHAR(255)": "string",
    "CLOB": "string",
    "JSON": "json",
    "BLOB": "binary",
    "REAL": "float64",
    "DOUBLE PRECISION": "float64",
    "DATE": "date",
    "DATETIME": "timestamp",
    "timestamp(6)": "timestamp",
}


@pytest.fixture
def database():
    with sqlite3.connect(":memory:", isolation_level=None) as connection:
        yield connection


def texts(connection: sqlite3.Connection, declared: str, *values: object) -> list[str | None]:
    """The texts of values in a column of a declared type."""
    connection.execute(f"CREATE TABLE things (v {declared})")
    connection.executemany("INSERT INTO things VALUES (?)", [(value,) for value in values])
    query = f"SELECT {DIALECT.text_of('`v`', declared)} FROM things ORDER BY rowid"
    return [text for (text,) in connection.execute(query)]


@pytest.mark.parametrize("source_type", FATES)
def test_a_declared_type_tells_the_type_of_its_values(source_type):
    fate = DIALECT.fate_of(source_type)

    assert (fate.carriage, str(fate.type)) == (Carriage.EXACT, FATES[source_type])


@pytest.mark.parametrize("source_type", ["", "NUMERIC", "DECIMAL(10,2)", "ANY", "STRING"])
def test_a_type_that_promises_nothing_leaves_as_text(source_type):
    fate = DIALECT.fate_of(source_type)

    assert (fate.carriage, str(fate.type)) == (Carriage.TEXT, "string")


@pytest.mark.parametrize(
    ("source_type", "declared", "answer"),
    [
        ("INTEGER", "string", True),
        ("INTEGER", "float64", False),
        ("NUMERIC", "float64", False),
        ("DECIMAL(10,2)", "decimal(10,2)", True),
        ("DATETIME", "int64", True),
        ("TEXT", "timestamptz", True),
        ("REAL", "int64", False),
        ("BLOB", "string", False),
        ("BOOLEAN", "string", False),
    ],
)
def test_a_contract_may_declare_what_changes_no_value(source_type, declared, answer):
    assert DIALECT.can_carry(source_type, ColumnType.parse(declared)) is answer


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=200))
def test_every_float_reads_back_as_itself(values):
    with sqlite3.connect(":memory:") as connection:
        found = texts(connection, "REAL", *values)

    # SQLite makes 0 of -0 when it stores it.
    assert [float(text or "nan") for text in found] == [value + 0.0 for value in values]


@given(st.decimals(-(10**9), 10**9, places=4))
def test_a_decimal_that_was_kept_as_a_float_keeps_its_digits(value):
    with sqlite3.connect(":memory:") as connection:
        (text,) = texts(connection, "DECIMAL(13,4)", str(value))

    assert float(text or "nan") == float(value)
    assert len((text or "").partition(".")[2]) <= 4


def test_the_ends_of_each_storage_class_are_told(database):
    found = texts(database, "NUMERIC", -(2**63), 2**63 - 1, math.inf, -math.inf, math.nan, "x", "", None)

    assert found == [
        "-9223372036854775808",
        "9223372036854775807",
        "Infinity",
        "-Infinity",
        None,
        "x",
        "",
        None,
    ]


def test_what_is_no_boolean_is_not_taken_for_one(database):
    assert texts(database, "BOOLEAN", 0, 1, 2, "true", None) == ["false", "true", "(integer)", "(text)", None]


def test_a_text_among_blobs_is_not_taken_for_bytes(database):
    assert texts(database, "BLOB", b"\x00\xff", b"", "\\x00", None) == ["\\x00FF", "\\x", "(text)", None]


def test_a_blob_among_texts_cannot_pass_for_a_text(database):
    (text,) = texts(database, "TEXT", b"abc")

    assert "\0" in (text or "")


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64),
)
def test_any_name_is_one_identifier(table, column):
    table = f"t{table}"
    with sqlite3.connect(":memory:") as connection:
        connection.execute(f"CREATE TABLE {DIALECT.quote(table)} ({DIALECT.quote(column)} TEXT)")
        connection.execute(f"INSERT INTO {DIALECT.quote(table)} VALUES ('here')")
        statement = DIALECT.columns("main", table)
        described = connection.execute(statement.sql, statement.parameters).fetchall()
        query = f"SELECT {DIALECT.text_of(DIALECT.quote(column), 'TEXT')} FROM {DIALECT.quote(table)}"

        assert connection.execute(query).fetchall() == [("here",)]

    assert described == [(column, "TEXT", "1")]


def test_a_column_that_is_gone_is_no_string(database):
    database.execute("CREATE TABLE things (v TEXT)")

    with pytest.raises(sqlite3.OperationalError, match="no such column"):
        database.execute(f"SELECT {DIALECT.quote('gone')} FROM things")


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_name_that_cannot_be_is_refused(name):
    with pytest.raises(ValueError, match="without NUL"):
        DIALECT.quote(name)


def test_the_catalogue_tells_tables_columns_and_keys(database):
    database.execute("CREATE TABLE orders (b INTEGER, a TEXT NOT NULL, v AS (b + 1), PRIMARY KEY (a, b))")
    database.execute("CREATE TABLE counted (id INTEGER PRIMARY KEY, note)")
    database.execute("CREATE VIEW seen AS SELECT a FROM orders")

    def ask(statement):
        return database.execute(statement.sql, statement.parameters).fetchall()

    assert ask(DIALECT.tables()) == [
        ("main", "counted", "table"),
        ("main", "orders", "table"),
        ("main", "seen", "view"),
    ]
    assert ask(DIALECT.table("main", "seen")) == [("view",)]
    assert ask(DIALECT.table("main", "gone")) == []
    assert ask(DIALECT.columns("main", "orders")) == [
        ("b", "INTEGER", "1"),
        ("a", "TEXT", "0"),
        ("v", "", "1"),
    ]
    assert ask(DIALECT.columns("main", "counted")) == [("id", "INTEGER", "0"), ("note", "", "1")]
    assert ask(DIALECT.key("main", "orders")) == [("a",), ("b",)]
    ((clock,),) = ask(DIALECT.clock())
    assert len(clock) == len("2026-11-22T20:15:00.123456")


def test_a_window_is_half_open_whether_or_not_a_moment_has_a_fraction(database):
    database.execute("CREATE TABLE things (at DATETIME)")
    spelled = [
        "2026-01-01 09:59:59.999",
        "2026-01-01 10:00:00",
        "2026-01-01 10:00:00.000000",
        "2026-01-01 11:00:00",
    ]
    database.executemany("INSERT INTO things VALUES (?)", [(text,) for text in spelled])
    bound = DIALECT.parameter("DATETIME")

    found = database.execute(
        f"SELECT at FROM things WHERE at >= {bound} AND at < {bound}",
        ("2026-01-01 10:00:00.000000", "2026-01-01 11:00:00.000000"),
    ).fetchall()

    assert found == [(spelled[1],), (spelled[2],)]


def test_a_cursor_in_another_spelling_is_found(database):
    database.execute("CREATE TABLE things (at DATETIME)")
    good = ["2026-01-01 10:00:00", "2026-01-01 10:00:00.5"]
    strange = ["2026-01-01T10:00:00", "2026-01-01", "1767261600", 1767261600, "now"]
    database.executemany("INSERT INTO things VALUES (?)", [(value,) for value in [*good, *strange]])

    query = f"SELECT count(*) FROM things WHERE {DIALECT.in_no_window('`at`', 'DATETIME')}"

    assert database.execute(query).fetchone() == (len(strange),)


NASTY = ["", "NULL", None, '"', ",", "\n", "\r\n", "a\nb", '""', "é漢🎉", "\ufeffx", "=1+1"]


@given(st.lists(st.lists(st.sampled_from(NASTY), min_size=3, max_size=3), min_size=1, max_size=20))
def test_a_record_reads_as_its_values(rows):
    names = ["a", "b", "c"]
    fields = [CsvField(f"`{name}`", DIALECT.text_of(f"`{name}`", "TEXT"), is_plain=False) for name in names]
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE things (a TEXT, b TEXT, c TEXT)")
        connection.executemany("INSERT INTO things VALUES (?, ?, ?)", rows)
        query = f"SELECT {DIALECT.record_of(fields)} FROM things ORDER BY rowid"
        body = "".join(record for (record,) in connection.execute(query)).encode()

    found = parse_records(body, column_count=3, place="here").rows()

    assert [list(row) for row in found] == rows


def test_a_record_may_have_as_many_columns_as_a_table(database):
    count = 2000
    database.execute(f"CREATE TABLE wide ({', '.join(f'c{number} REAL' for number in range(count))})")
    database.execute(f"INSERT INTO wide VALUES ({', '.join(['0.1'] * count)})")
    fields = [CsvField(f"c{n}", DIALECT.text_of(f"c{n}", "REAL"), is_plain=False) for n in range(count)]

    (record,) = database.execute(f"SELECT {DIALECT.record_of(fields)} FROM wide").fetchone()

    assert record == ",".join(['"0.1"'] * count) + "\n"
