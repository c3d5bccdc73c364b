"""Every type of MariaDB at its limits, from the source to the view of an analyst: unchanged, or rejected and counted."""

from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
from support.carrying import carry
from support.databases import MariaDbDatabase, Source, by_odbc, by_sqlalchemy
from support.extraction import column
from support.mariadb import MariaDbServer
from support.type_values import MARIADB_VALUES

from services.extractor.dialects import DialectName
from services.extractor.dialects.mysql import MysqlDialect
from services.extractor.dialects.page import TYPES
from shared.domain.contracts import TableContract
from shared.errors import Refused

DIALECT = MysqlDialect()


@pytest.fixture(params=[by_odbc, by_sqlalchemy])
def source(
    request: pytest.FixtureRequest, mariadb_server: MariaDbServer, fresh_mariadb_database: str
) -> Iterator[Source]:
    database = MariaDbDatabase(mariadb_server, fresh_mariadb_database)
    yield request.param(database)
    database.leave()


def contract_of(source: Source, server: MariaDbServer) -> TableContract:
    """The contract of `things` without a key, every column of which is kept, in the type that its fate says."""
    described = server.rows(
        "SELECT column_name, column_type FROM information_schema.columns "
        f"WHERE table_schema = '{source.server.schema}' AND table_name = 'things' ORDER BY ordinal_position"
    )
    columns = [column(name, str(DIALECT.fate_of(word).type), source_type=word) for name, word in described]
    return replace(source.contract(*columns, table="things"), key=())


def copied(dsn: str, relation: str) -> dict[int, str]:
    """The values of a relation as the warehouse writes them, by number."""
    with psycopg.connect(dsn, options="-c TimeZone=UTC -c bytea_output=hex") as connection:
        query = f"COPY (SELECT n, v FROM {relation}) TO STDOUT (FORMAT csv)"
        with connection.cursor().copy(query) as rows:
            pairs = (bytes(row).decode().removesuffix("\n").split(",", 1) for row in rows)
            return {int(number): value for number, value in pairs}


@pytest.mark.parametrize("type_", MARIADB_VALUES)
def test_values_of_every_type_arrive_unchanged_or_are_rejected_and_counted(
    mariadb_server: MariaDbServer, fresh_database: str, source: Source, type_: str
) -> None:
    values = MARIADB_VALUES[type_]
    source.run(
        "SET sql_mode = ''",
        "SET time_zone = '+05:45'",
        f"CREATE TABLE things (n INT PRIMARY KEY, v {type_} NULL)",
        *(
            f"INSERT INTO things VALUES ({number}, {literal})"
            for number, literal in enumerate([*values, "NULL"])
        ),
    )

    counts = carry(contract_of(source, mariadb_server), secrets=source.secrets, warehouse=fresh_database)

    expected = {number: text for number, text in enumerate(values.values()) if text is not None}
    # An empty string is quoted in CSV, NULL is not.
    expected = {number: text or '""' for number, text in expected.items()} | {len(values): ""}
    assert copied(fresh_database, "shop.things") == expected
    assert counts["rows_rejected"] == list(values.values()).count(None)
    assert counts["rows_read"] == counts["rows_in_final"] + counts["rows_rejected"]


def test_every_type_that_is_tried_is_on_the_page_about_types() -> None:
    told = {word.partition("(")[0] for word in TYPES[DialectName.MYSQL]}
    tried = {type_.split(" ")[0].partition("(")[0].lower() for type_ in MARIADB_VALUES}

    assert tried - {"boolean"} <= told


def test_as_many_columns_as_a_table_can_have_arrive(
    mariadb_server: MariaDbServer, fresh_database: str, source: Source
) -> None:
    names = [f"c{number}" for number in range(1000)]
    source.run(
        f"CREATE TABLE things ({', '.join(f'{name} INT UNSIGNED' for name in names)})",
        f"INSERT INTO things VALUES ({', '.join(str(4294967295 - number) for number in range(1000))})",
    )

    carry(
        contract_of(source, mariadb_server),
        secrets=source.secrets,
        warehouse=fresh_database,
    )

    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT * FROM shop.things").fetchall() == [
            tuple(4294967295 - number for number in range(1000))
        ]


@pytest.mark.parametrize(
    "definition",
    [
        "CREATE TABLE things (n INT, v VARCHAR(10)) PARTITION BY HASH(n) PARTITIONS 4",
        "CREATE TABLE things (n INT, v VARCHAR(10)) ENGINE=MyISAM",
        "CREATE TABLE base (n INT, v VARCHAR(10)); CREATE VIEW things AS SELECT v, n FROM base",
        "CREATE TABLE things (n INT, v VARCHAR(10), twice INT AS (n * 2) VIRTUAL) WITH SYSTEM VERSIONING",
    ],
    ids=["partitioned", "without transactions", "view", "versioned and generated"],
)
def test_a_relation_of_any_kind_arrives_whole(
    mariadb_server: MariaDbServer, fresh_database: str, source: Source, definition: str
) -> None:
    filled = "base" if "base" in definition else "things"
    source.run(
        *definition.split("; "),
        f"INSERT INTO {filled} (n, v) VALUES (1, 'a'), (2, NULL), (3, '')",
    )

    carry(
        contract_of(source, mariadb_server),
        secrets=source.secrets,
        warehouse=fresh_database,
    )

    assert copied(fresh_database, "shop.things") == {1: "a", 2: "", 3: '""'}


NAMES = [
    "select",
    "Mixed Case",
    "a.b",
    "qu`ote",
    'dou"ble',
    "100%",
    ":bind",
    "?",
    "back\\slash",
    "{curly}",
    "x" * 63,
    "ñ漢",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_means_something_elsewhere_is_carried(
    mariadb_server: MariaDbServer, fresh_database: str, source: Source, name: str
) -> None:
    quoted = DIALECT.quote(name)
    source.run(
        f"CREATE TABLE {quoted} (id INT PRIMARY KEY, {quoted} VARCHAR(10))",
        f"INSERT INTO {quoted} VALUES (1, 'here')",
    )
    columns = [column("id", "int32"), column(name)]
    contract = source.contract(*columns, table=name)

    carry(contract, secrets=source.secrets, warehouse=fresh_database)

    with psycopg.connect(fresh_database) as connection:
        query = psycopg.sql.SQL("SELECT * FROM shop.{}").format(psycopg.sql.Identifier(name))
        assert connection.execute(query).fetchall() == [(1, "here")]


def test_a_name_that_the_warehouse_cannot_have_is_refused_by_name(
    mariadb_server: MariaDbServer, fresh_database: str, source: Source
) -> None:
    name = "漢" * 40
    source.run(f"CREATE TABLE things (id INT, `{name}` INT)")
    contract = contract_of(source, mariadb_server)

    with pytest.raises(Refused, match="target_incompatible") as refused:
        carry(contract, secrets=source.secrets, warehouse=fresh_database)

    assert name in str(refused.value)
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT to_regclass('shop.things')").fetchone() == (None,)
