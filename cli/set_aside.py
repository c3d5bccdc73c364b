"""Looking into objects that were set aside, without showing a single value of a row."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cli.output import NotDone
from shared.csv_dialect import header_line
from shared.domain.contracts import TableContract
from shared.domain.files import DataFile
from shared.domain.reasons import Reason
from shared.errors import EsclusaError
from shared.ports import ByteReader, ObjectStore

#: Of a first line, so much is read.
MAX_HEADER_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Header:
    """
    How the first line of a CSV file compares with the header of its contract.

    Names that are not the contract's are counted, not shown: of a file that is not what it should be, the first
    line may be a row.
    """

    is_as_declared: bool | None = None
    missing_columns: tuple[str, ...] = ()
    unknown_column_count: int = 0
    #: Why it could not be looked at.
    error: str | None = None

    def __str__(self) -> str:
        if self.error is not None:
            return f"not read: {self.error}"
        if self.is_as_declared:
            return "as declared"
        missing = f"lacks {', '.join(self.missing_columns)}" if self.missing_columns else "lacks no column"
        return f"{missing}; {self.unknown_column_count} names that are not the contract's"


def compare_header(file: DataFile, contract: TableContract, *, store: ObjectStore) -> Header:
    """Compare the first line of a CSV file with the header of its contract."""
    declared = columns_of(contract)
    expected = header_line(declared)
    length = max(len(expected), MAX_HEADER_BYTES)
    try:
        begin = store.read(file.location, start=0, length=length)
    except EsclusaError as error:
        return Header(error=str(error))
    if begin.startswith(expected):
        return Header(is_as_declared=True)
    found = _first_record(begin)
    missing = tuple(name for name in declared if name not in found)
    unknown = sum(name not in declared for name in found)
    return Header(is_as_declared=False, missing_columns=missing, unknown_column_count=unknown)


def columns_of(contract: TableContract) -> list[str]:
    """Return the header that a contract's CSV files have."""
    return [column.name for column in contract.output_columns]


def _first_record(text: bytes) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(text.decode(errors="replace"), newline="")), [])
    except csv.Error:
        return []


@dataclass(frozen=True, slots=True)
class RejectedCell:
    """A cell that did not fit, without its value: of which part of the batch, from which line, and why."""

    part: int
    line: int
    column: str
    code: Reason


def rejected_cells(
    file: DataFile, contract: TableContract, *, store: ObjectStore, limit: int
) -> list[RejectedCell]:
    """
    Return the first cells that a list of rejected rows names.

    Raises:
        NotDone: if it is no such list, or names columns that the contract has not.
        ObjectNotFound: if it is gone.
        Unavailable: if the store does not answer.
    """
    # Where a spreadsheet would take a name for a formula, the list has an apostrophe before it.
    columns = {said: name for name in columns_of(contract) for said in (name, f"'{name}")}
    cells: list[RejectedCell] = []
    try:
        with store.open(file.location) as body:
            for record in csv.DictReader(_lines_of(body)):
                if len(cells) == limit:
                    break
                cells.append(_cell_of(record, columns))
    except (csv.Error, KeyError, TypeError, ValueError) as error:
        raise NotDone(
            f"{file.location}: expected a list of rejected rows (part, line, column, code), found something "
            "else; somebody wrote to the bucket beside Esclusa"
        ) from error
    return cells


def _cell_of(record: dict[str, Any], columns: Mapping[str, str]) -> RejectedCell:
    # A name that the contract has not is no name: it may be a value.
    return RejectedCell(
        int(record["part"]), int(record["line"]), columns[record["column"]], Reason(record["code"])
    )


def _lines_of(body: ByteReader) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedReader(_Readable(body)), encoding="utf-8", newline="\n")


class _Readable(io.RawIOBase):
    """A body of the store as Python's own readers want it."""

    def __init__(self, body: ByteReader) -> None:
        self._body = body

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = self._body.read(len(buffer))
        buffer[: len(block)] = block
        return len(block)
