"""Every type of MariaDB at its limits, from the source to the view of an analyst: unchanged, or rejected and counted."""

from dataclasses import dataclass, replace

import psycopg
import pytest
from support.carrying import carry
from support.extraction import column, make_contract
from support.mariadb import OWNER, MariaDbServer
from support.type_values import MARIADB_VALUES

from services.extractor.dialects import DialectName
from services.extractor.dialects.mysql import MysqlDialect
from services.extractor.dialects.page import TYPES
from shared.domain.contracts import SourceKind, TableContract
from shared.errors import Refused

DIALECT = MysqlDialect()


@dataclass(frozen=True, slots=True)
class Way:
    """How a database of MariaDB is reached."""

    kind: SourceKind
    connection: dict[str, str]
    secrets: dict[str, str]


@pytest.fixture(params=["odbc", "odbc by rows", "sqlalchemy"])
def way(request: pytest.FixtureRequest, mariadb_server: MariaDbServer, fresh_mariadb_database: str) -> Way:
    server, name = mariadb_server, fresh_mariadb_database
    if request.param == "sqlalchemy":
        url = f"mysql+pymysql://{OWNER}:{server.password}@127.0.0.1:{server.port}/{name}"
        return Way(SourceKind.SQLALCHEMY, {"url": "env:ADDRESS", "dialect": "mysql"}, {"env:ADDRESS": url})
    text = (
        f"Driver={{MariaDB Unicode}};Server=127.0.0.1;Port={server.port};Database={name};"
        f"UID={OWNER};PWD={server.password}"
    )
    fetch = {"fetch": "rows"} if "rows" in request.param else {}
    return Way(
        SourceKind.ODBC,
        {"connection_string": "env:ADDRESS", "dialect": "mysql", **fetch},
        {"env:ADDRESS": text},
    )


def contract_of(server: MariaDbServer, way: Way, database: str, table: str) -> TableContract:
    """The contract of a table without a key, every column of which is kept, in the type that its fate says."""
    described = server.rows(
        "SELECT column_name, column_type FROM information_schema.columns "
        f"WHERE table_schema = '{database}' AND table_name = '{table}' ORDER BY ordinal_position"
    )
    columns = [column(name, str(DIALECT.fate_of(word).type), source_type=word) for name, word in described]
    contract = make_contract(columns, relation=(database, table), kind=way.kind, connection=way.connection)
    return replace(contract, key=())


def copied(dsn: str, relation: str) -> dict[int, str]:
    """The values of a relation as the warehouse writes them, by number."""
    with psycopg.connect(dsn, options="-c TimeZone=UTC -c bytea_output=hex") as connection:
        query = f"COPY (SELECT n, v FROM {relation}) TO STDOUT (FORMAT csv)"
        with connection.cursor().copy(query) as rows:
            pairs = (bytes(row).decode().removesuffix("\n").split(",", 1) for row in rows)
            return {int(number): value for number, value in pairs}


@pytest.mark.parametrize("type_", MARIADB_VALUES)
def test_values_of_every_type_arrive_unchanged_or_are_rejected_and_counted(
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, fresh_database: str, way: Way, type_: str
) -> None:
    name, values = fresh_mariadb_database, MARIADB_VALUES[type_]
    mariadb_server.run(
        "SET sql_mode = ''",
        "SET time_zone = '+05:45'",
        f"CREATE TABLE things (n INT PRIMARY KEY, v {type_} NULL)",
        *(
            f"INSERT INTO things VALUES ({number}, {literal})"
            for number, literal in enumerate([*values, "NULL"])
        ),
        database=name,
    )

    counts = carry(
        contract_of(mariadb_server, way, name, "things"), secrets=way.secrets, warehouse=fresh_database
    )

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
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, fresh_database: str, way: Way
) -> None:
    names = [f"c{number}" for number in range(1000)]
    mariadb_server.run(
        f"CREATE TABLE things ({', '.join(f'{name} INT UNSIGNED' for name in names)})",
        f"INSERT INTO things VALUES ({', '.join(str(4294967295 - number) for number in range(1000))})",
        database=fresh_mariadb_database,
    )

    carry(
        contract_of(mariadb_server, way, fresh_mariadb_database, "things"),
        secrets=way.secrets,
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
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, fresh_database: str, way: Way, definition: str
) -> None:
    filled = "base" if "base" in definition else "things"
    mariadb_server.run(
        *definition.split("; "),
        f"INSERT INTO {filled} (n, v) VALUES (1, 'a'), (2, NULL), (3, '')",
        database=fresh_mariadb_database,
    )

    carry(
        contract_of(mariadb_server, way, fresh_mariadb_database, "things"),
        secrets=way.secrets,
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
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, fresh_database: str, way: Way, name: str
) -> None:
    quoted = DIALECT.quote(name)
    mariadb_server.run(
        f"CREATE TABLE {quoted} (id INT PRIMARY KEY, {quoted} VARCHAR(10))",
        f"INSERT INTO {quoted} VALUES (1, 'here')",
        database=fresh_mariadb_database,
    )
    columns = [column("id", "int32"), column(name)]
    contract = make_contract(
        columns, relation=(fresh_mariadb_database, name), kind=way.kind, connection=way.connection
    )

    carry(contract, secrets=way.secrets, warehouse=fresh_database)

    with psycopg.connect(fresh_database) as connection:
        query = psycopg.sql.SQL("SELECT * FROM shop.{}").format(psycopg.sql.Identifier(name))
        assert connection.execute(query).fetchall() == [(1, "here")]


def test_a_name_that_the_warehouse_cannot_have_is_refused_by_name(
    mariadb_server: MariaDbServer, fresh_mariadb_database: str, fresh_database: str, way: Way
) -> None:
    name = "漢" * 40
    mariadb_server.run(f"CREATE TABLE things (id INT, `{name}` INT)", database=fresh_mariadb_database)
    contract = contract_of(mariadb_server, way, fresh_mariadb_database, "things")

    with pytest.raises(Refused, match="target_incompatible") as refused:
        carry(contract, secrets=way.secrets, warehouse=fresh_database)

    assert name in str(refused.value)
    with psycopg.connect(fresh_database) as connection:
        assert connection.execute("SELECT to_regclass('shop.things')").fetchone() == (None,)
