"""`esclusa query --lake`: the committed files as tables, and nothing else of this machine or any other."""

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from support.commands import Shell
from support.lake_house import LakeHouse
from support.publish_batches import APPEND, MERGE, REPLACE, at, column, contract_of

from cli.output import ExitCode
from services.publisher.warehouse import QueryFailed
from shared.domain.contracts import MaskKind, Target
from shared.errors import ObjectNotFound, Unavailable
from upkeep import compact
from upkeep.lake_query import query_lake

ANNA, BERT, CLARA = (1, "Anna", at(1)), (2, "Bert", at(2)), (3, "Clara", at(17))


@pytest.fixture
def house() -> LakeHouse:
    return LakeHouse()


def ask(house: LakeHouse, sql: str, *, row_limit: int = 100, timeout_seconds: float = 20.0):
    return query_lake(
        sql, ledger=house.ledger, store=house.store, row_limit=row_limit, timeout_seconds=timeout_seconds
    )


def rows(house: LakeHouse, sql: str):
    return list(ask(house, sql).rows)


def test_a_table_is_its_committed_files_with_their_partition_keys(house):
    first = house.publish([ANNA, BERT], quarter=1)
    house.publish([CLARA], quarter=2)
    house.publish([ANNA], contract_of(table="other"))

    answer = ask(house, "SELECT * FROM shop.orders ORDER BY id")

    assert answer.columns == ("id", "name", "changed", "esclusa_day", "esclusa_batch")
    assert [row[:3] for row in answer.rows] == [ANNA, BERT, CLARA]
    assert answer.rows[0][3:] == ("2026-11-22", first.id)


def test_files_that_the_ledger_does_not_name_are_not_read(house):
    house.publish([ANNA])
    stray = house.published.batch([BERT], quarter=1, process_attempt=2)

    assert len(stray.files) == 1
    assert rows(house, "SELECT count(*) FROM shop.orders") == [(1,)]


def test_only_the_files_of_a_day_are_opened_if_the_day_is_named(house):
    first = house.publish([ANNA], quarter=1)
    other = house.publish([BERT], quarter=2)
    with house.ledger.transaction() as tx:
        house.store.delete(tx.files(batch_id=other.id)[0].location)

    found = rows(house, f"SELECT name FROM shop.orders WHERE esclusa_batch = '{first.id}'")

    assert found == [("Anna",)]
    with pytest.raises(ObjectNotFound, match=other.id):
        rows(house, "SELECT name FROM shop.orders")


def test_of_a_replaced_table_the_newest_snapshot_is_read(house):
    house.publish([ANNA], REPLACE, quarter=1)
    house.publish([BERT], REPLACE, quarter=2)

    assert rows(house, "SELECT id FROM shop.orders") == [(2,)]


def test_compacted_files_are_read_in_place_of_those_of_their_batches(house):
    house.publish([ANNA], APPEND, quarter=1)
    house.publish([BERT], APPEND, quarter=2)
    (group,) = compact.find_groups("shop", "orders", ledger=house.ledger, covers=lambda _: True)

    compact.compact_group(group, tools=compact.Tools(house.ledger, house.store, house.catalog), detail="test")

    assert rows(house, "SELECT id FROM shop.orders ORDER BY id") == [(1,), (2,)]


def test_files_of_older_contracts_have_the_columns_and_types_of_the_newest(house):
    old = contract_of(column("id", "int32"), column("price", "decimal(10,2)"), cursor=None)
    new = contract_of(column("id", "int64"), column("price", "decimal(14,2)"), column("city"), cursor=None)
    house.publish([(1, Decimal("1.50"))], old, quarter=1)
    house.catalog.tables.clear()  # a catalog refuses the wider type; the files are there all the same
    house.publish([(2**40, Decimal("123456789012.25"), "Bonn")], new, quarter=2, version=2)

    found = rows(house, "SELECT id, price, city, typeof(id) FROM shop.orders ORDER BY id")

    assert found == [
        (1, Decimal("1.50"), None, "BIGINT"),
        (2**40, Decimal("123456789012.25"), "Bonn", "BIGINT"),
    ]


def test_what_is_masked_by_now_is_not_shown_in_clear_and_what_left_is_not_there(house):
    house.publish([ANNA], quarter=1)
    masked = contract_of(MERGE.columns[0], column("name", mask=MaskKind.HMAC))
    masked = replace(masked, cursor=None)
    house.publish([(2, "f00d")], masked, quarter=2, version=2)

    answer = ask(house, "SELECT * EXCLUDE (esclusa_day, esclusa_batch) FROM shop.orders ORDER BY id")

    assert answer.columns == ("id", "name")
    assert answer.rows == ((1, None), (2, "f00d"))
    behind = 'SELECT x.* EXCLUDE (esclusa_day, esclusa_batch) FROM "esclusa files shop.orders 1" x'
    assert ask(house, f"{behind} WHERE EXISTS (FROM shop.orders)").rows == ((1,),)


@pytest.mark.parametrize(
    "named", ["shop.orders o", "Shop.Orders AS o", "shop.orders o(id, name)", '"shop"."orders" AS "o"']
)
def test_a_table_may_be_given_a_name_for_the_question(house, named):
    house.publish([ANNA])

    assert rows(house, f"SELECT o.id FROM {named}") == [(1,)]
    assert rows(house, "SELECT id FROM shop.orders TABLESAMPLE 100%") == [(1,)]


def test_comments_say_what_is_masked(house):
    masked = contract_of(
        MERGE.columns[0], column("name", mask=MaskKind.HMAC), column("at", "timestamptz"), cursor=None
    )
    house.publish([(2, "f00d", at(1))], masked)

    sql = (
        "SELECT column_name, comment FROM duckdb_columns() WHERE schema_name = 'shop' AND comment IS NOT NULL "
        "AND (SELECT count(*) FROM shop.orders) > 0 ORDER BY 1"
    )
    assert rows(house, sql) == [("at", "UTC"), ("name", "masked: hmac of customer, key k1")]


def test_any_name_is_carried(house):
    name = 'we"ird; DROP TABLE x --'
    house.publish([(1, "'")], contract_of(column("id", "int64"), column(name), cursor=None, table="a.b c"))

    assert rows(house, 'SELECT "we""ird; DROP TABLE x --" FROM shop."a.b c"') == [("'",)]


# ---- what a question cannot do -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('{path}')",
        "SELECT * FROM read_text('{path}')",
        "SELECT * FROM read_blob('{path}')",
        "SELECT * FROM '{path}'",
        "SELECT * FROM read_parquet('{path}')",
        "SELECT * FROM glob('{path}*')",
        "SELECT * FROM read_json('http://127.0.0.1:1/x')",
        "SELECT * FROM read_parquet('s3://other-bucket/x.parquet')",
        "SELECT * FROM query('SELECT * FROM read_text(''{path}'')')",
        "SELECT (SELECT content FROM read_text('{path}'))",
        "SELECT * FROM duckdb_extensions() JOIN read_text('{path}') ON true",
        "SELECT * FROM secret_rows",
        "SELECT getenv('HOME')",
    ],
)
def test_a_question_reads_no_file_network_variable_or_other_bucket(house, tmp_path, sql):
    house.publish([ANNA])
    path = tmp_path / "secret.csv"
    path.write_text("secret\nvery secret\n")
    secret_rows = duckdb.sql("SELECT 'very secret' AS secret").arrow()

    with pytest.raises(QueryFailed) as failed:
        ask(house, sql.format(path=path))

    assert "very secret" not in str(failed.value)
    assert secret_rows is not None


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_json('{path}')",
        "SELECT * FROM read_text('{path}')",
        "SELECT * FROM read_parquet('{path}')",
        "SELECT * FROM query('SELECT * FROM read_json(''{path}'')')",
    ],
)
def test_a_question_opens_no_file_while_its_tables_are_looked_for(house, tmp_path, sql):
    path = tmp_path / "secret"
    path.write_text("very secret")

    with pytest.raises(QueryFailed, match="disabled by configuration"):
        ask(house, sql.format(path=path))


@pytest.mark.parametrize(
    "sql",
    [
        "COPY (SELECT 1) TO '{path}'",
        "SET enable_external_access = true",
        "RESET lock_configuration",
        "ATTACH '{path}' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CREATE TABLE x AS SELECT 1",
        "DROP VIEW shop.orders",
        "EXPORT DATABASE '{path}'",
        "SELECT 1; SELECT 2",
        "SELECT 1; COPY (SELECT 1) TO '{path}'",
        "",
        "SELEC 1",
    ],
)
def test_a_question_is_one_select(house, tmp_path, sql):
    house.publish([ANNA])

    with pytest.raises(QueryFailed):
        ask(house, sql.format(path=tmp_path / "x"))

    assert list(Path(tmp_path).iterdir()) == []


def test_a_question_that_takes_too_long_is_ended(house):
    house.publish([ANNA])

    with pytest.raises(QueryFailed, match=r"longer than 0\.3 seconds"):
        ask(
            house,
            "SELECT count(*) FROM range(10000000) a, range(10000000) b, shop.orders WHERE a.range + b.range = 7",
            timeout_seconds=0.3,
        )


def test_an_answer_is_cut_at_its_limit(house):
    house.publish([ANNA, BERT, CLARA])

    answer = ask(house, "SELECT id FROM shop.orders", row_limit=2)

    assert (len(answer.rows), answer.is_cut) == (2, True)
    assert not ask(house, "SELECT id FROM shop.orders", row_limit=3).is_cut


def test_a_table_that_is_not_there_is_told_by_duckdb(house):
    house.publish([ANNA])

    with pytest.raises(QueryFailed, match=r"nothing.*does not exist(.|\n)*the lake has shop\.orders"):
        ask(house, "SELECT * FROM shop.nothing")


def test_a_store_that_is_away_is_unavailable(house):
    house.publish([ANNA])

    def away(*_: object, **__: object) -> bytes:
        raise Unavailable("s3 is away")

    house.store.read = away

    with pytest.raises(Unavailable, match="s3 is away"):
        ask(house, "SELECT * FROM shop.orders")


def test_a_moment_beyond_the_calendar_of_python_comes_as_text(house):
    far = 400_000_000_000_000_000  # microseconds: the year 14645
    house.publish([(1, "x", far)], contract_of(target=Target.EXTERNAL))

    assert str(rows(house, "SELECT changed FROM shop.orders")[0][0]).startswith("14645-")


# ---- the command -------------------------------------------------------------------------------------------


def test_the_command_asks_the_lake_and_prints_it_as_a_table_or_json(house):
    house.publish([ANNA, BERT])
    shell = Shell(ledger=house.ledger, store=house.store)
    sql = "SELECT name, NULL AS nothing FROM shop.orders ORDER BY id"

    as_json = shell.run("query", "--lake", sql, "--limit", "1", "--json")
    as_table = shell.run("query", "--lake", sql)
    refused = shell.run("query", "--lake", "SELECT * FROM read_text('/etc/hostname')")

    assert as_json.document == {"columns": ["name", "nothing"], "rows": [["Anna", None]], "is_cut": True}
    assert "Bert" in as_table.output
    assert refused.exit_code == ExitCode.CONFIGURATION
    assert "the lake refused the statement" in refused.errors
