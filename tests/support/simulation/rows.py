"""Sources that can be read, and that can hang, fail or never end."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import TYPE_CHECKING

from services.extractor.readers import Chunk, CursorBounds, Finding, SourceColumn
from shared.domain.contracts import (
    Column,
    ColumnKind,
    ColumnType,
    Cursor,
    Mask,
    MaskKind,
    Origin,
    Publishing,
    PublishMode,
    SourceKind,
    TableContract,
)
from shared.domain.reasons import Reason
from shared.domain.sources import SourceLimits
from shared.domain.windows import Extent, Schedule, Window
from shared.errors import Interrupted, Refused, SourceUnavailable

if TYPE_CHECKING:
    from support.simulation.world import World

MIDNIGHT = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

#: The first planner sees the source's clock here, every later one sees it later.
FIRST_HORIZON, HORIZON = MIDNIGHT + 3 * HOUR, MIDNIGHT + 6 * HOUR


class Behaviour(Enum):
    """How a source answers."""

    #: At once.
    SOUND = auto()
    #: With an error, each time.
    FAILING = auto()
    #: It takes the connection and says nothing more.
    HUNG = auto()
    #: With one row after the other, for ever.
    ENDLESS = auto()
    #: With something that repeating does not cure.
    WRONG = auto()


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a source: a key, when it changed, and a value."""

    key: int
    changed_at: datetime
    value: int

    def text(self) -> str:
        return f"{self.key},{self.changed_at.isoformat()},{self.value}\n"

    @classmethod
    def parse(cls, line: str) -> Row:
        key, changed_at, value = line.split(",")
        return cls(int(key), datetime.fromisoformat(changed_at), int(value))


@dataclass
class SimulatedSource:
    """A source with one table `rows`, and with another, `snapshot`, that has no cursor."""

    name: str
    rows: list[Row]
    behaviour: Behaviour = Behaviour.SOUND
    limits: SourceLimits = field(default_factory=SourceLimits)
    has_snapshot: bool = False
    #: So many of its next attempts fail, whatever it is else.
    failures_left: int = 0
    #: So many of the attempts behind those are refused.
    refusals_left: int = 0
    #: The workers of so many attempts are told to stop while they read.
    interruptions_left: int = 0
    contract_version: int = 1
    #: The furthest moment that it lets a planner see.
    horizon: datetime = field(default=HORIZON)

    @property
    def bucket(self) -> str:
        return f"esclusa-{self.name}"

    @property
    def window_count(self) -> int:
        """Into how many windows the table `rows` is read."""
        return 1 + (self.horizon - FIRST_HORIZON) // HOUR

    def contracts(self) -> list[TableContract]:
        names = ["rows", "snapshot"] if self.has_snapshot else ["rows"]
        return [contract_of(self.name, table, version=self.contract_version) for table in names]

    def rows_in(self, window: Window, *, table: str) -> list[Row]:
        if table == "snapshot":
            return list(self.rows)
        return [
            row
            for row in self.rows
            if row.changed_at < window.end and (window.start is None or row.changed_at >= window.start)
        ]


def rows_of_a_morning(dice: random.Random) -> list[Row]:
    rows = []
    for number in range(24):
        moment = MIDNIGHT + timedelta(minutes=15 * number) + timedelta(microseconds=dice.randrange(3))
        rows.append(Row(key=dice.randrange(10), changed_at=moment, value=number))
    return rows


def contract_of(source: str, table: str, *, version: int) -> TableContract:
    keep = Mask(MaskKind.KEEP)
    columns = (
        Column("key", ColumnType(ColumnKind.INT64), keep, nullable=False),
        Column("changed_at", ColumnType(ColumnKind.TIMESTAMPTZ), keep, nullable=False),
        Column(f"value_{version}", ColumnType(ColumnKind.INT64), keep),
    )
    is_snapshot = table == "snapshot"
    return TableContract(
        origin=Origin(source, SourceKind.POSTGRES, {"dsn": "env:SIMULATED_DSN"}),
        table=table,
        relation=("public", table),
        columns=columns,
        key=() if is_snapshot else ("key",),
        cursor=None if is_snapshot else Cursor("changed_at", lag=timedelta(0), overlap=timedelta(0)),
        schedule=Schedule(every=HOUR, max_window=HOUR, catch_up_limit=24),
        publishing=Publishing(PublishMode.REPLACE if is_snapshot else PublishMode.MERGE),
    )


class SimulatedReader:
    """`SourceReader` of one table: every question is a side effect."""

    def __init__(self, world: World, source: SimulatedSource, contract: TableContract) -> None:
        self._world = world
        self._source = source
        self._contract = contract

    def clock(self) -> datetime:
        return self._world.effect("source.clock", self._now)  # type: ignore[no-any-return]

    def _now(self) -> datetime:
        is_known = self._world.watermark(self._source.name, "rows") is not None
        return self._source.horizon if is_known else FIRST_HORIZON

    @contextmanager
    def open_snapshot(self, window: Window, *, extent: Extent | None = None) -> Iterator[SimulatedSnapshot]:
        world, source = self._world, self._source
        world.effect("source.open_snapshot", lambda: None)
        match source.behaviour:
            case Behaviour.FAILING:
                raise SourceUnavailable(f"source {source.name!r}: connection refused")
            case Behaviour.HUNG:
                world.hang()
            case Behaviour.WRONG:
                raise Refused(Reason.TABLE_MISSING, f"source {source.name!r}: there is no such table")
        if source.failures_left:
            source.failures_left -= 1
            raise SourceUnavailable(f"source {source.name!r}: connection reset")
        if source.refusals_left:
            source.refusals_left -= 1
            raise Refused(Reason.TABLE_MISSING, f"source {source.name!r}: there is no such table")
        yield SimulatedSnapshot(world, source, source.rows_in(window, table=self._contract.table))

    def check(self) -> list[Finding]:
        return []

    def count_rows(self, window: Window | None = None, *, extent: Extent | None = None) -> int:
        return len(self._source.rows)

    def open_since(self) -> datetime | None:
        return self._world.effect("source.open_since", lambda: None)  # type: ignore[no-any-return]

    def cursor_bounds(self, window: Window | None = None) -> CursorBounds | None:
        return None

    def close(self) -> None:
        """Leave the source."""


class SimulatedSnapshot:
    """`SourceSnapshot`: the rows of a window, in two chunks."""

    fingerprint = "as ever"
    rows_outside_window_count = 0
    taken_at = MIDNIGHT + 12 * HOUR
    open_since = None

    def __init__(self, world: World, source: SimulatedSource, rows: Sequence[Row]) -> None:
        self._world = world
        self._source = source
        self._rows = rows
        self.rows_read_count = 0

    def read(self) -> Generator[Chunk, None, None]:
        for chunk in (self._rows[::2], self._rows[1::2]):
            if chunk:
                yield self._read(chunk)
        while self._source.behaviour is Behaviour.ENDLESS:
            self._world.sleep(timedelta(minutes=1))
            self._world.require_time_left()
            yield self._read(self._rows[:1])

    def _read(self, rows: Sequence[Row]) -> Chunk:
        self._world.effect("source.read", lambda: None)
        if self._source.interruptions_left:
            self._source.interruptions_left -= 1
            raise Interrupted("the worker was told to stop")
        self.rows_read_count += len(rows)
        return Chunk.of(row.text().encode() for row in rows)

    def unclassified_columns(self) -> Sequence[SourceColumn]:
        return ()

    def current_fingerprint(self) -> str:
        return self._world.effect("source.fingerprint", lambda: self.fingerprint)  # type: ignore[no-any-return]
