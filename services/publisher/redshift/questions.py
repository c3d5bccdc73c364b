"""What is asked of a person's question before it is sent, and of a table before it is read back."""

from collections.abc import Collection

import polars as pl

from services.publisher.read_back import positions_of, typed_rows
from services.publisher.redshift.data_api import Cells
from services.publisher.redshift.names import folded
from services.publisher.redshift.rules import MAX_SQL_BYTES, tokens
from services.publisher.warehouse import QueryFailed
from shared.domain.contracts import ColumnKind, TableContract
from shared.domain.reasons import Reason
from shared.errors import Refused


def names_of(schema: str, table: str) -> dict[str, str]:
    """Return schema and table as the catalogue has them."""
    return {"schema": folded(schema), "table": folded(table)}


def refuse_changes(sql: str) -> None:
    """
    Let a person ask one question, and change nothing with it.

    Functions that a role may call can still do things: give people's questions a role of their own.

    Raises:
        QueryFailed: if it is no SELECT, more than one statement, or makes a table.
    """
    if "\0" in sql:
        raise QueryFailed("expected text without NUL")
    if (size := len(sql.encode())) > MAX_SQL_BYTES:
        raise QueryFailed(f"expected at most {MAX_SQL_BYTES} bytes, found {size}")
    found = [token for token in tokens(sql) if token.kind != "comment"]
    if any(token.kind == "comment" for token in tokens(sql)):
        raise QueryFailed("expected one SELECT without comments")
    while found and found[-1].text == ";":
        found.pop()
    words = [token.text for token in found if token.kind == "word"]
    if not words or words[0] not in {"SELECT", "WITH"}:
        raise QueryFailed(f"expected one SELECT, found {words[0] if words else 'nothing'}")
    if any(token.kind == "sign" and token.text in {";", "'", '"', "\\"} for token in found):
        raise QueryFailed("expected one SELECT, found something after its end")
    if any(token.kind == "text" and "\\" in token.text for token in found):
        raise QueryFailed(
            "expected texts without backslashes, which Redshift takes for escapes; CHR(92) is one"
        )
    if "INTO" in words:
        raise QueryFailed("expected a SELECT that makes no table, found INTO")


def refuse_missing(contract: TableContract, found: Collection[str]) -> None:
    """
    Make sure that a table has the columns of a contract.

    Raises:
        Refused: TARGET_INCOMPATIBLE.
    """
    for column in contract.output_columns:
        if folded(column.name) not in found:
            raise Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"warehouse, {contract.source}.{contract.table}: no column {column.name!r}; the contract has that column",
            )


def frame_of(page: list[Cells], *, contract: TableContract, place: str) -> pl.DataFrame:
    """Return rows of an answer in the types of the contract's columns."""
    kinds = [column.output_type.kind for column in contract.output_columns]
    columns = [
        pl.Series(name, [_as_text(row[number], kind) for row in page], dtype=pl.String)
        for number, (name, kind) in enumerate(zip(positions_of(contract), kinds, strict=True))
    ]
    return typed_rows(pl.DataFrame(columns), contract=contract, place=place)


def _as_text(cell: object, kind: ColumnKind) -> str | None:
    if cell is None:
        return None
    if kind is ColumnKind.BINARY:
        return f"\\x{cell}"
    if kind is ColumnKind.BOOLEAN:
        return "t" if cell in {True, "true", "t"} else "f"
    return str(cell)
