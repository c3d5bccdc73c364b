"""The page about the warehouse tells the types and the columns that the code has."""

import re
from pathlib import Path

import pyarrow.parquet as pq
from support.publish_batches import column, contract_of

from services.processor.parquet import arrow_schema
from services.publisher.catalog import hive_type
from services.publisher.statements import postgres_type
from services.publisher.warehouse import LOADS_COLUMNS
from shared.domain.contracts import ColumnKind, ColumnType
from upkeep.lake_query import duckdb_type

PAGE = (Path(__file__).parents[2] / "docs" / "warehouse.md").read_text()


def test_the_types_of_the_page_are_those_of_the_code(tmp_path: Path) -> None:
    rows = []
    for kind in ColumnKind:
        text = "decimal(12,2)" if kind is ColumnKind.DECIMAL else str(kind)
        type_ = ColumnType.parse(text)
        schema = arrow_schema(contract_of(column("c", text), key=(), cursor=None))
        path = tmp_path / "one.parquet"
        pq.write_table(schema.empty_table(), path, store_schema=False)
        (in_parquet,) = pq.read_schema(path).types
        rows.append(
            f"| `{text}` | {in_parquet} | {hive_type(type_)} | {duckdb_type(type_)} | {postgres_type(type_)} |"
        )

    table = PAGE.split("<!-- types -->")[1].split("<!-- end -->")[0].strip().splitlines()[2:]

    assert table == rows


def test_every_column_of_the_loads_is_told() -> None:
    section = PAGE.split("| column | what it says |")[1].split("\n\n")[0]
    told = [
        name for cell in re.findall(r"(?m)^\| (.*?) \|", section) for name in re.findall(r"`(\w+)`", cell)
    ]

    assert sorted(told) == sorted(LOADS_COLUMNS)
