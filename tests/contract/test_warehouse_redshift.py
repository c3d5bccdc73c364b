"""
What only the Redshift warehouse promises: that whatever is lost between it and the Data API does no harm, and its layout.

The transactions are executed by PostgreSQL, see support/redshift_server.py.
"""

import json
from collections.abc import Iterator
from dataclasses import replace

import psycopg
import pytest
import structlog
from support.publish_batches import (
    APPEND,
    MERGE,
    REPLACE,
    Published,
    at,
    column,
    contract_of,
    write_file,
)
from support.redshift_server import ROLE, FakeDataClient, redshift_stand_in, redshift_warehouse

from services.publisher.redshift.warehouse import MAX_TRIES
from services.publisher.warehouse import QueryFailed, Rebuild
from shared.domain.contracts import MaskKind, PublishMode
from shared.domain.files import Area, Location, ParsedKey
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, LostLease, Refused, Unavailable
from shared.measures import ColumnMeasure
from shared.object_store.memory import MemoryObjectStore

ANNA, BERT = (1, "Anna", at(1)), (2, "Bert", at(2))
MODES = pytest.mark.parametrize("contract", [APPEND, MERGE, REPLACE], ids=["append", "merge", "replace"])


@pytest.fixture
def client(redshift_database: str) -> Iterator[FakeDataClient]:
    with redshift_stand_in(redshift_database, MemoryObjectStore()) as client:
        yield client


@pytest.fixture
def published(client: FakeDataClient) -> Published:
    warehouse = redshift_warehouse(client, client.store)
    return Published(warehouse, client.store, client.dsn, is_redshift=True)


def asked(published: Published, sql: str) -> list[tuple]:
    with published.connect() as connection:
        return connection.execute(sql).fetchall()


# ---- what is lost on the way -------------------------------------------------------------------------------


@MODES
def test_a_lost_reply_does_no_harm_when_it_is_asked_for_again(client, published, contract):
    client.lost_replies = 2

    result = published.load([ANNA, BERT], contract)

    assert published.rows() == [ANNA, BERT]
    assert (result.rows_inserted, result.was_loaded_before) == (2, False)


@MODES
def test_a_reply_that_is_lost_for_good_is_made_good_by_the_next_attempt(client, published, contract):
    client.lost_replies = 1000
    with pytest.raises(Unavailable):
        published.load([ANNA, BERT], contract)
    client.lost_replies = 0

    result = published.load([ANNA, BERT], contract, attempt=2)

    assert published.rows() == [ANNA, BERT]
    assert (result.rows_inserted, result.was_loaded_before) == (2, True)


@MODES
def test_a_transaction_that_is_not_seen_to_end_in_time_is_told_to_end_and_found_done(
    client, published, contract
):
    published.load([ANNA], contract, quarter=1)
    client.before_batch = lambda: setattr(client, "slow_answers", 1000)
    with pytest.raises(Unavailable, match="not finished in time"):
        published.load([BERT], contract, quarter=2)
    client.slow_answers, client.before_batch = 0, lambda: None

    result = published.load([BERT], contract, quarter=2, attempt=2)

    assert len(client.cancelled) == 1
    assert result.was_loaded_before
    assert published.rows() == ([BERT] if contract is REPLACE else [ANNA, BERT])


@MODES
def test_a_plan_whose_turn_has_passed_changes_nothing_and_is_made_anew(client, published, contract):
    published.load([ANNA], contract, quarter=1)
    other = published.batch([(3, "Cleo", at(3))], contract, quarter=2)

    def come_between() -> None:
        client.before_batch = lambda: None
        published.warehouse.load(other)

    client.before_batch = come_between
    late = published.batch([BERT], contract, quarter=3)

    result = published.warehouse.load(late)

    assert result.rows_inserted == 1
    assert published.rows() == ([BERT] if contract is REPLACE else [ANNA, BERT, (3, "Cleo", at(3))])


def test_a_zombie_whose_transaction_comes_last_is_sent_home(client, published):
    zombie = published.batch([(1, "Zombie", at(5))], attempt=1, process_attempt=1)
    winner = published.batch([ANNA], attempt=2, process_attempt=2)

    def come_between() -> None:
        client.before_batch = lambda: None
        published.warehouse.load(winner)

    client.before_batch = come_between

    with pytest.raises(LostLease):
        published.warehouse.load(zombie)

    assert published.rows() == [ANNA]


CONFLICT = "1023 DETAIL: Serializable isolation violation on table - 125348, transactions forming the cycle are: 1, 2"


@pytest.mark.parametrize("conflict", [CONFLICT, "deadlock detected", "could not serialize access"])
def test_a_conflict_with_others_is_tried_again_from_the_beginning(client, published, conflict):
    client.failures = [("INSERT INTO", conflict)] * 3

    published.load([ANNA, BERT])

    assert published.rows() == [ANNA, BERT]


def test_conflicts_without_end_are_unavailable_after_a_bounded_number_of_tries(client, published):
    client.failures = [("INSERT INTO", CONFLICT)] * 100

    with pytest.raises(Unavailable, match=f"each of {MAX_TRIES} tries"):
        published.load([ANNA])

    assert len(client.failures) == 100 - MAX_TRIES


def test_a_file_that_goes_between_the_check_and_the_copy_changes_nothing_and_is_then_missed(
    client, published
):
    published.load([ANNA], quarter=1)
    load = published.batch([BERT, (3, "Cleo", at(3))], quarter=2)
    client.before_batch = lambda: published.store.delete(load.files[1].location)

    with pytest.raises(Unavailable, match="a file of the manifest is not there"):
        published.warehouse.load(load)
    with pytest.raises(Refused) as refusal:
        published.warehouse.load(replace(load, attempt=2))

    assert refusal.value.reason is Reason.OBJECT_MISSING
    assert published.rows() == [ANNA]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (ColumnMeasure(1, size_in_bytes=8, longest_in_bytes=4), "'name': the number of NULLs"),
        (ColumnMeasure(0, size_in_bytes=9, longest_in_bytes=4), "'name': the length of all values"),
    ],
)
def test_rows_that_do_not_come_to_what_was_measured_are_refused_by_the_column_and_without_a_value(
    published, monkeypatch, wrong, told
):
    import support.publish_batches as batches

    true_measure = batches.measure
    monkeypatch.setattr(
        batches, "measure", lambda table: [true_measure(table)[0], wrong, true_measure(table)[2]]
    )

    with pytest.raises(Refused) as refusal:
        published.load([ANNA])

    assert refusal.value.reason is Reason.PROOF_FAILED
    assert told in refusal.value.detail
    assert "Anna" not in refusal.value.detail
    with pytest.raises(KeyError):
        published.warehouse.row_count("shop", "orders")


def test_a_file_without_measures_is_refused_and_says_what_helps(published, monkeypatch):
    import support.publish_batches as batches

    monkeypatch.setattr(batches, "MEASURES_KEY", "esclusa.other")

    with pytest.raises(Refused, match="replay the batch from the source"):
        published.load([ANNA])


def test_a_value_that_the_warehouse_refuses_is_not_told(client, published):
    client.failures = [("COPY ", "Spectrum Scan Error: value Anna in column 'name' is broken")]

    with pytest.raises(Unavailable) as error:
        published.load([ANNA])

    assert "Anna" not in str(error.value)
    assert "copy the files" in str(error.value)
    assert "4711" in str(error.value)


def test_a_missing_right_is_told_as_such(client, published):
    client.failures = [("CREATE SCHEMA", "permission denied for database dev")]

    with pytest.raises(ConfigurationError, match="permission denied for database dev"):
        published.load([ANNA])


def test_a_merge_into_a_table_with_doubles_is_refused(published):
    published.load([ANNA, ANNA], contract_of(mode=PublishMode.APPEND, key=()))

    with pytest.raises(Refused) as refusal:
        published.load([(1, "Anne", at(9))], quarter=2)

    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "rows with one key" in refusal.value.detail
    assert published.rows() == [ANNA, ANNA]


@pytest.mark.parametrize("outside", ["Disk Full", "Query cancelled on user's request", "statement timeout"])
def test_a_proof_that_could_not_be_asked_is_asked_again_later_and_proves_nothing_wrong(
    client, published, outside
):
    client.failures = [("esclusa rows", outside)]

    with pytest.raises(Unavailable, match="prove what was staged"):
        published.load([ANNA])
    published.load([ANNA], attempt=2)

    assert published.rows() == [ANNA]


@pytest.mark.parametrize("count", [1018, 1023, 40001])
def test_a_count_that_looks_like_a_code_is_no_conflict(client, published, count):
    told = f"Invalid digit, Value 'e', Pos 0, Type: Integer, context: esclusa rows {count}"
    client.failures = [("esclusa rows", told)]

    with pytest.raises(Refused, match=f"expected 1, found {count}") as refusal:
        published.load([ANNA])

    assert refusal.value.reason is Reason.PROOF_FAILED


def test_a_footer_that_measures_other_columns_is_refused_before_anything_is_staged(
    client, published, monkeypatch
):
    import support.publish_batches as batches

    true_measure = batches.measure
    monkeypatch.setattr(batches, "measure", lambda table: true_measure(table)[:2])

    with pytest.raises(Refused, match="expected 3 columns, found 2") as refusal:
        published.load([ANNA])

    assert refusal.value.reason is Reason.FOOTER_MISMATCH
    assert not [sql for sql in client.sent if sql.startswith("COPY ")]


def test_a_table_is_made_anew_of_a_compacted_file_while_the_list_of_its_first_load_still_lies_there(
    published,
):
    contract = contract_of(mode=PublishMode.APPEND, key=())
    first = published.batch([ANNA], contract, quarter=1)
    second = published.batch([BERT], contract, quarter=2)
    for load in (first, second):
        published.warehouse.load(load)
    both = write_file(published.store, [ANNA, BERT], contract, batch="b" + "c" * 24)
    compacted = [
        replace(load, files=(replace(both, record_count=1, first_row=number),))
        for number, load in enumerate((first, second))
    ]

    result = published.warehouse.rebuild(Rebuild("r1", tuple(compacted)))

    assert result.row_count == 2
    assert published.rows() == [ANNA, BERT]


def test_a_batch_without_rows_is_cut_out_of_a_compacted_file_as_such(published):
    full, empty = published.batch([ANNA], APPEND, quarter=1), published.batch([], APPEND, quarter=2)
    for load in (full, empty):
        published.warehouse.load(load)
    both = write_file(published.store, [ANNA], APPEND, batch="b" + "c" * 24)
    compacted = (
        replace(full, files=(replace(both, record_count=1, first_row=0),)),
        replace(empty, files=(replace(both, record_count=0, first_row=1),)),
    )

    published.warehouse.rebuild(Rebuild("r1", compacted))

    assert published.rows() == [ANNA]


def test_two_who_make_a_table_anew_at_once_never_show_half_of_it(client, published):
    loads = tuple(published.batch([row], quarter=number) for number, row in enumerate((ANNA, BERT), start=1))
    for load in loads:
        published.warehouse.load(load)
    rebuild = Rebuild("r1", loads)
    batches = 0

    def come_between() -> None:
        nonlocal batches
        batches += 1
        if (
            batches == len(loads) + 1
        ):  # everything is put together, and is about to be put in the table's place
            with pytest.raises(OSError, match="killed"):
                published.warehouse.rebuild(rebuild)
        elif batches == len(loads) + 3:  # of the other one, which has put the first batch together
            raise OSError("killed")

    client.before_batch = come_between

    published.warehouse.rebuild(rebuild)

    assert published.rows() == [ANNA, BERT]


# ---- what is fetched -----------------------------------------------------------------------------------------


def test_copy_names_a_list_of_exactly_the_committed_files_each_mandatory_and_of_exact_length(
    client, published
):
    load = published.batch([ANNA, BERT])
    published.warehouse.load(load)

    (copy,) = [sql for sql in client.sent if sql.startswith("COPY ")]
    url = copy.partition(" FROM '")[2].partition("'")[0]
    bucket, _, key = url.removeprefix("s3://").partition("/")
    manifest = json.loads(published.store.read(Location(bucket, key)))

    assert manifest == {
        "entries": [
            {
                "url": str(file.location),
                "mandatory": True,
                "meta": {"content_length": file.file_size_in_bytes},
            }
            for file in load.files
        ]
    }
    assert ParsedKey.of(key) == ParsedKey(Area.TMP, load.batch_id, load.attempt, 0, is_for_copy=True)
    assert f"IAM_ROLE '{ROLE}'" in copy
    assert '("id", "name", "changed")' in copy


def test_a_batch_without_rows_fetches_nothing(client, published):
    published.load([])

    assert not [sql for sql in client.sent if sql.startswith("COPY ")]
    assert published.rows() == []


# ---- tables, views, rights -----------------------------------------------------------------------------------


def test_a_longer_value_widens_its_column_outside_of_the_transaction_and_keeps_view_and_rows(
    client, published
):
    published.load([ANNA], quarter=1)
    longer = (2, "é" * 20, at(20))

    published.load([longer], quarter=2)

    assert published.rows() == sorted([ANNA, longer], key=repr)
    widened = [sql for sql in client.sent if " TYPE " in sql]
    assert widened == ['ALTER TABLE "shop__base"."orders" ALTER COLUMN "name" TYPE VARCHAR(64)']


def test_keys_that_differ_in_trailing_blanks_alone_stay_two(published):
    contract = contract_of(column("code"), column("value"), key=("code",), cursor=None)
    published.load([("a", "1"), ("a ", "2")], contract, quarter=1)

    result = published.load([("a ", "3"), ("a", "1")], contract, quarter=2)

    assert published.rows() == [("a ", "3"), ("a", "1")]
    assert (result.rows_updated, result.rows_unchanged) == (1, 1)


def test_json_is_navigated_as_super_and_kept_in_its_exact_text(published):
    contract = contract_of(column("id", "int64"), column("doc", "json"), cursor=None)
    text = '{"b": 1.10, "a": [1,  2]}'
    published.load([(1, text)], contract)

    types = asked(
        published,
        "SELECT format_type(atttypid, -1) FROM pg_attribute WHERE attrelid = 'shop__base.orders'::regclass AND attnum > 0",
    )

    assert ("super",) in types
    assert asked(published, "SELECT doc::json ->> 'b' FROM shop.orders") == [("1.10",)]
    (block,) = published.warehouse.read_rows(contract)
    assert block.rows() == [(1, text)]


def test_comments_say_what_is_masked_on_columns_and_on_the_view(published):
    contract = contract_of(MERGE.columns[0], column("name", mask=MaskKind.HMAC), MERGE.columns[2])
    published.load([(1, "f00d", at(1))], contract)

    columns = asked(
        published,
        "SELECT a.attname, col_description(a.attrelid, a.attnum) FROM pg_attribute a "
        "WHERE a.attrelid = 'shop__base.orders'::regclass AND a.attnum > 0 ORDER BY a.attnum",
    )
    ((view,),) = asked(published, "SELECT obj_description('shop.orders'::regclass)")

    assert columns[:3] == [("id", None), ("name", "masked: hmac of customer, key k1"), ("changed", "UTC")]
    assert view == (
        "shop.orders: the newest version of each row; masked: name (hmac of customer, key k1); contract 1"
    )


def test_clear_values_that_remain_under_a_new_mask_are_reported_once(published):
    published.load([ANNA], quarter=1)
    masked = contract_of(MERGE.columns[0], column("name", mask=MaskKind.HMAC), MERGE.columns[2])

    with structlog.testing.capture_logs() as logs:
        published.load([(2, "f00d", at(20))], masked, quarter=2, version=2)
        published.load([(3, "beef", at(40))], masked, quarter=3, version=2)

    assert [log["columns"] for log in logs if log["event"] == "clear_values_remain"] == [["name"]]


@pytest.fixture
def analyst(redshift_database: str) -> Iterator[str]:
    with psycopg.connect(redshift_database, autocommit=True) as connection:
        connection.execute("CREATE ROLE analyst_of_redshift")
    yield "analyst_of_redshift"
    with psycopg.connect(redshift_database, autocommit=True) as connection:
        connection.execute("DROP OWNED BY analyst_of_redshift")
        connection.execute("DROP ROLE analyst_of_redshift")


def test_grants_outlive_a_view_that_is_made_anew(published, analyst):
    published.load([ANNA], quarter=1)
    asked_for = f"GRANT SELECT ON shop.orders TO {analyst}"
    with published.connect() as connection:
        connection.execute(asked_for)
    narrower = contract_of(MERGE.columns[0], MERGE.columns[2])

    published.load([(2, at(20))], narrower, quarter=2, version=2)

    assert published.rows() == [(1, at(1)), (2, at(20))]
    assert asked(published, f"SELECT has_table_privilege('{analyst}', 'shop.orders', 'SELECT')") == [(True,)]


def test_the_role_of_analysts_reads_every_table_of_a_source_and_no_base(client, analyst):
    warehouse = redshift_warehouse(client, client.store, analysts_role=analyst)
    published = Published(warehouse, client.store, client.dsn, is_redshift=True)

    published.load([ANNA])

    for relation, expected in [("shop.orders", True), ('shop."_esclusa_loads"', True)]:
        found = asked(published, f"SELECT has_table_privilege('{analyst}', '{relation}', 'SELECT')")
        assert found == [(expected,)]
    assert asked(published, f"SELECT has_schema_privilege('{analyst}', 'shop__base', 'USAGE')") == [(False,)]


def test_a_view_or_base_table_of_somebody_else_is_left_alone(published):
    with published.connect() as connection:
        connection.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int)")
        connection.execute("CREATE SCHEMA shop__base; CREATE TABLE shop__base.items (id bigint)")

    with pytest.raises(Refused, match="another relation has its name"):
        published.load([ANNA])
    with pytest.raises(Refused, match="does not fit the contract"):
        published.load([ANNA], contract_of(table="items"))

    assert asked(published, "SELECT count(*) FROM shop.orders") == [(0,)]
    assert asked(published, "SELECT count(*) FROM shop__base.items") == [(0,)]


def test_a_type_that_no_longer_fits_is_refused_by_name(published):
    published.load([ANNA], quarter=1)
    changed = contract_of(MERGE.columns[0], column("name", "int64"), MERGE.columns[2])

    with pytest.raises(Refused) as refusal:
        published.load([(2, 7, at(20))], changed, quarter=2, version=2)

    assert "column 'name' should be bigint, found character varying(16)" in refusal.value.detail


def test_a_load_that_changes_no_contract_makes_nothing_anew(client, published):
    published.load([ANNA], quarter=1)
    client.sent.clear()

    published.load([BERT], quarter=2)

    ddl = [sql for sql in client.sent if sql.startswith(("CREATE", "ALTER", "DROP", "COMMENT", "GRANT"))]
    assert [sql for sql in ddl if "TEMPORARY" not in sql] == []


# ---- questions -----------------------------------------------------------------------------------------------


def test_an_answer_is_cut_at_its_limit_over_pages_and_says_so(client, published):
    client.page_size = 2

    answer = published.warehouse.query(
        "SELECT n, n::text AS t FROM generate_series(1, 9) AS n ORDER BY 1", row_limit=3, timeout_seconds=5
    )

    assert answer.rows == ((1, "1"), (2, "2"), (3, "3"))
    assert (answer.columns, answer.is_cut) == (("n", "t"), True)


def test_a_question_that_changes_something_never_reaches_the_warehouse(client, published):
    with pytest.raises(QueryFailed, match="expected one SELECT"):
        published.warehouse.query("DELETE FROM shop.orders", row_limit=1, timeout_seconds=5)
    with pytest.raises(QueryFailed, match="does not exist"):
        published.warehouse.query("SELECT * FROM nothing", row_limit=1, timeout_seconds=5)

    assert client.sent == ["SELECT * FROM nothing"]


def test_rows_are_read_back_in_pages(client, published):
    client.page_size = 2
    rows = [(number, "x", at(number)) for number in range(5)]
    published.load(rows)

    blocks = list(published.warehouse.read_rows(MERGE))

    assert [block.height for block in blocks] == [2, 2, 1]
    assert sorted(row for block in blocks for row in block.rows()) == rows
