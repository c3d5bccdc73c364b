"""What products that were not run spell, after their documents, is what the processor reads: as the same value."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.conform import typed_column
from shared.domain.contracts import ColumnType


def read(texts: list[str], type_text: str) -> list[object]:
    """The values that the processor makes of texts; None where it rejects them."""
    frame = pl.DataFrame({"text": texts}, schema={"text": pl.String})
    return frame.select(typed_column(pl.col("text"), ColumnType.parse(type_text))).to_series().to_list()


def style_3(value: float) -> str:
    """A float as SQL Server writes it in style 3: 17 digits, and three of the exponent."""
    mantissa, exponent = f"{value:.16e}".split("e")
    return f"{mantissa}e{exponent[0]}{int(exponent[1:]):03}"


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_of_sql_server_and_oracle_are_the_same_floats(values):
    assert read([style_3(value) for value in values], "float64") == values
    # FM9.0000000000000000EEEE
    assert read([f"{value:.16E}" for value in values], "float64") == values


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_small_floats_of_sql_server_and_oracle_are_the_same_floats(values):
    assert read([style_3(value) for value in values], "float32") == values
    # FM9.00000000EEEE
    assert read([f"{value:.8E}" for value in values], "float32") == values


@pytest.mark.parametrize(
    ("text", "type_text", "expected"),
    [
        # SQL Server: styles 23, 121, 120, 126 and 2.
        ("0001-01-01", "date", "0001-01-01"),
        ("9999-12-31 23:59:59.997", "timestamp", "9999-12-31 23:59:59.997000"),
        ("2079-06-06 23:59:00", "timestamp", "2079-06-06 23:59:00"),
        ("2026-11-22T20:15:00.1234560+14:00", "timestamptz", "2026-11-22 06:15:00.123456"),
        ("2026-11-22T20:15:00+05:45", "timestamptz", "2026-11-22 14:30:00"),
        ("922337203685477.5807", "decimal(19,4)", "922337203685477.5807"),
        ("\\x00FF", "binary", "b'\\x00\\xff'"),
        # Oracle: SYYYY-MM-DD HH24:MI:SS.FF6TZH:TZM.
        ("9999-12-31 23:59:59.999999+00:00", "timestamptz", "9999-12-31 23:59:59.999999"),
        ("-12345.67", "decimal(7,2)", "-12345.67"),
    ],
)
def test_what_they_spell_is_read(text, type_text, expected):
    (found,) = read([text], type_text)

    assert str(found) == expected


@pytest.mark.parametrize(
    ("text", "type_text"),
    [
        # A seventh digit, and years before Christ with Oracle's sign.
        ("2026-11-22 20:15:00.1234567", "timestamp"),
        ("2026-11-22T20:15:00.1234567+01:00", "timestamptz"),
        ("-0044-03-15 00:00:00", "timestamp"),
        # NUMBER without a zero before the point, had the dialect not put one there.
        (".5", "decimal(38,10)"),
    ],
)
def test_what_no_type_of_ours_holds_is_rejected(text, type_text):
    assert read([text], type_text) == [None]
