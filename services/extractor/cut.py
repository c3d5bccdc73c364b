"""
Cuts the records of a chunk at some of their columns, and leaves the text between as it is.

Most columns of a table are not masked. To read them as values and to write them anew would cost more than the masks.
"""

from collections.abc import Collection, Sequence

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
_RECORD, _IS_SPLIT = "record", "is_split"


def field_name(position: int) -> str:
    """Return the column of a field, or of the piece that begins with it."""
    return f"field_{position}"


class Cut:
    """Where the records of one table are cut, ready for any number of chunks."""

    def __init__(self, pieces: Sequence[range], *, column_count: int) -> None:
        """`pieces`: positions of columns, one behind the other from the first on. `column_count`: of a record."""
        head_count = pieces[-1].stop
        self._names = [field_name(piece.start) for piece in pieces]
        self._columns = [*map(field_name, range(head_count)), REST]
        self._has_rest = head_count < column_count
        self._splits = head_count <= _MAX_SPLIT_COLUMNS
        #: Of the fields that `cut` returns; one that came with the piece of another is NULL.
        self.positions: Collection[int] = (
            range(head_count) if self._splits else {piece.start for piece in pieces}
        )
        end = DELIMITER if self._has_rest else "$"
        heads = [f"({fields_pattern(len(piece))})" for piece in pieces]
        steps = [slice(at, at + _PIECES_AT_ONCE) for at in range(0, len(pieces), _PIECES_AT_ONCE)]
        self._steps = [
            (self._names[step], f"^{DELIMITER.join(heads[step])}{end if step is steps[-1] else DELIMITER}")
            for step in steps
        ]

        record, rest = pl.col(_RECORD), pl.col(REST)
        self._text = record if self._has_rest else record.str.strip_suffix(RECORD_TERMINATOR)
        fields = self._text.str.splitn(DELIMITER, head_count + 1)
        self._fields = fields.struct.rename_fields(self._columns).struct.unnest()
        # What stands in front of the first mark was cut at delimiters alone.
        mark_at, last_field = self._text.str.find(_MARK), pl.col(field_name(head_count - 1))
        self._is_split = (
            (mark_at >= self._text.str.len_bytes() - rest.str.len_bytes()).fill_null(value=False)
            if self._has_rest
            else mark_at.is_null() & rest.is_null() & last_field.is_not_null()
        )

    def cut(self, chunk: Chunk) -> pl.DataFrame:
        """
        Return the fields of each record as they are written, one by one or a piece at once, and `REST`.

        Raises:
            Refused: if a record is not made of these columns. Its text is not told.
        """
        try:
            records = _records(chunk)
        except pl.exceptions.PolarsError:
            raise _not_as_sent(chunk, "is no UTF-8") from None
        found = self._split(records) if self._splits else self._matched(records)
        if self._splits and not found[_IS_SPLIT].all():
            found = self._with_quoted(records, found)
        if any(found[name].null_count() for name in self._names):
            raise _not_as_sent(chunk, "has not the columns that were asked for")
        if not _end_once(found[REST] if self._has_rest else records):
            raise _not_as_sent(chunk, "does not end, or ends before its last character")
        return found

    def joined(self, fields: Sequence[pl.Expr]) -> pl.Expr:
        """Return the record that fields and pieces make, in their order, with its rest."""
        if self._has_rest:
            return pl.concat_str([*fields, pl.col(REST)], separator=DELIMITER, ignore_nulls=True)
        record = pl.concat_str(fields, separator=DELIMITER, ignore_nulls=True)
        return pl.concat_str(record, pl.lit(RECORD_TERMINATOR))

    def _split(self, records: pl.Series) -> pl.DataFrame:
        """Return the fields, right where the record is split, and which records are."""
        # In one query: each costs as much as hundreds of records. Without the records, which would wait with the fields.
        query = records.to_frame().lazy().with_columns(self._fields)
        return query.select(*self._columns, self._is_split.alias(_IS_SPLIT)).collect(engine="in-memory")

    def _with_quoted(self, records: pl.Series, split: pl.DataFrame) -> pl.DataFrame:
        """Return the fields, and the pieces of records that have quotes there; NULL where a record is not made of them."""
        is_split = pl.col(_IS_SPLIT)
        found = self._matched(split.select(pl.when(~is_split).then(records).alias(_RECORD)).to_series())
        return split.select(
            pl.when(is_split).then(name).otherwise(found.get_column(name, default=None)).alias(name)
            for name in self._columns
        )

    def _matched(self, records: pl.Series) -> pl.DataFrame:
        """Return the pieces, NULL where a record is not made of them."""
        rest = records.to_frame().select(self._text).to_series()
        found: list[pl.Series] = []
        for names, pattern in self._steps:
            pieces = rest.str.extract_groups(pattern).struct.rename_fields(names).struct.unnest()
            length = pl.sum_horizontal(pl.col(names).str.len_bytes(), ignore_nulls=False) + len(names)
            behind = pl.lit(rest).cast(pl.Binary).bin.slice(length).cast(pl.String)
            rest = pieces.select(behind.alias(REST)).to_series()
            found += pieces.get_columns()
        return pl.DataFrame([*found, rest])


def _end_once(texts: pl.Series) -> bool:
    """Whether each ends as a record does, and none before: what hides behind another record would not be masked."""
    end_at, last_at = texts.str.find(RECORD_TERMINATOR, literal=True), texts.str.len_bytes() - 1
    others = texts.filter(end_at.ne_missing(last_at))
    return others.is_empty() or others.str.contains(_ONE_ENDED).all()


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
