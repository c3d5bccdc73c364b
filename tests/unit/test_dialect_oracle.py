"""What is said to Oracle. No server was at hand: the text is held to Oracle's documents."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.extractor.dialects import Carriage, Dialect
from services.extractor.dialects.oracle import OracleDialect
from shared.domain.contracts import ColumnType

DIALECT: Dialect = OracleDialect()
NLS = "'NLS_NUMERIC_CHARACTERS=''.,'''"

FATES = {
    "NUMBER(4,0)": "int16",
    "NUMBER(9,0)": "int32",
    "NUMBER(18,0)": "int64",
    "NUMBER(19,0)": "decimal(19,0)",
    "NUMBER(38,10)": "decimal(38,10)",
    "BINARY_FLOAT": "float32",
    "BINARY_DOUBLE": "float64",
    "VARCHAR2(100)": "string",
    "NCHAR(5)": "string",
    "CLOB": "string",
    "RAW(16)": "binary",
    "DATE": "timestamp",
    "TIMESTAMP(6)": "timestamp",
    "TIMESTAMP(3) WITH LOCAL TIME ZONE": "timestamptz",
    "BOOLEAN": "boolean",
}
TEXTS = [
    "NUMBER",
    "NUMBER(*,0)",
    "NUMBER(5,-2)",
    "NUMBER(2,5)",
    "FLOAT(126)",
    "TIMESTAMP(9)",
    "TIMESTAMP(6) WITH TIME ZONE",
    "INTERVAL YEAR(2) TO MONTH",
    "INTERVAL DAY(2) TO SECOND(6)",
    "ROWID",
    "XMLTYPE",
    "JSON",
]


@pytest.mark.parametrize("source_type", FATES)
def test_a_type_that_one_of_ours_holds_is_exact(source_type):
    fate = DIALECT.fate_of(source_type)

    assert (fate.carriage, str(fate.type)) == (Carriage.EXACT, FATES[source_type])


@pytest.mark.parametrize("source_type", TEXTS)
def test_a_type_that_none_of_ours_holds_leaves_as_text(source_type):
    fate = DIALECT.fate_of(source_type)

    assert (fate.carriage, str(fate.type)) == (Carriage.TEXT, "string")
    assert DIALECT.text_of('"C"', source_type)


@pytest.mark.parametrize(
    "source_type", ["LONG", "LONG RAW", "BLOB", "BFILE", "VECTOR", "MDSYS.SDO_GEOMETRY", "SCOTT.ADDRESS", ""]
)
def test_a_type_whose_text_would_not_be_its_value_is_refused_with_the_reason(source_type):
    fate = DIALECT.fate_of(source_type)

    assert fate.carriage is Carriage.REFUSED
    assert fate.note
    assert not DIALECT.can_carry(source_type, ColumnType.parse("string"))
    with pytest.raises(ValueError, match="refused"):
        DIALECT.text_of('"C"', source_type)


@pytest.mark.parametrize(
    ("source_type", "declared", "answer"),
    [
        ("NUMBER", "int64", True),
        ("NUMBER", "decimal(38,10)", True),
        ("NUMBER", "float64", False),
        ("NUMBER(10,0)", "decimal(19,0)", True),
        ("NUMBER(10,2)", "int64", False),
        ("TIMESTAMP(9)", "timestamp", True),
        ("TIMESTAMP(6) WITH TIME ZONE", "timestamptz", True),
        ("TIMESTAMP(6)", "timestamptz", False),
        ("DATE", "date", False),
        ("JSON", "json", True),
        ("VARCHAR2(10)", "json", False),
    ],
)
def test_a_contract_may_declare_what_changes_no_value(source_type, declared, answer):
    assert DIALECT.can_carry(source_type, ColumnType.parse(declared)) is answer


@pytest.mark.parametrize(
    ("source_type", "text"),
    [
        ("NUMBER(5,2)", f"TO_CHAR(\"C\", 'FM990.00', {NLS})"),
        ("NUMBER(5,0)", f"TO_CHAR(\"C\", 'FM99990', {NLS})"),
        ("NUMBER(2,2)", f"TO_CHAR(\"C\", 'FM0.00', {NLS})"),
        ("NUMBER", f"REGEXP_REPLACE(TO_CHAR(\"C\", 'TM9', {NLS}), '^(-?)[.]', '\\10.')"),
        # Without the S the year of 44 BC would be that of 44 AD.
        ("DATE", "LTRIM(TO_CHAR(\"C\", 'SYYYY-MM-DD HH24:MI:SS'))"),
        ("TIMESTAMP(6)", "LTRIM(TO_CHAR(\"C\", 'SYYYY-MM-DD HH24:MI:SS.FF6'))"),
        ("TIMESTAMP(0)", "LTRIM(TO_CHAR(\"C\", 'SYYYY-MM-DD HH24:MI:SS'))"),
        ("TIMESTAMP(9) WITH TIME ZONE", "LTRIM(TO_CHAR(\"C\", 'SYYYY-MM-DD HH24:MI:SS.FF9TZH:TZM'))"),
        # The empty string is NULL there, so NULL would become the prefix alone.
        ("RAW(16)", 'CASE WHEN "C" IS NOT NULL THEN \'\\x\' || RAWTOHEX("C") END'),
        ("RAW(2000)", 'CASE WHEN "C" IS NOT NULL THEN TO_CLOB(\'\\x\') || RAWTOHEX("C") END'),
        ("VARCHAR2(10)", '"C"'),
        ("BOOLEAN", "CASE WHEN \"C\" THEN 'true' WHEN NOT \"C\" THEN 'false' END"),
    ],
)
def test_the_server_renders_the_text(source_type, text):
    assert DIALECT.text_of('"C"', source_type) == text


def test_floats_have_the_words_that_the_processor_reads():
    text = DIALECT.text_of('"C"', "BINARY_DOUBLE")

    assert "'NaN'" in text
    assert "'Infinity'" in text
    assert "'-Infinity'" in text
    assert "FM9.0000000000000000EEEE" in text


@given(st.text(st.characters(exclude_characters='\0"', exclude_categories=["Cs"]), min_size=1, max_size=32))
def test_any_name_is_one_identifier(name):
    quoted = DIALECT.quote(name)

    assert quoted == f'"{name}"'
    assert quoted.count('"') == 2


@pytest.mark.parametrize("name", ["", 'a"b', "a\0b", "x" * 129])
def test_a_name_that_the_server_cannot_have_is_refused(name):
    with pytest.raises(ValueError, match="1 to 128 bytes"):
        DIALECT.quote(name)


@given(st.text(), st.text())
def test_names_reach_the_catalogue_as_parameters(schema, name):
    for ask in (DIALECT.columns, DIALECT.key, DIALECT.table):
        statement = ask(schema, name)

        assert statement.sql == ask("sales", "orders").sql
        assert statement.sql.count("?") == 2
        assert statement.parameters == (schema, name)


def test_a_snapshot_begins_with_its_transaction_and_no_begin():
    assert DIALECT.begin_snapshot() == ("ROLLBACK", "SET TRANSACTION READ ONLY")
    assert not DIALECT.begins_by_statement


def test_one_value_has_one_text_whatever_the_server_has_set():
    settings = " ".join(DIALECT.session_settings(statement_timeout_seconds=600, lock_timeout_seconds=10))

    for name in ("TIME_ZONE", "NLS_CALENDAR", "NLS_NUMERIC_CHARACTERS", "NLS_DATE_LANGUAGE", "NLS_SORT"):
        assert f"SET {name} =" in settings


@pytest.mark.parametrize(
    ("source_type", "placeholder"),
    [
        ("DATE", "TO_DATE(SUBSTR(?, 1, 19), 'YYYY-MM-DD HH24:MI:SS')"),
        ("TIMESTAMP(6)", "TO_TIMESTAMP(?, 'YYYY-MM-DD HH24:MI:SS.FF6')"),
        ("TIMESTAMP(6) WITH TIME ZONE", "FROM_TZ(TO_TIMESTAMP(?, 'YYYY-MM-DD HH24:MI:SS.FF6'), '+00:00')"),
        ("NUMBER(10,0)", "TO_NUMBER(?)"),
    ],
)
def test_a_bound_has_the_type_of_its_column_so_that_an_index_serves(source_type, placeholder):
    assert DIALECT.parameter(source_type) == placeholder


def test_a_type_without_an_order_bounds_nothing():
    with pytest.raises(ValueError, match="can be compared"):
        DIALECT.parameter("CLOB")
