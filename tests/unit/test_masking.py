"""Masks: what leaves in place of a value, and that nothing else changes."""

import hashlib
import hmac
import math
import random
import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.extraction import (
    DROP,
    HMAC,
    HMAC_EMAIL,
    HMAC_PHONE,
    KEEP,
    LAST4,
    MASK_KEY,
    REDACT,
    column,
    make_contract,
)

from services.extractor.masking import Masking, prepare_masking
from services.extractor.readers import Chunk
from shared.csv_dialect import record_line
from shared.domain.contracts import ColumnType, Mask, MaskKind, Truncation
from shared.domain.reasons import Reason
from shared.errors import Refused, Unavailable
from shared.secrets.memory import MemorySecrets

Value = str | None

# Every character that UTF-8 has, with those that mean something to a CSV reader more often.
TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(",\"\n\r\t \\'#\0\ufeff"))
)
VALUES = st.one_of(st.none(), st.sampled_from(["", "NULL", "null", "\\N", "\\.", '"', '""', "\r\n"]), TEXTS)


def masked(values: list[Value], mask: Mask, *, type_text: str = "string", key: str = MASK_KEY) -> list[Value]:
    """The values of one column as they leave, read by the processor's rule: all strings, nothing inferred."""
    masking = Masking([column("a", type_text, mask), column("b")], keys={"k1": key})
    result = masking.mask(Chunk.of(record_line([value, "x"]) for value in values))
    frame = pl.read_csv(
        b"a,b\n" + result.chunk.body, schema={"a": pl.String, "b": pl.String}, quote_char='"', eol_char="\n"
    )
    assert frame["b"].to_list() == ["x"] * len(values)
    return frame["a"].to_list()


def expected_pseudonym(text: str, *, domain: str, key: str = MASK_KEY) -> str:
    return hmac.new(key.encode(), domain.encode() + b"\0" + text.encode(), hashlib.sha256).hexdigest()


# ---- what is not masked ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(VALUES, VALUES, VALUES), max_size=30))
@settings(max_examples=300, deadline=None)
def test_unmasked_columns_keep_their_bytes(rows: list[tuple[Value, Value, Value]]) -> None:
    expected = [record_line([a, None if b is None else "[redacted]", c]) for a, b, c in rows]
    masking = Masking([column("a"), column("b", mask=REDACT), column("c")], keys={})

    result = masking.mask(Chunk.of(map(record_line, rows)))

    assert result.chunk == Chunk.of(expected)
    assert result.masked_value_counts == {"b": sum(b is not None for _, b, _ in rows)}


def test_a_large_chunk_of_line_breaks_and_quotes_is_not_cut_in_the_wrong_place() -> None:
    dice = random.Random(7)
    pieces = ["\n", '"', ",", "x", "\r\n", '"\n"', "\n\n\n", "é", ""]
    rows = [
        (
            dice.choice([None, "", "".join(dice.choices(pieces, k=dice.randint(0, 60)))]),
            str(number),
            "".join(dice.choices(pieces, k=dice.randint(0, 60))),
        )
        for number in range(60_000)
    ]
    masking = Masking([column("a"), column("b", mask=REDACT), column("c")], keys={})

    result = masking.mask(Chunk.of(map(record_line, rows)))

    assert result.chunk.body == b"".join(record_line([a, "[redacted]", c]) for a, _, c in rows)


def test_a_table_without_masks_is_not_parsed() -> None:
    chunk = Chunk.of([b'this is "no CSV'])

    result = Masking([column("a"), column("b")], keys={}).mask(chunk)

    assert result.chunk is chunk


def test_a_byte_order_mark_in_the_first_value_stays() -> None:
    masking = Masking([column("a"), column("b", mask=REDACT)], keys={})

    result = masking.mask(Chunk.of(["\ufeffa,b\n".encode()]))

    assert result.chunk.body == "\ufeffa,[redacted]\n".encode()


@pytest.mark.parametrize("body", [b"a,b\nc,d\n", b"", b"a,b,c\n", b'a,"b\n', b"a,\xff\n"])
def test_a_chunk_that_is_not_what_was_sent_does_not_leave(body: bytes) -> None:
    masking = Masking([column("a"), column("b", mask=REDACT)], keys={})

    with pytest.raises(Refused) as refused:
        masking.mask(Chunk.of([body]))

    assert refused.value.reason is Reason.VALUE_NOT_REPRESENTABLE


# ---- pseudonyms --------------------------------------------------------------------------------------------


@given(
    st.lists(VALUES, min_size=1, max_size=20), st.text(st.characters(exclude_categories=["Cs"]), min_size=16)
)
@settings(max_examples=200, deadline=None)
def test_a_pseudonym_is_the_hmac_that_anybody_with_the_key_computes(values: list[Value], key: str) -> None:
    expected = [expected_pseudonym(value, domain="customer", key=key) if value else value for value in values]

    assert masked(values, HMAC, key=key) == expected


def test_null_and_empty_stay_themselves_and_the_word_null_is_masked() -> None:
    null, empty, word = masked([None, "", "NULL"], HMAC)

    assert (null, empty) == (None, "")
    assert word == expected_pseudonym("NULL", domain="customer")


def test_pseudonyms_are_equal_within_a_domain_and_under_a_key_only() -> None:
    other_domain = Mask(MaskKind.HMAC, domain="employee", key_id="k1")
    forms = {
        *masked(["a"], HMAC),
        *masked(["a"], other_domain),
        *masked(["a"], HMAC, key="another key of sixteen bytes"),
        *masked(["b"], HMAC),
    }

    assert len(forms) == 4
    assert masked(["a", "a"], HMAC)[0] == masked(["a"], HMAC)[0]


# Fixed vectors: changing them breaks every join with data that left before.
EMAILS = {" Ann@Example.COM ": "ann@example.com", "ÄNN@example.com": "änn@example.com", "\tx@y.z\n": "x@y.z",
          "   ": "   ", "a b@c.d": "a b@c.d"}  # fmt: skip
PHONES = {"+34 600 123-456": "+34600123456", "0034600123456": "+34600123456", "(+34) 600.123.456": "+34600123456",
          "600 123 456": "600123456", "00 34 600": "+34600", "n/a": "n/a", "+": "+", "--": "--", "٠١٢": "٠١٢", "+34 ٦٠٠": "+34 ٦٠٠",
          "6+00": "600", "++34": "+34", "1000": "1000", "12 ext. 3": "123"}  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "text", "form"),
    [*((HMAC_EMAIL, *item) for item in EMAILS.items()), *((HMAC_PHONE, *item) for item in PHONES.items())],
)
def test_equal_things_written_differently_share_a_pseudonym(mask: Mask, text: str, form: str) -> None:
    assert masked([text], mask) == [expected_pseudonym(form, domain=mask.domain)]


# ---- other masks -------------------------------------------------------------------------------------------


@given(st.lists(VALUES, min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_at_most_four_characters_stay_in_clear(values: list[Value]) -> None:
    expected = [
        value
        if value is None
        else "*" * (len(value) - 4) + value[-4:]
        if len(value) > 4
        else "*" * len(value)
        for value in values
    ]

    assert masked(values, LAST4) == expected


@pytest.mark.parametrize("text", ["x", "", 'a "quoted", constant', "$1"])
def test_a_constant_takes_the_place_of_every_value(text: str) -> None:
    mask = Mask(MaskKind.CONSTANT, constant=text)

    assert masked(["a", "", None], mask) == [text, text, None]


def test_redacting_leaves_one_word() -> None:
    assert masked(["a", "", None], REDACT) == ["[redacted]", "[redacted]", None]


# ---- dates and numbers made coarse -------------------------------------------------------------------------


def truncated_to(unit: Truncation) -> Mask:
    return Mask(MaskKind.TRUNCATE, truncation=unit)


def in_steps_of(step: str) -> Mask:
    return Mask(MaskKind.BUCKET, step=Decimal(step))


FIRST_OF = {
    Truncation.YEAR: {"month": 1, "day": 1, "hour": 0, "minute": 0, "second": 0, "microsecond": 0},
    Truncation.MONTH: {"day": 1, "hour": 0, "minute": 0, "second": 0, "microsecond": 0},
    Truncation.DAY: {"hour": 0, "minute": 0, "second": 0, "microsecond": 0},
    Truncation.HOUR: {"minute": 0, "second": 0, "microsecond": 0},
}


@given(st.lists(st.dates(), min_size=1, max_size=20))
@settings(max_examples=200, deadline=None)
def test_a_date_leaves_as_the_first_of_its_year_or_month(dates: list[date]) -> None:
    texts: list[Value] = [day.isoformat() for day in dates]

    years = masked(texts, truncated_to(Truncation.YEAR), type_text="date")
    months = masked(texts, truncated_to(Truncation.MONTH), type_text="date")

    assert years == [day.replace(month=1, day=1).isoformat() for day in dates]
    assert months == [day.replace(day=1).isoformat() for day in dates]


@given(st.lists(st.datetimes(), min_size=1, max_size=20), st.sampled_from(Truncation))
@settings(max_examples=200, deadline=None)
def test_a_time_leaves_as_the_first_instant_of_what_is_kept(times: list[datetime], unit: Truncation) -> None:
    expected = [time.replace(**FIRST_OF[unit]).isoformat(sep=" ") for time in times]

    found = masked([time.isoformat(sep=" ") for time in times], truncated_to(unit), type_text="timestamp")

    assert found == expected


@given(
    st.lists(
        st.datetimes(
            min_value=datetime(1, 1, 3),  # noqa: DTZ001 (the strategy adds zones)
            max_value=datetime(9999, 12, 29),  # noqa: DTZ001
            timezones=st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda m: timezone(timedelta(minutes=m))),
        ),
        min_size=1,
        max_size=20,
    ),
    st.sampled_from(Truncation),
)
@settings(max_examples=200, deadline=None)
def test_a_moment_is_truncated_in_utc(moments: list[datetime], unit: Truncation) -> None:
    expected = [
        f"{moment.astimezone(UTC).replace(tzinfo=None, **FIRST_OF[unit]).isoformat(sep=' ')}+00"
        for moment in moments
    ]

    found = masked([moment.isoformat() for moment in moments], truncated_to(unit), type_text="timestamptz")

    assert found == expected


@pytest.mark.parametrize(
    ("type_text", "text"),
    [
        ("date", "0044-03-15 BC"),
        ("date", "infinity"),
        ("date", "-infinity"),
        ("date", "5874897-12-31"),
        ("date", "10000-01-01"),
        ("date", "0000-00-00"),
        ("date", "0000-01-01"),
        ("date", "2026-02-29"),
        ("date", "2026-13-01"),
        ("date", "15/03/1990"),
        ("date", "1990-03-15 12:00:00"),
        ("date", " 1990-03-15"),
        ("date", "1990-03-15\n"),
        ("date", ""),
        ("date", "born 1990-03-15"),
        ("timestamp", "infinity"),
        ("timestamp", "294276-12-31 23:59:59.999999"),
        ("timestamp", "0044-03-15 12:00:00 BC"),
        ("timestamp", "1990-03-15"),
        ("timestamp", "1990-03-15 24:00:00"),
        ("timestamp", "1990-03-15 23:59:60"),
        ("timestamp", "1990-03-15 12:00:00+02"),
        ("timestamptz", "1990-03-15 12:00:00"),
        ("timestamptz", "1990-03-15 12:00:00 Europe/Madrid"),
        ("timestamptz", "0001-01-01 00:00:00+12"),
        ("timestamptz", "9999-12-31 23:59:59-12"),
        ("timestamptz", "-infinity"),
    ],
)
def test_what_is_no_date_for_certain_leaves_as_no_date_at_all(type_text: str, text: str) -> None:
    for unit in Truncation if type_text != "date" else (Truncation.YEAR, Truncation.MONTH):
        found = masked([text, None], truncated_to(unit), type_text=type_text)

        assert found == ["[redacted]", None]


def floor_to(text: str, step: str, *, scale: int) -> str:
    """The largest multiple of a step that is not above a number, computed in fractions."""
    floor = math.floor(Fraction(text) / Fraction(step)) * Fraction(step)
    units = abs(int(floor * 10**scale))
    digits = str(units) if scale == 0 else f"{units // 10**scale}.{units % 10**scale:0{scale}d}"
    return f"-{digits}" if floor < 0 else digits


@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20),
    st.one_of(st.integers(1, 1000), st.integers(1, 10**18)),
)
@settings(max_examples=200, deadline=None)
def test_an_integer_leaves_as_the_multiple_below_it(numbers: list[int], step: int) -> None:
    found = masked([str(number) for number in numbers], in_steps_of(str(step)), type_text="int64")

    assert found == [str(number // step * step) for number in numbers]


@st.composite
def decimals_and_steps(draw: st.DrawFn) -> tuple[str, list[str], str]:
    precision = draw(st.integers(2, 38))
    scale = draw(st.integers(0, precision))
    units = st.one_of(st.integers(-(10**precision) + 1, 10**precision - 1), st.integers(-200, 200))
    step = draw(st.one_of(st.integers(1, 10 ** (precision - 1)), st.integers(1, 10)))
    numbers = draw(st.lists(units, min_size=1, max_size=10))
    return (
        f"decimal({precision},{scale})",
        [spelled(number, scale) for number in numbers],
        spelled(min(step, 10 ** (precision - 1)), scale),
    )


def spelled(units: int, scale: int) -> str:
    digits = f"{abs(units):0{scale + 1}d}"
    number = digits if scale == 0 else f"{digits[:-scale]}.{digits[-scale:]}"
    return f"-{number}" if units < 0 else number


@given(decimals_and_steps())
@settings(max_examples=300, deadline=None)
def test_a_decimal_of_up_to_38_digits_leaves_as_the_multiple_below_it(
    case: tuple[str, list[str], str],
) -> None:
    type_text, numbers, step = case
    scale = ColumnType.parse(type_text).scale or 0

    found = masked(list(numbers), in_steps_of(step), type_text=type_text)

    assert found == [floor_to(number, step, scale=scale) for number in numbers]


@pytest.mark.parametrize(
    ("type_text", "text"),
    [
        ("int32", "12.0"),
        ("int32", "007"),
        ("int32", "1e3"),
        ("int32", "+5"),
        ("int32", " 5"),
        ("int32", ""),
        ("int64", "9" * 39),
        ("int64", "37 years"),
        ("decimal(12,2)", "12.345"),
        ("decimal(12,2)", "NaN"),
        ("decimal(12,2)", "Infinity"),
        ("decimal(12,2)", "1E+2"),
        ("decimal(12,2)", "12,50"),
        ("decimal(12,2)", "$12.50"),
        ("decimal(38,2)", "9" * 37),
    ],
)
def test_what_is_no_number_for_certain_leaves_as_no_number_at_all(type_text: str, text: str) -> None:
    assert masked([text, None], in_steps_of("10"), type_text=type_text) == ["[redacted]", None]


@pytest.mark.parametrize("coarse", [truncated_to(Truncation.MONTH), in_steps_of("10")])
@given(values=st.lists(VALUES, min_size=1, max_size=20))
@settings(max_examples=100, deadline=None)
def test_nothing_leaves_in_clear_whatever_stands_in_a_coarse_column(
    coarse: Mask, values: list[Value]
) -> None:
    for type_text in ("date", "timestamptz") if coarse.truncation else ("int64", "decimal(38,3)"):
        found = masked(values, coarse, type_text=type_text)

        for value, left in zip(values, found, strict=True):
            assert (left is None) == (value is None)
            assert left in {None, "[redacted]"} or NUMBER_OR_DATE.fullmatch(str(left))


NUMBER_OR_DATE = re.compile(r"-?[0-9]*0(\.000)?|[0-9]{4}-[0-9]{2}-01( 00:00:00\+00)?")


def test_every_mask_puts_its_own_in_place_of_values() -> None:
    for kind in MaskKind:
        mask = Mask(kind, domain="d", key_id="k1", truncation=Truncation.YEAR, step=Decimal(7))
        type_text = {MaskKind.TRUNCATE: "date", MaskKind.BUCKET: "int64"}.get(kind, "string")
        if mask.changes_values:
            assert masked(["clear-value"], mask, type_text=type_text) != ["clear-value"]


# ---- two keys ----------------------------------------------------------------------------------------------

OTHER_KEY = "another key of sixteen bytes"


def test_while_keys_are_rotated_a_column_leaves_under_both() -> None:
    columns = [
        column("id"),
        column("email", mask=replace(HMAC_EMAIL, key_id="k2")),
        column("email__k1", mask=HMAC_EMAIL, made_from="email"),
    ]
    masking = Masking(columns, keys={"k1": MASK_KEY, "k2": OTHER_KEY})

    result = masking.mask(Chunk.of([b"1,Ann@x.org\n", b"2,\n"]))

    new = expected_pseudonym("ann@x.org", domain="email", key=OTHER_KEY)
    old = expected_pseudonym("ann@x.org", domain="email", key=MASK_KEY)
    assert result.chunk.body == f"1,{new},{old}\n2,,\n".encode()
    assert result.masked_value_counts == {"email": 1, "email__k1": 1}


def test_a_key_that_cannot_be_had_keeps_everything_back_even_if_the_other_can() -> None:
    columns = [
        column("email", mask=replace(HMAC_EMAIL, key_id="k2")),
        column("email__k1", mask=HMAC_EMAIL, made_from="email"),
    ]

    with pytest.raises(Refused) as refused:
        prepare_masking(make_contract(columns), secrets=MemorySecrets({"env:MASK_KEY": MASK_KEY}))

    assert refused.value.reason is Reason.MASK_KEY_MISSING


def test_a_key_of_an_id_that_nobody_names_is_missing() -> None:
    contract = make_contract([column("email", mask=replace(HMAC_EMAIL, key_id="k3"))])

    with pytest.raises(Refused, match="'k3'"):
        prepare_masking(contract, secrets=MemorySecrets({"env:MASK_KEY": MASK_KEY}))


# ---- the key -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "held"),
    [
        ("", {}),
        ("env:MASK_KEY", {}),
        ("env:MASK_KEY", {"env:MASK_KEY": "short"}),
        ("env:MASK_KEY", {"env:MASK_KEY": ""}),
    ],
)
def test_without_its_key_nothing_leaves(reference: str, held: dict[str, str]) -> None:
    contract = make_contract([column("id"), column("email", mask=HMAC_EMAIL)], mask_key=reference)

    with pytest.raises(Refused) as refused:
        prepare_masking(contract, secrets=MemorySecrets(held))

    assert refused.value.reason is Reason.MASK_KEY_MISSING
    assert "short;" not in refused.value.detail


def test_a_store_of_secrets_that_is_away_may_be_back_later() -> None:
    class Away:
        def resolve(self, reference: str) -> str:
            raise Unavailable("away")

    with pytest.raises(Unavailable):
        prepare_masking(make_contract([column("email", mask=HMAC_EMAIL)]), secrets=Away())


def test_a_key_is_asked_for_only_by_columns_that_leave() -> None:
    contract = make_contract([column("id", mask=KEEP), column("email", mask=DROP)], mask_key="")

    assert not prepare_masking(contract, secrets=MemorySecrets({})).changes_anything


def test_the_key_is_in_no_error_and_no_text() -> None:
    masking = Masking([column("a", mask=HMAC)], keys={"k1": "the-hidden-mask-key"})

    with pytest.raises(Refused) as refused:
        masking.mask(Chunk.of([b"a,b\n"]))

    assert "hidden" not in repr(refused.value) + repr(vars(masking))
