"""A REST source, discovered from records that its endpoints send."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import Decimal
from itertools import islice
from typing import TypeAlias

from services.extractor.discovery.document import check_names, render
from services.extractor.discovery.proposals import (
    CONNECT_TIMEOUT_SECONDS,
    HARMLESS_KINDS,
    SAMPLED_CHARACTERS,
    SAMPLED_ROWS,
    STATEMENT_TIMEOUT_SECONDS,
    DiscoveredColumn,
    DiscoveredTable,
    RefusedTable,
    guess_cursor,
    guess_deleted,
    is_carried,
    judge,
    withhold_collisions,
)
from services.extractor.readers.http import HttpLimits, JsonClient
from services.extractor.readers.paging import PagingOptions, walk_pages
from shared.catalog.editing import scalar
from shared.domain.contracts import STRING, ColumnKind, ColumnType
from shared.errors import ConfigurationError

MAX_RECORD_DEPTH = 4
MAX_RECORD_COLUMNS = 1_000

#: A record as a REST source sends it, numbers with a fraction as `Decimal`.
Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class RestSample:
    """Some records of one endpoint, and the options with which they were asked for."""

    path: str
    records: Iterable[Record]
    options: Mapping[str, str] = field(default_factory=dict)


def fetch_samples(
    paths: Sequence[str],
    *,
    source: str,
    base_url: str,
    token: str | None = None,
    options: Mapping[str, str] | None = None,
) -> list[RestSample]:
    """
    Ask each path of a source for its first records, with the options of a REST table.

    `base_url` and `token` are the values themselves, and stand in nothing that comes back.

    Raises:
        Refused: if an answer is no list of records.
        SourceUnavailable: if the source does not answer.
    """
    limits = HttpLimits(
        connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS, total_timeout_seconds=STATEMENT_TIMEOUT_SECONDS
    )
    samples = []
    for path in paths:
        place = f"source {source!r}, path {path!r}"
        with JsonClient(base_url, token=token, limits=limits, place=place) as client:
            # One page shows what there is: the first, whatever order the source's pages are read in otherwise.
            first = PagingOptions.of({**(options or {}), "paging": "none"})
            pages = walk_pages(
                client, client.url_of(path), parameters={}, options=first, max_pages=1, place=place
            )
            samples.append(RestSample(path, next(pages, []), options or {}))
    return samples


def discover_rest(samples: Iterable[RestSample], *, source: str, base_url: str, token: str = "") -> str:
    """
    Return the text of a source file for a REST source, from records that somebody has fetched.

    `base_url` and `token` are references. Nested objects become columns, lists leave as JSON text.

    Raises:
        ConfigurationError: if the name or a reference is not as it should be, or there is no endpoint.
    """
    check_names(source, base_url, *([token] if token else []))
    found = [_discover_endpoint(sample) for sample in samples]
    tables: list[DiscoveredTable] = []
    for table in found:
        if isinstance(table, DiscoveredTable):
            same = sum(table.name.casefold() == other.name.casefold() for other in tables)
            tables.append(replace(table, name=f"{table.name}_{same + 1}") if same else table)
    if not tables:
        raise ConfigurationError(f"source {source}: expected at least one endpoint with records, found none")
    return render(
        source,
        kind="rest",
        connection={"base_url": base_url} | ({"token": token} if token else {}),
        tables=tables,
        refused=[table for table in found if isinstance(table, RefusedTable)],
    )


def _discover_endpoint(sample: RestSample) -> DiscoveredTable | RefusedTable:
    records = list(islice(sample.records, SAMPLED_ROWS))
    values: dict[tuple[str, ...], list[object]] = {}
    for record in records:
        for path, value in _flatten(record):
            if path in values or len(values) < MAX_RECORD_COLUMNS:
                values.setdefault(path, []).append(value)
    # What is an object in one record and nothing in another is told by the object's own values.
    told = {path: found for path, found in values.items() if not _is_told_below(path, found, values)}
    if not told:
        return RefusedTable(sample.path, "no record, or none with values, was at hand")
    names = _column_names(told)
    key = tuple(names[path] for path, found in told.items() if _is_identity(path, found, len(records)))
    columns = withhold_collisions(
        _judge_values(names[path], path, found, is_key=names[path] in key, record_count=len(records))
        for path, found in told.items()
    )
    can_filter = {"after_parameter", "before_parameter"} <= sample.options.keys()
    return DiscoveredTable(
        name=sample.path.rstrip("/").rpartition("/")[2] or "records",
        place=_endpoint_lines(sample),
        columns=columns,
        key=key,
        cursor=guess_cursor(columns) if key and can_filter else None,
        deleted_column=guess_deleted(columns),
        remarks=()
        if can_filter
        else ("for a cursor, options need after_parameter and before_parameter; else each batch reads all",),
    )


def _endpoint_lines(sample: RestSample) -> tuple[str, ...]:
    options = {"paging": "none", **sample.options}
    remark = "" if "paging" in sample.options else "  # how its pages are asked for is for you to say"
    return (
        f"path: {scalar(sample.path)}",
        f"options:{remark}",
        *(f"  {name}: {scalar(value)}" for name, value in options.items()),
    )


def _flatten(record: Record, above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    for name, value in record.items():
        path = (*above, name)
        can_go_on = len(path) < MAX_RECORD_DEPTH and isinstance(value, Mapping) and bool(value)
        if can_go_on and isinstance(value, Mapping) and all(_is_step(step) for step in (*path, *value)):
            yield from _flatten(value, path)
        elif is_carried("_".join(path)):
            yield path, value


def _is_step(name: str) -> bool:
    """Whether a name can stand in a dotted path."""
    return bool(name) and "." not in name and not re.search(r"\s", name)


def _is_told_below(
    path: tuple[str, ...], found: Sequence[object], values: Mapping[tuple[str, ...], object]
) -> bool:
    return all(value is None for value in found) and any(
        len(other) > len(path) and other[: len(path)] == path for other in values
    )


def _column_names(paths: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    names: dict[tuple[str, ...], str] = {}
    for path in paths:
        name, number = "_".join(path), 1
        while name in names.values():
            number += 1
            name = f"{'_'.join(path)}_{number}"
        names[path] = name
    return names


def _is_identity(path: tuple[str, ...], found: Sequence[object], record_count: int) -> bool:
    return (
        path in {("id",), ("Id",), ("ID",), ("uuid",)}
        and len(found) == record_count
        and all(isinstance(value, int | str) and not isinstance(value, bool) for value in found)
        and len(set(found)) == record_count
    )


def _judge_values(
    name: str, path: tuple[str, ...], found: Sequence[object], *, is_key: bool, record_count: int
) -> DiscoveredColumn:
    present = [value for value in found if value is not None]
    source_type, column_type = _type_of_values(present)
    texts = [value[:SAMPLED_CHARACTERS] for value in present if isinstance(value, str)]
    judgement = judge(
        name,
        is_harmless=column_type.kind in HARMLESS_KINDS or source_type == "number",
        is_key=is_key,
        values=texts,
        what=source_type or "never seen with a value",
    )
    why = judgement.why
    if source_type == "number" and column_type == STRING:
        why = "; ".join(filter(None, (why, "text until you say decimal(p,s) or float64")))
    always = len(present) == record_count
    return DiscoveredColumn(
        name,
        source_type,
        column_type,
        # A sample proves nothing of the rest, but a key and a cursor have to have values.
        nullable=not (always and (is_key or column_type.kind is ColumnKind.TIMESTAMPTZ)),
        is_kept=judgement.is_kept,
        why=why,
        is_free_text=judgement.is_free_text,
        path="" if path == (name,) else ".".join(path),
    )


def _type_of_values(present: Sequence[object]) -> tuple[str, ColumnType]:
    """Return JSON's word for the values and the type that holds them all."""
    if not present:
        return "", STRING
    if all(isinstance(value, bool) for value in present):
        return "boolean", ColumnType(ColumnKind.BOOLEAN)
    if any(isinstance(value, bool) for value in present):
        return "mixed", STRING
    if all(isinstance(value, int) for value in present):
        fits = all(isinstance(value, int) and -(2**63) <= value < 2**63 for value in present)
        return "integer", ColumnType(ColumnKind.INT64) if fits else STRING
    if all(isinstance(value, int | float | Decimal) for value in present):
        return "number", STRING
    if all(isinstance(value, str) for value in present):
        return "string", _type_of_texts([str(value) for value in present])
    if all(isinstance(value, Mapping | list) for value in present):
        return "object" if isinstance(present[0], Mapping) else "array", ColumnType(ColumnKind.JSON)
    return "mixed", STRING


def _type_of_texts(texts: Sequence[str]) -> ColumnType:
    if all(_is_moment(text) for text in texts):
        return ColumnType(ColumnKind.TIMESTAMPTZ)
    if all(_is_date(text) for text in texts):
        return ColumnType(ColumnKind.DATE)
    return STRING


def _is_moment(text: str) -> bool:
    try:
        return len(text) > 10 and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        return False


def _is_date(text: str) -> bool:
    try:
        return len(text) == 10 and bool(date.fromisoformat(text))
    except ValueError:
        return False
