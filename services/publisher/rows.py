"""The rows of a committed Parquet file, checked against the ledger, in blocks of bounded size."""

import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO

import polars as pl

from services.publisher.read_back import polars_type
from shared.domain.contracts import Column
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.errors import ObjectNotFound, Refused
from shared.ports import ObjectStore

ROWS_PER_BLOCK = 65_536
_DOWNLOAD_BLOCK_BYTES = 1024 * 1024


def read_blocks(file: DataFile, *, columns: Sequence[Column], store: ObjectStore) -> Iterator[pl.DataFrame]:
    """
    Return the rows of a file, some ten thousand at a time, in the types of the columns given.

    A widening may have written the file anew in wider types, and its rows are still those that a batch of the narrower
    contract brought: so whoever asks by that contract gets them as they were.

    The file is copied to the local disk first: so its checksum is known before the first row leaves, and memory holds
    one block, whatever the size of the file.

    Raises:
        Refused: if the file is not the one that the ledger knows.
        Unavailable: if the store does not answer.
    """
    # pyarrow reads a file in blocks, Polars one whole row group at least.
    import pyarrow.parquet as pq

    expected = [column.name for column in columns]
    with tempfile.TemporaryFile(prefix="esclusa-publish-") as local_copy:
        _download(file, local_copy, store=store)
        with pq.ParquetFile(local_copy) as parquet:
            found = parquet.schema_arrow.names
            if found != expected:
                raise Refused(
                    Reason.FOOTER_MISMATCH,
                    f"{file.location}: expected the columns {', '.join(expected)}, found {', '.join(found)}",
                )
            blocks = (
                in_types(pl.DataFrame(block), columns, where=str(file.location))
                for block in parquet.iter_batches(batch_size=ROWS_PER_BLOCK)
            )
            yield from blocks if file.first_row is None else _rows_of_one(file, file.first_row, blocks)


def in_types(rows: pl.DataFrame, columns: Sequence[Column], *, where: str) -> pl.DataFrame:
    """
    Return rows with the numbers in the types of the columns: wider ones, or the narrower ones that they came in.

    Raises:
        Refused: FOOTER_MISMATCH if a value does not fit.
    """
    return rows.with_columns(
        _exactly(values, wanted, where=where)
        for values, column in zip(rows.get_columns(), columns, strict=True)
        if _is_other_number(values.dtype, wanted := polars_type(column.output_type))
    )


def _is_other_number(found: pl.DataType, wanted: pl.DataType) -> bool:
    return found != wanted and (
        (found.is_integer() and wanted.is_integer()) or (found.is_decimal() and wanted.is_decimal())
    )


def _exactly(values: pl.Series, wanted: pl.DataType, *, where: str) -> pl.Series:
    try:
        cast = values.cast(wanted)
        # Polars refuses a number that is too large, and cuts one that has more digits behind the point.
        is_exact = cast.cast(values.dtype).equals(values)
    except pl.exceptions.InvalidOperationError:
        is_exact = False  # The error names the value.
    if not is_exact:
        raise Refused(
            Reason.FOOTER_MISMATCH,
            f"{where}: column {values.name!r} has numbers that do not fit {wanted}, which its contract says",
        ) from None
    return cast


def _rows_of_one(file: DataFile, first_row: int, blocks: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Leave out the rows of other batches in the same file."""
    start, end = first_row, first_row + file.record_count
    position = 0
    for block in blocks:
        own = block[max(0, start - position) : max(0, end - position)]
        if own.height:
            yield own
        position += block.height
        if position >= end:
            return


def _download(file: DataFile, local_copy: IO[bytes], *, store: ObjectStore) -> None:
    digest = hashlib.sha256()
    try:
        with store.open(file.location) as body:
            while block := body.read(_DOWNLOAD_BLOCK_BYTES):
                digest.update(block)
                local_copy.write(block)
    except ObjectNotFound as error:
        raise Refused(
            Reason.OBJECT_MISSING, f"{file.location}: the ledger lists it, the bucket does not hold it"
        ) from error
    if digest.hexdigest() != file.sha256:
        raise Refused(
            Reason.CHECKSUM_MISMATCH,
            f"{file.location}: expected SHA-256 {file.sha256}, found {digest.hexdigest()}; it was changed after its "
            "gate had checked it",
        )
    local_copy.seek(0)
