"""Any name and any text is carried by Redshift's SQL as it is, or refused by name; never is a part of it read as SQL."""

import pytest
import sqlglot
from hypothesis import example, given
from hypothesis import strategies as st
from support.publish_batches import column, contract_of
from support.redshift_sql import load_of

from services.publisher.redshift.names import comment_text, folded, quote_identifier, quote_text
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.questions import refuse_changes
from services.publisher.redshift.rules import breaches, tokens
from services.publisher.redshift.statements import proofs
from services.publisher.redshift.target import target_of_load
from services.publisher.redshift.types import typed_column
from services.publisher.warehouse import QueryFailed
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.measures import ColumnMeasure

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200)


def is_a_name(name: str) -> bool:
    has_only_ascii_capitals = all(character.isascii() for character in name if character != character.lower())
    return 1 <= len(name.encode()) <= 127 and name.isprintable() and has_only_ascii_capitals


@given(texts)
@example('"; DROP TABLE x; --')
@example("select")
@example("é" * 63)
@example("é" * 64)
@example("É")
@example("'\\")
def test_a_name_is_one_name_or_refused_by_name(name):
    if not is_a_name(name):
        with pytest.raises(Refused) as refusal:
            quote_identifier(name)
        assert repr(name) in refusal.value.detail
        return

    quoted = quote_identifier(name)

    (token,) = tokens(quoted)
    assert token.kind == "quoted"
    assert token.text[1:-1].replace('""', '"') == folded(name) == name.lower()
    parsed = sqlglot.parse_one(f"SELECT {quoted}", dialect="redshift")
    assert parsed.expressions[0].name == name.lower()
    assert breaches([Statement("it", f"SELECT {quoted}")]) == []


@given(texts)
@example("it's")
@example("\\")
@example("\\' OR 1=1 --")
@example("%s :a $1 {}")
def test_a_text_is_one_text_without_any_escape(text):
    quoted = quote_text(text)

    assert "\\" not in quoted
    assert breaches([Statement("it", f"SELECT {quoted}")]) == []
    parts = [token.text[1:-1].replace("''", "'") for token in tokens(quoted) if token.kind == "text"]
    assert "\\".join(parts) == text


@given(st.text(max_size=5000))
def test_a_comment_is_always_one_literal_of_bounded_length(text):
    told = comment_text(text)

    assert quote_text(told).count(" || CHR(92)") == 0
    assert len(told) <= 4000


def test_a_text_with_a_nul_is_none():
    with pytest.raises(ValueError, match="NUL"):
        quote_text("a\0b")


@pytest.mark.parametrize("names", [("Name", "name"), ("É", "é"), ("naïve", "NAÏVE")])
def test_two_columns_that_fold_to_one_are_refused_with_both_names(names):
    contract = contract_of(column("id", "int64"), *map(column, names), cursor=None)

    with pytest.raises(Refused) as refusal:
        target_of_load(load_of(contract), [ColumnMeasure()] * 3)

    assert all(repr(name) in refusal.value.detail for name in names)


@pytest.mark.parametrize(
    ("contract", "expected"),
    [
        (contract_of(column("oid", "int64"), key=("oid",), cursor=None), "every table of Redshift has one"),
        (contract_of(column("_esclusa_x"), key=("_esclusa_x",), cursor=None), "Esclusa's own"),
        (contract_of(table="#orders"), "temporary"),
        (contract_of(table="_Esclusa_loads"), "Esclusa's own"),
        (contract_of(source="public"), "uses schemas"),
        (contract_of(column("doc", "json"), key=("doc",), cursor=None), "cannot be compared"),
        (contract_of(*(column(f"c{n}") for n in range(1598)), key=("c1",), cursor=None), "1597 columns"),
        (
            contract_of(
                *(column(f"c{n}", "json" if n else "int64") for n in range(1000)), key=("c0",), cursor=None
            ),
            "two for each of JSON",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_redshift_cannot_hold_is_refused_by_name(contract, expected):
    measures = [ColumnMeasure()] * len(contract.output_columns)

    with pytest.raises(Refused) as refusal:
        target_of_load(load_of(contract), measures)

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert expected in refusal.value.detail


@pytest.mark.parametrize(("kind", "limit"), [("string", 65_535), ("json", 65_535), ("binary", 64_000)])
def test_a_value_too_long_for_any_column_is_refused_by_the_name_of_its_column(kind, limit):
    assert typed_column(column("a", kind), longest_in_bytes=limit, where="shop.orders")

    with pytest.raises(Refused, match=f"'a': a value of {limit + 1} bytes"):
        typed_column(column("a", kind), longest_in_bytes=limit + 1, where="shop.orders")


def test_a_table_of_very_many_columns_is_proven_in_pieces_that_each_fit():
    columns = [column(f"{'c' * 100}{number}") for number in range(300)]
    contract = contract_of(*columns, key=(columns[0].name,), cursor=None)
    load = load_of(contract)
    measures = [ColumnMeasure(0, size_in_bytes=1, longest_in_bytes=1)] * len(columns)
    target = target_of_load(load, measures)

    pieces = proofs(target, measures, record_count=3)

    assert len(pieces) > 1
    assert breaches(pieces) == []
    assert sum(piece.sql.count("esclusa nulls ") for piece in pieces) == 300


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "DELETE FROM x",
        "SELECT 1; DROP TABLE x",
        "SELECT 1 -- x",
        "SELECT /* x */ 1",
        "SELECT 'a\\'; DROP TABLE x; --'",
        "SELECT * INTO y FROM x",
        "WITH a AS (SELECT 1) SELECT * INTO y FROM a",
        "CALL p()",
        "SELECT 'open",
        "SELECT 1\0",
        "SELECT '" + "x" * 100_000 + "'",
    ],
)
def test_a_question_that_could_change_something_is_not_sent(sql):
    with pytest.raises(QueryFailed):
        refuse_changes(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "select count(*) from shop.orders;",
        "WITH a AS (SELECT 'x;y' AS b) SELECT b FROM a",
        'SELECT "into" FROM t',
    ],
)
def test_a_question_is_sent(sql):
    refuse_changes(sql)
