"""
Reads a REST source, such as a CRM: JSON over HTTP, page by page, each field as text in the CSV dialect.

There is no catalog and no snapshot. The contract says where each value stands; what it does not name never
leaves and is reported. Whatever the source's filters do, a record outside the window is dropped and counted.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import structlog

from services.extractor.readers import (
    Chunk,
    CursorBounds,
    Finding,
    ReadLimits,
    SourceColumn,
    fingerprint_of,
)
from services.extractor.readers.http import HttpLimits, JsonClient
from services.extractor.readers.json_text import TooDeep, field_text, value_at
from services.extractor.readers.paging import PagingOptions, Record, walk_pages
from shared.csv_dialect import record_line
from shared.domain.contracts import Column, ColumnKind, TableContract
from shared.domain.drift import Change, ChangeKind, Drift
from shared.domain.reasons import Reason
from shared.domain.windows import Extent, Window, slot_of
from shared.errors import EsclusaError, Refused
from shared.ports import SecretStore

log = structlog.get_logger()

DEFAULT_MAX_PAGES = 10_000
DEFAULT_MAX_ROWS = 1_000_000

#: So many unknown fields are listed by name. Sources that use data as names would fill the ledger otherwise.
MAX_FIELDS_LISTED = 200
MAX_FIELD_NAME_CHARACTERS = 200


class RestReader:
    """A path of a REST source that lists records. See `SourceReader`."""

    def __init__(self, contract: TableContract, *, secrets: SecretStore, limits: ReadLimits) -> None:
        self._contract = contract
        self._secrets = secrets
        self._limits = limits
        self._place = f"source {contract.source!r}, path {contract.relation[0]!r}"

    def close(self) -> None:
        """Nothing to leave: connections end with the reading that made them."""

    def clock(self) -> datetime:
        """Return the clock in the server's header Date, floored to the second."""
        with self._client() as client:
            return client.clock(self._url(client))

    def open_since(self) -> datetime | None:
        """Return None: a server of records shows no transactions."""
        return None

    def check(self) -> list[Finding]:
        """Ask for the first page; see `SourceReader`."""
        subject = f"{self._contract.source}.{self._contract.table}"
        try:
            with self._client() as client:
                records = next(self._pages(client, {}), [])
            lost = sorted(_absent_columns(self._contract, records))
        except EsclusaError as error:
            return [Finding(subject, is_ok=False, detail=str(error))]
        if lost:
            detail = f"no record of the first page has a field for {', '.join(map(repr, lost))}"
            return [Finding(subject, is_ok=False, detail=detail)]
        return [Finding(subject, is_ok=True, detail="readable, and as the contract has it")]

    def drift(self) -> Drift:
        """Return what the records of the first page have otherwise; see `SourceReader`."""
        with self._client() as client:
            records = next(self._pages(client, {}), [])
        known, unknown = _tree_of(self._contract.columns), dict[str, None]()
        for record in records:
            _note_unknown_fields(record, known, prefix="", unknown=unknown)
        absent = [Change(ChangeKind.FIELD_ABSENT, name) for name in _absent_columns(self._contract, records)]
        return Drift((*absent, *(Change(ChangeKind.COLUMN_ADDED, name) for name in unknown)))

    def count_rows(self, window: Window | None = None, *, extent: Extent | None = None) -> int:  # noqa: ARG002
        """Return how many records there are, by reading them all. What is on the edge of a window may be among them."""
        parameters = {} if window is None else _window_parameters(self._contract, window)
        with self._client() as client:
            return sum(len(records) for records in self._pages(client, parameters))

    def cursor_bounds(self, window: Window | None = None) -> CursorBounds | None:  # noqa: ARG002
        """Return None: a server of records is not asked for the smallest of a value."""
        return None

    @contextmanager
    def open_snapshot(self, window: Window, *, extent: Extent | None = None) -> "Iterator[RestSnapshot]":  # noqa: ARG002
        """Begin to read a window; see `SourceReader`."""
        with self._client() as client:
            taken_at = client.clock(self._url(client))
            yield RestSnapshot(
                self._contract,
                self._pages(client, _window_parameters(self._contract, window)),
                window=window,
                taken_at=taken_at,
                chunk_size_in_bytes=self._limits.chunk_size_in_bytes,
            )

    def _client(self) -> JsonClient:
        connection = self._contract.origin.connection
        token = connection.get("token")
        per_second = connection.get("requests_per_second")
        defaults = HttpLimits()
        return JsonClient(
            self._secrets.resolve(connection["base_url"]),
            token=self._secrets.resolve(token) if token else None,
            limits=HttpLimits(
                connect_timeout_seconds=self._limits.connect_timeout_seconds,
                request_timeout_seconds=float(
                    connection.get("timeout_seconds", defaults.request_timeout_seconds)
                ),
                total_timeout_seconds=self._limits.read_timeout_seconds,
                requests_per_second=float(per_second) if per_second else None,
                max_bytes=int(connection.get("max_bytes", defaults.max_bytes)),
            ),
            place=self._place,
        )

    def _url(self, client: JsonClient) -> str:
        return client.url_of(self._contract.relation[0])

    def _pages(self, client: JsonClient, parameters: Mapping[str, str]) -> Iterator[list[Record]]:
        options = self._contract.options
        order = options.get("order_parameter")
        return walk_pages(
            client,
            self._url(client),
            parameters={**parameters, **({order: options.get("order_value", "")} if order else {})},
            options=PagingOptions.of(options),
            max_pages=int(self._contract.origin.connection.get("max_pages", DEFAULT_MAX_PAGES)),
            place=self._place,
        )


class RestSnapshot:
    """One walk through the records of a window. See `SourceSnapshot`."""

    def __init__(
        self,
        contract: TableContract,
        pages: Iterator[list[Record]],
        *,
        window: Window,
        taken_at: datetime,
        chunk_size_in_bytes: int,
    ) -> None:
        self._contract = contract
        self._pages = pages
        self._window = window
        self._taken_at = taken_at
        self._chunk_size_in_bytes = chunk_size_in_bytes
        self._place = f"source {contract.source!r}, path {contract.relation[0]!r}"
        self._max_rows = int(contract.origin.connection.get("max_rows", DEFAULT_MAX_ROWS))
        self._known_fields = _tree_of(contract.columns)
        self._unknown_fields: dict[str, None] = {}
        self._rows_read_count = 0
        self._rows_outside_window_count = 0

    @property
    def taken_at(self) -> datetime:
        """The server's clock before the first page."""
        return self._taken_at

    @property
    def open_since(self) -> datetime | None:
        """None: a server of records shows no transactions."""
        return None

    @property
    def fingerprint(self) -> str:
        """Of what the contract declares: such a source has no schema of its own that could change."""
        columns = [
            SourceColumn(column.name, f"{column.type} at {column.path}") for column in self._contract.columns
        ]
        return fingerprint_of(columns)

    @property
    def rows_read_count(self) -> int:
        """Records that arrived."""
        return self._rows_read_count

    @property
    def rows_outside_window_count(self) -> int:
        """Records that the source's filters let through although they lie outside the window."""
        return self._rows_outside_window_count

    def current_fingerprint(self) -> str:
        """Return the same as `fingerprint`."""
        return self.fingerprint

    def unclassified_columns(self) -> Sequence[SourceColumn]:
        """Return the fields that no column covers, by their path, the first of them."""
        return [SourceColumn(name) for name in self._unknown_fields]

    def read(self) -> Generator[Chunk, None, None]:
        """Read the records of the window; see `SourceSnapshot`."""
        fields = [(column, _path_of(column)) for column in self._contract.read_columns]
        lines: list[bytes] = []
        size_in_bytes = 0
        absent = fields
        for record in self._records_of_window():
            absent = [(column, path) for column, path in absent if not _names(record, path)]
            lines.append(self._line(record, fields))
            size_in_bytes += len(lines[-1])
            if size_in_bytes >= self._chunk_size_in_bytes:
                yield Chunk.of(lines)
                lines, size_in_bytes = [], 0
        if lines:
            yield Chunk.of(lines)
        if self._rows_read_count > self._rows_outside_window_count:
            self._report_absent([column.name for column, _ in absent])

    def _report_absent(self, columns: Sequence[str]) -> None:
        """Say so if no record names a column: the source may leave out what is null, or may have renamed it."""
        if columns:
            log.warning(
                "columns_absent", source=self._contract.source, table=self._contract.table, columns=columns
            )

    def _records_of_window(self) -> Iterator[Record]:
        for page in self._pages:
            self._rows_read_count += len(page)
            if self._rows_read_count > self._max_rows:
                raise Refused(
                    Reason.SOURCE_LIMIT_EXCEEDED,
                    f"{self._place}: expected at most {self._max_rows} records, found more; "
                    "read shorter windows or raise max_rows",
                )
            for record in page:
                _note_unknown_fields(record, self._known_fields, prefix="", unknown=self._unknown_fields)
                if self._is_in_window(record):
                    yield record
                else:
                    self._rows_outside_window_count += 1

    def _is_in_window(self, record: Record) -> bool:
        cursor = self._contract.cursor
        if cursor is None:
            return True
        text = value_at(record, _path_of(self._contract.column(cursor.column)))
        if text is None:
            raise Refused(
                Reason.NULL_CURSOR,
                f"{self._place}: expected a moment in cursor column {cursor.column!r} of every record, found a "
                "record without one, which belongs to no window",
            )
        try:
            moment = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            raise Refused(
                Reason.SOURCE_ANSWER_INVALID,
                f"{self._place}: expected an ISO 8601 moment in cursor column {cursor.column!r}, found something else",
            ) from None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        start = self._window.start
        return moment < self._window.end and (start is None or moment >= start - cursor.overlap)

    def _line(self, record: Record, fields: Sequence[tuple[Column, tuple[str, ...]]]) -> bytes:
        values = [self._text(value_at(record, path), column) for column, path in fields]
        return record_line(values)

    def _text(self, value: Any, column: Column) -> str | None:
        try:
            text = field_text(value, as_json=column.type.kind is ColumnKind.JSON)
        except TooDeep as error:
            raise Refused(
                Reason.SOURCE_LIMIT_EXCEEDED, f"{self._place}, column {column.name!r}: {error}"
            ) from None
        if text is not None and not _is_representable(text):
            raise Refused(
                Reason.VALUE_NOT_REPRESENTABLE,
                f"{self._place}, column {column.name!r}: a value holds NUL or half of a surrogate pair",
            )
        return text


_UNKNOWN, _COVERED = object(), object()


def _note_unknown_fields(
    record: Record, known: Mapping[str, Any], *, prefix: str, unknown: dict[str, None]
) -> None:
    for name, value in record.items():
        below = known.get(name, _UNKNOWN)
        if below is _COVERED:
            continue
        if below is not _UNKNOWN and isinstance(value, dict):
            _note_unknown_fields(value, below, prefix=f"{prefix}{name}.", unknown=unknown)
        elif value is not None and len(unknown) < MAX_FIELDS_LISTED:
            unknown[_printable(prefix + name)] = None


def _tree_of(columns: Sequence[Column]) -> dict[str, Any]:
    """Return the paths of columns as nested mappings that end in `_COVERED`."""
    tree: dict[str, Any] = {}
    for column in columns:
        *parents, last = _path_of(column)
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if branch is _COVERED:
                break
        else:
            branch[last] = _COVERED
    return tree


def _path_of(column: Column) -> tuple[str, ...]:
    return tuple(column.path.split(".")) if column.path else (column.name,)


def _absent_columns(contract: TableContract, records: Sequence[Record]) -> list[str]:
    """Return the columns that leave and that no record names, if there are records to tell by."""
    if not records:
        return []
    return [
        column.name
        for column in contract.read_columns
        if not any(_names(record, _path_of(column)) for record in records)
    ]


def _names(record: Record, path: tuple[str, ...]) -> bool:
    parent = value_at(record, path[:-1])
    return isinstance(parent, dict) and path[-1] in parent


def _window_parameters(contract: TableContract, window: Window) -> dict[str, str]:
    cursor, options = contract.cursor, contract.options
    if cursor is None:
        return {}
    parameters = {}
    if (before := options.get("before_parameter")) is not None:
        parameters[before] = slot_of(window.end)
    if (after := options.get("after_parameter")) is not None and window.start is not None:
        parameters[after] = slot_of(window.start - cursor.overlap)
    return parameters


def _is_representable(text: str) -> bool:
    if "\0" in text:
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _printable(name: str) -> str:
    shown = name if name.isprintable() else ascii(name)[1:-1]
    return shown[:MAX_FIELD_NAME_CHARACTERS]
