"""Masks: what leaves in place of a value, and that nothing else changes."""

import hashlib
import hmac
import random

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
from shared.domain.contracts import Mask, MaskKind
from shared.domain.reasons import Reason
from shared.errors import Refused, Unavailable
from shared.secrets.memory import MemorySecrets

Value = str | None

# Every character that UTF-8 has, with those that mean something to a CSV reader more often.
TEXTS = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(",\"\n\r\t \\'#\0\ufeff"))
)
VALUES = st.one_of(st.none(), st.sampled_from(["", "NULL", "null", "\\N", "\\.", '"', '""', "\r\n"]), TEXTS)


def masked(values: list[Value], mask: Mask, *, key: str = MASK_KEY) -> list[Value]:
    """The values of one column as they leave, read by the processor's rule: all strings, nothing inferred."""
    body = b"".join(record_line([value, "x"]) for value in values)
    result = Masking([column("a", mask=mask), column("b")], key=key).mask(Chunk(body, len(values)))
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
    body = b"".join(map(record_line, rows))
    expected = b"".join(record_line([a, None if b is None else "[redacted]", c]) for a, b, c in rows)
    masking = Masking([column("a"), column("b", mask=REDACT), column("c")], key="")

    result = masking.mask(Chunk(body, len(rows)))

    assert result.chunk == Chunk(expected, len(rows))
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
    masking = Masking([column("a"), column("b", mask=REDACT), column("c")], key="")

    result = masking.mask(Chunk(b"".join(map(record_line, rows)), len(rows)))

    assert result.chunk.body == b"".join(record_line([a, "[redacted]", c]) for a, _, c in rows)


def test_a_table_without_masks_is_not_parsed() -> None:
    chunk = Chunk(b'this is "no CSV', 1)

    result = Masking([column("a"), column("b")], key="").mask(chunk)

    assert result.chunk is chunk


def test_a_byte_order_mark_in_the_first_value_stays() -> None:
    masking = Masking([column("a"), column("b", mask=REDACT)], key="")

    result = masking.mask(Chunk("\ufeffa,b\n".encode(), 1))

    assert result.chunk.body == "\ufeffa,[redacted]\n".encode()


@pytest.mark.parametrize("body", [b"a,b\nc,d\n", b"", b"a,b,c\n", b'a,"b\n', b"a,\xff\n"])
def test_a_chunk_that_is_not_what_was_sent_does_not_leave(body: bytes) -> None:
    masking = Masking([column("a"), column("b", mask=REDACT)], key="")

    with pytest.raises(Refused) as refused:
        masking.mask(Chunk(body, 1))

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
    other_domain = Mask(MaskKind.HMAC, domain="employee")
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


def test_every_mask_puts_its_own_in_place_of_values() -> None:
    for kind in MaskKind:
        mask = Mask(kind, domain="d")
        if mask.changes_values:
            assert masked(["clear-value"], mask) != ["clear-value"]


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
    masking = Masking([column("a", mask=HMAC)], key="the-hidden-mask-key")

    with pytest.raises(Refused) as refused:
        masking.mask(Chunk(b"a,b\n", 1))

    assert "hidden" not in repr(refused.value) + repr(vars(masking))
