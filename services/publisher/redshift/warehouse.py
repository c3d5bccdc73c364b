"""
The warehouse in Amazon Redshift; see `Warehouse`.

A load reads how far its table is, makes a plan, and sends the plan as one transaction, which ends by itself if anybody
changed the table meanwhile. Whatever becomes of the reply, the marker in the table's own schema tells what was done.
"""

import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import polars as pl
import structlog

from services.publisher.redshift import definitions, questions
from services.publisher.redshift.data_api import Cells
from services.publisher.redshift.errors import StatementFailed, translated
from services.publisher.redshift.load import Access, load_once, prune_once
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.rebuild import rebuild_once
from services.publisher.redshift.refusals import is_others_doing, refusal_of
from services.publisher.redshift.state import (
    find_columns,
    find_relation,
)
from services.publisher.redshift.target import Target, target_of_load
from services.publisher.warehouse import (
    BASE_SUFFIX,
    LoadResult,
    NativeLoad,
    PruneResult,
    QueryFailed,
    QueryResult,
    Rebuild,
    RebuildResult,
)
from shared.domain.contracts import TableContract
from shared.domain.windows import Extent, Window
from shared.errors import Unavailable
from shared.measures import ColumnMeasure

log = structlog.get_logger()

READ_TIMEOUT_SECONDS = 3600.0

#: Of two that are at one table one has to look again; a database of level SERIALIZABLE refuses one of two that overlap.
MAX_TRIES = 8
CONFLICT_PAUSE_SECONDS = 1.0

Outcome = TypeVar("Outcome")


class RedshiftWarehouse:
    """Native tables in one database of Redshift. `pause` and `chance` part those who were at one table at once."""

    def __init__(
        self,
        access: Access,
        *,
        pause: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._access = access
        self._api = access.api
        self._pause = pause
        self._chance = chance

    def load(self, load: NativeLoad) -> LoadResult:
        """Bring a batch into its table in one transaction; see `Warehouse`."""
        target = target_of_load(load, _unmeasured(load))
        result = self._until_done(load, target, lambda: load_once(self._access, load, target))
        log.info(
            "native_load_finished",
            table=target.name,
            is_superseded=result.is_superseded,
            was_loaded_before=result.was_loaded_before,
            **result.counts,
        )
        return result

    def prune(self, load: NativeLoad) -> PruneResult:
        """Delete the rows whose keys a key sweep does not have; see `Warehouse`."""
        target = target_of_load(load, _unmeasured(load))
        result = self._until_done(load, target, lambda: prune_once(self._access, load, target))
        log.info(
            "native_prune_finished",
            table=target.name,
            was_loaded_before=result.was_loaded_before,
            **result.counts,
        )
        return result

    def rebuild(self, rebuild: Rebuild) -> RebuildResult:
        """Make a table anew of some of its batches; see `Warehouse`."""
        load = rebuild.newest
        target = target_of_load(load, _unmeasured(load))
        result = self._until_done(load, target, lambda: rebuild_once(self._access, rebuild, target))
        log.info(
            "native_rebuild_finished",
            table=target.name,
            row_count=result.row_count,
            is_held=rebuild.is_held,
            was_done_before=result.was_done_before,
        )
        return result

    def row_count(self, source: str, table: str) -> int:
        """Return how many rows analysts see in a table; see `Warehouse`."""
        question = definitions.count_view(source, table)
        names = questions.names_of(source, table)
        try:
            if find_relation(self._api, names) is None:
                raise KeyError(f"{source}.{table}")
            return int(self._api.rows(question)[0][0])
        except StatementFailed as error:
            raise translated(error, where=f"{source}.{table}") from None

    def read_rows(
        self, contract: TableContract, *, window: Window | None = None, extent: Extent | None = None
    ) -> Iterator[pl.DataFrame]:
        """
        Return what analysts see in a table; see `Warehouse`.

        One statement, so one snapshot; its answer is held by the service, which takes 500 MB at most, and comes in pages.
        """
        name = f"{contract.source}.{contract.table}"
        question = definitions.read_base(contract, window, extent)
        names = questions.names_of(contract.source + BASE_SUFFIX, contract.table)
        try:
            found = find_columns(self._api, names)
            if not found:
                return
            questions.refuse_missing(contract, found)
            _, pages = self._api.pages(question, timeout_seconds=READ_TIMEOUT_SECONDS)
            for page in pages:
                if page:
                    yield questions.frame_of(page, contract=contract, place=f"warehouse, {name}")
        except StatementFailed as error:
            raise translated(error, where=name) from None

    def query(self, sql: str, *, row_limit: int, timeout_seconds: float) -> QueryResult:
        """
        Answer one question of a person; see `Warehouse`.

        The Data API knows no read-only session, so anything but one SELECT is refused before it is sent.
        """
        questions.refuse_changes(sql)
        statement = Statement("a person's question", sql, touches_rows=False, is_a_persons=True)
        rows: list[Cells] = []
        try:
            columns, pages = self._api.pages(statement, timeout_seconds=timeout_seconds)
            for page in pages:
                rows += page
                if len(rows) > row_limit:
                    break
        except StatementFailed as error:
            raise QueryFailed(error.text or str(error)) from None
        return QueryResult(columns=columns, rows=tuple(rows[:row_limit]), is_cut=len(rows) > row_limit)

    # ---- trying, and trying again ------------------------------------------------------------------------------

    def _until_done(self, load: NativeLoad, target: Target, attempt: Callable[[], Outcome]) -> Outcome:
        """Try until it is done or refused; look anew whenever somebody else was at the table."""
        for number in range(1, MAX_TRIES + 1):
            try:
                return attempt()
            except StatementFailed as error:
                if not is_others_doing(error):
                    raise refusal_of(error, load, target) from None
                log.info(
                    "warehouse_busy", table=target.name, statement=error.statement.name, try_number=number
                )
            self._pause(CONFLICT_PAUSE_SECONDS * number * (0.5 + self._chance()))
        raise Unavailable(f"warehouse, {target.name}: others were at it in each of {MAX_TRIES} tries")


def _unmeasured(load: NativeLoad) -> list[ColumnMeasure]:
    return [ColumnMeasure()] * len(load.contract.output_columns)
