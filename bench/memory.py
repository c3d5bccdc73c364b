"""How much memory an extractor takes, however many rows there are."""

from pathlib import Path

import psycopg
from bench.measuring import Comparison
from bench.postgres_to_s3 import MASKED, extraction

MOST_MIB = 400.0


def compare(dsn: str, *, directory: Path, table: str, row_count: int, folds: tuple[int, ...]) -> Comparison:
    """Extract a table of so many rows, and views that show it several times over. None of it is kept anywhere."""
    comparison = Comparison(
        f"Memory of an extractor, {table}, {len(MASKED.get(table, ()))} columns under HMAC", most_mib=MOST_MIB
    )
    for fold in folds:
        view = f"{table}_{fold}_times"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                f"CREATE VIEW {view} AS SELECT t.* FROM generate_series(1, {fold}), {table} t"  # type: ignore[arg-type]
            )
        way = extraction(dsn, table, relation=view, masked=MASKED.get(table, ()), directory=directory)
        comparison.run({f"{fold * row_count:,} rows": way}, rounds=1)
    return comparison
