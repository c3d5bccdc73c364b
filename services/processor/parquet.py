"""
Typed rows → Parquet parts of bounded size, the same bytes for the same rows.

Written by PyArrow: it reports how long a file has become after each row group, and gives a timestamp without
zone the older annotation beside the newer one, so that readers who know only that one see a timestamp.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from shared.domain.contracts import ColumnKind, ColumnType, TableContract
from shared.measures import MEASURES_KEY, ColumnMeasure, taken_together, to_text
from shared.measuring import measure

#: Zstandard's own default. Level 1 makes files 7 % longer and saves no CPU time that could be measured.
COMPRESSION_LEVEL = 3

_ARROW_TYPES = {
    ColumnKind.STRING: pa.large_string(),
    ColumnKind.BOOLEAN: pa.bool_(),
    ColumnKind.INT16: pa.int16(),
    ColumnKind.INT32: pa.int32(),
    ColumnKind.INT64: pa.int64(),
    ColumnKind.FLOAT32: pa.float32(),
    ColumnKind.FLOAT64: pa.float64(),
    ColumnKind.DATE: pa.date32(),
    ColumnKind.TIMESTAMP: pa.timestamp("us"),
    ColumnKind.TIMESTAMPTZ: pa.timestamp("us"),
    ColumnKind.JSON: pa.large_string(),
    ColumnKind.BINARY: pa.large_binary(),
}


@dataclass(frozen=True, slots=True)
class Part:
    """A finished Parquet file on the local disk."""

    path: Path
    record_count: int


@dataclass(frozen=True, slots=True)
class PartLayout:
    """What every part of one attempt has in common."""

    schema: pa.Schema
    #: What a footer says, given the part's record count.
    metadata: Callable[[int], Mapping[str, str]]
    target_file_size_in_bytes: int


def arrow_schema(contract: TableContract) -> pa.Schema:
    """Return the schema of a table's files: names and order as in the contract, every column nullable."""
    return pa.schema([(column.name, _arrow_type(column.output_type)) for column in contract.output_columns])


def _arrow_type(column_type: ColumnType) -> pa.DataType:
    if column_type.kind is ColumnKind.DECIMAL:
        return pa.decimal128(column_type.precision, column_type.scale)
    return _ARROW_TYPES[column_type.kind]


def row_groups(
    frames: Iterable[tuple[pl.DataFrame, int]], *, schema: pa.Schema, text_size_in_bytes: int
) -> Iterator[pa.Table]:
    """
    Gather frames, each given with the size of the CSV text it came from, into tables worth a row group.

    The text measures, as it depends on nothing but the source's bytes; how much memory a frame takes does not.
    """
    gathered: list[pa.Table] = []
    gathered_text = 0
    for frame, text in frames:
        if gathered and gathered_text + text > text_size_in_bytes:
            yield pa.concat_tables(gathered)
            gathered, gathered_text = [], 0
        arrays = frame.to_arrow(compat_level=pl.CompatLevel.oldest()).columns
        gathered.append(pa.Table.from_arrays(arrays, schema=schema))
        gathered_text += text
    if gathered:
        yield pa.concat_tables(gathered)


def write_parts(groups: Iterable[pa.Table], *, folder: Path, layout: PartLayout) -> list[Part]:
    """
    Write row groups into as few parts as their target size allows; no rows give one part without any.

    A row group is never split, so a part may be longer than its target by what two groups differ in size.
    """
    folder.mkdir()
    parts: list[Part] = []
    writer = _PartWriter(folder / _part_name(0), layout)
    try:
        for group in groups:
            if writer.would_outgrow_target():
                parts.append(writer.finish())
                writer = _PartWriter(folder / _part_name(len(parts)), layout)
            writer.write(group)
        parts.append(writer.finish())
    finally:
        writer.close()
    return parts


def _part_name(part: int) -> str:
    return f"part-{part:05d}.parquet"


class _PartWriter:
    """One part being written."""

    def __init__(self, path: Path, layout: PartLayout) -> None:
        self._path = path
        self._layout = layout
        self._record_count = 0
        self._largest_group_in_bytes = 0
        self._measures = [ColumnMeasure()] * len(layout.schema)
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(
            self._sink,
            layout.schema,
            compression="zstd",
            compression_level=COMPRESSION_LEVEL,
            # The Arrow schema beside Parquet's own would be a second truth about the types.
            store_schema=False,
        )

    def would_outgrow_target(self) -> bool:
        """Return whether another row group as large as the largest so far is too much."""
        expected = self._sink.tell() + self._largest_group_in_bytes
        return self._record_count > 0 and expected > self._layout.target_file_size_in_bytes

    def write(self, group: pa.Table) -> None:
        """Write one row group; one without rows is left out."""
        if group.num_rows == 0:
            return
        start = self._sink.tell()
        self._writer.write_table(group, row_group_size=group.num_rows)
        self._largest_group_in_bytes = max(self._largest_group_in_bytes, self._sink.tell() - start)
        self._record_count += group.num_rows
        self._measures = taken_together(self._measures, measure(group))

    def finish(self) -> Part:
        """Write the footer."""
        metadata = {**self._layout.metadata(self._record_count), MEASURES_KEY: to_text(self._measures)}
        self._writer.add_key_value_metadata(metadata)
        self.close()
        return Part(self._path, self._record_count)

    def close(self) -> None:
        """Close the file. Harmless when repeated."""
        self._writer.close()
        self._sink.close()
