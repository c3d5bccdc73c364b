"""What is said to SQL Server. No server was at hand: the text is held to Microsoft's documents."""

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.extraction import WINDOW, column, make_contract

from services.extractor.dialects import Carriage, CsvField, Dialect
from services.extractor.dialects.sqlserver import SqlServerDialect
from services.extractor.readers import SourceColumn, conditions_of
from services.extractor.readers.sql.records import RecordQuery
from shared.domain.contracts import ColumnType, Cursor, CursorScale
from shared.domain.windows import Extent

DIALECT: Dialect = SqlServerDialect()

FATES = {
    "bit": "boolean",
    "tinyint": "int16",
    "int": "int32",
    "bigint": "int64",
    "rowversion": "int64",
    "decimal(38,10)": "decimal(38,10)",
    "numeric(18,0)": "decimal(18,0)",
    "money": "decimal(19,4)",
    "smallmoney": "decimal(10,4)",
    "real": "float32",
    "float": "float64",
    "nvarchar(max)": "string",
    "char(10)": "string",
    "ntext": "string",
    "varbinary(max)": "binary",
    "image": "binary",
    "geography": "binary",
    "date": "date",
    "datetime": "timestamp",
    "smalldatetime": "timestamp",
    "datetime2(6)": "timestamp",
}


@pytest.mark.parametrize("source_type", FATES)
def test_a_type_that_one_of_ours_holds_is_exact(source_type):
    fate = DIALECT.fate_of(source_type)

    assert (fate.carriage, str(fate.type)) == (Carriage.EXACT, FATES[source_type])


@pytest.mark.parametrize(
    "source_type", ["datetime2(7)", "datetimeoffset(7)", "time(7)", "uniqueidentifier", "hierarchyid", "xml"]
)
def test_a_type_that_none_of_ours_holds_leaves_as_text(source_type):
    fate = DIALECT.fate_of(source_type)

    assert (fate.carriage, str(fate.type)) == (Carriage.TEXT, "string")


@pytest.mark.parametrize(
    "source_type", ["sql_variant", "vector", "dbo.Point", "masked nvarchar(50)", "something new", ""]
)
def test_a_type_whose_text_would_not_be_its_value_is_refused_with_the_reason(source_type):
    fate = DIALECT.fate_of(source_type)

    assert fate.carriage is Carriage.REFUSED
    assert fate.note
    assert not DIALECT.can_carry(source_type, ColumnType.parse("string"))
    with pytest.raises(ValueError, match="refused"):
        DIALECT.text_of("[c]", source_type)


@pytest.mark.parametrize(
    ("source_type", "declared", "answer"),
    [
        ("int", "int64", True),
        ("bigint", "int32", False),
        ("decimal(12,2)", "decimal(14,3)", True),
        ("decimal(12,2)", "decimal(12,3)", False),
        ("money", "float64", False),
        ("real", "float64", True),
        ("datetime2(7)", "timestamp", True),
        ("datetimeoffset(3)", "timestamptz", True),
        ("datetimeoffset(3)", "timestamp", False),
        ("datetime", "timestamptz", False),
        ("uniqueidentifier", "string", True),
    ],
)
def test_a_contract_may_declare_what_changes_no_value(source_type, declared, answer):
    assert DIALECT.can_carry(source_type, ColumnType.parse(declared)) is answer


@pytest.mark.parametrize(
    ("source_type", "text"),
    [
        ("bit", "CASE [c] WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"),
        ("decimal(38,38)", "CONVERT(varchar(41), [c])"),
        ("money", "CONVERT(varchar(30), [c], 2)"),
        ("float", "CONVERT(varchar(32), [c], 3)"),
        ("rowversion", "CONVERT(varchar(20), CONVERT(bigint, [c]))"),
        ("datetime2(6)", "CONVERT(varchar(27), [c], 121)"),
        ("datetimeoffset(7)", "CONVERT(varchar(33), [c], 126)"),
        ("nvarchar(50)", "[c]"),
        ("varchar(50)", "CONVERT(nvarchar(50), [c])"),
        ("varchar(5000)", "CONVERT(nvarchar(max), [c])"),
        ("varbinary(16)", "'\\x' + CONVERT(varchar(32), [c], 2)"),
        # A sum of 2 and 8,000 characters would be cut to 8,000.
        ("binary(4000)", "'\\x' + CONVERT(varchar(max), [c], 2)"),
        ("geography", "'\\x' + CONVERT(varchar(max), CONVERT(varbinary(max), [c]), 2)"),
        ("hierarchyid", "[c].ToString()"),
    ],
)
def test_the_server_renders_the_text(source_type, text):
    assert DIALECT.text_of("[c]", source_type) == text


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=64))
def test_any_name_is_one_identifier(name):
    quoted = DIALECT.quote(name)

    # Closed by the one bracket that is not doubled.
    assert re.fullmatch(r"\[((?:[^\]]|\]\])*)\]", quoted, re.DOTALL)
    assert quoted[1:-1].replace("]]", "]") == name


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 129, "😀" * 65])
def test_a_name_that_the_server_cannot_have_is_refused(name):
    with pytest.raises(ValueError, match="1 to 128 characters"):
        DIALECT.quote(name)


@given(st.text(), st.text())
def test_names_reach_the_catalogue_as_parameters(schema, name):
    for ask in (DIALECT.columns, DIALECT.key, DIALECT.table):
        statement = ask(schema, name)

        assert statement.sql == ask("sales", "orders").sql
        assert statement.sql.count("?") == 2
        assert statement.parameters == (schema, name)


def test_long_values_are_not_cut_whatever_the_driver_has_set():
    settings = DIALECT.session_settings(statement_timeout_seconds=600, lock_timeout_seconds=10)

    assert "SET TEXTSIZE 2147483647" in settings
    assert "SET LOCK_TIMEOUT 10000" in settings


def test_a_database_without_snapshots_says_what_its_owner_has_to_do():
    first, *rest = DIALECT.begin_snapshot()

    assert "ALTER DATABASE CURRENT SET ALLOW_SNAPSHOT_ISOLATION ON" in first
    assert rest == ["SET TRANSACTION ISOLATION LEVEL SNAPSHOT", "BEGIN TRANSACTION"]


@pytest.mark.parametrize(
    ("source_type", "placeholder"),
    [
        ("datetime", "CONVERT(datetime, CONVERT(datetime2(6), ?, 121))"),
        ("datetime2(3)", "CONVERT(datetime2(3), CONVERT(datetime2(6), ?, 121))"),
        ("datetimeoffset(7)", "TODATETIMEOFFSET(CONVERT(datetime2(6), ?, 121), '+00:00')"),
        (
            "rowversion",
            (
                "(SELECT CONVERT(binary(8), CASE WHEN bound.n < 0 THEN 0 ELSE bound.n END) "
                "FROM (SELECT CONVERT(bigint, ?) AS n) AS bound)"
            ),
        ),
        ("smallint", "CONVERT(bigint, ?)"),
        ("varchar(20)", "CONVERT(varchar(20), ?)"),
    ],
)
def test_a_bound_has_the_type_of_its_column_so_that_an_index_serves(source_type, placeholder):
    assert DIALECT.parameter(source_type) == placeholder


def test_a_type_without_an_order_bounds_nothing():
    with pytest.raises(ValueError, match="can be compared"):
        DIALECT.parameter("xml")


# ---- queries and ranges of keys ----------------------------------------------------------------------------


def test_a_query_is_described_by_the_server_with_the_query_as_a_value():
    (parameter,) = DIALECT.describe_query("SELECT 'a' AS b", []).columns.parameters

    assert parameter == "SELECT 'a' AS b"
    assert DIALECT.names_of_query("SELECT 'a' AS b") is None
    assert "'rowversion'" in DIALECT.describe_query("SELECT 1", []).columns.sql


def test_a_cell_is_cut_by_whole_numbers_below_zero_too():
    assert DIALECT.cell_of("[id]", 3) == (
        "((CAST([id] AS bigint) - ((CAST([id] AS bigint) % 8) + 8) % 8) / 8)"
    )


def test_a_hash_has_each_text_whole_and_in_quotes_and_null_as_nothing():
    """Two texts of 4,000 characters end there when they are joined; with the largest type among them none is cut."""
    fields = [CsvField("[a]", "A", is_plain=False), CsvField("[b]", "B", is_plain=True)]

    def quoted(text: str) -> str:
        whole = f"CAST({text} AS nvarchar(max)) COLLATE Latin1_General_BIN2"
        return f"""COALESCE('"' + REPLACE({whole}, '"', '""') + '"', '')"""

    assert DIALECT.hash_of(fields) == f"HASHBYTES('MD5', {quoted('A')} + ',' + {quoted('B')})"
    assert [re.search(r"\(h, (\d+), 4\)", text)[1] for text in DIALECT.quarters_of("h")] == [
        "1",
        "5",
        "9",
        "13",
    ]


def test_a_rowversion_is_a_cursor_that_counts():
    """Eight bytes that only grow, as a number: rendered so, compared so, and with an index on the column itself."""
    contract = make_contract(
        [column("id", "int64"), column("rv", "int64", source_type="rowversion")],
        relation=("dbo", "orders"),
        cursor=Cursor("rv", lag=timedelta(minutes=1), overlap=timedelta(0), overlap_count=10),
    )
    query = RecordQuery(
        contract,
        dialect=DIALECT,
        columns=[
            SourceColumn("id", "bigint", is_nullable=False),
            SourceColumn("rv", "rowversion", is_nullable=False),
        ],
        conditions=conditions_of(contract, WINDOW, extent=Extent("rv", "2001", "3001")),
        place="here",
    )

    assert contract.cursor_scale is CursorScale.COUNT
    bound = DIALECT.parameter("rowversion")
    assert "CASE WHEN bound.n < 0 THEN 0" in bound  # an overlap may reach below zero, and bytes have no sign
    assert query.statement().sql == (
        "SELECT CONVERT(varchar(20), [id]) AS c0, CONVERT(varchar(20), CONVERT(bigint, [rv])) AS c1 FROM [dbo].[orders] "
        f"WHERE [rv] < {bound} AND [rv] >= {bound}"
    )
    assert query.statement().parameters == ("3001", "1991")
    assert "MIN([rv])" in query.bounds("rv").sql
