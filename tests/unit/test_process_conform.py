"""Text becomes exactly what it says, or is refused by cell."""

import math
import struct
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.processor.conform import shape_of, typed_column
from shared.domain.contracts import ColumnType

STAMP = datetime(2026, 1, 1, 12, 30, 59, 123456)  # noqa: DTZ001  as Spectrum has it: UTC without a zone


def converted(type_text: str, *texts: str | None) -> list[Any]:
    frame = pl.DataFrame({"c0": texts}, schema={"c0": pl.String})
    return frame.select(typed_column(pl.col("c0"), ColumnType.parse(type_text))).to_series().to_list()


@pytest.mark.parametrize(
    ("type_text", "text", "value"),
    [
        ("string", " NULL ", " NULL "),
        ("string", "", ""),
        ("boolean", "true", True),
        ("boolean", "f", False),
        ("int16", "-32768", -32768),
        ("int32", "2147483647", 2147483647),
        ("int64", "-9223372036854775808", -(2**63)),
        ("int64", "0", 0),
        ("float64", "1e+20", 1e20),
        ("float64", "4.9e-324", 5e-324),
        ("float64", "1.7976931348623157e+308", 1.7976931348623157e308),
        ("float64", "-Infinity", -math.inf),
        ("float32", "3.4028235e+38", 3.4028234663852886e38),
        ("float64", "0.0e-999", 0.0),
        ("decimal(38,0)", "9" * 38, Decimal("9" * 38)),
        ("decimal(38,0)", "-" + "9" * 38, Decimal("-" + "9" * 38)),
        ("decimal(38,38)", "0." + "0" * 37 + "1", Decimal("0." + "0" * 37 + "1")),
        (
            "decimal(38,10)",
            "-1234567890123456789012345678.0123456789",
            Decimal("-1234567890123456789012345678.0123456789"),
        ),
        ("decimal(5,2)", "-999.99", Decimal("-999.99")),
        ("decimal(5,2)", "1.500000", Decimal("1.50")),
        ("decimal(5,0)", "12.000", Decimal(12)),
        ("decimal(5,2)", "7", Decimal("7.00")),
        ("date", "0001-01-01", date(1, 1, 1)),
        ("date", "9999-12-31", date(9999, 12, 31)),
        ("date", "2024-02-29", date(2024, 2, 29)),
        ("timestamp", "2026-01-01 12:30:59.123456", STAMP),
        ("timestamp", "2026-01-01T12:30:59.123456000", STAMP),
        ("timestamp", "2026-01-01 12:30:59", STAMP.replace(microsecond=0)),
        ("timestamp", "2026-01-01 12:30:59.1", STAMP.replace(microsecond=100000)),
        ("timestamptz", "2026-01-01 12:30:59.123456+00", STAMP),
        ("timestamptz", "2026-01-01T12:30:59.123456Z", STAMP),
        ("timestamptz", "2026-01-01T18:00:59.123456+05:30", STAMP),
        ("timestamptz", "2026-01-01T08:30:59.123456-0400", STAMP),
        ("json", '{"a": [1, 2.50, "é", null]}', '{"a": [1, 2.50, "é", null]}'),
        ("json", "9" * 5000, "9" * 5000),
        ("json", "null", "null"),
        ("binary", "\\x00FFff", b"\x00\xff\xff"),
        ("binary", "\\x", b""),
    ],
)
def test_a_value_arrives_as_it_is_spelled(type_text, text, value):
    found = converted(type_text, text, None)

    assert found == [value, None]


@pytest.mark.parametrize(
    ("type_text", "text"),
    [
        ("boolean", "1"),
        ("boolean", "TRUE"),
        ("boolean", ""),
        ("int16", "32768"),
        ("int32", "-2147483649"),
        ("int64", "9223372036854775808"),
        ("int64", "00123"),
        ("int64", "+5"),
        ("int64", "-0"),
        ("int64", " 5"),
        ("int64", "5\n"),
        ("int64", "1_000"),
        ("int64", "1.0"),
        ("int64", "1e3"),
        ("int64", "٣"),
        ("int64", ""),
        ("float64", "1e400"),
        ("float64", "-1e400"),
        ("float64", "1e-400"),
        ("float64", "inf"),
        ("float64", "nan"),
        ("float64", "0x10"),
        ("float64", "1,5"),
        ("float32", "1e39"),
        ("float32", "1e-60"),
        ("decimal(5,2)", "1000"),
        ("decimal(5,2)", "1.005"),
        ("decimal(5,2)", "NaN"),
        ("decimal(5,2)", "1."),
        ("decimal(5,2)", ".5"),
        ("decimal(5,2)", "1e2"),
        ("decimal(5,2)", "01.00"),
        ("decimal(5,0)", "1."),
        ("decimal(5,0)", "1.1"),
        ("decimal(2,2)", "1.00"),
        ("decimal(38,0)", "1" + "0" * 38),
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("date", "0000-01-01"),
        ("date", "10000-01-01"),
        ("date", "2026-02-29"),
        ("date", "2026-1-1"),
        ("date", "01.02.2026"),
        ("timestamp", "infinity"),
        ("timestamp", "-infinity"),
        ("timestamp", "0044-03-15 00:00:00 BC"),
        ("timestamp", "0000-12-31 00:00:00"),
        ("timestamp", "2026-01-01 00:00:00+00"),
        ("timestamp", "2026-01-01T00:00:00Z"),
        ("timestamp", "2026-01-01 00:00:60"),
        ("timestamp", "2026-01-01 24:00:00"),
        ("timestamp", "2026-01-01 00:00:00.1234567"),
        ("timestamp", "2026-01-01"),
        ("timestamptz", "2026-01-01 00:00:00"),
        ("timestamptz", "2026-01-01T00:00:00+24:00"),
        ("timestamptz", "0001-01-01 00:00:00+01"),
        ("timestamptz", "9999-12-31 23:59:59-01"),
        ("timestamptz", "2026-01-01 00:00:00.000000001Z"),
        ("json", "{'a': 1}"),
        ("json", '{"a": NaN}'),
        ("json", "Infinity"),
        ("json", '{"a": 1}}'),
        ("json", ""),
        ("json", "[" * 100_000 + "]" * 100_000),
        ("binary", "00ff"),
        ("binary", "\\x0"),
        ("binary", "\\xzz"),
    ],
)
def test_a_value_that_would_change_is_refused(type_text, text):
    found = converted(type_text, text)

    assert found == [None]


def test_not_a_number_is_a_number_to_floats():
    (found,) = converted("float64", "NaN")

    assert math.isnan(found)


@given(st.integers(-(2**63), 2**63 - 1))
def test_every_integer_arrives(value):
    assert converted("int64", str(value)) == [value]


@given(st.floats(allow_nan=False))
def test_every_double_arrives_bit_by_bit(value):
    text = repr(value).replace("inf", "Infinity")

    (found,) = converted("float64", text)

    assert struct.pack("d", found) == struct.pack("d", value)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_every_single_arrives_from_its_double_spelling(value):
    (found,) = converted("float32", repr(value))

    assert struct.pack("f", found) == struct.pack("f", value)


@given(st.data())
def test_a_decimal_arrives_or_is_refused_but_never_rounded(data):
    precision = data.draw(st.integers(1, 38))
    scale = data.draw(st.integers(0, precision))
    digits = data.draw(st.text("0123456789", min_size=1, max_size=40))
    places = data.draw(st.integers(0, len(digits)))
    whole, fraction = digits[: len(digits) - places].lstrip("0") or "0", digits[len(digits) - places :]
    text = data.draw(st.sampled_from(["", "-"])) + whole + (f".{fraction}" if fraction else "")
    fits = len(whole.lstrip("0")) <= precision - scale and len(fraction.rstrip("0")) <= scale

    found = converted(f"decimal({precision},{scale})", text)

    assert found == [Decimal(text) if fits else None]


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)),  # noqa: DTZ001
    st.integers(-23 * 60, 23 * 60),
)
def test_every_moment_arrives_whatever_its_offset(moment, offset_minutes):
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))

    found = converted("timestamptz", moment.isoformat(), moment.isoformat(sep=" "))

    assert found == [moment.astimezone(UTC).replace(tzinfo=None)] * 2


@given(st.binary())
def test_every_byte_string_arrives(value):
    assert converted("binary", f"\\x{value.hex()}") == [value]


def test_a_shape_tells_nothing_of_a_value_but_its_form():
    texts = pl.Series(["Ünï-42 ٣漢", "a" * 100, "", None, "2026-01-01T00:00+🎉"])

    shapes = shape_of(texts).to_list()

    assert shapes == ["Aaa-99 9a", "a" * 40, "", None, "9999-99-99A99:99+🎉"]


@given(st.text())
def test_no_letter_or_digit_survives_in_a_shape(text):
    (shape,) = shape_of(pl.Series([text], dtype=pl.String)).to_list()

    assert all(
        character in "aA9" or not (character.isalpha() or character.isdecimal()) for character in shape
    )
    assert len(shape) == min(len(text), 40)
