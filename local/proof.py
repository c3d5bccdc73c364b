"""
The proof at the end of the demo: row by row, what the source holds against what the warehouse shows.

A referee from outside: it shares no reader, mask or conversion with the fleet, and compares keys and versions, not
values. `esclusa prove` (the package `reconciliation`) compares values on every side, by the fleet's own readers.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from time import sleep
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psycopg
from psycopg import sql

from local.stack import Addresses
from shared.domain.contracts import DeleteMode, TableContract
from shared.errors import Unavailable

_CRM_PAGE_RECORDS = 200
#: So often the CRM is read until no record is missing; at one change in two seconds a second time is rare.
_CRM_READINGS = 10

#: A row by its key, and its version: when it last changed, or for tables without a cursor the row as text.
Versions = dict[tuple[str, ...], str]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A table's rows, compared."""

    #: Rows of the source that are due in the warehouse.
    source_row_count: int
    warehouse_row_count: int
    #: Due rows that the warehouse lacks or has in another version.
    missing_or_different: int
    #: Rows of the warehouse that the source does not have.
    unexpected: int

    @property
    def is_equal(self) -> bool:
        """Whether the warehouse holds exactly the rows that are due."""
        return (
            self.source_row_count == self.warehouse_row_count
            and not self.missing_or_different
            and not self.unexpected
        )


def compare(contract: TableContract, *, stack: Addresses, planned_until: datetime) -> Comparison:
    """
    Compare a table at the source with its view in the warehouse, by key and version.

    A row that changed at the source after `planned_until` is due only later: it may be in the warehouse in an
    earlier version or not at all.
    """
    source = (
        _crm_versions(contract, stack) if contract.origin.kind == "rest" else _shop_versions(contract, stack)
    )
    warehouse = _warehouse_versions(contract, stack)
    not_yet_due = set()
    if contract.cursor is not None:
        # Versions are moments in ISO 8601 with microseconds, which sort as text.
        horizon = planned_until.strftime("%Y-%m-%d %H:%M:%S.%f")
        not_yet_due = {key for key, version in source.items() if version >= horizon}
    due = {key: version for key, version in source.items() if key not in not_yet_due}
    earlier_versions = {key for key in not_yet_due if key in warehouse}
    return Comparison(
        source_row_count=len(due) + len(earlier_versions),
        warehouse_row_count=len(warehouse),
        missing_or_different=sum(warehouse.get(key) != version for key, version in due.items()),
        unexpected=len(warehouse.keys() - source.keys()),
    )


def _version_column(contract: TableContract) -> sql.Composable:
    if contract.cursor is not None:
        return sql.SQL("to_char({} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')").format(
            sql.Identifier(contract.cursor.column)
        )
    kept = [column.name for column in contract.output_columns if column.mask.kind == "keep"]
    # Text of both sides: what a value looks like does not depend on the name of its type.
    values = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in kept)
    return sql.SQL("md5(ROW({})::text)").format(values)


def _versions(dsn: str, table: sql.Composable, contract: TableContract, where: sql.Composable) -> Versions:
    key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in contract.key)
    query = sql.SQL("SELECT {key}, {version} FROM {table} {where}").format(
        key=key, version=_version_column(contract), table=table, where=where
    )
    # The same session everywhere: texts of moments and intervals depend on it.
    session = "-c timezone=UTC -c datestyle=ISO -c intervalstyle=iso_8601 -c extra_float_digits=1"
    with psycopg.connect(dsn, options=session) as connection:
        return {row[:-1]: row[-1] for row in connection.execute(query)}


def _shop_versions(contract: TableContract, stack: Addresses) -> Versions:
    where: sql.Composable = sql.SQL("")
    if contract.deletes.mode is DeleteMode.SOFT:
        where = sql.SQL("WHERE {} IS NULL").format(sql.Identifier(contract.deletes.column))
    return _versions(stack.shop_reader_dsn, sql.Identifier(*contract.relation), contract, where)


def _warehouse_versions(contract: TableContract, stack: Addresses) -> Versions:
    table = sql.Identifier(contract.source, contract.table)
    return _versions(stack.warehouse_dsn, table, contract, sql.SQL(""))


def _crm_versions(contract: TableContract, stack: Addresses) -> Versions:
    records = list(_crm_records(stack, contract.relation[0]))
    return {
        (str(record["id"]),): datetime.fromisoformat(record["updated_at"]).strftime("%Y-%m-%d %H:%M:%S.%f")
        for record in records
    }


def _crm_records(stack: Addresses, path: str) -> Iterable[dict[str, str]]:
    """
    Read the CRM with a client of its own, which shares no line with the extractor's.

    A record that changes meanwhile moves to the end, those behind it move up, and one falls between two pages:
    so all pages are read again until as many records are known as there are. None is ever deleted.

    Raises:
        Unavailable: if some are missing even then.
    """
    by_id: dict[str, dict[str, str]] = {}
    for _ in range(_CRM_READINGS):
        total = _read_pages(stack, path, by_id)
        if len(by_id) >= total:
            return by_id.values()
    raise Unavailable(f"the CRM says that {path} has {total} records, and showed only {len(by_id)}")


def _read_pages(stack: Addresses, path: str, by_id: dict[str, dict[str, str]]) -> int:
    """Add the records of all pages to those known, and return how many the CRM says there are."""
    url: str | None = f"{stack.crm_url}{path}?per_page={_CRM_PAGE_RECORDS}&limit={_CRM_PAGE_RECORDS}"
    page = 1
    total = 0
    while url is not None:
        answer = _get(url, stack.crm_token)
        by_id |= {str(record["id"]): record for record in answer["data"]}
        total = int(answer["total"])
        if "total_pages" in answer:
            page += 1
            url = f"{stack.crm_url}{path}?per_page={_CRM_PAGE_RECORDS}&page={page}"
            url = url if page <= answer["total_pages"] else None
        else:
            url = answer["next"]
    return total


def _get(url: str, token: str) -> dict[str, Any]:
    request = Request(url, headers={"Authorization": f"Bearer {token}"})  # noqa: S310  our own server
    while True:
        try:
            with urlopen(request, timeout=10) as response:  # noqa: S310
                answer: dict[str, Any] = json.load(response)
                return answer
        except HTTPError as error:
            if error.code != 429:
                raise
            sleep(float(error.headers.get("Retry-After", "1")))
