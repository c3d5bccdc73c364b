"""
The checksum of a set of rows: the same whatever their order, another one if any cell differs.

Every value has one canonical text, which depends on the value alone and on no library's way of printing it; a row is
the netstrings of its cells; its fingerprint is XXH64 of that; the checksum is the sum of the fingerprints, modulo
2^64, beside their number. Recorded checksums are compared years later: a change here is a new `SCHEME`.

Source: xxHash specification, "XXH64 Algorithm Description", seed 0; D. J. Bernstein, "Netstrings".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import polars as pl
import polars_hash  # noqa: F401 (adds the namespace `nchash` to expressions)

from shared.domain.contracts import ColumnKind, ColumnType

SCHEME = "esclusa-rows-1"

#: A cell without a value. A netstring begins with a digit.
_NULL = "~"
_MODULUS = 2**64
_LOW_BITS = 32


@dataclass(frozen=True, slots=True)
class Checksum:
    """So many rows, and the sum of their fingerprints."""

    row_count: int = 0
    fingerprint_sum: int = 0

    def __add__(self, other: "Checksum") -> "Checksum":
        return Checksum(
            self.row_count + other.row_count, (self.fingerprint_sum + other.fingerprint_sum) % _MODULUS
        )

    def __sub__(self, other: "Checksum") -> "Checksum":
        return Checksum(
            self.row_count - other.row_count, (self.fingerprint_sum - other.fingerprint_sum) % _MODULUS
        )

    @property
    def text(self) -> str:
        """
        The sum as people and manifests have it.

        >>> Checksum(1, 255).text
        '00000000000000ff'
        """
        return f"{self.fingerprint_sum:016x}"

    @classmethod
    def of(cls, fingerprints: pl.Series) -> Self:
        """Return the checksum of rows, given by their fingerprints."""
        low, high = fingerprints & (2**_LOW_BITS - 1), fingerprints // 2**_LOW_BITS
        return cls(fingerprints.len(), joined_sum(low=int(low.sum()), high=int(high.sum())))

    def entry(self) -> dict[str, object]:
        """Return the checksum as JSON values, for a manifest."""
        return {"scheme": SCHEME, "row_count": self.row_count, "sum": self.text}

    @classmethod
    def from_entry(cls, entry: object) -> "Checksum | None":
        """Read what a manifest holds; None if it holds nothing, or the checksum of another scheme."""
        if not isinstance(entry, Mapping) or entry.get("scheme") != SCHEME:
            return None
        return cls(int(entry["row_count"]), int(str(entry["sum"]), 16))


def joined_sum(*, low: int, high: int) -> int:
    """Return a sum of fingerprints whose lower and upper 32 bits were summed apart, so that nothing overflowed."""
    return (low + (high << _LOW_BITS)) % _MODULUS


def half_sums(fingerprint: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Return the sums of the lower and of the upper 32 bits, for `joined_sum`; exact for up to 2^32 rows."""
    return (fingerprint & (2**_LOW_BITS - 1)).sum(), (fingerprint // 2**_LOW_BITS).sum()


def fingerprint(cells: Sequence[tuple[pl.Expr, ColumnType]]) -> pl.Expr:
    """Return the fingerprint of rows: one number of 64 bits made of all these cells, in their order."""
    row = pl.concat_str([_netstring(canonical_text(value, type_)) for value, type_ in cells])
    hashed: pl.Expr = row.nchash.xxhash64()  # type: ignore[attr-defined]
    return hashed


def canonical_text(value: pl.Expr, type_: ColumnType) -> pl.Expr:
    """
    Return the one text of a typed value; NULL stays NULL.

    Numbers, dates and times become the integer that stands for them: a decimal without its point, days or
    microseconds since 1970, a float's bits. There is one NaN; 0.0 and -0.0 are two values.
    """
    match type_.kind:
        case ColumnKind.STRING | ColumnKind.JSON:
            return value
        case ColumnKind.BINARY:
            return value.bin.encode("hex")
        case ColumnKind.FLOAT32 | ColumnKind.FLOAT64:
            bits = pl.Int32 if type_.kind is ColumnKind.FLOAT32 else pl.Int64
            text = value.reinterpret(dtype=bits).cast(pl.String)
            return pl.when(value.is_nan()).then(pl.lit("NaN")).otherwise(text)
        case _:
            return value.to_physical().cast(pl.String)


def _netstring(text: pl.Expr) -> pl.Expr:
    whole = pl.concat_str(text.str.len_bytes().cast(pl.String), pl.lit(":"), text, pl.lit(","))
    return whole.fill_null(_NULL)
