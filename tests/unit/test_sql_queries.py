"""The queries of a batch, as text."""

import re

import pytest
from support.extraction import column, make_contract

from services.extractor.dialects import DialectName
from services.extractor.dialects.registry import dialect_of
from services.extractor.readers import SourceColumn
from services.extractor.readers.sql.records import RecordQuery

WORDS = {
    DialectName.POSTGRESQL: "text",
    DialectName.MYSQL: "longtext",
    DialectName.SQLSERVER: "nvarchar(50)",
    DialectName.ORACLE: "VARCHAR2(50)",
    DialectName.SQLITE: "TEXT",
}


@pytest.mark.parametrize("name", DialectName)
def test_each_expression_has_a_short_name(name: DialectName) -> None:
    """As its own name, drivers cut a long one: SQLite's in the middle of a character, one time in six."""
    contract = make_contract([column("é" * 30), column("b")], relation=("s", "t"))
    query = RecordQuery(
        contract,
        dialect=dialect_of(name),
        columns=[SourceColumn(found.name, WORDS[name]) for found in contract.columns],
        conditions=[],
        place="here",
    )

    for statement in (query.statement(), query.no_row(), query.bounds("b")):
        selected = statement.sql.removeprefix("SELECT ").rpartition(" FROM ")[0]
        assert re.search(r" AS c[0-9]+$", selected)
