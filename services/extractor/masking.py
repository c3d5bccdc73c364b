"""
Hides personal data before the first durable byte.

Works on chunks of CSV, every field a string, in Polars and beside Python's interpreter lock. What is not masked
comes out byte for byte as it went in. The key is used here and nowhere else: it is in no error, log or SQL text.

A pseudonym is `HMAC-SHA-256(key, domain ‖ 0x00 ‖ normalised value)` in lower-case hexadecimal: equal for equal
values of one domain under one key, and nothing to those without the key, who could otherwise try every phone
number there is.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import polars as pl
import polars_hash  # noqa: F401 (adds the namespace `chash` to expressions)

from services.extractor.readers import Chunk
from shared.csv_dialect import DELIMITER, QUOTE, RECORD_TERMINATOR, header_line
from shared.domain.contracts import Column, Mask, MaskKind, Normalization, TableContract
from shared.domain.reasons import Reason
from shared.errors import Refused, SecretNotFound
from shared.ports import SecretStore

REDACTED = "[redacted]"
CLEAR_CHARACTERS = 4

_OTHER_DIGIT = r"[\p{Nd}--[0-9]]"

#: NIST SP 800-107 wants keys of HMAC no shorter than the strength they are to give.
MIN_KEY_BYTES = 16


@dataclass(frozen=True, slots=True)
class MaskedChunk:
    """A chunk that may leave, and how many values of each column were masked in it."""

    chunk: Chunk
    masked_value_counts: Mapping[str, int]


class Masking:
    """The masks of a table, ready for any number of chunks."""

    def __init__(self, columns: Sequence[Column], *, key: str) -> None:
        # By position: names come from the source, and Polars is told nothing it could take for more.
        self._positions = [f"c{position}" for position in range(len(columns))]
        self._header = header_line(self._positions)
        self._masked = {
            position: column
            for position, column in zip(self._positions, columns, strict=True)
            if column.mask.changes_values
        }
        self._expressions = [
            masked_value(pl.col(position), column.mask, key=key).alias(position)
            for position, column in self._masked.items()
        ]

    @property
    def changes_anything(self) -> bool:
        """Whether any column is masked; if not, chunks need no parsing."""
        return bool(self._masked)

    def mask(self, chunk: Chunk) -> MaskedChunk:
        """
        Return a chunk with its values masked.

        Raises:
            Refused: if the records in it are not as many as were sent: then columns may be shifted too.
        """
        if not self.changes_anything:
            return MaskedChunk(chunk, {})
        frame = self._parse(chunk)
        counts = {
            column.name: frame.height - frame[position].null_count()
            for position, column in self._masked.items()
        }
        frame = frame.with_columns(self._expressions)
        return MaskedChunk(Chunk(_render(frame), chunk.record_count), counts)

    def _parse(self, chunk: Chunk) -> pl.DataFrame:
        # The header keeps a byte-order mark at the start of a chunk from being taken for one of a file.
        document = self._header + chunk.body
        try:
            frame = pl.read_csv(
                document,
                schema=dict.fromkeys(self._positions, pl.String),
                has_header=True,
                separator=DELIMITER,
                quote_char=QUOTE,
                eol_char=RECORD_TERMINATOR,
            )
        except pl.exceptions.PolarsError as error:
            # Its text may repeat what it could not read.
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE,
                f"a chunk of {chunk.record_count} records cannot be read as CSV ({type(error).__name__})",
            ) from None
        if frame.height != chunk.record_count:
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE,
                f"a chunk of {chunk.record_count} records was read as {frame.height}; nothing of it may leave",
            )
        return frame


def prepare_masking(contract: TableContract, *, secrets: SecretStore) -> Masking:
    """
    Return the masks of a contract with their key.

    Raises:
        Refused: if a column needs the key and it cannot be had, or is too short to protect anything.
        Unavailable: if the store of secrets does not answer.
    """
    columns = contract.output_columns
    needs_key = any(column.mask.kind is MaskKind.HMAC for column in columns)
    return Masking(columns, key=_read_key(contract, secrets) if needs_key else "")


def _read_key(contract: TableContract, secrets: SecretStore) -> str:
    place = f"source {contract.source!r}, table {contract.table!r}"
    if not contract.origin.mask_key:
        raise Refused(
            Reason.MASK_KEY_MISSING, f"{place}: a column is masked by hmac, but no mask_key is named"
        )
    try:
        key = secrets.resolve(contract.origin.mask_key)
    except SecretNotFound as error:
        raise Refused(Reason.MASK_KEY_MISSING, f"{place}: {error}") from error
    if len(key.encode()) < MIN_KEY_BYTES:
        raise Refused(
            Reason.MASK_KEY_MISSING,
            f"{place}: the key at {contract.origin.mask_key} should have at least {MIN_KEY_BYTES} bytes; "
            "a shorter one can be guessed",
        )
    return key


def masked_value(value: pl.Expr, mask: Mask, *, key: str) -> pl.Expr:
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
        case MaskKind.KEEP | MaskKind.DROP | MaskKind.WITHHOLD:
            raise ValueError(f"the mask {mask.kind} puts nothing in place of a value")


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


def _in_place_of(value: pl.Expr, text: str) -> pl.Expr:
    return pl.when(value.is_not_null()).then(pl.lit(text))


def _render(frame: pl.DataFrame) -> bytes:
    body = io.BytesIO()
    frame.write_csv(
        body,
        include_header=False,
        separator=DELIMITER,
        quote_char=QUOTE,
        quote_style="necessary",
        line_terminator=RECORD_TERMINATOR,
        null_value="",
    )
    return body.getvalue()
