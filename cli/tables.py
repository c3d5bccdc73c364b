"""Which published tables, and which of their windows, a command is asked about."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from cli.moments import Moment, read_moment
from cli.output import NotFound
from shared.errors import ConfigurationError
from shared.ports import Ledger

if TYPE_CHECKING:
    from reconciliation.history import Span

FromOption = Annotated[
    Moment | None,
    typer.Option(
        "--from",
        parser=read_moment,
        metavar="MOMENT",
        help="Only windows that end later: ISO 8601, or an age such as 2d.",
    ),
]
ToOption = Annotated[
    Moment | None,
    typer.Option(
        "--to",
        parser=read_moment,
        metavar="MOMENT",
        help="Only windows that begin earlier: ISO 8601, or an age such as 6h.",
    ),
]


def span_of(start: Moment | None, end: Moment | None, *, now: datetime) -> "Span":
    """Return the span of windows between two moments, seen from now; None is no bound."""
    from reconciliation.history import Span

    return Span(start.seen_from(now) if start else None, end.seen_from(now) if end else None)


def choose_tables(
    ledger: Ledger, *, table: str | None, source: str | None, only_expected: bool = False
) -> list[tuple[str, str]]:
    """
    Return the tables that the ledger knows, by source and name.

    `only_expected`: where neither table nor source is named, without those that nothing is expected of any more. Their
    source may be gone.

    Raises:
        NotFound: if the ledger knows none such.
        ConfigurationError: if tables of several sources have the name.
    """
    with ledger.transaction() as tx:
        known = tx.known_tables()
        expected = {(item.source, item.table) for item in tx.expectations()}
    known = [name for name in known if source in {None, name[0]}]
    if table is None:
        if not known and source is not None:
            raise NotFound(f"source {source!r}: the ledger knows no table of it")
        return [name for name in known if name in expected or source is not None or not only_expected]
    found = [name for name in known if table in {name[1], ".".join(name)}]
    if not found:
        raise NotFound(f"table {table!r}: the ledger knows none of that name; `esclusa status` lists them")
    if len(found) > 1:
        names = ", ".join(".".join(name) for name in found)
        raise ConfigurationError(
            f"table {table!r}: expected one table, found {names}; say which with --source"
        )
    return found
