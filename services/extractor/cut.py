"""
Cuts the records of a chunk at some of their columns, and leaves the text between as it is.

Most columns of a table are not masked. To read them as values and to write them anew would cost more than the masks.
"""

from collections.abc import Sequence

import polars as pl
import pyarrow as pa

from services.extractor.csv_fields import fields_pattern
from services.extractor.readers import Chunk
from shared.csv_dialect import DELIMITER, RECORD_TERMINATOR
from shared.domain.reasons import Reason
from shared.errors import Refused

#: What is left of a record behind the last piece, its end included.
REST = "rest"

# Pieces that one match finds. It takes memory by their square: 800 at once took 700 MB.
_PIECES_AT_ONCE = 16

# Of more columns, what Polars plans for each costs more than to match them all.
_MAX_SPLIT_COLUMNS = 64

# In front of it, a delimiter is one.
_MARK = '["\n]'

# What ends where a record does, and nowhere before.
_ONE_ENDED = '^(?:[^"\n]|"[^"]*")*\n$'

# Columns on the way.
_RECORD, _SIZE, _MARK_AT, _IS_ENDED, _IS_SPLIT = "record", "size", "mark_at", "is_ended", "is_split"


def piece_name(number: int) -> str:
    """Return the column of a piece."""
    return f"p{number}"


class Cut:
    """Where the records of one table are cut, ready for any number of chunks."""

    def __init__(self, pieces: Sequence[range], *, column_count: int) -> None:
        """`pieces`: positions of columns, one behind the other from the first on. `column_count`: of a record."""
        self._names = [piece_name(number) for number in range(len(pieces))]
        head_count = pieces[-1].stop
        self._has_rest = head_count < column_count
        self._splits = head_count <= _MAX_SPLIT_COLUMNS
        end = DELIMITER if self._has_rest else "$"
        heads = [f"({fields_pattern(len(piece))})" for piece in pieces]
        steps = [slice(at, at + _PIECES_AT_ONCE) for at in range(0, len(pieces), _PIECES_AT_ONCE)]
        self._steps = [
            (self._names[step], f"^{DELIMITER.join(heads[step])}{end if step is steps[-1] else DELIMITER}")
            for step in steps
        ]

        record, rest = pl.col(_RECORD), pl.col(f"field_{head_count}")
        self._text = record if self._has_rest else record.str.strip_suffix(RECORD_TERMINATOR)
        self._fields = [
            self._text.str.splitn(DELIMITER, head_count + 1).struct.unnest(),
            self._text.str.len_bytes().alias(_SIZE),
            self._text.str.find(_MARK).alias(_MARK_AT),
            record.str.ends_with(RECORD_TERMINATOR).alias(_IS_ENDED),
        ]
        # What stands in front of the first mark was cut at delimiters alone.
        is_split = (
            (pl.col(_MARK_AT) >= pl.col(_SIZE) - rest.str.len_bytes()).fill_null(value=False)
            if self._has_rest
            else pl.col(_MARK_AT).is_null() & rest.is_null()
        )
        self._pieces = [
            *(
                pl.concat_str([pl.col(f"field_{n}") for n in piece], separator=DELIMITER).alias(name)
                for piece, name in zip(pieces, self._names, strict=True)
            ),
            rest.alias(REST),
            is_split.alias(_IS_SPLIT),
            pl.col(_IS_ENDED),
        ]

    def cut(self, chunk: Chunk) -> pl.DataFrame:
        """
        Return the pieces of each record as they are written, each without the delimiter behind it, and `REST`.

        Raises:
            Refused: if a record is not made of these columns. Its text is not told.
        """
        try:
            records = _records(chunk)
        except pl.exceptions.PolarsError:
            raise _not_as_sent(chunk, "is no UTF-8") from None
        found = self._split(records) if self._splits else self._matched(records)
        if not found[_IS_ENDED].all():
            raise _not_as_sent(chunk, "has no end")
        if self._splits and not found[_IS_SPLIT].all():
            found = self._with_quoted(records, found)
        if any(found[name].null_count() for name in self._names):
            raise _not_as_sent(chunk, "has not the columns that were asked for")
        if self._has_rest and not _are_one_each(found[REST]):
            raise _not_as_sent(chunk, "is more than one")
        return found.select(*self._names, REST)

    def joined(self, pieces: Sequence[pl.Expr]) -> pl.Expr:
        """Return the record that fields and pieces make, in their order, with its rest."""
        if self._has_rest:
            return pl.concat_str([*pieces, pl.col(REST)], separator=DELIMITER)
        return pl.concat_str(pl.concat_str(pieces, separator=DELIMITER), pl.lit(RECORD_TERMINATOR))

    def _split(self, records: pl.Series) -> pl.DataFrame:
        """Return the pieces, right where the record is split, and which records are and have an end."""
        # In one query: each costs as much as hundreds of records.
        query = records.to_frame().lazy().select(self._fields).select(self._pieces)
        return query.collect(engine="in-memory")

    def _with_quoted(self, records: pl.Series, split: pl.DataFrame) -> pl.DataFrame:
        """Return the pieces with those of the records that have quotes there; NULL where a record is not made of them."""
        is_split = pl.col(_IS_SPLIT)
        quoted = split.select(pl.when(~is_split).then(records).alias(_RECORD)).to_series()
        found = self._matched(quoted)
        return split.select(
            pl.when(is_split).then(pl.col(name)).otherwise(found[name]) for name in [*self._names, REST]
        )

    def _matched(self, records: pl.Series) -> pl.DataFrame:
        """Return the pieces, NULL where a record is not made of them, and which records have an end."""
        rest = records.to_frame().select(self._text).to_series()
        found: list[pl.Series] = []
        for names, pattern in self._steps:
            pieces = rest.str.extract_groups(pattern).struct.rename_fields(names).struct.unnest()
            length = pl.sum_horizontal(pl.col(names).str.len_bytes(), ignore_nulls=False) + len(names)
            behind = pl.lit(rest).cast(pl.Binary).bin.slice(length).cast(pl.String)
            rest = pieces.select(behind.alias(REST)).to_series()
            found += pieces.get_columns()
        is_ended = records.str.ends_with(RECORD_TERMINATOR).alias(_IS_ENDED)
        return pl.DataFrame([*found, rest, is_ended])


def _are_one_each(rests: pl.Series) -> bool:
    """Whether no record ends before its last character: one that hides behind another would not be masked."""
    ends_at, size = rests.str.find(RECORD_TERMINATOR, literal=True), rests.str.len_bytes()
    several = rests.filter(ends_at + 1 != size)
    return several.is_empty() or several.str.contains(_ONE_ENDED).all()


def _records(chunk: Chunk) -> pl.Series:
    # Arrow's own layout of texts: nothing is copied.
    body, offsets = pa.py_buffer(chunk.body), pa.py_buffer(chunk.offsets)
    records = pa.LargeBinaryArray.from_buffers(pa.large_binary(), chunk.record_count, [None, offsets, body])
    return pl.Series(_RECORD, records).cast(pl.String)


def _not_as_sent(chunk: Chunk, found: str) -> Refused:
    return Refused(
        Reason.VALUE_NOT_REPRESENTABLE,
        f"a chunk of {chunk.record_count} records cannot be masked: a record {found}; nothing of it may leave",
    )
