"""PostgreSQL as it may be found: every type of the server is known, and tables of every shape arrive or are refused by name."""

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from psycopg import sql
from support.carrying import carry
from support.databases import PostgresDatabase, Source, by_odbc, by_sqlalchemy, natively
from support.extraction import column, make_contract

from local.postgres import EmbeddedPostgres
from services.extractor.dialects import DialectName
from services.extractor.dialects.page import TYPES
from services.extractor.dialects.postgresql import DESCRIBE_COLUMNS, fate_of
from shared.domain.contracts import STRING, TableContract
from shared.errors import Refused

#: Of no column of a table that a person makes: statistics, parse trees, and names of what the catalogue holds.
OF_THE_CATALOGUE = {
    "aclitem",
    "gtsvector",
    "pg_brin_bloom_summary",
    "pg_brin_minmax_multi_summary",
    "pg_dependencies",
    "pg_mcv_list",
    "pg_ndistinct",
    "pg_node_tree",
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
    "regrole",
    "regtype",
}
BASE_TYPES = """
SELECT format_type(oid, NULL) FROM pg_type
WHERE typnamespace = 'pg_catalog'::regnamespace AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'
"""


def run(dsn: str, *statements: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def contract_of(dsn: str, name: str) -> TableContract:
    """The contract of a table without a key, every column of which is kept, in the type that its fate says."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        described = connection.execute(DESCRIBE_COLUMNS, {"schema": "public", "name": name}).fetchall()
    columns = [column(name, str(fate_of(source).type), source_type=source) for name, source, _ in described]
    return replace(make_contract(columns, relation=("public", name)), key=())


def rows(dsn: str, *relation: str) -> list[str]:
    """The rows of a relation as the server writes them, sorted."""
    query = sql.SQL("COPY (SELECT * FROM {}) TO STDOUT (FORMAT csv)").format(sql.Identifier(*relation))
    with psycopg.connect(dsn) as connection, connection.cursor().copy(query) as records:
        return sorted(bytes(record).decode() for record in records)


def test_every_type_of_the_server_is_on_the_page_about_types(postgres_server: EmbeddedPostgres) -> None:
    with psycopg.connect(postgres_server.dsn("postgres")) as connection:
        of_the_server = {name for (name,) in connection.execute(BASE_TYPES)}
    told = {name.partition("(")[0] + name.partition(")")[2] for name in TYPES[DialectName.POSTGRESQL]}
    # A range and its multirange are told alike.
    ranges = {name for name in of_the_server if name.endswith("range")}

    assert of_the_server - told - ranges == OF_THE_CATALOGUE | ({"bit"} - told)


@pytest.mark.parametrize(
    "definitions",
    [
        [
            "CREATE TABLE things (id integer, name text) PARTITION BY LIST (id)",
            "CREATE TABLE of_one PARTITION OF things FOR VALUES IN (1)",
            "CREATE TABLE others PARTITION OF things DEFAULT",
        ],
        ["CREATE TABLE parent (id integer, name text)", "CREATE TABLE things () INHERITS (parent)"],
        ["CREATE TABLE base (id integer, name text)", "CREATE VIEW things AS SELECT id, name FROM base"],
        [
            "CREATE UNLOGGED TABLE things (id integer, name text, twice integer GENERATED ALWAYS AS (id * 2) STORED)"
        ],
    ],
    ids=["partitioned", "inherited", "view", "generated"],
)
def test_a_relation_of_any_kind_arrives_whole(fresh_database: str, definitions: list[str]) -> None:
    filled = "base" if "base" in definitions[0] else "things"
    run(
        fresh_database,
        *definitions,
        f"INSERT INTO {filled} (id, name) VALUES (1, 'a'), (2, NULL), (1, 'a')",
    )

    carry(
        contract_of(fresh_database, "things"),
        secrets={"env:SHOP_DSN": fresh_database},
        warehouse=fresh_database,
    )

    assert rows(fresh_database, "shop", "things") == rows(fresh_database, "public", "things")


def test_a_materialized_view_arrives_as_it_was_when_it_was_refreshed(fresh_database: str) -> None:
    run(
        fresh_database,
        "CREATE TABLE base AS SELECT g AS id, repeat('x', g) AS name FROM generate_series(0, 3) AS g",
        "CREATE MATERIALIZED VIEW things AS SELECT * FROM base",
        "DELETE FROM base",
    )

    carry(
        contract_of(fresh_database, "things"),
        secrets={"env:SHOP_DSN": fresh_database},
        warehouse=fresh_database,
    )

    assert rows(fresh_database, "shop", "things") == ['0,""\n', "1,x\n", "2,xx\n", "3,xxx\n"]


def test_a_table_without_a_key_keeps_rows_that_are_alike(fresh_database: str) -> None:
    run(
        fresh_database,
        "CREATE TABLE things (v text)",
        "INSERT INTO things VALUES (''), (''), (NULL), (NULL), ('NULL')",
    )
    counts = carry(
        contract_of(fresh_database, "things"),
        secrets={"env:SHOP_DSN": fresh_database},
        warehouse=fresh_database,
    )

    assert rows(fresh_database, "shop", "things") == rows(fresh_database, "public", "things")
    assert counts["rows_in_final"] == 5


@pytest.fixture(params=[natively, by_odbc, by_sqlalchemy])
def source(request: pytest.FixtureRequest, fresh_database: str) -> Iterator[Source]:
    database = PostgresDatabase(fresh_database)
    yield request.param(database)
    database.leave()


def by_the_way_of(source: Source, contract: TableContract) -> TableContract:
    """The same contract, read by a login that may only read, by another driver."""
    return replace(source.contract(*contract.columns, table="things"), key=())


def test_a_table_as_wide_as_the_warehouse_can_hold_arrives(fresh_database: str, source: Source) -> None:
    count = 1595
    names = ", ".join(f"c{number} integer" for number in range(count))
    values = ", ".join("NULL" if number % 3 == 0 else str(number) for number in range(count))
    source.run(f"CREATE TABLE things ({names})", f"INSERT INTO things VALUES ({values})")
    contract = by_the_way_of(source, contract_of(fresh_database, "things"))

    carry(contract, secrets=source.secrets, warehouse=fresh_database)

    assert rows(fresh_database, "shop", "things") == rows(fresh_database, "public", "things")


@pytest.mark.parametrize(
    ("source_type", "values"),
    [
        ("date", ["infinity", "-infinity", "4713-01-01 BC", "5874897-12-31", "2026-11-22"]),
        ("timestamp", ["infinity", "4713-01-01 00:00:00 BC", "294276-12-31 23:59:59.999999"]),
        ("timestamptz", ["-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00"]),
        ("numeric(12,2)", ["NaN", "1.50"]),
    ],
)
def test_what_no_type_of_ours_holds_arrives_where_the_contract_says_string(
    fresh_database: str, source: Source, source_type: str, values: list[str]
) -> None:
    source.run(
        f"CREATE TABLE things (v {source_type})",
        *(f"INSERT INTO things VALUES ('{value}')" for value in values),
    )
    exact = by_the_way_of(source, contract_of(fresh_database, "things"))
    contract = replace(exact, columns=tuple(replace(column, type=STRING) for column in exact.columns))

    counts = carry(contract, secrets=source.secrets, warehouse=fresh_database)

    with psycopg.connect(fresh_database) as connection:
        arrived = [value for (value,) in connection.execute("SELECT v FROM shop.things").fetchall()]
    assert sorted(arrived) == sorted(values)
    assert counts["rows_rejected"] == 0


def test_a_table_that_is_wider_is_refused_by_name_and_nothing_is_published(fresh_database: str) -> None:
    run(fresh_database, f"CREATE TABLE things ({', '.join(f'c{number} integer' for number in range(1600))})")
    contract = contract_of(fresh_database, "things")

    with pytest.raises(Refused, match=r"shop\.things: expected at most 1595 columns, found 1600"):
        carry(contract, secrets={"env:SHOP_DSN": fresh_database}, warehouse=fresh_database)

    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT to_regclass('shop.things')").fetchone() == (None,)


@pytest.mark.parametrize(
    ("source_type", "literal"),
    [
        ("text", "repeat('😀\"', 3000000)"),
        ("bytea", "decode(repeat('00ff', 4000000), 'hex')"),
        ("jsonb", "to_jsonb(array_fill('x\"y'::text, ARRAY[500000]))"),
        ("text[]", "array_fill('a,\"b'::text, ARRAY[500000])"),
    ],
)
def test_a_value_of_many_megabytes_arrives(
    fresh_database: str, source: Source, source_type: str, literal: str
) -> None:
    source.run(
        f"CREATE TABLE things (id integer, v {source_type})", f"INSERT INTO things SELECT 1, {literal}"
    )
    contract = by_the_way_of(source, contract_of(fresh_database, "things"))

    carry(contract, secrets=source.secrets, warehouse=fresh_database)

    with psycopg.connect(fresh_database) as connection:
        (differing,) = connection.execute(
            "SELECT count(*) FROM things AS here FULL JOIN shop.things AS there USING (id) "
            "WHERE md5(here.v::text) IS DISTINCT FROM md5(there.v::text)"
        ).fetchone()
    assert differing == 0
