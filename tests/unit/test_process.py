"""One batch through the processor: what ends in `final/`, what is set aside, and what is refused whole."""

import math
import struct
from datetime import date, datetime
from decimal import Context, Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.process_batches import BUCKET, EVERYTHING, Scene, column, csv_file, table

from services.processor.transform import PolarsTransform
from shared.domain.batches import Stage
from shared.domain.contracts import ColumnKind, MaskKind, QuarantineLimits
from shared.domain.counts import broken_sum
from shared.domain.files import Area, FileFormat, FileStatus, Location, ParsedKey
from shared.domain.reasons import Reason
from shared.errors import ObjectNotFound, Refused
from shared.object_store.memory import MemoryObjectStore
from shared.parquet_footer import check_footer, read_footer

ORDERS = table(
    column("id", "int64", nullable=False),
    column("amount", "decimal(12,2)"),
    column("updated_at", "timestamptz"),
    key=["id"],
    cursor="updated_at",
    limits=EVERYTHING,
)
KINDS = ["decimal(38,9)" if kind is ColumnKind.DECIMAL else str(kind) for kind in ColumnKind]
#: Of Python's own decimals: 38 digits are more than its usual 28.
_EXACT = Context(prec=40)


def stamp(second: int) -> str:
    return f"2026-11-22 11:00:{second:02}.000001+00"


def refusal(scene: Scene, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        scene.process(**options)
    return caught.value


def counts_of(scene: Scene, **options: Any) -> dict[str, int]:
    return {str(name): count for name, count in scene.process(**options).counts.items()}


# ---- values ------------------------------------------------------------------------------------------------

MOMENTS = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30))  # noqa: DTZ001
TEXTS = st.text(
    st.characters(exclude_characters="\0", exclude_categories=("Cs",)) | st.sampled_from('",\n\r\\\ufeff')
) | st.sampled_from(["", "NULL", "null", "\\N", "00123", "true", " ", "=1+1"])


def spelled(kind: str) -> st.SearchStrategy[tuple[str, Any]]:
    """Values of a kind, each with its text as a source spells it."""
    match kind:
        case "string":
            return TEXTS.map(lambda value: (value, value))
        case "boolean":
            return st.booleans().map(lambda value: (str(value).lower(), value))
        case "int16" | "int32" | "int64":
            edge = 2 ** (int(kind[3:]) - 1)
            return st.integers(-edge, edge - 1).map(lambda value: (str(value), value))
        case "float32" | "float64":
            floats = st.floats(width=32 if kind == "float32" else 64)
            return floats.map(
                lambda value: (repr(value).replace("inf", "Infinity").replace("nan", "NaN"), value)
            )
        case "decimal(38,9)":
            whole = st.integers(-(10**38) + 1, 10**38 - 1)
            return whole.map(lambda value: Decimal(value).scaleb(-9, _EXACT)).map(
                lambda value: (f"{value:f}", value)
            )
        case "date":
            return st.dates().map(lambda value: (value.isoformat(), value))
        case "timestamp":
            return MOMENTS.map(lambda value: (value.isoformat(sep=" "), value))
        case "timestamptz":
            return MOMENTS.map(lambda value: (value.isoformat(sep=" ") + "+00", value))
        case "json":
            return st.sampled_from(['{"a":  1.50}', "[]", '"é\\n"', "12345678901234567890"]).map(
                lambda value: (value, value)
            )
        case "binary":
            return st.binary().map(lambda value: (f"\\x{value.hex()}", value))
    raise AssertionError(kind)


def bits(value: Any) -> Any:
    """Return a value in a form in which NaN equals itself and -0.0 differs from 0.0."""
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else struct.pack("d", value)
    return value


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@given(st.lists(st.tuples(*[st.none() | spelled(kind) for kind in KINDS]), max_size=6), st.integers(1, 400))
def test_every_value_of_every_kind_arrives_unchanged(rows, block_size):
    scene = Scene(table(*[column(f"c {kind}", kind) for kind in KINDS]))
    scene.add_rows(*[[cell and cell[0] for cell in row] for row in rows])

    result = scene.process(block_size_in_bytes=block_size)

    expected = [tuple(bits(cell and cell[1]) for cell in row) for row in rows]
    assert [tuple(map(bits, row)) for row in scene.rows_of(result)] == expected


@pytest.mark.parametrize(
    "name",
    ["*", "^.*$", "a.b", "a", "", " ", 'quo"te', "new\nline", "ünï 漢 🎉", "c0", "row", "count", "line"],
)
def test_any_column_name_is_carried(name):
    contract = table(column("a.b.c"), column(name + "'"), column(name), key=[name], limits=EVERYTHING)
    scene = Scene(contract)
    scene.add_rows(["x", "y", "1"], ["z", None, "1"])

    result = scene.process()

    footer = read_footer(
        scene.store, result.files[0].location, file_size_in_bytes=result.files[0].file_size_in_bytes
    )
    assert [found for found, _ in footer.columns] == ["a.b.c", name + "'", name]
    assert scene.rows_of(result) == [("z", None, "1")]


def test_masked_columns_are_strings_and_withheld_ones_are_not_there():
    contract = table(
        column("id", "int64", mask=MaskKind.HMAC),
        column("born", "date", mask=MaskKind.DROP),
        column("note", mask=MaskKind.WITHHOLD),
        column("rank", "int16"),
    )
    scene = Scene(contract)
    scene.add_rows(["3f9a", "7"])

    result = scene.process()

    assert scene.rows_of(result) == [("3f9a", 7)]


# ---- where it goes and what is recorded ----------------------------------------------------------------------


def test_the_files_are_what_the_result_says_and_pass_the_gate():
    scene = Scene(ORDERS, attempt=4)
    scene.add_rows(["1", "1.50", stamp(1)])

    (file,) = scene.process().files

    info = scene.store.head(file.location)
    assert ParsedKey.of(file.location.key) == ParsedKey(Area.FINAL, scene.batch.id, 4, 0)
    assert "/day=2026-11-22/" in file.location.key
    assert (file.area, file.format, file.status) == (Area.FINAL, FileFormat.PARQUET, FileStatus.ANNOUNCED)
    assert file.location.bucket == BUCKET
    assert (file.file_size_in_bytes, file.sha256) == (
        info.file_size_in_bytes,
        scene.store.sha256(file.location),
    )
    assert info.metadata == {
        "esclusa-batch": scene.batch.id,
        "esclusa-attempt": "4",
        "esclusa-source": "shop",
        "esclusa-table": "orders",
        "esclusa-stage": "process",
    }
    footer = read_footer(scene.store, file.location, file_size_in_bytes=file.file_size_in_bytes)
    check_footer(footer, location=file.location, contract=ORDERS, batch=scene.batch, record_count=1)


def test_a_batch_without_rows_gives_one_file_without_rows():
    scene = Scene(ORDERS)
    scene.add_rows()

    result = scene.process()

    (file,) = result.files
    footer = read_footer(scene.store, file.location, file_size_in_bytes=file.file_size_in_bytes)
    check_footer(footer, location=file.location, contract=ORDERS, batch=scene.batch, record_count=0)
    assert scene.rows_of(result) == []


def test_the_same_rows_give_the_same_bytes():
    scene = Scene(ORDERS)
    scene.add_rows(*[[str(number), "1.5", stamp(number % 60)] for number in range(500)])
    scene.add_rows(["1", "2.5", stamp(59)])

    first, second = ([file.sha256 for file in scene.process(block_size_in_bytes=999).files] for _ in range(2))

    assert first == second


def test_timestamps_carry_the_annotation_of_older_readers_too(tmp_path):
    import duckdb

    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(1)])
    path = tmp_path / "x.parquet"
    path.write_bytes(scene.store.read(scene.process().files[0].location))

    found = duckdb.sql(
        f"SELECT converted_type, logical_type FROM parquet_schema('{path}') WHERE name = 'updated_at'"
    ).fetchone()

    assert found[0] == "TIMESTAMP_MICROS"
    assert "isAdjustedToUTC=0" in found[1]


def test_large_batches_are_written_in_parts_near_the_target_size():
    scene = Scene(table(column("id", "int64"), column("text"), limits=EVERYTHING))
    rows = [[str(number), f"{hash((number, 7)) & 0xFFFFFFFF:08x}" * 4] for number in range(20_000)]
    scene.add_rows(*rows[:12_000])
    scene.add_rows(*rows[12_000:])
    target = 40_000

    result = scene.process(target_file_size_in_bytes=target, block_size_in_bytes=10_000)

    assert len(result.files) > 2
    assert [file.part for file in result.files] == list(range(len(result.files)))
    assert all(file.file_size_in_bytes < target * 1.2 for file in result.files)
    assert scene.rows_of(result) == [(int(number), text) for number, text in rows]
    for file in result.files:
        footer = read_footer(scene.store, file.location, file_size_in_bytes=file.file_size_in_bytes)
        check_footer(
            footer,
            location=file.location,
            contract=scene.contract,
            batch=scene.batch,
            record_count=file.record_count,
        )


def test_rows_add_up_and_the_manifest_is_plain_json():
    import json

    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(1)], ["1", "2", stamp(2)], ["x", "1", stamp(1)])

    result = scene.process()

    assert result.counts == {
        "rows_decoded": 3,
        "rows_rejected": 1,
        "rows_deduplicated": 1,
        "rows_in_final": 1,
    }
    assert broken_sum(Stage.PROCESS, {**scene.batch.counts, **result.counts}) is None
    assert json.loads(json.dumps(result.manifest))["broken_cells"] == [
        {"column": "id", "code": "cell_not_convertible", "count": 1}
    ]


def test_no_file_is_left_on_the_worker(tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(1)])
    scene.process()
    scene.add_file(b"something else", record_count=1)
    refusal(scene)

    assert list(tmp_path.iterdir()) == []


# ---- rejects -----------------------------------------------------------------------------------------------


def test_broken_cells_are_kept_with_part_line_column_code_and_shape():
    contract = table(
        column("id", "int64", nullable=False),
        column("amount", "decimal(5,2)", nullable=False),
        column("day", "date"),
        key=["id"],
        limits=EVERYTHING,
    )
    scene = Scene(contract)
    scene.add_rows(["1", "1.5", "2026-01-01"], [None, "12,5 €", None], ["2", None, "infinity"])
    scene.add_rows(["1x", "1", None], ["3", "0", None])

    result = scene.process(block_size_in_bytes=8)

    assert scene.rejects_of(result.files) == [
        "0,3,id,null_key,",
        '0,3,amount,cell_not_convertible,"99,9 €"',
        "0,4,amount,null_not_allowed,",
        "0,4,day,cell_not_convertible,aaaaaaaa",
        "1,2,id,cell_not_convertible,9a",
    ]
    assert result.counts["rows_rejected"] == 3
    assert scene.rows_of(result) == [(1, Decimal("1.50"), date(2026, 1, 1)), (3, Decimal("0.00"), None)]


def test_rejects_are_evidence_in_quarantine():
    scene = Scene(ORDERS)
    scene.add_rows(["x", None, None], ["1", None, None])

    (_, rejects) = scene.process().files

    assert rejects.location == Location(BUCKET, f"quarantine/orders/{scene.batch.id}/p1/rejects-00000.csv")
    assert (rejects.area, rejects.format, rejects.status) == (
        Area.QUARANTINE,
        FileFormat.REJECTS,
        FileStatus.CORRECT,
    )
    assert rejects.record_count == 1
    assert rejects.sha256 == scene.store.sha256(rejects.location)


def test_rejects_are_no_formulas_to_a_spreadsheet():
    scene = Scene(table(column("=id", "int64"), column("n", "int64"), limits=EVERYTHING))
    scene.add_rows(["@SUM(1)", "-1.5"])

    lines = scene.rejects_of(scene.process().files)

    assert lines == ["0,2,'=id,cell_not_convertible,'@AAA(9)", "0,2,n,cell_not_convertible,'-9.9"]


def test_a_rejected_version_does_not_replace_an_accepted_one():
    scene = Scene(ORDERS)
    scene.add_rows(["1", "1.00", stamp(1)], ["1", "broken", stamp(2)])

    result = scene.process()

    assert [row[1] for row in scene.rows_of(result)] == [Decimal("1.00")]


@pytest.mark.parametrize(
    ("limits", "is_refused"),
    [
        (QuarantineLimits(2, 0.5), False),
        (QuarantineLimits(1, 0.5), True),
        (QuarantineLimits(2, 0.49), True),
        (QuarantineLimits(0, 0.0), True),
    ],
)
def test_a_batch_with_more_rejects_than_allowed_is_refused_whole(limits, is_refused):
    scene = Scene(table(column("id", "int64"), limits=limits))
    scene.add_rows(["1"], ["x"], ["2"], ["y"])

    if not is_refused:
        assert scene.process().counts["rows_in_final"] == 2
        return
    found = refusal(scene)

    assert found.reason is Reason.TOO_MANY_REJECTS
    assert "2 of 4 rows" in found.detail
    assert "2 in 'id' (cell_not_convertible)" in found.detail
    assert scene.rejects_of(found.evidence) == [
        "0,3,id,cell_not_convertible,a",
        "0,5,id,cell_not_convertible,a",
    ]
    assert list(scene.store.list(BUCKET, "final/")) == []


def test_evidence_of_a_hopeless_batch_is_bounded_and_its_rows_are_all_counted():
    scene = Scene(table(column("id", "int64"), limits=QuarantineLimits(10, 1.0)))
    scene.add_rows(*[["x"]] * 5000)

    found = refusal(scene, block_size_in_bytes=500)

    assert "5000 of 5000 rows" in found.detail
    assert 1000 < found.evidence[0].record_count < 1500


# ---- latest by key -----------------------------------------------------------------------------------------


def test_the_latest_version_of_a_key_stays():
    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(3)], ["2", "2", stamp(1)], ["1", "3", stamp(2)])

    rows = scene.rows_of(scene.process())

    assert [row[:2] for row in rows] == [(1, Decimal("1.00")), (2, Decimal("2.00"))]


def test_among_equal_cursors_the_later_row_stays_and_no_cursor_is_the_oldest():
    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(3)], ["2", "1", stamp(1)], ["1", "2", stamp(3)], ["2", "2", None])

    rows = scene.rows_of(scene.process())

    assert [row[:2] for row in rows] == [(2, Decimal("1.00")), (1, Decimal("2.00"))]


def test_microseconds_decide():
    scene = Scene(ORDERS)
    scene.add_rows(["1", "2", "2026-01-01 00:00:00.000002+00"], ["1", "1", "2026-01-01 00:00:00.000001+00"])

    rows = scene.rows_of(scene.process())

    assert [row[1] for row in rows] == [Decimal("2.00")]


def test_without_a_cursor_the_last_row_of_a_key_stays():
    scene = Scene(table(column("a", "int64"), column("b"), column("v"), key=["a", "b"]))
    scene.add_rows(["1", "", "first"], ["1", "x", "other"])
    scene.add_rows(["1", "", "last"])

    rows = scene.rows_of(scene.process())

    assert rows == [(1, "x", "other"), (1, "", "last")]


def test_replaced_rows_are_found_in_any_row_group_and_part():
    scene = Scene(table(column("id", "int64"), column("v", "int64"), key=["id"]))
    scene.add_rows(*[[str(number), "1"] for number in range(100)])
    scene.add_rows(*[[str(number), "2"] for number in range(1, 100, 3)])

    result = scene.process(block_size_in_bytes=40, target_file_size_in_bytes=100)

    expected = [(number, 1) for number in range(100) if number % 3 != 1]
    assert len(result.files) > 1
    assert scene.rows_of(result) == expected + [(number, 2) for number in range(1, 100, 3)]


def test_without_a_key_equal_rows_all_stay():
    scene = Scene(table(column("v")))
    scene.add_rows(["same"], ["same"], [None], [None])

    rows = scene.rows_of(scene.process())

    assert rows == [("same",), ("same",), (None,), (None,)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.none() | st.integers(0, 3)), max_size=40),
    st.integers(1, 50),
    st.integers(1, 200),
)
def test_latest_by_key_is_what_a_dictionary_would_say(versions, rows_per_partition, block_size):
    scene = Scene(ORDERS)
    half = len(versions) // 2
    rows = [
        [str(key), str(position), None if second is None else stamp(second)]
        for position, (key, second) in enumerate(versions)
    ]
    scene.add_rows(*rows[:half])
    scene.add_rows(*rows[half:])
    latest: dict[int, tuple[int, int]] = {}
    for position, (key, second) in enumerate(versions):
        age = (-1 if second is None else second, position)
        latest[key] = max(latest.get(key, (-2, 0)), age)

    result = scene.process(
        transform=PolarsTransform(rows_per_partition=rows_per_partition),
        block_size_in_bytes=block_size,
        target_file_size_in_bytes=300,
    )

    found = [int(row[1]) for row in scene.rows_of(result)]
    assert found == sorted(position for _, position in latest.values())
    assert result.counts["rows_deduplicated"] == len(versions) - len(latest)


# ---- files that are not what the ledger says ------------------------------------------------------------------


def test_an_altered_file_is_refused_before_it_is_read():
    scene = Scene(ORDERS)
    scene.add_file(csv_file(ORDERS, [["1", "1", stamp(1)]]), record_count=1, sha256="0" * 64)

    assert refusal(scene).reason is Reason.CHECKSUM_MISMATCH


def test_a_cut_file_is_refused():
    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(1)], ["2", "2", stamp(2)])
    location = scene.files[0].location
    scene.store.overwrite(location, scene.store.read(location)[:-1])

    assert refusal(scene).reason is Reason.SIZE_MISMATCH


def test_a_wrong_record_count_is_refused_and_leaves_nothing_in_final():
    scene = Scene(ORDERS)
    scene.add_file(csv_file(ORDERS, [["1", "1", stamp(1)]]), record_count=2)

    assert refusal(scene).reason is Reason.RECORD_COUNT_MISMATCH
    assert list(scene.store.list(BUCKET, "final/")) == []


def test_a_missing_file_is_named():
    scene = Scene(ORDERS)
    scene.add_rows(["1", "1", stamp(1)])
    scene.store.delete(scene.files[0].location)

    with pytest.raises(ObjectNotFound, match=scene.files[0].location.key):
        scene.process()


def test_a_failing_upload_is_aborted():
    class FailingStore(MemoryObjectStore):
        def complete_upload(self, *args: Any, **options: Any) -> None:
            raise ObjectNotFound("the bucket went away")

    scene = Scene(ORDERS, store=FailingStore())
    scene.add_rows(["1", "1", stamp(1)])

    with pytest.raises(ObjectNotFound):
        scene.process()

    assert list(scene.store.open_uploads(BUCKET)) == []
