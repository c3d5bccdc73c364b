"""The one query of a batch: which rows, each as a record of our CSV, and how large it can be."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime

import polars as pl
import pyarrow as pa

from services.extractor.csv_fields import chunk_of, field_of, fields_pattern
from services.extractor.dialects import CsvField, Dialect, Statement
from services.extractor.readers import Chunk, Condition, SourceColumn, bound_value, range_conditions
from services.extractor.readers.sql.driver import ResultSize, WatchedConnection
from shared.csv_dialect import DELIMITER, RECORD_TERMINATOR
from shared.domain.contracts import ColumnKind, TableContract
from shared.domain.key_ranges import Interval
from shared.domain.reasons import Reason
from shared.errors import Refused

#: What a driver's buffers for one batch of rows may take.
MAX_BATCH_OCTETS = 8 * 1024 * 1024
#: More rows at a time were no faster.
MAX_ROWS_PER_BATCH = 10_000
#: A record is in the driver's buffer, in Arrow's and in a chunk at once, in a process that has 400 MB.
MAX_RECORD_OCTETS = 96 * 1024 * 1024

#: Columns whose texts can be longer are measured, which takes the server a look at each of their values.
LONGEST_UNMEASURED_OCTETS = 1024
#: Behind this a record's size is measured as a whole: the sum over its columns supposes that each character is a quote.
LARGE_RECORD_OCTETS = 4 * 1024 * 1024

#: Kinds whose texts never need quotes.
_PLAIN_KINDS = frozenset(
    {
        ColumnKind.BOOLEAN,
        ColumnKind.INT16,
        ColumnKind.INT32,
        ColumnKind.INT64,
        ColumnKind.FLOAT32,
        ColumnKind.FLOAT64,
        ColumnKind.DECIMAL,
        ColumnKind.DATE,
        ColumnKind.TIMESTAMP,
        ColumnKind.TIMESTAMPTZ,
        ColumnKind.BINARY,
    }
)


_WHOLE_NUMBERS = frozenset({ColumnKind.INT16, ColumnKind.INT32, ColumnKind.INT64})


class RecordQuery:
    """What is asked of a table for one batch."""

    def __init__(
        self,
        contract: TableContract,
        *,
        dialect: Dialect,
        columns: Sequence[SourceColumn],
        conditions: Sequence[Condition],
        place: str,
    ) -> None:
        self.place = place
        self._contract = contract
        self._dialect = dialect
        self._by_name = {column.name: column for column in columns}
        self._conditions = conditions
        self._relation, self._bound = self._origin()

    @property
    def is_of_records(self) -> bool:
        """Whether the server writes the records; else it sends a text for each value."""
        return self._record() is not None

    @property
    def is_masked(self) -> bool:
        """Whether values of the table are masked before they leave."""
        return any(column.mask.changes_values for column in self._contract.output_columns)

    @property
    def record_pattern(self) -> str:
        """A regular expression of a whole record."""
        return f"^{fields_pattern(len(self._contract.read_columns))}{RECORD_TERMINATOR}$"

    def statement(self) -> Statement:
        """Return the query of the rows. Columns that do not leave are not in it."""
        record = self._record()
        texts = [field.text for field in self._fields()] if record is None else [record]
        return self._select(_named(texts))

    def no_row(self) -> Statement:
        """Return the same query for no row: the server then looks at rights and expressions alone."""
        texts = _named([field.text for field in self._fields()])
        return Statement(f"SELECT {texts} FROM {self._relation} WHERE 1 = 0", self._bound)

    def touch(self) -> Statement:
        """Return a query of no row that takes hold of all that the rows are read from."""
        return Statement(self._dialect.some_of("1", self._relation, count=0).sql, self._bound)

    def count(self) -> Statement:
        """Return the query of how many rows there are."""
        return self._select("COUNT(*)")

    def bounds(self, column: str) -> Statement:
        """Return the query of a column's smallest and largest value, as texts."""
        name, source_type = self._dialect.quote(column), self._by_name[column].source_type
        ends = [self._dialect.text_of(f"{end}({name})", source_type) for end in ("MIN", "MAX")]
        return self._select(_named(ends))

    def require_cursor_values(self, connection: WatchedConnection) -> None:
        """
        Make sure that every row of the table is in some window.

        Raises:
            Refused: if rows have NULL in the cursor column, or what no window can hold.
        """
        cursor = self._contract.cursor
        if cursor is None:
            return
        column, name = self._by_name[cursor.column], self._dialect.quote(cursor.column)
        lost = [self._dialect.in_no_window(name, column.source_type)]
        lost += [f"{name} IS NULL"] if column.is_nullable else []
        condition = " OR ".join(filter(None, lost))
        if not condition:
            return
        rows = connection.query(
            Statement(f"SELECT COUNT(*) FROM {self._relation} WHERE {condition}", self._bound)
        )
        if rows and int(rows[0][0] or 0):
            raise Refused(
                Reason.NULL_CURSOR,
                f"{self.place}: expected a value in cursor column {cursor.column!r} of every row, found rows with NULL, "
                "infinity or a zero date, which belong to no window; set them at the source",
            )

    def measure(self, connection: WatchedConnection) -> int:
        """
        Return how many bytes of UTF-8 the longest text of the result has at most, in the snapshot that will be read.

        Raises:
            Refused: if a record is larger than a process may hold.
        """
        fields = self._fields()
        known = [self._dialect.max_octets_of(self._source_type(name)) for name in self._names()]
        measured = [
            position
            for position, octets in enumerate(known)
            if octets is None or octets > LONGEST_UNMEASURED_OCTETS
        ]
        found = self._largest(connection, [fields[position].text for position in measured])
        sizes = {**dict(enumerate(known)), **dict(zip(measured, found, strict=True))}
        octets = self._text_octets(fields, [sizes[position] or 0 for position in range(len(fields))])
        record = self._record()
        if record is not None and octets > LARGE_RECORD_OCTETS:
            octets = max(self._largest(connection, [record])[0], 1)
        if octets > MAX_RECORD_OCTETS:
            raise Refused(
                Reason.SOURCE_LIMIT_EXCEEDED,
                f"{self.place}: expected records of at most {MAX_RECORD_OCTETS} bytes, found one of {octets}; withhold "
                "the large column, or let a view cut it",
            )
        return octets

    def result_size(self, max_text_octets: int, *, chunk_size_in_bytes: int) -> ResultSize:
        """Return how the rows are to be fetched."""
        column_count = 1 if self.is_of_records else len(self._fields())
        rows = min(MAX_BATCH_OCTETS, chunk_size_in_bytes) // (max_text_octets * column_count)
        return ResultSize(column_count, max_text_octets, min(max(rows, 1), MAX_ROWS_PER_BATCH))

    # ---- narrower ones ------------------------------------------------------------------------------------

    def countable_key(self) -> str | None:
        """Return the first column of the key if it is a whole number and never NULL."""
        for name in self._contract.key[:1]:
            column = self._by_name.get(name)
            if column and not column.is_nullable and self._kind(name) in _WHOLE_NUMBERS:
                return name
        return None

    def between(self, column: str, low: int, high: int) -> "RecordQuery":
        """Return the query of those of its rows whose value of a column is in `[low, high)`."""
        return self._with([Condition(column, ">=", low), Condition(column, "<", high)])

    def within(self, column: str, interval: Interval) -> "RecordQuery":
        """Return the query of those of its rows whose key lies in a range."""
        return self._with(range_conditions(column, interval, kind=self._kind(column)))

    def _with(self, conditions: Sequence[Condition]) -> "RecordQuery":
        return RecordQuery(
            self._contract,
            dialect=self._dialect,
            columns=list(self._by_name.values()),
            conditions=[*self._conditions, *conditions],
            place=self.place,
        )

    def cell_sums(self, column: str, *, bits: int) -> Statement | None:
        """Return the query of cell, row count, count of hashes and four sums; None if the server has no hash."""
        hashed = self._dialect.hash_of(self._fields())
        if hashed is None:
            return None
        rows = self._select(f"{self._cell(column, bits)} AS cell, {hashed} AS hashed")
        sums = _named(["cell", "COUNT(*)", "COUNT(hashed)", *self._dialect.quarters_of("hashed")])
        return Statement(f"SELECT {sums} FROM ({rows.sql}) AS q2 GROUP BY cell", rows.parameters)

    def texts(self) -> Statement:
        """Return the query of the text of each value, also where the server could write records."""
        return self._select(_named([field.text for field in self._fields()]))

    def position_of(self, column: str) -> int:
        """Return where the text of a column stands in `texts`."""
        return self._names().index(column)

    def texts_size(self, max_text_octets: int) -> ResultSize:
        """Return how `texts` are to be fetched."""
        column_count = len(self._names())
        rows = MAX_BATCH_OCTETS // (max_text_octets * column_count)
        return ResultSize(column_count, max_text_octets, min(max(rows, 1), MAX_ROWS_PER_BATCH))

    def _cell(self, column: str, bits: int) -> str:
        return self._dialect.cell_of(self._dialect.quote(column), bits)

    def count_in(self, connection: WatchedConnection) -> int:
        """Return how many rows there are."""
        ((count,),) = connection.query(self.count())
        return int(count or 0)

    def keyless_in(self, connection: WatchedConnection, column: str) -> tuple[int, int]:
        """Return how many rows there are, and how many of them have no whole number in a column."""
        counts = _named(["COUNT(*)", f"COUNT({self._cell(column, 0)})"])
        ((count, keyed_count),) = connection.query(self._select(counts))
        return int(count or 0), int(count or 0) - int(keyed_count or 0)

    def bounds_in(self, connection: WatchedConnection, column: str) -> tuple[int, int]:
        """Return the smallest and the largest whole number in a column; there must be a row."""
        ((low, high),) = connection.query(self.bounds(column))
        return int(low or 0), int(high or 0)

    def total_octets_in(self, connection: WatchedConnection) -> int:
        """Return how many bytes all records have together, if the server writes them; else all texts."""
        record = self._record()
        texts = [record] if record is not None else [field.text for field in self._fields()]
        sizes = _named([f"SUM({self._dialect.octets_of(text)})" for text in texts])
        (row,) = connection.query(self._select(sizes))
        return sum(int(size or 0) for size in row)

    # ---- its parts -----------------------------------------------------------------------------------------

    def _text_octets(self, fields: Sequence[CsvField], sizes: Sequence[int]) -> int:
        """How long a record can be, with its quotes, commas and line break; without records, the longest value."""
        if not self.is_of_records:
            return max(sizes, default=0) + 1
        # Each character may be a quote, which is doubled.
        return sum(
            1 + (size if field.is_plain else 2 * size + 2) for field, size in zip(fields, sizes, strict=True)
        )

    def _largest(self, connection: WatchedConnection, texts: Sequence[str]) -> list[int]:
        if not texts:
            return []
        sizes = _named([f"MAX({self._dialect.octets_of(text)})" for text in texts])
        (row,) = connection.query(self._select(sizes))
        return [int(size or 0) for size in row]

    def _select(self, selected: str) -> Statement:
        compared = [
            f"{self._dialect.quote(condition.column)} {condition.operator} "
            f"{self._dialect.parameter(self._source_type(condition.column))}"
            for condition in self._conditions
        ]
        where = f" WHERE {' AND '.join(compared)}" if compared else ""
        parameters = tuple(_parameter_text(condition.value) for condition in self._conditions)
        return Statement(f"SELECT {selected} FROM {self._relation}{where}", self._bound + parameters)

    def _origin(self) -> tuple[str, tuple[str, ...]]:
        """Return what stands behind FROM, and the values that are bound there."""
        query = self._contract.query
        if query is None:
            return ".".join(self._dialect.quote(name) for name in self._contract.relation), ()
        kind = self._dialect.fate_of(query.bound_type).type.kind
        values = [
            bound_value(placeholder, self._conditions, cursor=self._contract.cursor, kind=kind)
            for placeholder in query.placeholders
        ]
        text = query.written(lambda _: self._dialect.parameter(query.bound_type))
        return f"({text}) AS q", tuple(map(_parameter_text, values))

    def _record(self) -> str | None:
        return self._dialect.record_of(self._fields())

    def _fields(self) -> list[CsvField]:
        return [self._field(name) for name in self._names()]

    def _field(self, name: str) -> CsvField:
        source_type, quoted = self._source_type(name), self._dialect.quote(name)
        return CsvField(
            quoted,
            self._dialect.text_of(quoted, source_type),
            is_plain=self._kind(name) in _PLAIN_KINDS,
        )

    def _kind(self, name: str) -> ColumnKind:
        return self._dialect.fate_of(self._source_type(name)).type.kind

    def _names(self) -> list[str]:
        return [column.name for column in self._contract.read_columns]

    def _source_type(self, name: str) -> str:
        return self._by_name[name].source_type


def _named(expressions: Sequence[str]) -> str:
    """
    Return a SELECT list in which each expression has a short name.

    Else an expression is its own name, in which some drivers cut a character in half: SQLite's gave names of columns
    that no text is, one time in six.
    """
    return ", ".join(f"{expression} AS c{position}" for position, expression in enumerate(expressions))


def chunks_of(
    batches: Iterable[pa.RecordBatch], *, query: RecordQuery, size_in_bytes: int
) -> Iterator[Chunk]:
    """
    Gather the rows of a query into chunks, each cut behind the batch with which it reaches the size.

    Raises:
        Refused: if a value cannot be carried.
    """
    records_of = _server_written if query.is_of_records else _written
    gathered: list[pl.Series] = []
    gathered_octets = 0
    for batch in batches:
        records = records_of(batch, query)
        if records.str.contains("\0", literal=True).any():
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE,
                f"{query.place}: a value holds the character NUL, which no text of CSV, Parquet and a warehouse may hold; "
                "let a view replace it",
            )
        gathered.append(records)
        gathered_octets += int(records.str.len_bytes().sum())
        if gathered_octets >= size_in_bytes:
            yield chunk_of(pl.concat(gathered))
            gathered, gathered_octets = [], 0
    if gathered_octets:
        yield chunk_of(pl.concat(gathered))


def _server_written(batch: pa.RecordBatch, query: RecordQuery) -> pl.Series:
    """Return the records of a batch, as the server wrote them."""
    records = pl.Series(batch.column(0))
    if records.null_count():
        raise Refused(
            Reason.VALUE_NOT_REPRESENTABLE,
            f"{query.place}: the server gave up on a record, which is longer than it sends (max_allowed_packet); raise "
            "that there, or withhold the large column",
        )
    if not records.str.ends_with(RECORD_TERMINATOR).all():
        raise Refused(
            Reason.VALUE_NOT_REPRESENTABLE,
            f"{query.place}: a record came cut, as some drivers do at the character NUL; let a view replace it",
        )
    if query.is_masked and not records.str.contains(query.record_pattern).all():
        raise Refused(
            Reason.VALUE_NOT_REPRESENTABLE,
            f"{query.place}: a record has not the columns that were asked for: its quotes were lost on the way, as drivers "
            "do that convert between character sets; let the driver speak UTF-8",
        )
    return records


def _written(batch: pa.RecordBatch, query: RecordQuery) -> pl.Series:  # noqa: ARG001 (as `_server_written`)
    """Return the records of a batch that came as values."""
    values = pl.DataFrame(pl.from_arrow(batch))
    fields = pl.concat_str([field_of(pl.col(name)) for name in values.columns], separator=DELIMITER)
    return values.select(pl.concat_str(fields, pl.lit(RECORD_TERMINATOR))).to_series()


def _parameter_text(value: datetime | date | int | str) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    return value.isoformat() if isinstance(value, date) else str(value)
