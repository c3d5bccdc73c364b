"""The rows that were rejected: what is kept of them, how they are counted, and how many are too many."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from services.processor.conform import Conformed
from shared.domain.contracts import QuarantineLimits

#: Of a batch that is refused anyway, so many rejected rows are kept as evidence.
MIN_ROWS_KEPT = 1000

HEADER = b"part,line,column,code,value\n"

# A spreadsheet takes a cell that begins so for a formula; an apostrophe makes it text.
# Source: OWASP, "CSV Injection".
_FORMULA = r"^([=+\-@\t\r])"


@dataclass(slots=True)
class Rejects:
    """
    Broken cells of a batch, written to a local file as they are found.

    `part,line,column,code,value` in the dialect of our CSV; a row of it for each broken cell, so a rejected row
    has one or more. Every rejected row is counted. All are kept as long as the batch may still go on; of one
    with more, what is kept is bounded by its limits.
    """

    path: Path
    limits: QuarantineLimits
    row_count: int = 0
    #: Broken cells in the file.
    record_count: int = 0
    #: Broken cells by column and code, those left out of the file too.
    cell_counts: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, conformed: Conformed) -> None:
        """Set the broken cells of a block aside."""
        if conformed.rejected_count == 0:
            return
        is_kept = self.row_count <= max(self.limits.max_rejected_rows, MIN_ROWS_KEPT)
        self.row_count += conformed.rejected_count
        cells = conformed.broken_cells
        for column, code, count in cells.group_by("column", "code").len().iter_rows():
            self.cell_counts[column, code] += count
        if is_kept:
            self._write(cells)

    def _write(self, cells: pl.DataFrame) -> None:
        is_new = self.record_count == 0
        with self.path.open("ab") as target:
            if is_new:
                target.write(HEADER)
            cells.with_columns(pl.col("column", "value").str.replace(_FORMULA, "'${1}")).write_csv(
                target, include_header=False, quote_style="necessary", null_value=""
            )
        self.record_count += cells.height

    def most_frequent(self, count: int) -> str:
        """Return the most frequent mistakes as text, such as `12 in 'amount' (cell_not_convertible)`."""
        ranked = sorted(self.cell_counts.items(), key=lambda item: (-item[1], item[0]))
        return ", ".join(f"{cells} in {column!r} ({code})" for (column, code), cells in ranked[:count])
