"""`discover` on a real PostgreSQL: any schema becomes a file that can be loaded, and nothing personal is preset to leave."""

from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from local.ports import find_free_port
from local.shop import ShopSize, fill_shop
from services.extractor.dialects.postgresql import (
    DESCRIBE_COLUMNS,
    SESSION_SETTINGS,
    Carriage,
    can_carry,
    fate_of,
    select_expression,
)
from services.extractor.discovery.postgres import discover_postgres
from shared.catalog import Catalog, SourceFilesInvalid, load_sources
from shared.domain.contracts import ColumnType, MaskKind, PublishMode, TableContract
from shared.errors import ConfigurationError, Unavailable

pytestmark = pytest.mark.timeout(120)

SOURCES = Path(__file__).parents[2] / "sources"
REFERENCE = "env:SHOP_DSN"


def run(dsn: str, *statements: str) -> None:
    """Execute statements as the owner."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def loaded(directory: Path, text: str) -> Catalog:
    """The catalog of a discovered file."""
    (directory / "shop.yaml").write_text(text)
    return load_sources(directory)


def discovered(directory: Path, dsn: str) -> dict[str, TableContract]:
    """The contracts that a database's discovered file says, by table."""
    text = discover_postgres(dsn, source="shop", reference=REFERENCE)
    return {contract.table: contract for contract in loaded(directory, text).contracts()}


def test_the_shop_is_discovered_as_its_hand_written_file_has_it(fresh_database: str, tmp_path: Path) -> None:
    fill_shop(fresh_database, size=ShopSize(customers=200, products=50, orders=300))

    found = discovered(tmp_path, fresh_database)

    written = {contract.table: contract for contract in load_sources(SOURCES).source("shop").contracts()}
    assert found.keys() == written.keys()
    for table, contract in written.items():
        assert [(c.name, c.source_type, c.type, c.nullable) for c in found[table].columns] == [
            (c.name, c.source_type, c.type, c.nullable) for c in contract.columns
        ]
        assert found[table].key == contract.key
        assert found[table].publishing.mode == contract.publishing.mode
        assert found[table].deletes == contract.deletes
        for column in contract.columns:
            assert column.mask.kind is MaskKind.KEEP or not found[table].column(column.name).leaves


def test_values_are_looked_at_and_never_written(fresh_database: str, tmp_path: Path) -> None:
    run(
        fresh_database,
        "CREATE TABLE t (id int PRIMARY KEY, x text, y text, code text)",
        "INSERT INTO t VALUES (1, 'ana.secret@example.org', '+34 600 123 456', 'A-1')",
    )

    text = discover_postgres(fresh_database, source="shop", reference=REFERENCE)

    assert "some values look like e-mail addresses" in text
    assert "some values look like phone numbers" in text
    assert not any(value in text for value in ("ana.secret", "600", "A-1"))


def test_a_personal_key_is_withheld_and_the_file_says_where_to_edit(
    fresh_database: str, tmp_path: Path
) -> None:
    run(
        fresh_database,
        "CREATE TABLE people (login text PRIMARY KEY, age_group int, updated_at timestamptz NOT NULL)",
        "CREATE TABLE parts (part_no text PRIMARY KEY, weight real)",
        "INSERT INTO parts VALUES ('P-100', 1)",
    )
    text = discover_postgres(fresh_database, source="shop", reference=REFERENCE)

    with pytest.raises(SourceFilesInvalid) as refused:
        loaded(tmp_path, text)
    edited = text.replace("login: {source_type: text, type: string, nullable: false, mask: withhold}", (
        "login: {source_type: text, type: string, nullable: false, mask: {hmac: {domain: login}}}"
    )).replace("# mask_key", "mask_key")  # fmt: skip
    catalog = loaded(tmp_path, edited)

    assert [problem.field for problem in refused.value.problems] == ["tables.people.key[0]"]
    assert "# EDIT: login is withheld" in text
    assert {contract.table: contract.key for contract in catalog.contracts()} == {
        "parts": ("part_no",),
        "people": ("login",),
    }


def test_any_legal_name_is_carried_or_refused_by_name(fresh_database: str, tmp_path: Path) -> None:
    names = [
        'a "b": c',
        "no",
        "null",
        "x.y",
        "ñandú 北京 🚚",
        "# not a comment",
        "%s {}",
        "- a",
        "select",
        "'",
        "\u00a0z",
    ]
    with psycopg.connect(fresh_database, autocommit=True) as connection:
        for name in [*names, "line\nbreak"]:
            connection.execute(
                sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, {} int, {} int)").format(
                    sql.Identifier(name), sql.Identifier(name), sql.Identifier("tab\tbed")
                )
            )

    text = discover_postgres(fresh_database, source="shop", reference=REFERENCE)
    contracts = {contract.table: contract for contract in loaded(tmp_path, text).contracts()}

    assert contracts.keys() == set(names)
    assert all(contract.relation == ("public", name) for name, contract in contracts.items())
    assert all([c.name for c in contract.columns] == ["id", name] for name, contract in contracts.items())
    assert '#   "public.line\\u000abreak": its name has control characters' in text
    assert 'column "tab\\u0009bed" is refused' in text


def test_tables_without_key_cursor_or_rights_are_told_as_what_they_are(
    fresh_database: str, tmp_path: Path
) -> None:
    run(
        fresh_database,
        "CREATE TABLE plain (n int)",
        "CREATE TABLE uniquely (n int NOT NULL UNIQUE, updated_at timestamp NOT NULL)",
        "CREATE VIEW seen AS SELECT n, 1 / (n - n) AS broken FROM plain",
        "INSERT INTO plain VALUES (1)",
        "CREATE TABLE parted (id int PRIMARY KEY, modified timestamptz NOT NULL) PARTITION BY RANGE (id)",
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (9)",
        "CREATE SCHEMA other CREATE TABLE plain (m int)",
        "CREATE TABLE nothing ()",
    )

    text = discover_postgres(fresh_database, source="shop", reference=REFERENCE)
    contracts = {contract.table: contract for contract in loaded(tmp_path, text).contracts()}

    assert contracts.keys() == {"plain", "uniquely", "seen", "parted", "other_plain"}
    assert contracts["parted"].publishing.mode is PublishMode.MERGE
    assert contracts["uniquely"].key == ("n",)
    assert {contracts[name].publishing.mode for name in ("plain", "uniquely", "seen")} == {
        PublishMode.REPLACE
    }
    assert "updated_at has no zone" in text
    assert "its values could not be looked at" in text
    assert "public.nothing: it has no columns" in text


def test_a_reader_sees_only_what_it_may(fresh_database: str, tmp_path: Path) -> None:
    role = f"reader_{find_free_port()}"
    run(
        fresh_database,
        "CREATE TABLE open_table (id int PRIMARY KEY)",
        "CREATE TABLE closed_table (id int PRIMARY KEY)",
        f"CREATE ROLE {role} LOGIN PASSWORD 'p'",
        f"GRANT SELECT ON open_table TO {role}",
    )
    reader = psycopg.conninfo.make_conninfo(fresh_database, user=role, password="p")

    try:
        text = discover_postgres(reader, source="shop", reference=REFERENCE)
    finally:
        run(fresh_database, f"DROP OWNED BY {role}", f"DROP ROLE {role}")

    assert [contract.table for contract in loaded(tmp_path, text).contracts()] == ["open_table"]
    assert "public.closed_table: this role may not read it" in text


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("postgresql://me:hunter2@127.0.0.1:{port}/shop", Unavailable),
        ("hunter2", ConfigurationError),
        ("postgresql://me:hunter2@127.0.0.1:hunter2/shop", Unavailable),
        ("postgresql://me:hun@ter2@127.0.0.1:{port}/x?nonsense=hunter2", ConfigurationError),
    ],
)
def test_an_unreachable_or_mistaken_address_is_told_without_it(dsn: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        discover_postgres(dsn.format(port=find_free_port()), source="shop", reference=REFERENCE)

    assert "hunter2" not in str(caught.value)
    assert REFERENCE in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unknown_schema_and_an_empty_database_are_told(fresh_database: str) -> None:
    with pytest.raises(ConfigurationError, match="at least one table or view"):
        discover_postgres(fresh_database, source="shop", reference=REFERENCE)
    with pytest.raises(ConfigurationError, match="found 'elsewhere'"):
        discover_postgres(fresh_database, source="shop", reference=REFERENCE, schemas=["elsewhere"])


def test_the_reference_has_to_be_one(fresh_database: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        discover_postgres(fresh_database, source="shop", reference=fresh_database)

    assert fresh_database not in str(caught.value)


# ---- the fate of types -------------------------------------------------------------------------------------

TYPES = [
    # type, carried as, a value, its text in the CSV
    ("boolean", "boolean", "true", "true"),
    ("boolean", "boolean", "false", "false"),
    ("smallint", "int16", "-32768", "-32768"),
    ("integer", "int32", "2147483647", "2147483647"),
    ("bigint", "int64", "-9223372036854775808", "-9223372036854775808"),
    ("real", "float32", "0.1", "0.1"),
    ("double precision", "float64", "43.52593972953187", "43.52593972953187"),
    ("numeric(12,2)", "decimal(12,2)", "'-0.01'", "-0.01"),
    ("numeric(38,18)", "decimal(38,18)", "'12345678901234567890.123456789012345678'", None),
    ("numeric(39,2)", "string", "'1.10'", "1.10"),
    ("numeric(2,5)", "string", "'0.00012'", "0.00012"),
    ("numeric", "string", "'1.2300'", "1.2300"),
    ("text", "string", "'a'", "a"),
    ("character varying(5)", "string", "'a '", "a "),
    ("character(4)", "string", "'a'", "a   "),
    ("date", "date", "'2026-11-22'", "2026-11-22"),
    (
        "timestamp without time zone",
        "timestamp",
        "'2026-11-22 10:00:00.123456'",
        "2026-11-22 10:00:00.123456",
    ),
    (
        "timestamp with time zone",
        "timestamptz",
        "'2026-11-22 10:00:00.000001+05:30'",
        "2026-11-22 04:30:00.000001+00",
    ),
    ("timestamp(3) with time zone", "timestamptz", "'2026-11-22 10:00:00Z'", "2026-11-22 10:00:00+00"),
    ("time without time zone", "string", "'24:00'", "24:00:00"),
    ("interval", "string", "'1 month 2 days 3 hours'", "P1M2DT3H"),
    ("uuid", "string", "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("inet", "string", "'10.0.0.1'", "10.0.0.1"),
    ("json", "json", """'{"a":  1.10}'""", """"{""a"":  1.10}\""""),
    ("jsonb", "json", """'{"a":  1.10}'""", """"{""a"": 1.10}\""""),
    ("bytea", "binary", "'\\x00ff'", "\\x00ff"),
    ("integer[]", "string", "'{1,NULL}'", '"{1,NULL}"'),
    ("int4range", "string", "'[1,5)'", '"[1,5)"'),
    ("bit(3)", "string", "'101'", "101"),
    ("public.colour", "string", "'dark red'", "dark red"),
    ("public.colour[]", "string", "'{red}'", "{red}"),
]


@pytest.mark.parametrize(("source_type", "carried_as", "value", "text"), TYPES)
def test_every_type_has_a_fate_and_a_canonical_text(
    fresh_database: str, source_type: str, carried_as: str, value: str, text: str | None
) -> None:
    run(
        fresh_database,
        "CREATE TYPE colour AS ENUM ('red', 'dark red')",
        f"CREATE TABLE t (v {source_type})",
        f"INSERT INTO t VALUES ({value})",
    )

    with psycopg.connect(fresh_database) as connection:
        for name, setting in SESSION_SETTINGS.items():
            connection.execute("SELECT set_config(%s, %s, false)", [name, setting])
        described = connection.execute(DESCRIBE_COLUMNS, {"schema": "public", "name": "t"}).fetchall()
        expression = select_expression('"v"', source_type)
        statement = f"COPY (SELECT {expression} FROM t) TO STDOUT (FORMAT csv)"
        with connection.cursor().copy(statement.encode()) as copy:
            csv = b"".join(map(bytes, copy)).decode()

    assert described == [("v", source_type, True)]
    assert str(fate_of(source_type).type) == carried_as
    assert csv == f"{text if text is not None else value.strip(chr(39))}\n"


def test_a_domain_is_described_as_the_type_below_it(fresh_database: str) -> None:
    run(
        fresh_database,
        "CREATE DOMAIN price AS numeric(8,2) NOT NULL",
        "CREATE TYPE pair AS (a int, b text)",
        "CREATE TABLE t (p price, c pair, gone int)",
        "ALTER TABLE t DROP COLUMN gone",
    )

    with psycopg.connect(fresh_database) as connection:
        described = connection.execute(DESCRIBE_COLUMNS, {"schema": "public", "name": "t"}).fetchall()

    assert described == [("p", "numeric(8,2)", False), ("c", "public.pair", True)]
    assert fate_of("public.pair").carriage is Carriage.TEXT


@pytest.mark.parametrize(
    ("source_type", "declared", "fits"),
    [
        ("integer", "int64", True),
        ("integer", "string", True),
        ("bigint", "int32", False),
        ("double precision", "float32", False),
        ("numeric", "decimal(18,2)", True),
        ("numeric(10,2)", "decimal(12,4)", True),
        ("numeric(10,2)", "decimal(10,4)", False),
        ("timestamp without time zone", "timestamptz", False),
        ("uuid", "int64", False),
    ],
)
def test_a_contract_may_widen_a_type_and_never_narrow_it(source_type: str, declared: str, fits: bool) -> None:
    assert can_carry(source_type, ColumnType.parse(declared)) is fits
