"""The checksum of rows: blind to their order, and to nothing else."""

from datetime import date, datetime
from decimal import Decimal

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.process_batches import EVERYTHING, Scene, column, table

from services.processor.checksum import SCHEME, Checksum, fingerprint
from shared.domain.contracts import ColumnType


def checksum_of(rows: list[tuple[object, ...]], *types: str) -> Checksum:
    kinds = [ColumnType.parse(text) for text in types]
    schema = {f"c{position}": POLARS[text] for position, text in enumerate(types)}
    frame = pl.DataFrame(rows, schema=schema, orient="row")
    cells = [(pl.col(name), kind) for name, kind in zip(schema, kinds, strict=True)]
    return Checksum.of(frame.select(fingerprint(cells).alias("row"))["row"])


POLARS: dict[str, object] = {
    "string": pl.String,
    "boolean": pl.Boolean,
    "int16": pl.Int16,
    "int64": pl.Int64,
    "float32": pl.Float32,
    "float64": pl.Float64,
    "decimal(10,2)": pl.Decimal(10, 2),
    "date": pl.Date,
    "timestamp": pl.Datetime("us"),
    "timestamptz": pl.Datetime("us"),
    "json": pl.String,
    "binary": pl.Binary,
}

CELLS = st.none() | st.text(max_size=6)
ROWS = st.lists(st.tuples(CELLS, CELLS), max_size=8)


@given(rows=ROWS, seed=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows: list[tuple[object, ...]], seed: object) -> None:
    shuffled = list(rows)
    seed.shuffle(shuffled)  # type: ignore[attr-defined]

    assert checksum_of(shuffled, "string", "string") == checksum_of(rows, "string", "string")


@given(one=ROWS, other=ROWS)
def test_parts_add_up_to_the_whole_and_can_be_taken_off_again(
    one: list[tuple[object, ...]], other: list[tuple[object, ...]]
) -> None:
    whole = checksum_of(one + other, "string", "string")

    parts = checksum_of(one, "string", "string") + checksum_of(other, "string", "string")

    assert parts == whole
    assert whole - checksum_of(other, "string", "string") == checksum_of(one, "string", "string")


@given(one=ROWS, other=ROWS)
def test_equal_checksums_mean_equal_rows(
    one: list[tuple[object, ...]], other: list[tuple[object, ...]]
) -> None:
    are_equal = sorted(one, key=repr) == sorted(other, key=repr)

    assert (checksum_of(one, "string", "string") == checksum_of(other, "string", "string")) is are_equal


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([(None, "a")], [("", "a")]),
        ([(None, "a")], [("NULL", "a")]),
        ([(None, "a")], [("~", "a")]),
        ([("", None)], [(None, "")]),
        ([("a", "b")], [("b", "a")]),
        ([("ab", "")], [("a", "b")]),
        ([("1:a,", "")], [("a", "")]),
        ([("a", "b"), ("c", "d")], [("a", "d"), ("c", "b")]),
        ([("a", "b")], [("a", "b"), ("a", "b")]),
        # Two equal rows cancel out in an XOR.
        ([("a", "b")] * 2, [("c", "d")] * 2),
        ([("é", "")], [("e\u0301", "")]),
        ([("a ", "")], [("a", "")]),
    ],
)
def test_what_differs_in_any_cell_has_another_checksum(
    one: list[tuple[object, ...]], other: list[tuple[object, ...]]
) -> None:
    assert checksum_of(one, "string", "string") != checksum_of(other, "string", "string")


DIFFERENT_VALUES: dict[str, list[object]] = {
    "boolean": [True, False, None],
    "int16": [0, 1, -1, None],
    "int64": [0, 2**63 - 1, -(2**63), None],
    "float32": [0.0, -0.0, 0.10000000149011612, float("inf"), float("-inf"), float("nan"), None],
    "float64": [0.0, -0.0, 0.1, 0.1 + 2**-56, float("inf"), float("-inf"), float("nan"), 5e-324, None],
    "decimal(10,2)": [Decimal("1.10"), Decimal("1.11"), Decimal("-1.10"), Decimal(0), None],
    "date": [date(1970, 1, 1), date(1, 1, 1), date(9999, 12, 31), None],
    "timestamp": [datetime(1970, 1, 1), datetime(1970, 1, 1, 0, 0, 0, 1), None],  # noqa: DTZ001
    "binary": [b"", b"\x00", b"\x00\x00", b"\xff", None],
    "json": ['{"a":1}', '{"a": 1}', "null", None],
}


@pytest.mark.parametrize("kind", DIFFERENT_VALUES)
def test_every_value_of_every_kind_has_a_checksum_of_its_own(kind: str) -> None:
    values = DIFFERENT_VALUES[kind]

    sums = {checksum_of([(value,)], kind) for value in values}

    assert len(sums) == len(values)


def test_there_is_one_nan() -> None:
    frame = pl.DataFrame({"c0": pl.Series([0x7FF8000000000000, 0x7FF8000000000001], dtype=pl.Int64)})
    nans = frame.select(pl.col("c0").reinterpret(dtype=pl.Float64))

    rows = nans.select(fingerprint([(pl.col("c0"), ColumnType.parse("float64"))]))

    assert nans["c0"].is_nan().all()
    assert rows.n_unique() == 1


def test_the_checksum_is_the_one_that_was_recorded_years_ago() -> None:
    # Computed apart, step by step from the specification, of 4:Anna,4:true,1:1,19:4602678819172646912,3:110,…
    rows: list[tuple[object, ...]] = [
        ("Anna", True, 1, 0.5, Decimal("1.10"), date(2026, 1, 1), datetime(2026, 1, 1, 12), b"\xff"),  # noqa: DTZ001
        (None, None, None, None, None, None, None, None),
    ]
    kinds = ("string", "boolean", "int64", "float64", "decimal(10,2)", "date", "timestamptz", "binary")

    found = checksum_of(rows, *kinds)

    assert SCHEME == "esclusa-rows-1"
    assert found.entry() == {"scheme": "esclusa-rows-1", "row_count": 2, "sum": "9d0dac49327a5d3c"}
    assert Checksum.from_entry(found.entry()) == found


def test_a_checksum_of_another_scheme_is_not_compared() -> None:
    assert Checksum.from_entry({"scheme": "esclusa-rows-0", "row_count": 1, "sum": "0"}) is None
    assert Checksum.from_entry(None) is None


def test_the_manifest_of_a_batch_holds_the_checksum_of_what_was_accepted() -> None:
    scene = Scene(table(column("id", "int64"), column("name"), key=["id"], limits=EVERYTHING))
    scene.add_rows(("1", "Anna"), ("2", None), ("x", "rejected"), ("1", "Anne"))

    manifest = scene.process().manifest

    rows: list[tuple[object, ...]] = [(1, "Anne"), (2, None), (1, "Anna")]
    assert Checksum.from_entry(manifest["accepted"]) == checksum_of(rows, "int64", "string")


def test_a_batch_without_rows_has_the_checksum_of_none() -> None:
    scene = Scene(table(column("id", "int64")))
    scene.add_rows()

    assert Checksum.from_entry(scene.process().manifest["accepted"]) == Checksum()
