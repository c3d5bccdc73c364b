"""Queries in source files: what is one SELECT beyond doubt, and how everything else is told."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.extraction import WINDOW, column, make_contract

from services.extractor.readers import conditions_of
from services.extractor.readers.postgres import origin_of
from shared.catalog import SourceFilesInvalid, load_sources
from shared.catalog.queries import parse_query
from shared.domain.contracts import KeyRanges
from shared.domain.source_queries import Placeholder, SourceQuery
from shared.domain.windows import Window

START, END = Placeholder.WINDOW_START, Placeholder.WINDOW_END


@pytest.mark.parametrize(
    ("text", "pieces", "placeholders"),
    [
        ("SELECT 1", ["SELECT 1"], []),
        ("  select a\n from b\n", ["select a\n from b"], []),
        ("SELECT a WHERE b>=:window_start AND b<:window_end", ["SELECT a WHERE b>=", " AND b<", ""], [START, END]),
        ("SELECT ':window_end', \":x\", a::date, b [1]", ["SELECT ':window_end', \":x\", a::date, b [1]"], []),
        ("SELECT 'it''s' || ':window_start'", ["SELECT 'it''s' || ':window_start'"], []),
        ("SELECT (:window_end)::date", ["SELECT (", ")::date"], [END]),
        ('WITH x AS (SELECT 1 AS inserted) SELECT inserted, "update" FROM x', None, []),
        ("SELECT a$b, N'x', 'a;--/*' FROM t", None, []),
    ],
)  # fmt: skip
def test_a_query_is_cut_where_its_placeholders_stand_and_nowhere_else(
    text: str, pieces: list[str] | None, placeholders: list[Placeholder]
) -> None:
    query = parse_query(text, product="postgresql", bound_type="timestamptz")

    assert list(query.pieces) == (pieces or [text])
    assert list(query.placeholders) == placeholders
    assert query.text == text.strip()
    assert query.bound_type == ("timestamptz" if placeholders else "")


REFUSED = {
    "": "one SELECT",
    "DELETE FROM t": "one SELECT or WITH",
    "UPDATE t SET a = 1": "one SELECT or WITH",
    "(SELECT 1) UNION (SELECT 2)": "one SELECT",
    "SELECT 1; DROP TABLE t": "without a semicolon",
    "SELECT 1;": "without a semicolon",
    "SELECT 1) AS q, (SELECT 2": "every parenthesis",
    "SELECT (1": "every parenthesis closed",
    "SELECT 'a": "every quote closed",
    'SELECT "a': "every quote closed",
    "SELECT `a": "every quote closed",
    "SELECT 1 -- comment": "no comments",
    "SELECT 1 /* comment */": "no comments",
    "SELECT 1 /*!50000 INTO OUTFILE '/x' */": "no comments",
    "SELECT * INTO other FROM t": "only reads",
    "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone": "only reads",
    "SELECT * FROM t FOR UPDATE": "only reads",
    "SELECT * FROM t FOR  SHARE": "only reads",
    "SELECT * FROM t WHERE a = ?": "no question mark",
    "SELECT * FROM t WHERE a LIKE 'why?'": "no question mark",
    "SELECT {fn now()}": "no braces",
    "SELECT $1": "dollar",
    "SELECT $$a$$": "dollar",
    "SELECT $x$; DROP TABLE t $x$": "dollar",
    "SELECT E'\\'; DROP TABLE t; --'": "plain quotes",
    "SELECT e'a'": "plain quotes",
    "SELECT q'[a]'": "plain quotes",
    "SELECT a FROM t WHERE b < :window": ":window_start or :window_end",
    "SELECT a FROM t WHERE b < :WINDOW_END": ":window_start or :window_end",
    "SELECT a[1:n] FROM t": ":window_start or :window_end",
    "SELECT 'a\0'": "control characters",
    "SELECT " + "a" * 70_000: "at most",
}


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_one_select_or_may_be_read_in_two_ways_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(REFUSED[text])):
        parse_query(text, product="postgresql")


@pytest.mark.parametrize(
    ("product", "text", "said"),
    [
        ("mysql", "SELECT 'a\\'; DROP TABLE t -- '", "no backslash"),
        ("mysql", 'SELECT "a\\" FROM t', "no backslash"),
        ("mysql", "SELECT 1 # comment", "no comments"),
        ("mysql", "SELECT @a := 1", "no variables"),
        ("sqlite", "SELECT @a", "no variables"),
        ("sqlserver", "WITH x AS (SELECT 1 AS a) SELECT a FROM x", "one SELECT"),
        ("sqlserver", "SELECT [a", "every quote closed"),
        ("mysql", "SELECT a FROM t LOCK IN SHARE MODE", "only reads"),
    ],
)
def test_what_one_product_reads_in_its_own_way_is_refused_for_it(product: str, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_query(text, product=product)


@pytest.mark.parametrize(
    "type_",
    [
        "date",
        "timestamp(3) with time zone",
        "int(10) unsigned",
        "datetimeoffset(7)",
        "DECIMAL(20, 0)",
        "double precision",
    ],
)
def test_a_placeholder_is_bound_as_what_a_source_calls_a_type(type_: str) -> None:
    assert parse_query("SELECT :window_end", product="mysql", bound_type=type_).bound_type == type_


@pytest.mark.parametrize(
    "type_",
    ["date)) AS q; DROP TABLE t; SELECT ((1::int", "int -- ", "date'", "?", "int(1", "int\n(1)", "a.b"],
)
def test_what_is_no_type_becomes_no_part_of_a_query(type_: str) -> None:
    with pytest.raises(ValueError, match="word for a type"):
        parse_query("SELECT :window_end", product="postgresql", bound_type=type_)

    assert parse_query("SELECT 1", product="postgresql", bound_type=type_).bound_type == ""


def test_brackets_and_backslashes_are_read_as_the_product_does() -> None:
    bracketed = parse_query("SELECT [a]];:b] FROM t", product="sqlserver")
    standard = parse_query("SELECT 'a\\' AS b", product="postgresql")
    grave = parse_query("SELECT `a;``:b` FROM t", product="mysql")

    assert [len(query.placeholders) for query in (bracketed, standard, grave)] == [0, 0, 0]


# ---- files -------------------------------------------------------------------------------------------------

FILE = """\
name: shop
kind: postgres
connection: {dsn: env:SHOP_DSN}
tables:
  totals:
    query: |
      SELECT day, sum(amount) AS total FROM orders
      WHERE day >= :window_start AND day < :window_end GROUP BY day
    columns:
      day: {source_type: date, type: date, nullable: false, mask: keep}
      total: {source_type: numeric, type: "decimal(18,2)", mask: keep}
    key: [day]
    cursor: {column: day, lag: 1h, overlap: 24h}
    publish: {mode: merge}
"""


def test_a_table_may_be_a_query(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(FILE)

    (contract,) = load_sources(tmp_path).contracts()

    assert contract.relation == ()
    assert contract.origin_name == "query of totals"
    assert isinstance(contract.query, SourceQuery)
    assert (contract.query.placeholders, contract.query.bound_type) == ((START, END), "date")


@pytest.mark.parametrize(
    ("change", "line", "said"),
    [
        (lambda text: text.replace("    query:", "    relation: public.orders\n    query:"), 7,
         "tables.totals.query: expected relation: schema.table, or query: a SELECT, found both"),
        (lambda text: re.sub(r"    query: \|\n.*\n.*\n", "", text), 5,
         "tables.totals: expected relation: schema.table, or query: a SELECT, found neither"),
        (lambda text: text.replace("SELECT day", "DELETE day"), 6,
         "tables.totals.query: expected one SELECT or WITH, found DELETE first"),
        (lambda text: text.replace("GROUP BY day", "GROUP BY day; DROP TABLE orders"), 6,
         "tables.totals.query: expected one statement, without a semicolon, found ';' on line 2"),
        (lambda text: text.replace("    key: [day]", "    key: [day]\n    key_is_unique: true"), 13,
         "tables.totals.key_is_unique: expected it with relation only"),
        (lambda text: text.replace("cursor: {column: day, lag: 1h, overlap: 24h}", "cursor: none").replace("merge", "replace"), 6,
         "tables.totals.query: expected no placeholders without a cursor, whose values they are, found :window_start"),
        (lambda text: text.replace("source_type: date, ", ""), 10,
         "tables.totals.columns.day.source_type: expected the source's word for its type"),
        (lambda text: text.replace("kind: postgres\nconnection: {dsn: env:SHOP_DSN}",
                                   "kind: odbc\ndialect: oracle\nconnection: {connection_string: env:SHOP_DSN}"), 7,
         "tables.totals.query: expected relation, and a view at the source"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_query_is_told_at_its_place(
    tmp_path: Path, change: Callable[[str], str], line: int, said: str
) -> None:
    (tmp_path / "shop.yaml").write_text(change(FILE))

    with pytest.raises(SourceFilesInvalid) as caught:
        load_sources(tmp_path)

    (problem,) = caught.value.problems
    assert problem.line == line
    assert said in str(problem)


# ---- values ------------------------------------------------------------------------------------------------


def test_copy_has_values_as_literals_of_their_type(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(FILE)
    (contract,) = load_sources(tmp_path).contracts()

    written = origin_of(contract, conditions_of(contract, WINDOW)).as_string()
    unbounded = origin_of(contract, conditions_of(contract, Window(None, WINDOW.end))).as_string()

    assert "day >= '2025-12-31'::date AND day < '2026-01-02'::date GROUP BY day) AS q" in written
    assert "day >= '0001-01-01'::date AND day < '2026-01-02'::date" in unbounded


def test_a_table_has_its_name_and_no_values() -> None:
    contract = make_contract([column("id")])

    assert origin_of(contract, []).as_string() == '"public"."customers"'


# ---- ranges of keys ----------------------------------------------------------------------------------------

RANGED = """\
name: shop
kind: postgres
connection: {dsn: env:SHOP_DSN}
mask_key: env:K
mask_key_id: k1
tables:
  rates:
    relation: public.rates
    columns:
      code: {nullable: false, mask: keep}
      id: {type: int64, nullable: false, mask: keep}
      holder: {mask: last4}
    key: [code, id]
    key_ranges: {rows_per_range: 500}
    publish: {mode: replace}
"""


def test_a_table_without_a_cursor_may_be_read_by_ranges_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text(RANGED)

    (contract,) = load_sources(tmp_path).contracts()

    assert contract.key_ranges == KeyRanges(500)
    assert (contract.range_column, contract.is_read_by_ranges) == ("id", True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace("type: int64, ", ""),
         "by which it is cut into ranges, found the key 'code', 'id'"),
        (lambda text: text.replace("key: [code, id]", "key: []"), "found no key"),
        (lambda text: text.replace("mask_key: env:K\nmask_key_id: k1\n", ""),
         "tables.rates.key_ranges: expected mask_key and mask_key_id in the source, since columns are masked"),
        (lambda text: text.replace("publish: {mode: replace}", "cursor: {column: id, lag: 1m, overlap: 0}\n    publish: {mode: merge}"),
         "tables.rates.key_ranges: expected it without a cursor, or with deletes: {sweep: …}"),
        (lambda text: text.replace("rows_per_range: 500", "rows_per_range: 0"), "tables.rates.key_ranges"),
    ],
)  # fmt: skip
def test_a_mistake_in_key_ranges_is_told_at_its_place(
    tmp_path: Path, change: Callable[[str], str], said: str
) -> None:
    (tmp_path / "shop.yaml").write_text(change(RANGED))

    with pytest.raises(SourceFilesInvalid) as caught:
        load_sources(tmp_path)

    (problem,) = caught.value.problems
    assert said in str(problem)
