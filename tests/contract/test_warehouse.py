"""What every warehouse promises, tried on the one in memory and on PostgreSQL."""

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from support.publish_batches import (
    APPEND,
    MERGE,
    NOON,
    REPLACE,
    Published,
    at,
    column,
    contract_of,
    with_files_changed,
    write_file,
)
from support.redshift_server import redshift_stand_in, redshift_warehouse

from services.publisher.memory import MemoryWarehouse, rows_in
from services.publisher.postgres import PostgresWarehouse
from services.publisher.rows import read_blocks
from services.publisher.warehouse import LOADS_COLUMNS, LoadResult, Rebuild, RebuildResult
from shared.domain.contracts import DeleteMode, Deletes, MaskKind, PublishMode, TableContract, keys_of
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window
from shared.errors import LostLease, Refused
from shared.object_store.memory import MemoryObjectStore


@pytest.fixture(params=["memory", "postgres", "redshift"])
def published(request: pytest.FixtureRequest) -> Iterator[Published]:
    store = MemoryObjectStore()
    if request.param == "memory":
        yield Published(MemoryWarehouse(rows_in(store)), store)
    elif request.param == "redshift":
        with redshift_stand_in(request.getfixturevalue("redshift_database"), store) as client:
            warehouse = redshift_warehouse(client, store)
            yield Published(warehouse, store, client.dsn, is_redshift=True)
    else:
        dsn = request.getfixturevalue("fresh_database")
        yield Published(PostgresWarehouse(dsn, store=store), store, dsn)


ANNA, BERT = (1, "Anna", at(1)), (2, "Bert", at(2))
MODES = pytest.mark.parametrize("contract", [APPEND, MERGE, REPLACE], ids=["append", "merge", "replace"])


@MODES
def test_every_row_of_a_batch_arrives(published, contract):
    result = published.load([ANNA, BERT], contract)

    assert published.rows() == [ANNA, BERT]
    assert result == LoadResult(rows_staged=2, rows_inserted=2)
    assert published.warehouse.row_count("shop", "orders") == 2


@MODES
def test_loading_a_batch_again_changes_nothing_and_tells_the_same_counts(published, contract):
    first = published.load([ANNA, BERT], contract)

    again = published.load([ANNA, BERT], contract, attempt=2)

    assert again == replace(first, was_loaded_before=True)
    assert published.rows() == [ANNA, BERT]


@MODES
def test_a_replay_with_other_files_takes_the_place_of_the_first_load(published, contract):
    published.load([ANNA, BERT], contract)
    berta = (2, "Berta", at(2))

    published.load([ANNA, berta], contract, attempt=2, process_attempt=2)

    assert published.rows() == [ANNA, berta]


@MODES
def test_an_attempt_that_was_overtaken_changes_nothing(published, contract):
    published.load([ANNA, BERT], contract, attempt=3, process_attempt=2)

    with pytest.raises(LostLease):
        published.load([(1, "Zombie", at(3))], contract, attempt=2, process_attempt=1)

    assert published.rows() == [ANNA, BERT]


@MODES
def test_files_that_hold_fewer_rows_than_the_ledger_says_are_refused(published, contract):
    load = with_files_changed(published.batch([ANNA, BERT], contract), record_count=2)

    with pytest.raises(Refused) as refusal:
        published.warehouse.load(load)

    assert refusal.value.reason is Reason.PROOF_FAILED
    assert "expected 3, found 2" in refusal.value.detail
    with pytest.raises(KeyError):
        published.warehouse.row_count("shop", "orders")


@MODES
def test_a_file_that_was_changed_after_its_gate_is_refused(published, contract):
    load = published.batch([ANNA, BERT], contract)
    published.store.overwrite(load.files[1].location, b"PAR1 something else PAR1")

    with pytest.raises(Refused) as refusal:
        published.warehouse.load(load)

    assert refusal.value.reason is Reason.CHECKSUM_MISMATCH


@MODES
def test_a_file_that_is_gone_is_refused(published, contract):
    load = published.batch([ANNA, BERT], contract)
    published.store.delete(load.files[1].location)

    with pytest.raises(Refused) as refusal:
        published.warehouse.load(load)

    assert refusal.value.reason is Reason.OBJECT_MISSING


@MODES
def test_a_file_with_other_columns_than_the_contract_is_refused(published, contract):
    load = published.batch([ANNA], contract)
    renamed = replace(
        contract, columns=(*contract.columns[:2], column("altered", "timestamptz")), cursor=None
    )

    with pytest.raises(Refused) as refusal:
        published.warehouse.load(replace(load, contract=renamed))

    assert refusal.value.reason is Reason.FOOTER_MISMATCH


def test_append_adds_the_rows_of_each_batch(published):
    published.load([ANNA], APPEND, quarter=1)
    published.load([ANNA, BERT], APPEND, quarter=2)

    assert published.rows() == [ANNA, ANNA, BERT]


def test_a_replay_of_an_append_leaves_the_other_batches_alone(published):
    published.load([ANNA], APPEND, quarter=1)
    published.load([ANNA, BERT], APPEND, quarter=2)

    published.load([BERT], APPEND, quarter=2, attempt=2, process_attempt=2)

    assert published.rows() == [ANNA, BERT]


def test_merge_counts_what_is_new_changed_and_the_same(published):
    published.load([ANNA, BERT], quarter=1)

    result = published.load([(1, "Anne", at(16)), BERT, (3, "Cleo", at(17))], quarter=2)

    assert result == LoadResult(rows_staged=3, rows_inserted=1, rows_updated=1, rows_unchanged=1)
    assert published.rows() == [(1, "Anne", at(16)), BERT, (3, "Cleo", at(17))]


def test_an_old_batch_never_overwrites_newer_rows(published):
    newer = (1, "Anne", at(16))
    published.load([newer], quarter=2)

    result = published.load([ANNA, BERT], quarter=1)

    assert result == LoadResult(rows_staged=2, rows_inserted=1, rows_unchanged=1)
    assert published.rows() == [newer, BERT]


def test_of_equal_cursors_the_later_window_wins_in_any_order(published):
    read_later = (1, "read later", at(1))
    published.load([read_later], quarter=2)

    published.load([(1, "read earlier", at(1))], quarter=1)

    assert published.rows() == [read_later]


def test_a_row_read_again_unchanged_still_counts_as_read_later(published):
    published.load([ANNA], quarter=1)
    published.load([ANNA], quarter=3)

    published.load([(1, "read between", at(1))], quarter=2)

    assert published.rows() == [ANNA]


def test_without_a_cursor_the_later_window_wins(published):
    contract = contract_of(cursor=None)
    published.load([ANNA], contract, quarter=2)

    published.load([(1, "older", at(9)), BERT], contract, quarter=1)

    assert published.rows() == [ANNA, BERT]


@pytest.mark.parametrize("contract", [MERGE, REPLACE], ids=["merge", "replace"])
def test_of_duplicates_in_a_batch_the_latest_stays(published, contract):
    late, early = (1, "late", at(5)), (1, "early", at(4))

    result = published.load([late, early, BERT, BERT], contract)

    assert published.rows() == [late, BERT]
    assert result == LoadResult(rows_staged=4, rows_inserted=2, rows_unchanged=2)


def test_of_duplicates_with_one_cursor_the_last_in_the_files_stays(published):
    rows = [(1, "first", at(1)), (1, "second", at(1)), (1, "third", at(1))]

    published.load(rows)

    # COPY of Redshift keeps no order. The processor has left one row of each key before.
    (found,) = published.rows()
    assert found in (rows if published.is_redshift else rows[2:])


def test_keys_of_several_columns_find_their_rows(published):
    contract = contract_of(column("a", "int32"), column("b"), column("c"), key=("a", "b"), cursor=None)
    published.load([(1, "x", "old"), (1, "y", "old"), (2, "x", "old")], contract, quarter=1)

    published.load([(1, "y", "new")], contract, quarter=2)

    assert published.rows() == [(1, "x", "old"), (1, "y", "new"), (2, "x", "old")]


def test_null_and_empty_and_the_word_null_stay_three_values_when_merged(published):
    contract = contract_of(column("id", "int64"), column("text"), cursor=None)
    published.load([(1, None), (2, ""), (3, "NULL")], contract, quarter=1)

    result = published.load([(1, ""), (2, "NULL"), (3, None)], contract, quarter=2)

    assert published.rows() == [(1, ""), (2, "NULL"), (3, None)]
    assert result.rows_updated == 3


def test_a_row_without_a_key_is_refused(published):
    with pytest.raises(Refused) as refusal:
        published.load([ANNA, (None, "Nobody", at(2))])

    assert refusal.value.reason is Reason.NULL_KEY
    assert "Nobody" not in str(refusal.value)


def test_a_snapshot_takes_the_place_of_the_one_before(published):
    published.load([ANNA, BERT], REPLACE, quarter=1)

    result = published.load([(3, "Cleo", at(20))], REPLACE, quarter=2)

    assert published.rows() == [(3, "Cleo", at(20))]
    assert result == LoadResult(rows_staged=1, rows_inserted=1)


def test_an_older_snapshot_is_superseded(published):
    published.load([ANNA], REPLACE, quarter=2)

    result = published.load([BERT], REPLACE, quarter=1)

    assert result.is_superseded
    assert published.rows() == [ANNA]


def test_a_snapshot_without_rows_does_not_empty_the_table(published):
    published.load([ANNA], REPLACE, quarter=1)

    with pytest.raises(Refused) as refusal:
        published.load([], REPLACE, quarter=2)

    assert refusal.value.reason is Reason.EMPTY_REPLACE
    assert published.rows() == [ANNA]


def test_an_old_snapshot_without_rows_is_superseded_not_refused(published):
    published.load([ANNA], REPLACE, quarter=2)

    assert published.load([], REPLACE, quarter=1).is_superseded


def test_a_snapshot_without_rows_is_believed_where_the_contract_says_so(published):
    contract = contract_of(mode=PublishMode.REPLACE, allow_empty=True)
    published.load([ANNA], contract, quarter=1)

    published.load([], contract, quarter=2)

    assert published.rows() == []
    assert published.warehouse.row_count("shop", "orders") == 0


@pytest.mark.parametrize("contract", [APPEND, MERGE], ids=["append", "merge"])
def test_a_batch_without_rows_leaves_a_table_that_can_be_asked(published, contract):
    assert published.load([], contract) == LoadResult()
    assert published.rows() == []


def test_rows_deleted_at_the_source_are_not_shown(published):
    contract = contract_of(
        column("id", "int64"), column("deleted", "timestamptz"), cursor=None, deleted_at="deleted"
    )
    published.load([(1, None), (2, None)], contract, quarter=1)

    published.load([(2, at(20))], contract, quarter=2)

    assert published.rows() == [(1, None)]
    assert published.warehouse.row_count("shop", "orders") == 1


def test_a_new_column_is_null_in_older_rows(published):
    published.load([ANNA], quarter=1)
    wider = contract_of(*MERGE.columns, column("city"))

    published.load([(2, "Bert", at(20), "Bonn")], wider, quarter=2, version=2)

    assert published.rows() == [(1, "Anna", at(1), None), (2, "Bert", at(20), "Bonn")]


def test_a_batch_of_an_older_contract_takes_nothing_from_the_newer_one(published):
    wider = contract_of(*MERGE.columns, column("city"))
    published.load([(2, "Bert", at(2), "Bonn")], wider, quarter=1, version=2)

    published.load([ANNA, (2, "Berta", at(2))], quarter=2, version=1)

    assert published.rows() == [(1, "Anna", at(1), None), (2, "Berta", at(2), "Bonn")]


def test_a_batch_of_an_older_contract_brings_no_clear_values_into_a_column_that_is_masked_now(published):
    published.load([ANNA], quarter=1)
    masked = contract_of(MERGE.columns[0], column("name", mask=MaskKind.HMAC), MERGE.columns[2])
    published.load([(2, "f00d", at(20))], masked, quarter=2, version=2)

    with pytest.raises(Refused) as refused:
        published.load([(3, "Carla", at(40))], quarter=3, version=1)

    assert refused.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "'name'" in refused.value.detail
    assert "Carla" not in refused.value.detail
    assert published.rows() == [ANNA, (2, "f00d", at(20))]


def test_columns_that_left_the_contract_are_no_longer_shown(published):
    published.load([ANNA], quarter=1)
    narrower = contract_of(MERGE.columns[0], MERGE.columns[2])

    published.load([(2, at(20))], narrower, quarter=2, version=2)

    assert published.rows() == [(1, at(1)), (2, at(20))]


def test_a_masked_cursor_does_not_tell_which_row_is_newer(published):
    masked = contract_of(
        column("id", "int64"), column("changed", "timestamptz", mask=MaskKind.HMAC), cursor="changed"
    )
    published.load([(1, "ffff")], masked, quarter=1)

    published.load([(1, "0000")], masked, quarter=2)

    assert published.rows() == [(1, "0000")]


def test_two_publishers_of_one_batch_load_it_once(published):
    load = published.batch([ANNA, BERT], APPEND)

    results = together(lambda: published.warehouse.load(load), lambda: published.warehouse.load(load))

    assert sorted(result.was_loaded_before for result in results) == [False, True]
    assert published.rows() == [ANNA, BERT]


def test_two_publishers_of_one_table_lose_nothing(published):
    loads = [published.batch([(1, f"v{quarter}", at(quarter))], quarter=quarter) for quarter in (1, 2)]

    together(*(lambda load=load: published.warehouse.load(load) for load in loads))

    assert published.rows() == [(1, "v2", at(2))]


def test_tables_of_two_sources_and_of_any_case_are_kept_apart_or_refused(published):
    tables = [("shop", "orders"), ("crm", "orders"), ("shop", "Orders")]
    if published.is_redshift:
        published.load([ANNA], contract_of(table=tables[2][1]))
        with pytest.raises(Refused, match="capital letters"):
            published.load([BERT], contract_of(table="ORDERS"), quarter=2)
        tables = [("shop", "items"), ("crm", "items")]
    for number, (source, table) in enumerate(tables):
        contract = contract_of(source=source, table=table)
        published.load([(number, "x", at(1))], contract)

    found = [published.rows(table, source)[0][0] for source, table in tables]
    assert found == list(range(len(tables)))


HOSTILE = [
    "se lect",
    'we"ird',
    "x; DROP TABLE orders; --",
    "100%",
    "%s $1 {}",
    "naïve ☃ \U0001f600",
    "a.b",
    "\n",
    "'",
    "*",
    "^.*$",
    "^a[.]b$",
]


def hostile_to(published):
    """Names that a warehouse takes. Redshift takes none that cannot be printed."""
    return [name for name in HOSTILE if name.isprintable() or not published.is_redshift]


@pytest.mark.parametrize("mode", list(PublishMode))
def test_any_legal_name_is_carried(published, mode):
    names = hostile_to(published)
    columns = [column(name) for name in names]
    for name in names:
        contract = contract_of(*columns, key=names[:3], cursor=names[3], table=name, mode=mode)

        published.load([tuple(names)], contract)

        assert published.rows(name.lower() if published.is_redshift else name) == [tuple(names)]
        assert published.warehouse.row_count("shop", name) == 1


def test_a_table_that_nobody_loaded_is_no_table(published):
    with pytest.raises(KeyError):
        published.warehouse.row_count("shop", "nothing")


# ---- reading back ------------------------------------------------------------------------------------------


def read_back(published, contract, window=None):
    blocks = list(published.warehouse.read_rows(contract, window=window))
    return sorted((row for block in blocks for row in block.iter_rows()), key=repr)


VALUES_OF_EVERY_KIND = [
    ("string", ["", "NULL", "\ufeffx", 'a "b", c\r\n', "\\N"]),
    ("boolean", [True, False]),
    ("int16", [-(2**15), 2**15 - 1]),
    ("int32", [-(2**31), 2**31 - 1]),
    ("int64", [-(2**63), 2**63 - 1]),
    ("float32", [0.10000000149011612, math.inf, 1.401298464324817e-45]),
    ("float64", [0.1, -math.inf, 5e-324, 1.7976931348623157e308]),
    ("decimal(38,10)", [Decimal("9" * 28 + "." + "9" * 10), Decimal("-0.0000000001")]),
    ("date", [date(1, 1, 1), date(9999, 12, 31)]),
    ("timestamp", [datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)]),  # noqa: DTZ001
    ("timestamptz", [at(1), at(2)]),
    ("json", ['{"a":1, "a": 2}', "1.10"]),
    ("binary", [b"", bytes(range(256))]),
]


@pytest.mark.parametrize(
    ("kind", "values"), VALUES_OF_EVERY_KIND, ids=lambda value: value if isinstance(value, str) else ""
)
def test_values_of_every_kind_are_read_back_as_they_were_loaded(published, kind, values):
    contract = contract_of(column("id", "int64"), column("value", kind), mode=PublishMode.REPLACE)
    rows = list(enumerate([*values, None]))
    published.load(rows, contract)

    (block,) = published.warehouse.read_rows(contract)

    in_parquet = [
        block
        for file in published.batch(rows, contract).files
        for block in read_blocks(file, columns=contract.output_columns, store=published.store)
    ]
    assert block.schema == in_parquet[0].schema
    assert block.sort("id").rows() == rows


def test_rows_are_read_back_by_a_half_open_window_on_the_cursor(published):
    last, first_outside = at(15) - timedelta(microseconds=1), at(15)
    published.load([(1, "a", at(0)), (2, "b", last), (3, "c", first_outside), (4, "d", None)])
    quarter = Window(NOON, NOON + timedelta(minutes=15))

    assert read_back(published, MERGE, quarter) == [(1, "a", at(0)), (2, "b", last)]
    assert len(read_back(published, MERGE, Window(None, quarter.end))) == 2
    assert len(read_back(published, MERGE)) == 4


def test_rows_are_read_back_by_days_and_by_numbers(published):
    columns = [column("id", "int64"), column("day", "date")]
    rows = [(number, date(2026, 1, number)) for number in (1, 2, 3)]
    by_day = contract_of(*columns, cursor="day", table="days")
    by_number = contract_of(*columns, cursor="id", table="numbers")
    for contract in (by_day, by_number):
        published.load(rows, contract)
    second = Window(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC))

    assert read_back(published, by_day, second) == [rows[1]]
    for low, high, expected in (("2", "3", rows[1:2]), (None, "3", rows[:2]), ("2", None, rows[1:])):
        (block,) = published.warehouse.read_rows(by_number, extent=Extent("id", low, high))
        assert sorted(block.rows()) == expected


def test_rows_are_read_back_as_analysts_see_them_in_the_columns_asked_for(published):
    columns = [column("id", "int64"), column("name"), column("gone", "timestamptz")]
    contract = contract_of(*columns, cursor=None, deleted_at="gone")
    published.load([(1, "Anna", None), (2, "Bert", at(1))], contract)

    asked = replace(contract, columns=(columns[1], columns[0]))

    assert read_back(published, asked) == [("Anna", 1)]


def test_a_table_that_nobody_loaded_has_no_rows_to_read_back_and_a_lost_column_is_named(published):
    published.load([ANNA])
    wider = contract_of(*MERGE.columns, column("lost"))

    with pytest.raises(Refused) as refusal:
        read_back(published, wider)

    assert read_back(published, contract_of(table="nothing")) == []
    assert refusal.value.reason is Reason.TARGET_INCOMPATIBLE
    assert "lost" in refusal.value.detail


def test_any_legal_name_is_read_back(published):
    names = hostile_to(published)
    columns = [column(name) for name in names]
    contract = contract_of(*columns, key=names[:3], cursor=None, table=names[2])
    published.load([tuple(names)], contract)

    (block,) = published.warehouse.read_rows(contract)

    assert block.columns == names
    assert block.rows() == [tuple(names)]


def together(*actions):
    """Run actions at once, one thread each, and return what they return."""
    with ThreadPoolExecutor(len(actions)) as threads:
        return [future.result(60) for future in [threads.submit(action) for action in actions]]


# ---- rows that are gone at the source ----------------------------------------------------------------------


CLARA = (3, "Clara", at(3))
SWEPT = replace(MERGE, deletes=Deletes(DeleteMode.SWEEP, max_rows=2, max_ratio=0.5))


def keys_present(
    published,
    *keys,
    quarter,
    attempt=1,
    is_approved=False,
    process_attempt=1,
    version=1,
    same_key_versions=(1,),
    contract=SWEPT,
):
    """Return the key sweep that found these keys, as of the end of a quarter of an hour."""
    load = published.batch(
        [(key,) for key in keys],
        keys_of(contract),
        quarter=quarter,
        attempt=attempt,
        process_attempt=process_attempt,
    )
    return replace(
        load,
        batch_id="b5wee9" + str(quarter),
        slot=f"keys {load.slot}",
        is_approved=is_approved,
        contract_version=version,
        same_key_versions=same_key_versions,
    )


def test_rows_whose_keys_are_gone_are_deleted_and_the_others_stay(published):
    published.load([ANNA, BERT, CLARA], SWEPT)

    result = published.warehouse.prune(keys_present(published, ANNA[0], CLARA[0], quarter=2))

    assert published.rows() == sorted([ANNA, CLARA], key=repr)
    assert (result.keys_staged, result.rows_deleted) == (2, 1)


def test_a_sweep_says_nothing_of_rows_that_came_later(published):
    published.load([ANNA], SWEPT, quarter=1)
    published.load([BERT], SWEPT, quarter=3)

    result = published.warehouse.prune(keys_present(published, CLARA[0], quarter=2))

    assert published.rows() == [BERT]
    assert result.rows_deleted == 1


def test_a_sweep_repeated_deletes_nothing_more_and_tells_the_same_counts(published):
    published.load([ANNA, BERT], SWEPT)
    first = published.warehouse.prune(keys_present(published, ANNA[0], quarter=2))
    # Rows of an earlier moment that come late are not the sweep's, which is done.
    published.load([CLARA], SWEPT, quarter=0)

    again = published.warehouse.prune(keys_present(published, ANNA[0], quarter=2, attempt=2))

    assert published.rows() == sorted([ANNA, CLARA], key=repr)
    assert (again.rows_deleted, again.was_loaded_before) == (first.rows_deleted, True)


def test_a_burst_of_deletes_is_held_and_deletes_nothing_until_it_is_approved(published):
    rows = [ANNA, BERT, CLARA]
    published.load(rows, SWEPT)

    with pytest.raises(Refused) as refused:
        published.warehouse.prune(keys_present(published, quarter=2))

    assert refused.value.reason is Reason.DELETE_BURST
    assert "3 of 3 rows" in refused.value.detail
    assert published.rows() == sorted(rows, key=repr)
    published.warehouse.prune(keys_present(published, quarter=2, attempt=2, is_approved=True))
    assert published.rows() == []


def test_a_sweep_that_was_overtaken_changes_nothing(published):
    published.load([ANNA, BERT], SWEPT)
    published.warehouse.prune(keys_present(published, ANNA[0], BERT[0], quarter=2, attempt=2))

    with pytest.raises(LostLease):
        published.warehouse.prune(keys_present(published, ANNA[0], quarter=2, process_attempt=2))

    assert published.rows() == sorted([ANNA, BERT], key=repr)


def test_a_table_that_is_not_there_yet_has_nothing_to_delete(published):
    result = published.warehouse.prune(keys_present(published, ANNA[0], quarter=2))

    assert result.rows_deleted == 0
    published.load([ANNA], SWEPT)
    assert published.rows() == [ANNA]


def test_keys_that_did_not_all_arrive_delete_nothing(published):
    published.load([ANNA, BERT], SWEPT)
    load = keys_present(published, ANNA[0], BERT[0], quarter=2)
    short = replace(load, files=(replace(load.files[0], record_count=5), *load.files[1:]))

    with pytest.raises(Refused):
        published.warehouse.prune(short)

    assert published.rows() == sorted([ANNA, BERT], key=repr)


def test_rows_that_came_under_other_keys_stay(published):
    published.load([ANNA], SWEPT, quarter=0)
    published.load([BERT], SWEPT, quarter=1, version=2)
    now = keys_present(published, CLARA[0], quarter=2, version=3, same_key_versions=(2, 3))

    result = published.warehouse.prune(now)

    assert published.rows() == [ANNA]
    assert result.rows_deleted == 1


def test_a_row_that_came_again_under_the_same_keys_is_the_sweeps_again(published):
    published.load([ANNA], SWEPT, quarter=0)
    published.load([ANNA], SWEPT, quarter=1, version=2)

    published.warehouse.prune(keys_present(published, CLARA[0], quarter=2, version=2, same_key_versions=(2,)))

    assert published.rows() == []


def test_a_source_without_any_row_deletes_no_row_until_it_is_approved(published):
    published.load([ANNA], SWEPT)

    with pytest.raises(Refused) as refused:
        published.warehouse.prune(keys_present(published, quarter=2))

    assert refused.value.reason is Reason.DELETE_BURST
    assert "a source that is not empty" in refused.value.detail
    published.warehouse.prune(keys_present(published, quarter=2, attempt=2, is_approved=True))
    assert published.rows() == []


def test_a_sweep_by_a_key_that_no_row_has_yet_deletes_nothing(published):
    published.load([ANNA], SWEPT)
    by_number = replace(SWEPT, key=("number",), columns=(*SWEPT.columns, column("number", "int64")))
    now = keys_present(published, 7, quarter=2, contract=by_number, version=2, same_key_versions=(2,))

    assert published.warehouse.prune(now).rows_deleted == 0
    assert published.rows() == [ANNA]


def test_a_sweep_is_no_load_that_a_late_batch_comes_after(published):
    published.warehouse.prune(keys_present(published, ANNA[0], quarter=2, version=2))

    published.load([ANNA], SWEPT)

    assert published.rows() == [ANNA]


# ---- earlier states ----------------------------------------------------------------------------------------


ANNE = (1, "Anne", at(16))


def rebuilt(published, *loads, withdrawn=(), name="r1", is_held=True):
    ids = tuple(load.batch_id for load in withdrawn)
    return published.warehouse.rebuild(Rebuild(name, loads, ids, is_held))


def loaded(published, *args, **kwargs):
    load = published.batch(*args, **kwargs)
    published.warehouse.load(load)
    return load


@pytest.mark.parametrize("contract", [APPEND, MERGE], ids=["append", "merge"])
def test_a_table_made_anew_of_its_first_batches_is_as_it_was_then(published, contract):
    first = loaded(published, [ANNA, BERT], contract, quarter=1)
    second = loaded(published, [ANNE, CLARA], contract, quarter=2)

    result = rebuilt(published, first, withdrawn=[second])

    assert published.rows() == [ANNA, BERT]
    assert result == RebuildResult(2)


def test_a_replaced_table_goes_back_to_an_earlier_snapshot(published):
    first = loaded(published, [ANNA], REPLACE, quarter=1)
    second = loaded(published, [BERT], REPLACE, quarter=2)

    rebuilt(published, first, withdrawn=[second])

    assert published.rows() == [ANNA]


def test_a_table_is_made_anew_of_files_that_were_widened_with_the_types_and_rows_that_it_had(published):
    def prices(id_: str, price: str) -> TableContract:
        return contract_of(
            column("id", id_), column("price", price), mode=PublishMode.APPEND, key=(), cursor=None
        )

    narrow, wide = prices("int32", "decimal(10,2)"), prices("int64", "decimal(14,4)")
    rows = [(1, Decimal("1.25")), (-(2**31), Decimal("-99999999.99")), (3, None)]
    loads = [loaded(published, rows[:2], narrow, quarter=1), loaded(published, rows[2:], narrow, quarter=2)]
    widened = write_file(published.store, rows, wide, batch="b" + "c" * 24)
    first, second = (
        replace(load, files=(replace(widened, record_count=load.record_count, first_row=first_row),))
        for load, first_row in zip(loads, (0, 2), strict=True)
    )

    result = rebuilt(published, first, second)

    assert result.row_count == 3
    assert published.rows() == sorted(rows, key=repr)


def test_a_rebuild_repeated_changes_nothing(published):
    first = loaded(published, [ANNA], quarter=1)
    second = loaded(published, [ANNE], quarter=2)
    rebuilt(published, first, withdrawn=[second])
    rebuilt(published, first, second, name="r2", is_held=False)

    late = rebuilt(published, first, withdrawn=[second])

    assert late == RebuildResult(1, was_done_before=True)
    assert published.rows() == [ANNE]


@MODES
def test_a_table_held_at_an_earlier_state_takes_no_batch(published, contract):
    first = loaded(published, [ANNA], contract, quarter=1)
    second = loaded(published, [ANNE], contract, quarter=2)
    rebuilt(published, first, withdrawn=[second])

    for load in (second, published.batch([BERT], contract, quarter=3)):
        with pytest.raises(Refused, match="rollback r1") as refused:
            published.warehouse.load(load)
        assert refused.value.reason is Reason.ROLLED_BACK

    assert published.rows() == [ANNA]
    assert published.warehouse.load(first).was_loaded_before


def test_a_table_held_at_an_earlier_state_loses_no_rows_to_a_sweep(published):
    first = loaded(published, [ANNA, BERT], SWEPT, quarter=1)
    rebuilt(published, first)

    with pytest.raises(Refused) as refused:
        published.warehouse.prune(keys_present(published, ANNA[0], quarter=2))

    assert refused.value.reason is Reason.ROLLED_BACK
    assert len(published.rows()) == 2


def test_forward_again_everything_is_there_and_batches_are_taken(published):
    first = loaded(published, [ANNA, BERT], quarter=1)
    second = loaded(published, [ANNE], quarter=2)
    rebuilt(published, first, withdrawn=[second])

    rebuilt(published, first, second, name="r2", is_held=False)
    published.load([CLARA], quarter=3)

    assert published.rows() == sorted([ANNE, BERT, CLARA], key=repr)


def test_rows_that_a_sweep_had_deleted_stay_deleted_when_it_is_part_of_a_rebuild(published):
    first = loaded(published, [ANNA, BERT], SWEPT, quarter=1)
    sweep = keys_present(published, quarter=2, is_approved=True)
    published.warehouse.prune(sweep)
    third = loaded(published, [CLARA], SWEPT, quarter=3)

    rebuilt(published, first, replace(sweep, is_approved=False), withdrawn=[third])
    without_rows = published.rows()
    rebuilt(published, first, withdrawn=[sweep, third], name="r2")

    assert without_rows == []
    assert published.rows() == [ANNA, BERT]


def test_a_rebuild_brings_back_no_clear_values_of_a_column_that_is_masked_now(published):
    first = loaded(published, [ANNA], quarter=1)
    masked = contract_of(MERGE.columns[0], column("name", mask=MaskKind.HMAC), MERGE.columns[2])
    second = loaded(published, [(2, "f00d", at(20))], masked, quarter=2, version=2)
    before = published.rows()

    with pytest.raises(Refused, match="'name'"):
        rebuilt(published, first, withdrawn=[second])

    assert published.rows() == before


def test_a_rebuild_whose_files_are_gone_changes_nothing(published):
    first = loaded(published, [ANNA, BERT], quarter=1)
    second = loaded(published, [ANNE], quarter=2)
    published.store.delete(first.files[1].location)

    with pytest.raises(Refused) as refused:
        rebuilt(published, first, withdrawn=[second])

    assert refused.value.reason is Reason.OBJECT_MISSING
    assert published.rows() == [ANNE, BERT]
    published.load([CLARA], quarter=3)


def test_only_the_rows_of_its_batch_are_taken_of_a_file_that_holds_those_of_others(published):
    load = published.batch([ANNA, BERT, CLARA, (4, "Dora", at(4))])
    (first, second) = load.files
    own = replace(
        load,
        files=(replace(first, first_row=1, record_count=1), replace(second, first_row=0, record_count=1)),
    )

    published.warehouse.load(own)

    assert published.rows() == [BERT, CLARA]


def test_a_table_does_not_take_a_name_of_ours(published):
    with pytest.raises(Refused) as refused:
        published.load([ANNA], contract_of(table="_esclusa_loads"))

    assert refused.value.reason is Reason.TARGET_INCOMPATIBLE


# ---- what analysts ask of the loads ------------------------------------------------------------------------


@pytest.fixture(params=["postgres", "redshift"])
def answering(request: pytest.FixtureRequest) -> Iterator[Published]:
    """A warehouse that answers SQL."""
    store = MemoryObjectStore()
    if request.param == "redshift":
        with redshift_stand_in(request.getfixturevalue("redshift_database"), store) as client:
            yield Published(redshift_warehouse(client, store), store, client.dsn, is_redshift=True)
    else:
        dsn = request.getfixturevalue("fresh_database")
        yield Published(PostgresWarehouse(dsn, store=store), store, dsn)


def loads_of(answering, *columns, source="shop"):
    """Return rows of the view of a source's loads, by table and window."""
    listed = ", ".join(columns)
    sql = f'SELECT {listed} FROM {source}."_esclusa_loads" ORDER BY table_name, window_end, batch_id'
    answer = answering.warehouse.query(sql, row_limit=100, timeout_seconds=10)
    return list(answer.rows)


def test_the_loads_of_a_source_are_told_beside_its_tables(answering):
    first = loaded(answering, [ANNA, BERT], quarter=1)
    second = loaded(answering, [ANNE, CLARA, BERT], quarter=2)
    loaded(answering, [ANNA], contract_of(source="crm"))

    told = loads_of(answering, "table_name", "batch_id", "mode", "row_count", "rows_inserted", "rows_updated")

    assert told == [
        ("orders", first.batch_id, "merge", 2, 2, 0),
        ("orders", second.batch_id, "merge", 3, 1, 1),
    ]


def test_the_columns_of_the_loads_are_those_of_every_warehouse(answering):
    answering.load([ANNA])

    answer = answering.warehouse.query('SELECT * FROM shop."_esclusa_loads"', row_limit=1, timeout_seconds=10)

    assert answer.columns == LOADS_COLUMNS


def test_a_window_that_is_missing_before_others_is_told(answering):
    for quarter in (1, 2, 4):
        answering.load([ANNA], quarter=quarter)

    assert loads_of(answering, "is_gapless") == [(True,), (True,), (False,)]
    answering.load([ANNA], quarter=3)
    assert loads_of(answering, "is_gapless") == [(True,)] * 4


def test_a_key_sweep_hides_no_window_that_is_missing(answering):
    for quarter in (1, 4):
        answering.load([ANNA], SWEPT, quarter=quarter)

    answering.warehouse.prune(keys_present(answering, ANNA[0], quarter=3))

    told = loads_of(answering, "mode", "is_gapless")
    assert told == [("merge", True), ("prune", True), ("merge", False)]


def test_a_table_held_at_an_earlier_state_is_told_with_the_batches_that_it_has(answering):
    first = loaded(answering, [ANNA], quarter=1)
    second = loaded(answering, [ANNE], quarter=2)

    rebuilt(answering, first, withdrawn=[second])

    assert loads_of(answering, "batch_id", "is_rolled_back") == [(first.batch_id, True)]
    rebuilt(answering, first, second, name="r2", is_held=False)
    assert loads_of(answering, "is_rolled_back") == [(False,), (False,)]
