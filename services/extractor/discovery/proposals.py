"""What is proposed for tables and columns that nobody has declared yet, and how it is judged."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pydantic_core import PydanticCustomError

from services.extractor.dialects import Carriage, Fate
from services.extractor.personal_signs import (
    look_like_codes,
    look_like_free_text,
    sign_in_name,
    sign_in_values,
)
from shared.catalog.editing import scalar
from shared.catalog.forms import check_name
from shared.domain.contracts import ColumnKind, ColumnType

#: How many rows of a table are looked at, and how much of a value.
SAMPLED_ROWS = 200
SAMPLED_CHARACTERS = 200
#: A table that does not answer within this is judged by its names and types alone.
SAMPLE_TIMEOUT_SECONDS = 5
CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 60

#: Types of these kinds can hardly hold a person.
HARMLESS_KINDS = frozenset(ColumnKind) - {ColumnKind.STRING, ColumnKind.JSON, ColumnKind.BINARY}

FREE_TEXT_SIGN = "free text"


@dataclass(frozen=True, slots=True)
class DiscoveredColumn:
    """A column and what is proposed for it."""

    name: str
    source_type: str
    type: ColumnType
    nullable: bool
    #: Preset to `keep`, else to `withhold`.
    is_kept: bool
    #: Told beside it: why it is withheld, and how its values are carried.
    why: str
    #: Whether its name or its values say that people write in it.
    is_free_text: bool = False
    path: str = ""


@dataclass(frozen=True, slots=True)
class DiscoveredTable:
    """A table and what is proposed for it."""

    name: str
    #: The lines that say where it is found: `relation`, or `path` and `options`.
    place: tuple[str, ...]
    columns: tuple[DiscoveredColumn, ...]
    key: tuple[str, ...] = ()
    #: Whether the source itself guarantees the key.
    key_is_unique: bool = False
    cursor: str | None = None
    deleted_column: str | None = None
    remarks: tuple[str, ...] = ()

    def kept(self, name: str) -> bool:
        """Whether a column is preset to leave."""
        return any(column.is_kept for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True)
class RefusedTable:
    """What cannot be taken in as it is, by name and with the reason."""

    name: str
    why: str


# ---- judging ------------------------------------------------------------------------------------------------

_CURSOR_NAME = re.compile(
    r"(last_?)?(updated|modified|changed)(_?(at|on|date|time|ts|timestamp))?"
    r"|(date|time)_?(updated|modified)|(update|modification|change)_?(time|date|ts|timestamp)"
    r"|lastmodifieddate|systemmodstamp|mtime|last_(update|change)",
    re.IGNORECASE,
)
_DELETED_NAME = re.compile(r"(deleted|removed)_?(at|on|date|time)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a column may leave at first, and why."""

    is_kept: bool
    why: str
    is_free_text: bool = False


def judge(
    name: str, *, is_harmless: bool, is_key: bool, values: Sequence[str | None], what: str
) -> Judgement:
    """Judge a column by its name, its type and the shape of some values."""
    is_prose = not is_harmless and look_like_free_text(values)
    if sign := sign_in_name(name):
        return Judgement(
            is_kept=False,
            why=f"withheld: by its name it may be {sign}",
            is_free_text=is_prose or (sign == FREE_TEXT_SIGN and not is_harmless),
        )
    if is_harmless:
        return Judgement(is_kept=True, why="")
    if sign := sign_in_values(values):
        return Judgement(is_kept=False, why=f"withheld: some values look like {sign}", is_free_text=is_prose)
    if is_prose:
        return Judgement(
            is_kept=False, why=f"withheld: some values look like {FREE_TEXT_SIGN}", is_free_text=True
        )
    if is_key and look_like_codes(values):
        return Judgement(is_kept=True, why="part of the key, its values look like codes")
    return Judgement(is_kept=False, why=f"withheld: {what} may hold anything")


def withhold_collisions(columns: Iterable[DiscoveredColumn]) -> tuple[DiscoveredColumn, ...]:
    """Of two kept columns whose names differ by case alone the second is withheld: warehouses fold them."""
    judged: list[DiscoveredColumn] = []
    taken: set[str] = set()
    for column in columns:
        if column.is_kept and column.name.casefold() in taken:
            judged.append(
                replace(
                    column, is_kept=False, why="withheld: a warehouse cannot tell its name from another's"
                )
            )
            continue
        judged.append(column)
        if column.is_kept:
            taken.add(column.name.casefold())
    return tuple(judged)


def guess_cursor(columns: Iterable[DiscoveredColumn]) -> str | None:
    """Return a column that looks as if it were set by every change, never NULL and with a zone."""
    for column in columns:
        is_moment = column.type.kind is ColumnKind.TIMESTAMPTZ and not column.nullable
        if is_moment and column.is_kept and _CURSOR_NAME.fullmatch(column.name):
            return column.name
    return None


def guess_deleted(columns: Iterable[DiscoveredColumn]) -> str | None:
    for column in columns:
        is_moment = column.type.kind in {ColumnKind.TIMESTAMPTZ, ColumnKind.TIMESTAMP, ColumnKind.DATE}
        if is_moment and column.nullable and column.is_kept and _DELETED_NAME.fullmatch(column.name):
            return column.name
    return None


def is_carried(name: str) -> bool:
    """Whether a name can be carried; what cannot is refused by name."""
    try:
        check_name(name)
    except PydanticCustomError:
        return False
    return True


# ---- relations of a database -------------------------------------------------------------------------------


class Relation(NamedTuple):
    """A table or view as the catalogue names it."""

    schema: str
    name: str
    is_table: bool
    is_readable: bool


@dataclass(frozen=True, slots=True)
class DescribedColumn:
    """A column as the catalogue describes it."""

    name: str
    source_type: str
    nullable: bool
    fate: Fate
    #: Whether values of its type can hardly hold a person.
    is_harmless: bool


def table_names(relations: Iterable[Relation], *, plain_schema: str = "") -> dict[tuple[str, str], str]:
    """Return a name for each relation: its own, with the schema before it where two would be the same."""
    own = list(relations)
    occurrences = Counter(relation.name.casefold() for relation in own)
    names: dict[tuple[str, str], str] = {}
    taken: set[str] = set()
    for relation in own:
        name = relation.name
        if occurrences[name.casefold()] > 1 and relation.schema != plain_schema:
            name = f"{relation.schema}_{name}"
        plain, number = name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{plain}_{number}"
        taken.add(name.casefold())
        names[relation.schema, relation.name] = name
    return names


def refusal_of(relation: Relation, *, name: str) -> RefusedTable | None:
    """Return why a relation cannot be taken in, as far as its name and rights tell; None if it can."""
    full_name = f"{relation.schema}.{relation.name}"
    if not relation.is_readable:
        return RefusedTable(full_name, "this role may not read it (GRANT SELECT)")
    if not all(map(is_carried, (name, relation.schema, relation.name))):
        return RefusedTable(full_name, "its name has control characters or more than 127 bytes")
    return None


def propose(
    relation: Relation,
    described: Sequence[DescribedColumn],
    *,
    name: str,
    key: tuple[str, ...],
    samples: Mapping[str, Sequence[str | None]] | None,
) -> DiscoveredTable | RefusedTable:
    """Propose a table. `samples`: some values by column; None if they could not be looked at."""
    usable = [column for column in described if is_carried(column.name)]
    if not usable:
        return RefusedTable(f"{relation.schema}.{relation.name}", "it has no columns that can be carried")
    key = key if all(map(is_carried, key)) else ()
    columns = withhold_collisions(
        _judged(column, is_key=column.name in key, values=(samples or {}).get(column.name, ()))
        for column in usable
    )
    remarks = [
        f"column {scalar(column.name)} is refused: its name has control characters or more than 127 bytes"
        for column in described
        if not is_carried(column.name)
    ]
    remarks += [
        f"{scalar(column.name)} has no zone; if it is in UTC it can be the cursor, with timezone: UTC"
        for column in columns
        if column.type.kind is ColumnKind.TIMESTAMP
        and not column.nullable
        and _CURSOR_NAME.fullmatch(column.name)
    ]
    if samples is None:
        remarks.append("its values could not be looked at, so names and types alone were judged")
    if not relation.is_table:
        remarks.append("no ordinary table: whether its rows have a key is for you to say")
    return DiscoveredTable(
        name=name,
        place=(f"relation: {_relation_text(relation)}",),
        columns=columns,
        key=key,
        key_is_unique=bool(key),
        cursor=guess_cursor(columns) if key else None,
        deleted_column=guess_deleted(columns),
        remarks=tuple(remarks),
    )


_TOLD_FATES = {Carriage.EXACT: "exact", Carriage.TEXT: "rendered as text by the source"}


def _judged(column: DescribedColumn, *, is_key: bool, values: Sequence[str | None]) -> DiscoveredColumn:
    fate = column.fate
    if fate.carriage is Carriage.REFUSED:
        return DiscoveredColumn(
            column.name,
            column.source_type,
            fate.type,
            column.nullable,
            is_kept=False,
            why=f"refused: {fate.note}",
        )
    is_text = fate.type.kind is ColumnKind.STRING and fate.carriage is Carriage.EXACT
    judgement = judge(
        column.name,
        is_harmless=column.is_harmless,
        is_key=is_key,
        values=() if column.is_harmless else values,
        what="text" if is_text else column.source_type or "a column without a type",
    )
    return DiscoveredColumn(
        column.name,
        column.source_type,
        fate.type,
        column.nullable and not is_key,
        is_kept=judgement.is_kept,
        why="; ".join(filter(None, (judgement.why, _TOLD_FATES[fate.carriage]))),
        is_free_text=judgement.is_free_text,
    )


def _relation_text(relation: Relation) -> str:
    if "." in relation.schema + relation.name:
        return f"[{scalar(relation.schema)}, {scalar(relation.name)}]"
    return scalar(f"{relation.schema}.{relation.name}")
