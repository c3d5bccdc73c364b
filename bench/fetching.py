"""What many write in place of a bulk reader: pyodbc, `fetchmany`, Python's csv. In a process of its own."""

import csv
import os
import sys
from contextlib import closing
from pathlib import Path

import pyodbc

from bench.extracting import ADDRESS
from bench.measuring import measured
from bench.tables import COLUMNS

ROWS_AT_ONCE = 10_000


def main(target: str) -> None:
    """Read `lineitem` to a file, and print what it took."""
    record_count = 0
    with (
        closing(pyodbc.connect(os.environ[ADDRESS], autocommit=False)) as connection,
        measured() as tell,
        Path(target).open("w", newline="") as file,
    ):
        writer = csv.writer(file)
        cursor = connection.cursor()
        cursor.execute(f"SELECT {', '.join(COLUMNS['lineitem'])} FROM lineitem")
        while rows := cursor.fetchmany(ROWS_AT_ONCE):
            writer.writerows(rows)
            record_count += len(rows)
        tell(record_count)


if __name__ == "__main__":
    main(sys.argv[1])
