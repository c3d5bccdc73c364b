"""What is measured of columns when they are written, so that a warehouse can prove that they arrived."""

from datetime import date, datetime
from decimal import Decimal

import pyarrow as pa
import pytest

from shared.measures import ColumnMeasure, from_text, taken_together, to_text
from shared.measuring import measure

WHOLE = pa.decimal128(28, 2)


@pytest.mark.parametrize(
    ("type_", "values", "expected"),
    [
        (pa.large_string(), ["", "é", "abc", None], ColumnMeasure(1, size_in_bytes=5, longest_in_bytes=3)),
        (pa.large_string(), [None], ColumnMeasure(1, size_in_bytes=0, longest_in_bytes=0)),
        (pa.large_binary(), [b"\0\xff"], ColumnMeasure(0, size_in_bytes=2, longest_in_bytes=2)),
        (pa.bool_(), [True, False, None, True], ColumnMeasure(1, total=2)),
        (pa.int16(), [-5, 3], ColumnMeasure(0, total=-2)),
        (pa.int64(), [2**63 - 1, 2**63 - 1], ColumnMeasure(0, total=2**64 - 2)),
        (WHOLE, [Decimal("9" * 26 + ".99")] * 2, ColumnMeasure(0, total=2 * (10**28 - 1))),
        (pa.decimal128(38, 2), [Decimal("1.00"), None], ColumnMeasure(1)),
        (pa.float64(), [0.1, None], ColumnMeasure(1)),
        (
            pa.date32(),
            [date(1, 1, 1), date(9999, 12, 31)],
            ColumnMeasure(0, earliest="0001-01-01", latest="9999-12-31"),
        ),
        (
            pa.timestamp("us"),
            [datetime(1, 1, 1), None, datetime(2026, 1, 1, 0, 0, 0, 1)],  # noqa: DTZ001
            ColumnMeasure(1, earliest="0001-01-01 00:00:00.000000", latest="2026-01-01 00:00:00.000001"),
        ),
        (pa.timestamp("us"), [None], ColumnMeasure(1)),
    ],
    ids=lambda value: str(value) if isinstance(value, pa.DataType) else "",
)
def test_each_type_is_measured_exactly(type_, values, expected):
    (found,) = measure(pa.table({"a": pa.array(values, type=type_)}))

    assert found == expected


def test_measures_of_two_files_are_those_of_both_together_and_survive_the_footer():
    one = [
        ColumnMeasure(1, 3, 2),
        ColumnMeasure(total=-4),
        ColumnMeasure(earliest="2026-01-02", latest="2026-01-03"),
    ]
    none = [ColumnMeasure()] * 3

    both = taken_together(one, taken_together(none, one))

    assert both == [
        ColumnMeasure(2, 6, 2),
        ColumnMeasure(total=-8),
        ColumnMeasure(earliest="2026-01-02", latest="2026-01-03"),
    ]
    assert from_text(to_text(both)) == both


@pytest.mark.parametrize("beyond", [253_402_300_800_000_000, -62_135_596_800_000_001])
def test_of_moments_beyond_the_calendar_no_ends_are_told_whatever_lies_beside_them(beyond):
    ordinary = measure(pa.table({"a": pa.array([datetime(2026, 1, 1)], type=pa.timestamp("us"))}))  # noqa: DTZ001
    outside = measure(pa.table({"a": pa.array([beyond, None], type=pa.timestamp("us"))}))

    both = [taken_together(ordinary, outside), taken_together(outside, ordinary)]

    assert both == [[ColumnMeasure(1, is_beyond_calendar=True)]] * 2
    assert from_text(to_text(both[0])) == both[0]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[1]",
        '[{"nulls":1,"more":2}]',
        '[{"nulls":"0 OR 1=1"}]',
        '[{"nulls":-1}]',
        '[{"total":1.5}]',
        '[{"total":true}]',
        '[{"longest":[1]}]',
        """[{"earliest":"2026-01-01' AS DATE) OR 1=1 --"}]""",
        '[{"latest":"2026-01-01 00:00:00"}]',
        '[{"latest":20260101}]',
        '[{"beyond":1}]',
    ],
)
def test_measures_that_are_none_are_told_so(text):
    with pytest.raises(ValueError):
        from_text(text)
