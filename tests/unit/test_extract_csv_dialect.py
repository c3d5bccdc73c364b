"""The CSV dialect: what is written is what Polars reads, and it is what COPY writes."""

import csv
import io
from pathlib import Path

import polars as pl
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shared.csv_dialect import header_line, record_line

TEXTS = st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(',"\n\r\t \\#\ufeff')))
VALUES = st.one_of(st.none(), st.sampled_from(["", "NULL", "\\N", "\\.", '"', "\r\n"]), TEXTS)


ROWS = st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(VALUES, min_size=width, max_size=width), max_size=20)
)


@given(ROWS)
@settings(max_examples=300, deadline=None)
def test_values_come_back_exactly(rows: list[list[str | None]]) -> None:
    names = [f"c{position}" for position in range(len(rows[0]) if rows else 1)]
    document = header_line(names) + b"".join(map(record_line, rows))
    schema = dict.fromkeys(names, pl.String)

    eager = pl.read_csv(document, schema=schema)
    streamed = pl.scan_csv(io.BytesIO(document), schema=schema).collect(engine="streaming")

    assert [list(row) for row in eager.rows()] == rows
    assert [list(row) for row in streamed.rows()] == rows


@given(st.lists(TEXTS, min_size=1, max_size=5))
def test_names_come_back_exactly_from_any_csv_reader(names: list[str]) -> None:
    line = header_line(names).decode()

    assert list(csv.reader(io.StringIO(line, newline=""), strict=True)) == [names]


def test_equal_headers_mean_equal_names() -> None:
    assert header_line(["a,b"]) != header_line(["a", "b"])
    assert header_line(['a"', "b"]) != header_line(["a", '"b'])


@given(
    st.lists(
        st.lists(VALUES.filter(lambda value: "\0" not in (value or "")), min_size=2, max_size=2), max_size=20
    )
)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_those_that_copy_writes(fresh_database: str, rows: list[list[str | None]]) -> None:
    with psycopg.connect(fresh_database) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE t (n int, a text, b text)")
        cursor.executemany("INSERT INTO t VALUES (%s, %s, %s)", [(n, *row) for n, row in enumerate(rows)])
        with cursor.copy("COPY (SELECT a, b FROM t ORDER BY n) TO STDOUT (FORMAT csv)") as copy:
            copied = b"".join(copy)

    assert b"".join(map(record_line, rows)) == copied


@pytest.mark.parametrize("count", [1, 2, 1000, 300_000])
def test_a_file_of_empty_lines_is_a_column_of_nulls(count: int, tmp_path: Path) -> None:
    path = tmp_path / "nulls.csv"
    path.write_bytes(header_line(["note"]) + record_line([None]) * count)

    eager = pl.read_csv(path, schema={"note": pl.String})
    streamed = pl.scan_csv(path, schema={"note": pl.String}).collect(engine="streaming")

    assert eager["note"].null_count() == eager.height == count
    assert streamed["note"].null_count() == streamed.height == count
