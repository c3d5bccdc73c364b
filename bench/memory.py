"""How much memory an extractor takes, however many rows there are."""

from collections.abc import Mapping
from functools import partial

import psycopg
from psycopg import sql

from bench.extracting import Extraction
from bench.measuring import Comparison
from bench.postgres_to_s3 import MASKED

MOST_MIB = 400.0


def compare(
    dsn: str,
    *,
    s3: Mapping[str, str],
    table: str,
    row_counts: tuple[int, ...],
    table_row_count: int,
) -> Comparison:
    """Extract views that show a table several times over, as often as makes so many rows; `s3` is the environment of its clients."""
    masked = MASKED[table]
    comparison = Comparison(
        f"Memory of an extractor, {table}, {len(masked)} columns under HMAC", most_mib=MOST_MIB
    )
    for row_count in row_counts:
        view = f"{table}_{row_count}"
        statement = "CREATE VIEW {} AS SELECT t.* FROM generate_series(1, {}), {} t LIMIT {}"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                sql.SQL(statement).format(
                    sql.Identifier(view),
                    sql.Literal(-(-row_count // table_row_count)),
                    sql.Identifier(table),
                    sql.Literal(row_count),
                )
            )
        extraction = Extraction(table, ("public", view), masked)
        comparison.run({f"{row_count:,} rows": partial(extraction.measure, dsn, s3=s3)}, rounds=1)
    return comparison
