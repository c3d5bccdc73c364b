"""
CSV files of a batch → blocks of records as text. Nothing is inferred: every cell is a string or NULL.

Polars reads the dialect exactly, with two exceptions that are met here: it takes a record with missing fields
silently, and it drops a byte order mark at the start of what it is given.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import polars as pl

from shared.csv_dialect import DELIMITER, QUOTE, RECORD_TERMINATOR, header_line
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.ports import ObjectStore

DOWNLOAD_CHUNK_SIZE_IN_BYTES = 1024 * 1024

_DELIMITER = DELIMITER.encode()
_QUOTE = QUOTE.encode()
_TERMINATOR = RECORD_TERMINATOR.encode()


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Consecutive records of one file."""

    #: Columns by position, see `position_name`; all String.
    frame: pl.DataFrame
    #: The part of the batch that the file is.
    part: int
    #: The number of the first record in its file. The header is 1, so the first record of a file is 2. Line
    #: breaks inside quotes do not count.
    first_line: int
    #: As CSV.
    text_size_in_bytes: int


def position_name(position: int) -> str:
    """
    Return the name a column has inside the processor.

    Names of sources are never given to Polars: it takes `*` and `^…$` for patterns.
    """
    return f"c{position}"


def fetch(file: DataFile, *, store: ObjectStore, folder: Path) -> Path:
    """
    Download a file and prove that it is the one the ledger names.

    Raises:
        Refused: `size_mismatch` or `checksum_mismatch`.
        ObjectNotFound: if the bucket does not hold it.
        Unavailable: if the store does not answer.
    """
    path = folder / f"part-{file.part:05d}.csv"
    digest, size_in_bytes = hashlib.sha256(), 0
    with store.open(file.location) as body, path.open("wb") as target:
        while chunk := body.read(DOWNLOAD_CHUNK_SIZE_IN_BYTES):
            digest.update(chunk)
            size_in_bytes += len(chunk)
            target.write(chunk)
    if size_in_bytes != file.file_size_in_bytes:
        raise Refused(
            Reason.SIZE_MISMATCH,
            f"{file.location}: should have {file.file_size_in_bytes} bytes, found {size_in_bytes}",
        )
    if digest.hexdigest() != file.sha256:
        raise Refused(
            Reason.CHECKSUM_MISMATCH,
            f"{file.location}: SHA-256 should be {file.sha256}, found {digest.hexdigest()}",
        )
    return path


def decode(
    path: Path, *, file: DataFile, columns: Sequence[str], block_size_in_bytes: int
) -> Iterator[TextBlock]:
    """
    Read a CSV file block by block, in its order.

    Raises:
        Refused: `header_mismatch` if it is not a file of these columns; `record_count_mismatch` if it does not
            hold exactly the records that its writer counted, each with every field.
    """
    with path.open("rb") as stream:
        header = header_line(columns)
        if stream.read(len(header)) != header:
            raise Refused(
                Reason.HEADER_MISMATCH,
                f"{file.location}: the first line should be the header of the contract's {len(columns)} columns",
            )
        record_count = 0
        for block in _record_blocks(stream, block_size_in_bytes, file):
            frame = parse_records(block, column_count=len(columns), place=file.location)
            yield TextBlock(frame, file.part, first_line=record_count + 2, text_size_in_bytes=len(block))
            record_count += frame.height
    if record_count != file.record_count:
        raise Refused(
            Reason.RECORD_COUNT_MISMATCH,
            f"{file.location}: should have {file.record_count} records, found {record_count}",
        )


def _record_blocks(stream: BinaryIO, size_in_bytes: int, file: DataFile) -> Iterator[bytes]:
    """
    Cut a stream into blocks of whole records, each about as long as asked for, or as its only record.

    Where the cuts lie depends on the bytes alone, so that equal files give equal Parquet.
    """
    rest = b""
    while chunk := stream.read(size_in_bytes):
        text = rest + chunk
        end = _end_of_last_record(text)
        if end:
            yield text[:end]
        rest = text[end:]
    if rest:
        raise Refused(Reason.RECORD_COUNT_MISMATCH, f"{file.location}: its last record is cut")


def _end_of_last_record(text: bytes) -> int:
    """
    Return where the last whole record ends; 0 if none does.

    A line break ends a record if the quotes before it are even in number. If they are odd, it lies in a quoted
    field, as does everything back to the quote before it.
    """
    end, quote_count = len(text), text.count(_QUOTE)
    while (line_break := text.rfind(_TERMINATOR, 0, end)) >= 0:
        quote_count -= text.count(_QUOTE, line_break, end)
        if quote_count % 2 == 0:
            return line_break + 1
        end = text.rfind(_QUOTE, 0, line_break)
        quote_count -= 1
    return 0


def parse_records(block: bytes, *, column_count: int, place: object) -> pl.DataFrame:
    """
    Read whole records, without a header, as text.

    Raises:
        Refused: `record_count_mismatch` if one has fewer or more fields. `place`: where they are from.
    """
    # A record of NULLs goes before the block and is taken off again: Polars drops a byte order mark that comes
    # first, although it may well be the first character of a value.
    guard = _DELIMITER * (column_count - 1) + _TERMINATOR
    try:
        frame = pl.read_csv(
            guard + block,
            has_header=False,
            schema={position_name(position): pl.String for position in range(column_count)},
            separator=DELIMITER,
            quote_char=QUOTE,
            eol_char=RECORD_TERMINATOR,
        ).slice(1)
    except pl.exceptions.PolarsError as error:
        # The cause stays out: its text quotes the row.
        raise Refused(
            Reason.RECORD_COUNT_MISMATCH,
            f"{place}: a record cannot be read as {column_count} fields ({type(error).__name__})",
        ) from None
    if _has_short_record(frame, block):
        raise Refused(
            Reason.RECORD_COUNT_MISMATCH,
            f"{place}: a record has fewer than {column_count} fields",
        )
    return frame


def _has_short_record(frame: pl.DataFrame, block: bytes) -> bool:
    """
    Return whether a record lacks fields.

    Polars refuses surplus fields and fills missing ones with NULL. So all records are whole if the delimiters
    in the text are those between fields and those inside values.
    """
    if frame.width == 1 or frame.to_series(-1).null_count() == 0:
        return False
    inside_values: int = frame.select(
        pl.sum_horizontal(pl.all().str.count_matches(DELIMITER, literal=True).sum())
    ).item()
    between_fields = block.count(_DELIMITER) - inside_values
    return between_fields != (frame.width - 1) * frame.height
