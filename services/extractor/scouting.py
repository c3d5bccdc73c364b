"""Looks at a source before something of it is planned: its clock, its newest numbers, how much there is to read."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Self

import structlog

from services.extractor.readers import ReadLimits, SourceReader, open_reader
from shared.domain.contracts import CursorScale, TableContract
from shared.domain.windows import ONE_DAY, Window, floor_to
from shared.errors import ConfigurationError, Refused, Unavailable
from shared.planning import Counted
from shared.ports import SecretStore

log = structlog.get_logger()

#: What is asked of a source here is answered soon or not at all: cron waits for it.
LIMITS = ReadLimits(read_timeout_seconds=120)

#: A cursor that has come to it cannot count on.
LARGEST_NUMBER = 2**63 - 1

#: A window of moments is cut no finer.
SHORTEST_PART = timedelta(seconds=1)


class SourceScout:
    """Looks at the tables of one source. See `shared.planning.Scout`."""

    def __init__(self, contracts: Sequence[TableContract], *, secrets: SecretStore) -> None:
        self._contracts = contracts
        self._secrets = secrets
        self._opened: tuple[str, SourceReader] | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def clock(self) -> datetime:
        """Return the source's own clock."""
        return self.reader(self._contracts[0]).clock()

    def open_since(self) -> datetime | None:
        """Return the start of the oldest open transaction that has written, if the source shows it."""
        return self.reader(self._contracts[0]).open_since()

    def counted(self, contract: TableContract) -> Counted:
        """Look at a cursor that counts."""
        reader = self.reader(contract)
        bounds = reader.cursor_bounds()
        # The clock comes last: what was counted was given out before.
        at = reader.clock()
        if bounds is None or not isinstance(bounds.low, int) or not isinstance(bounds.high, int):
            return Counted(None, None, at)
        if bounds.high >= LARGEST_NUMBER:
            raise ConfigurationError(
                f"table {contract.source}.{contract.table}: expected numbers below {LARGEST_NUMBER} in its cursor "
                f"{contract.cursor.column if contract.cursor else None!r}, found that one; no row after it could ever be "
                "read. Mend the row at the source, or choose another cursor"
            )
        return Counted(bounds.low, bounds.high + 1, at)

    def first_parts(self, contract: TableContract, whole: Window) -> Sequence[Window]:
        """Return the windows in which a table is read first: one, if the source cannot tell how much there is."""
        reader, rows_per_part = self.reader(contract), contract.schedule.rows_per_part
        try:
            if reader.cursor_bounds(whole) is None:
                return [whole]
            parts = parts_of(reader, contract, whole, rows_per_part=rows_per_part)
        except (Refused, Unavailable) as error:
            # A table that cannot be counted can still be read; what is wrong with it, reading will tell by name.
            log.warning(
                "first_load_not_split", source=contract.source, table=contract.table, detail=str(error)
            )
            return [whole]
        return [part.window for part in parts]

    def reader(self, contract: TableContract) -> SourceReader:
        """
        Return the reader of a table; it connects when it is used.

        The one before is closed: a source is looked at through one connection, however many tables it has.
        """
        if self._opened is None or self._opened[0] != contract.table:
            self._stack.close()
            reader = self._stack.enter_context(open_reader(contract, secrets=self._secrets, limits=LIMITS))
            self._opened = contract.table, reader
        return self._opened[1]


@dataclass(frozen=True, slots=True)
class Part:
    """A window to be read, and about how many rows it has."""

    window: Window
    row_count: int


def parts_of(
    reader: SourceReader, contract: TableContract, whole: Window, *, rows_per_part: int
) -> list[Part]:
    """
    Cut a window into parts of at most so many rows each, without gap, oldest first.

    Halves what has too many rows, by counting: an index on the cursor makes that quick. Rows that share a moment
    stay together, however many they are. A source that cannot tell its bounds is read whole.

    Raises:
        Refused: if the table is not as the contract has it.
        Unavailable: if the source does not answer, or cannot count in time.
    """
    resolution = ONE_DAY if contract.cursor_scale is CursorScale.DAY else SHORTEST_PART

    def cut(part: Part) -> Iterator[Part]:
        middle = _middle(reader, part.window, resolution) if part.row_count > rows_per_part else None
        if middle is None:
            yield part
            return
        older, newer = Window(part.window.start, middle), Window(middle, part.window.end)
        older_count = reader.count_rows(older)
        yield from cut(Part(older, older_count))
        yield from cut(Part(newer, max(part.row_count - older_count, 0)))

    parts: list[Part] = []
    for part in cut(Part(whole, reader.count_rows(whole))):
        if parts and parts[-1].row_count + part.row_count <= rows_per_part:
            joined = Window(parts[-1].window.start, part.window.end)
            parts[-1] = Part(joined, parts[-1].row_count + part.row_count)
        else:
            parts.append(part)
    return parts


def _middle(reader: SourceReader, window: Window, resolution: timedelta) -> datetime | None:
    """Return a moment with rows on either side of it; None if there is none."""
    bounds = reader.cursor_bounds(window)
    if bounds is None or not isinstance(bounds.low, datetime) or not isinstance(bounds.high, datetime):
        return None
    middle = floor_to(bounds.low + (bounds.high - bounds.low) / 2, resolution)
    if middle <= bounds.low:
        middle += resolution
    return middle if bounds.low < middle <= bounds.high else None
