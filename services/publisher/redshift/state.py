"""How far a table in Redshift is, as its own records and the catalogue tell."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from services.publisher.redshift import definitions
from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.statements import PRUNE_MODE
from services.publisher.redshift.target import Target
from services.publisher.warehouse import LoadResult, NativeLoad, PruneResult
from shared.errors import LostLease, Unavailable


@dataclass(frozen=True, slots=True)
class Marker:
    """What an earlier load of a batch left behind."""

    attempt: int
    manifest_sha256: str
    result: LoadResult
    rows_deleted: int


@dataclass(frozen=True, slots=True)
class TableState:
    """What one reading found. It holds as long as the turn does."""

    turn: int
    #: Up to where other batches are loaded.
    newest_window_end: datetime | None
    newest_contract: int | None
    #: Markers of tables that are called like this one but for case.
    namesake_count: int
    #: The rebuild that holds the table at an earlier state.
    held_by: str | None
    marker: Marker | None

    def is_newest_contract(self, load: NativeLoad) -> bool:
        """Whether no batch of a newer contract is loaded."""
        return self.newest_contract is None or load.contract_version >= self.newest_contract

    def loaded_before(self, load: NativeLoad) -> LoadResult | None:
        """
        Return what an earlier load of the same files came to; None if there was none.

        Raises:
            LostLease: if a later attempt was there.
        """
        if self.marker is None:
            return None
        if self.marker.attempt > load.attempt:
            raise LostLease(
                f"batch {load.batch_id}: attempt {self.marker.attempt} of publish has loaded it, this is attempt "
                f"{load.attempt}"
            )
        if self.marker.manifest_sha256 != load.manifest_sha256:
            return None
        return replace(self.marker.result, was_loaded_before=True)

    def pruned_before(self, load: NativeLoad) -> PruneResult | None:
        """Return what an earlier run of the same key sweep came to; see `loaded_before`."""
        before = self.loaded_before(load)
        if before is None or self.marker is None:
            return None
        return PruneResult(before.rows_staged, self.marker.rows_deleted, was_loaded_before=True)


@dataclass(frozen=True, slots=True)
class FoundColumn:
    """A column as the catalogue has it."""

    type: str
    comment: str


def read_state(api: DataApi, target: Target, load: NativeLoad) -> TableState:
    """Read how far a table is, in one snapshot."""
    rows = api.rows(definitions.find_state(target, load, prune_mode=PRUNE_MODE))
    if len(rows) != 1:
        raise Unavailable(f"warehouse, {target.name}: a question for one row was answered with {len(rows)}")
    turn, window_end, contract, namesakes, held_by, attempt, manifest, *counts = rows[0]
    marker = None
    if attempt is not None:
        staged, inserted, updated, unchanged, deleted = map(int, counts)
        result = LoadResult(staged, inserted, updated, unchanged)
        marker = Marker(int(attempt), manifest, result, deleted)
    return TableState(
        turn=int(turn),
        newest_window_end=_moment(window_end),
        newest_contract=None if contract is None else int(contract),
        namesake_count=int(namesakes or 0),
        held_by=held_by,
        marker=marker,
    )


def find_columns(api: DataApi, names: Mapping[str, str]) -> dict[str, FoundColumn]:
    """Return the columns of a base table by name, in their order; none if there is no such table."""
    return {
        name: FoundColumn(type_, comment)
        for name, type_, comment in api.rows(definitions.find_columns(names))
    }


def find_relation(api: DataApi, names: Mapping[str, str]) -> tuple[str, str] | None:
    """Return kind and comment of what has a name; None if nothing has."""
    rows = api.rows(definitions.find_relation(names))
    return (rows[0][0], rows[0][1]) if rows else None


def find_grants(api: DataApi, names: Mapping[str, str]) -> list[definitions.Grant]:
    """Return who may do what with a view."""
    return [
        definitions.Grant(privilege, name, str(kind).lower(), bool(is_grantable))
        for privilege, name, kind, is_grantable in api.rows(definitions.find_grants(names))
    ]


def _moment(text: Any) -> datetime | None:
    return None if text is None else datetime.fromisoformat(str(text)).replace(tzinfo=UTC)
