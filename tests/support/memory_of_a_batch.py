"""
One batch in a process of its own, which prints how many rows it wrote and the most memory that it had, in MiB.

    python -m support.memory_of_a_batch process ROWS     the processor, from a stream that is made as it is read
    python -m support.memory_of_a_batch extract ROWS     the extractor, from the database that SOURCE_DSN names
"""

import hashlib
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import cast

from support.extraction import HMAC, make_contract, run_extract
from support.extraction import column as extracted_column
from support.process_batches import Scene, column, table

from bench.measuring import peak_mib
from services.extractor.parts import DEFAULT_PART_SIZE_IN_BYTES
from services.processor.process import process
from shared.csv_dialect import header_line
from shared.domain.files import Location
from shared.ports import ObjectStore

RECORDS_PER_PIECE = 5_000

#: Two versions of each key, so that rows are replaced as well.
ORDERS = table(
    column("id", "int64", nullable=False),
    column("note"),
    column("amount", "decimal(18,2)"),
    column("updated_at", "timestamptz"),
    key=["id"],
    cursor="updated_at",
)
NOTE = "x" * 150


class EndlessStore:
    """The part of `ObjectStore` that both use: gives a body that is made as it is read, keeps nothing of what it takes."""

    def __init__(self, row_count: int = 0) -> None:
        self._row_count = row_count

    @contextmanager
    def open(self, _: Location) -> Iterator[io.BufferedReader]:
        """Read the rows as one CSV file."""
        yield io.BufferedReader(Pieces(pieces_of(self._row_count)))

    def put(self, _: Location, body: bytearray, *, sha256: str, metadata: Mapping[str, str]) -> None:
        """Take an object whole."""
        assert hashlib.sha256(body).hexdigest() == sha256

    def open_upload(self, _: Location, *, metadata: Mapping[str, str]) -> "Counted":
        """Take an object."""
        return Counted()


class Pieces(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._left = pieces, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._left = piece
        taken, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)


class Counted:
    """An object that is weighed and forgotten; see `Upload`."""

    def __init__(self) -> None:
        self._digest, self.file_size_in_bytes = hashlib.sha256(), 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self.file_size_in_bytes += len(data)

    def complete(self) -> None:
        pass

    def abort(self) -> None:
        pass


def pieces_of(row_count: int) -> Iterator[bytes]:
    """Return a CSV file of so many orders."""
    yield header_line([column.name for column in ORDERS.output_columns])
    for first in range(0, row_count, RECORDS_PER_PIECE):
        yield b"".join(
            f'{number // 2},"{NOTE}{number}",{number}.25,2026-11-22 11:{number % 60:02}:00.{number % 2}+00\n'.encode()
            for number in range(first, min(first + RECORDS_PER_PIECE, row_count))
        )


def process_rows(row_count: int) -> int:
    """Put so many rows through the processor; return how many are left."""
    digest, size_in_bytes = hashlib.sha256(), 0
    for piece in pieces_of(row_count):
        digest.update(piece)
        size_in_bytes += len(piece)
    scene = Scene(ORDERS)
    scene.add_file(b"", record_count=row_count)
    (file,) = scene.files
    scene.files = [replace(file, file_size_in_bytes=size_in_bytes, sha256=digest.hexdigest())]
    result = process(scene.assignment, store=cast("ObjectStore", EndlessStore(row_count)))
    return sum(file.record_count for file in result.files)


def extract_rows(row_count: int) -> int:
    """Read so many rows with two columns under HMAC; return how many were written."""
    columns = [
        extracted_column("id", "int64"),
        extracted_column("email", "string", HMAC),
        extracted_column("phone", "string", HMAC),
        extracted_column("note"),
    ]
    contract = make_contract(columns, relation=("public", f"rows_{row_count}"))
    result, _ = run_extract(
        contract,
        secrets={"env:SHOP_DSN": os.environ["SOURCE_DSN"]},
        store=cast("ObjectStore", EndlessStore()),
        part_size_in_bytes=DEFAULT_PART_SIZE_IN_BYTES,
    )
    return sum(file.record_count for file in result.files)


if __name__ == "__main__":
    written = {"process": process_rows, "extract": extract_rows}[sys.argv[1]](int(sys.argv[2]))
    print(json.dumps({"rows": written, "peak_mib": peak_mib()}))
