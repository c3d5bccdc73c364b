"""
Hides personal data before the first durable byte.

Works on chunks of CSV, every field a string, in Polars and beside Python's interpreter lock. What is not masked
comes out byte for byte as it went in. The key is used here and nowhere else: it is in no error, log or SQL text.

A pseudonym is `HMAC-SHA-256(key, domain ‖ 0x00 ‖ normalised value)` in lower-case hexadecimal: equal for equal
values of one domain under one key, and nothing to those without the key, who could otherwise try every phone
number there is.

Dates and numbers that are made coarse keep their type. One that cannot be read for certain leaves as `[redacted]`,
which is no date and no number: the processor rejects and counts its row.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import polars as pl
import polars_hash  # noqa: F401 (adds the namespace `chash` to expressions)

from services.extractor.csv_fields import chunk_of, field_of, plain_field_of, value_of
from services.extractor.cut import Cut, field_name
from services.extractor.readers import Chunk
from shared.domain.contracts import (
    MAX_DECIMAL_PRECISION,
    Column,
    ColumnKind,
    ColumnType,
    Mask,
    MaskKind,
    Normalization,
    TableContract,
    Truncation,
)
from shared.domain.reasons import Reason
from shared.errors import Refused, SecretNotFound
from shared.ports import SecretStore

REDACTED = "[redacted]"
CLEAR_CHARACTERS = 4

_OTHER_DIGIT = r"[\p{Nd}--[0-9]]"

#: NIST SP 800-107 wants keys of HMAC no shorter than the strength they are to give.
MIN_KEY_BYTES = 16

# Narrower than what Polars takes: it reads second 60 as the next minute, and 00123 as 123.
_DATE = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"
_TIME = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-5][0-9](?:\.[0-9]{1,9})?"
_OFFSET = r"(?:Z|[+-][0-9]{2}(?::?[0-9]{2})?)"
_NUMBER = r"^-?(?:0|[1-9][0-9]*)"

_TIME_FORMAT = "%Y-%m-%d %H:%M:%S%.f"

#: What is left of a moment, as a format.
_KEPT_OF_MOMENT = {
    Truncation.YEAR: "%Y-01-01 00:00:00",
    Truncation.MONTH: "%Y-%m-01 00:00:00",
    Truncation.DAY: "%Y-%m-%d 00:00:00",
    Truncation.HOUR: "%Y-%m-%d %H:00:00",
}
_KEPT_OF_DATE = {Truncation.YEAR: "%Y-01-01", Truncation.MONTH: "%Y-%m-01"}


@dataclass(frozen=True, slots=True)
class MaskedChunk:
    """A chunk that may leave, and how many values of each column were masked in it."""

    chunk: Chunk
    masked_value_counts: Mapping[str, int]


class Masking:
    """The masks of a table, ready for any number of chunks."""

    def __init__(self, columns: Sequence[Column], *, keys: Mapping[str, str]) -> None:
        """`columns`: of the files, in their order. `keys`: the keys of pseudonyms by id, all that the columns name."""
        position = {
            column.name: number for number, column in enumerate(c for c in columns if not c.made_from)
        }
        sources = {
            column.name: position[column.made_from or column.name]
            for column in columns
            if column.mask.changes_values
        }
        self._masked: Mapping[str, str] = {}
        if not sources:
            return
        # Records are looked into up to the last column that is masked, or that another is made from.
        head = list(columns)
        while head and head[-1].name not in sources and position[head[-1].name] not in sources.values():
            head.pop()
        pieces = _pieces(head, alone=set(sources.values()))
        self._cut = Cut(pieces, column_count=len(position))
        self._masked = {name: field_name(source) for name, source in sources.items()}
        # One step after the other: what stands several times in the next one is computed once.
        named = {column.name: f"m{number}" for number, column in enumerate(head) if column.name in sources}
        value_in = {piece: f"v{piece}" for piece in self._masked.values()}
        self._values = [value_of(pl.col(piece)).alias(value) for piece, value in value_in.items()]
        self._leaving = [
            masked_value(
                pl.col(value_in[self._masked[column.name]]),
                column.mask,
                type_=column.type,
                key=keys[column.mask.key_id] if column.mask.kind is MaskKind.HMAC else "",
            ).alias(named[column.name])
            for column in head
            if column.name in sources
        ]
        self._record = self._cut.joined(
            [
                field_of_masked(pl.col(named[column.name]), column.mask)
                if column.name in named
                else pl.col(field_name(position[column.name]))
                for column in head
                if column.name in named or position[column.name] in self._cut.positions
            ]
        )

    @property
    def changes_anything(self) -> bool:
        """Whether any column is masked; if not, chunks are not looked into."""
        return bool(self._masked)

    def mask(self, chunk: Chunk) -> MaskedChunk:
        """
        Return a chunk with its values masked.

        Raises:
            Refused: if a record has not the columns that were asked for: then a value may stand where no mask is.
        """
        return self.mask_pieces(self.cut(chunk)) if self.changes_anything else MaskedChunk(chunk, {})

    def cut(self, chunk: Chunk) -> pl.DataFrame:
        """
        Cut the records of a chunk at the columns that are masked, for `mask_pieces`: the two steps of `mask`.

        Raises:
            Refused: as `mask`.
        """
        return self._cut.cut(chunk)

    def mask_pieces(self, pieces: pl.DataFrame) -> MaskedChunk:
        """Mask what `cut` has cut, and put the records together again."""
        counts = {name: int((pieces[piece] != "").sum()) for name, piece in self._masked.items()}
        records = (
            pieces.lazy()
            .with_columns(self._values)
            .with_columns(self._leaving)
            .select(self._record)
            .collect(engine="in-memory")
        )
        return MaskedChunk(chunk_of(records.to_series()), counts)


def _pieces(head: Sequence[Column], *, alone: Collection[int]) -> list[range]:
    """Return which columns that are read go together; `alone`: positions of those that do with no other."""
    bounds, position = {0}, 0
    for column in head:
        if column.made_from:
            bounds.add(position)
            continue
        if position in alone:
            bounds |= {position, position + 1}
        position += 1
    return [range(*pair) for pair in pairwise(sorted({*bounds, position}))]


def prepare_masking(contract: TableContract, *, secrets: SecretStore) -> Masking:
    """
    Return the masks of a contract with their keys.

    Raises:
        Refused: if a column needs a key and it cannot be had, or is too short to protect anything.
        Unavailable: if the store of secrets does not answer.
    """
    columns = contract.output_columns
    key_ids = {column.mask.key_id for column in columns if column.mask.kind is MaskKind.HMAC}
    keys = {key_id: _read_key(key_id, contract, secrets) for key_id in sorted(key_ids)}
    return Masking(columns, keys=keys)


def _read_key(key_id: str, contract: TableContract, secrets: SecretStore) -> str:
    place = f"source {contract.source!r}, table {contract.table!r}"
    reference = contract.origin.mask_keys.get(key_id)
    if not reference:
        raise Refused(
            Reason.MASK_KEY_MISSING,
            f"{place}: a column is masked by hmac under key {key_id!r}, but no key of that id is named",
        )
    try:
        key = secrets.resolve(reference)
    except SecretNotFound as error:
        raise Refused(Reason.MASK_KEY_MISSING, f"{place}: {error}") from error
    if len(key.encode()) < MIN_KEY_BYTES:
        raise Refused(
            Reason.MASK_KEY_MISSING,
            f"{place}: the key at {reference} should have at least {MIN_KEY_BYTES} bytes; "
            "a shorter one can be guessed",
        )
    return key


def masked_value(value: pl.Expr, mask: Mask, *, type_: ColumnType, key: str) -> pl.Expr:
    """Return what leaves in place of a value. NULL stays NULL under every mask."""
    match mask.kind:
        case MaskKind.HMAC:
            return pseudonym(value, mask, key=key)
        case MaskKind.REDACT:
            return _in_place_of(value, REDACTED)
        case MaskKind.CONSTANT:
            return _in_place_of(value, mask.constant)
        case MaskKind.LAST4:
            return last_four(value)
        case MaskKind.TRUNCATE if mask.truncation:
            return _or_redacted(truncated(value, mask.truncation, type_=type_), value)
        case MaskKind.BUCKET if mask.step:
            return _or_redacted(bucket(value, mask.step, type_=type_), value)
    raise ValueError(f"the mask {mask} puts nothing in place of a value")


def field_of_masked(value: pl.Expr, mask: Mask) -> pl.Expr:
    """Return what leaves in place of a value as a field. A pseudonym is made of digits."""
    return plain_field_of(value) if mask.kind is MaskKind.HMAC else field_of(value)


def pseudonym(value: pl.Expr, mask: Mask, *, key: str) -> pl.Expr:
    """Return the keyed pseudonym of a value. The empty string says nothing about anybody and stays."""
    message = pl.concat_str(pl.lit(f"{mask.domain}\0"), normalized(value, mask.normalization))
    digest: pl.Expr = message.chash.hmac_sha256(key=key)  # type: ignore[attr-defined]
    return pl.when(value == "").then(value).otherwise(digest)


def normalized(value: pl.Expr, normalization: Normalization) -> pl.Expr:
    """
    Return a value in the form in which equal things are equal.

    A value of which nothing would be left, such as `n/a` for a phone, keeps its own form: values that have
    nothing in common must not share a pseudonym.
    """
    match normalization:
        case Normalization.NONE:
            return value
        case Normalization.EMAIL:
            form = value.str.strip_chars().str.to_lowercase()
        case Normalization.PHONE:
            # Digits of other scripts would be lost, and two numbers become one.
            form = pl.when(value.str.contains(_OTHER_DIGIT)).then(value).otherwise(_phone_form(value))
    return pl.when(form.is_in(["", "+"])).then(value).otherwise(form)


def _phone_form(value: pl.Expr) -> pl.Expr:
    marked = value.str.replace_all("[^0-9+]", "")
    digits = marked.str.replace_all("+", "", literal=True)
    is_international = marked.str.starts_with("+")
    return pl.when(is_international).then(pl.lit("+") + digits).otherwise(digits.str.replace("^00", "+"))


def last_four(value: pl.Expr) -> pl.Expr:
    """Return a value with only its last four characters in clear; none if it has no more than these."""
    length = value.str.len_chars()
    clear = (
        pl.when(length > CLEAR_CHARACTERS)
        .then(value.str.tail(CLEAR_CHARACTERS))
        .otherwise(_in_place_of(value, ""))
    )
    return clear.str.pad_start(length, "*")


def truncated(value: pl.Expr, truncation: Truncation, *, type_: ColumnType) -> pl.Expr:
    """
    Return the first day or instant of the year, month, day or hour a value lies in, of a moment in UTC.

    NULL for what is no date or moment of the years 1 to 9999; the processor takes no others either.
    """
    match type_.kind:
        case ColumnKind.DATE:
            dates = _matching(value, _DATE).str.to_date("%Y-%m-%d", strict=False)
            return _from_year_1(dates).dt.strftime(_KEPT_OF_DATE[truncation])
        case ColumnKind.TIMESTAMP:
            times = _parsed_time(_matching(value, _TIME + "$"), _TIME_FORMAT)
            return _from_year_1(times).dt.strftime(_KEPT_OF_MOMENT[truncation])
        case ColumnKind.TIMESTAMPTZ:
            moments = _parsed_time(_matching(value, _TIME + _OFFSET + "$"), _TIME_FORMAT + "%#z")
            kept = _from_year_1(moments.dt.replace_time_zone(None))
            return kept.dt.strftime(_KEPT_OF_MOMENT[truncation] + "+00")
    raise ValueError(f"values of type {type_} cannot be truncated")


def bucket(value: pl.Expr, step: Decimal, *, type_: ColumnType) -> pl.Expr:
    """
    Return the largest multiple of a step that is not above a number: -3 in steps of 10 is -10.

    Exact, in integers of 128 bits. NULL for what is no number, or has more digits than its type.
    """
    scale = type_.scale or 0
    fraction = rf"(?:\.[0-9]{{1,{scale}}}0*)?" if scale else ""
    number = _matching(value, f"{_NUMBER}{fraction}$")
    units = number.cast(pl.Decimal(MAX_DECIMAL_PRECISION, scale), strict=False).to_physical()
    step_in_units = pl.lit(int(Fraction(step) * 10**scale), dtype=pl.Int128)
    floor = units // step_in_units * step_in_units
    digits = floor.abs().cast(pl.String)
    if scale:
        digits = digits.str.pad_start(scale + 1, "0")
        digits = digits.str.head(-scale) + "." + digits.str.tail(scale)
    return pl.when(floor < 0).then("-" + digits).otherwise(digits)


def _matching(value: pl.Expr, pattern: str) -> pl.Expr:
    return pl.when(value.str.contains(pattern)).then(value)


def _parsed_time(value: pl.Expr, time_format: str) -> pl.Expr:
    separated = value.str.replace("T", " ", literal=True)
    return separated.str.to_datetime(time_format, time_unit="us", strict=False)


def _from_year_1(times: pl.Expr) -> pl.Expr:
    return pl.when(times.dt.year().is_between(1, 9999)).then(times)


def _or_redacted(coarse: pl.Expr, value: pl.Expr) -> pl.Expr:
    return coarse.fill_null(_in_place_of(value, REDACTED))


def _in_place_of(value: pl.Expr, text: str) -> pl.Expr:
    return pl.when(value.is_not_null()).then(pl.lit(text))
