"""The ports of the fleet, each call of which is a side effect of the world."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from support.simulation.effects import TRANSACTIONS_BY_LIFECYCLE, Fault
from support.simulation.rows import Row

from services.publisher.catalog import ExternalBatch, ExternalTable
from services.publisher.warehouse import LoadResult, NativeLoad
from shared import lifecycle
from shared.domain.batches import Attempt
from shared.domain.contracts import PublishMode
from shared.domain.files import Location
from shared.errors import EsclusaError, LostLease, Unavailable
from shared.ledger.memory import MemoryLedger
from shared.object_store.memory import MemoryObjectStore
from shared.ports import LedgerTransaction, ObjectInfo, OpenUpload, OutboxMessage, Upload

if TYPE_CHECKING:
    from support.simulation.world import World

# ---- the ledger ------------------------------------------------------------------------------------------------

#: What a transaction writes without `shared.lifecycle`.
_DIRECT_WRITES = {
    "mark_sent": "ledger.mark_sent",
    "post": "ledger.post",
    "save_source_guard": "ledger.register_source",
    "save_expectation": "ledger.register_source",
    "delete_expectation": "ledger.register_source",
    "insert_contract": "ledger.plan",
    "set_watermark": "ledger.plan",
}


class WatchedTransaction:
    """A transaction that remembers what was asked of it, so that it can be named and done again."""

    def __init__(self, plain: LedgerTransaction) -> None:
        self._plain = plain
        self.calls: list[tuple[str, Callable[[LedgerTransaction], object]]] = []
        self.is_in_lifecycle = False
        self.claimed: Attempt | None = None

    def insert_attempt(self, attempt: Attempt) -> None:
        self._plain.insert_attempt(attempt)
        self.claimed = attempt

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._plain, name)
        if name not in _DIRECT_WRITES or self.is_in_lifecycle:
            return method

        def written(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, lambda tx: getattr(tx, name)(*args, **kwargs)))
            return method(*args, **kwargs)

        return written

    def effect_name(self) -> str:
        """Return the side effect that this transaction is."""
        names = {name for name, _ in self.calls}
        for name in sorted(names & TRANSACTIONS_BY_LIFECYCLE):
            return f"ledger.{name}"
        direct = [effect for name, effect in _DIRECT_WRITES.items() if name in names]
        return direct[0] if direct else "ledger.look"


def watched(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of `shared.lifecycle` that tells a watched transaction that it is called."""

    @functools.wraps(function)
    def telling(tx: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tx, WatchedTransaction) or tx.is_in_lifecycle:
            return function(tx, *args, **kwargs)
        tx.calls.append((function.__name__, lambda again: function(again, *args, **kwargs)))
        tx.is_in_lifecycle = True
        try:
            return function(tx, *args, **kwargs)
        finally:
            tx.is_in_lifecycle = False

    return telling


def watched_lifecycle() -> dict[str, Callable[..., Any]]:
    """Return the functions of `shared.lifecycle` that write, each so that a transaction learns of it."""
    functions = lifecycle_functions()
    return {name: watched(functions[name]) for name in TRANSACTIONS_BY_LIFECYCLE}


def lifecycle_functions() -> dict[str, Callable[..., Any]]:
    """Return the public functions of `shared.lifecycle` that are given a transaction."""
    return {
        name: function
        for name, function in vars(lifecycle).items()
        if not name.startswith("_")
        and getattr(function, "__module__", "") == lifecycle.__name__
        and getattr(function, "__annotations__", {}).get("tx") is LedgerTransaction
    }


class SimulatedLedger:
    """
    A ledger whose every transaction is a side effect, its commit.

    Nobody else goes on while one is open: what a transaction locks does not matter here.
    """

    def __init__(self, world: World, plain: MemoryLedger) -> None:
        self._world = world
        self._plain = plain

    @contextmanager
    def transaction(self) -> Iterator[LedgerTransaction]:
        world = self._world
        hit = world.begin_effect("ledger.look")
        with self._plain.transaction() as plain:
            tx = WatchedTransaction(plain)
            world.is_in_transaction = True
            try:
                yield tx  # type: ignore[misc]
            finally:
                world.is_in_transaction = False
                hit.name = tx.effect_name()
            world.before_effect(hit)
        if hit.fault is Fault.DUPLICATE:
            self._commit_again(tx.calls)
        if tx.claimed is not None:
            world.check_place(tx.claimed)
        world.after_effect(hit)

    def _commit_again(self, calls: Sequence[tuple[str, Callable[[LedgerTransaction], object]]]) -> None:
        """Do what the caller asked for once more, as if it had not learnt that it is done."""
        # What is refused is rolled back.
        with suppress(EsclusaError), self._plain.transaction() as tx:
            for _, call in calls:
                call(tx)

    @contextmanager
    def exclusively(self, name: str) -> Iterator[bool]:
        self._world.effect("ledger.exclusively", lambda: None)
        with self._plain.exclusively(name) as is_held:
            yield is_held


# ---- the store -------------------------------------------------------------------------------------------------


class SimulatedStore:
    """A store whose every call is a side effect, and whose new objects cause events."""

    def __init__(self, world: World, plain: MemoryObjectStore) -> None:
        self._world = world
        self._plain = plain

    def put(self, location: Location, body: bytes, *, sha256: str, metadata: Mapping[str, str]) -> None:
        def do() -> None:
            self._plain.put(location, body, sha256=sha256, metadata=metadata)
            self._world.events.append(location)

        self._world.effect("store.put", do)

    def open_upload(self, location: Location, *, metadata: Mapping[str, str]) -> SimulatedUpload:
        plain = self._world.effect(
            "store.open_upload", lambda: self._plain.open_upload(location, metadata=metadata)
        )
        return SimulatedUpload(self._world, location, plain)

    def head(self, location: Location) -> ObjectInfo | None:
        return self._world.effect("store.head", lambda: self._plain.head(location))  # type: ignore[no-any-return]

    def sha256(self, location: Location) -> str:
        return self._world.effect("store.sha256", lambda: self._plain.sha256(location))  # type: ignore[no-any-return]

    def read(self, location: Location, *, start: int | None = None, length: int | None = None) -> bytes:
        return self._world.effect(  # type: ignore[no-any-return]
            "store.read", lambda: self._plain.read(location, start=start, length=length)
        )

    @contextmanager
    def open(self, location: Location) -> Iterator[SimulatedBody]:
        with self._world.effect("store.open", lambda: self._plain.open(location)) as body:
            yield SimulatedBody(self._world, body)

    def copy(self, source: Location, target: Location, *, sha256: str) -> None:
        def do() -> None:
            is_new = self._plain.head(target) is None
            self._plain.copy(source, target, sha256=sha256)
            if is_new:
                self._world.events.append(target)

        # Told of twice: the second copy is answered by the first one's object.
        self._world.effect("store.copy", do, again=lambda: self._world.events.append(target))

    def delete(self, location: Location) -> None:
        self._world.effect("store.delete", lambda: self._plain.delete(location))

    def list(self, bucket: str, prefix: str, **bounds: Any) -> Iterator[ObjectInfo]:
        return iter(
            self._world.effect("store.list", lambda: list(self._plain.list(bucket, prefix, **bounds)))
        )

    def open_uploads(self, bucket: str) -> Iterator[OpenUpload]:
        return iter(self._world.effect("store.open_uploads", lambda: list(self._plain.open_uploads(bucket))))

    def abort_upload(self, upload: OpenUpload) -> None:
        self._world.effect("store.abort_upload", lambda: self._plain.abort_upload(upload))


class SimulatedUpload:
    """`Upload`: each piece is sent at once."""

    def __init__(self, world: World, location: Location, plain: Upload) -> None:
        self._world = world
        self._location = location
        self._plain = plain

    @property
    def file_size_in_bytes(self) -> int:
        return self._plain.file_size_in_bytes

    @property
    def sha256(self) -> str:
        return self._plain.sha256

    def write(self, data: bytes) -> None:
        # A part that is sent twice has the same number: the second takes the place of the first.
        self._world.effect("store.write_part", lambda: self._plain.write(data), again=lambda: None)

    def complete(self) -> None:
        def do() -> None:
            self._plain.complete()
            self._world.events.append(self._location)

        def do_again() -> None:
            # What is answered "no such upload" or "the key is taken" the adapter compares with what it wrote.
            self._world.events.append(self._location)

        try:
            self._world.effect("store.complete_upload", do, again=do_again)
        except EsclusaError:
            self._plain.abort()
            raise

    def abort(self) -> None:
        # It raises nothing: the sweeper finds what stays open.
        with suppress(Unavailable):
            self._world.effect("store.give_up_upload", self._plain.abort)


class SimulatedBody:
    """`ByteReader`."""

    def __init__(self, world: World, plain: Any) -> None:
        self._world = world
        self._plain = plain

    def read(self, size: int = -1, /) -> bytes:
        return self._world.effect("store.read_body", lambda: self._plain.read(size), again=lambda: None)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._plain.close()


# ---- queues, secrets -------------------------------------------------------------------------------------------


class SimulatedSender:
    """A sender. It is called within a transaction; when it stalls, its messages arrive, but late."""

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, messages: Sequence[OutboxMessage]) -> list[int]:
        world = self._world
        return world.effect(  # type: ignore[no-any-return]
            "queue.send", lambda: world.queues.send(messages), late=lambda: world.send_late(messages)
        )


class SimulatedSecrets:
    """A store of secrets that knows any reference."""

    def __init__(self, world: World) -> None:
        self._world = world

    def resolve(self, reference: str) -> str:
        return self._world.effect("secrets.resolve", lambda: f"the secret of {reference}")  # type: ignore[no-any-return]


# ---- warehouse and catalog -------------------------------------------------------------------------------------


class SimulatedWarehouse:
    """
    Native tables: each load is one step. `applied` is what readers could see, in its order.

    Rows are kept with the end of their window and their batch, so that a test can say what has to be there.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        #: By source and table: the newest version of each key, or the rows of the newest snapshot by number.
        self.tables: dict[tuple[str, str], dict[int, Row]] = {}
        #: The attempt that loaded a batch last, and what it loaded.
        self.markers: dict[str, NativeLoad] = {}
        self.applied: list[tuple[str, str]] = []
        self._snapshot_ends: dict[tuple[str, str], Any] = {}
        self._window_ends: dict[tuple[str, str], dict[int, Any]] = {}

    def load(self, load: NativeLoad) -> LoadResult:
        rows: list[Row] = []
        for file in load.files:
            with self._world.store.open(file.location) as body:
                rows += [Row.parse(text) for text in json.loads(body.read())]
        return self._world.effect("warehouse.load", lambda: self._load(load, rows))  # type: ignore[no-any-return]

    def _load(self, load: NativeLoad, rows: Sequence[Row]) -> LoadResult:
        marker = self.markers.get(load.batch_id)
        if marker is not None and marker.attempt > load.attempt:
            raise LostLease(f"{load.batch_id}: attempt {marker.attempt} has loaded it")
        if marker is not None and marker.manifest_sha256 == load.manifest_sha256:
            return LoadResult(rows_staged=len(rows), was_loaded_before=True)
        table = load.contract.source, load.contract.table
        if load.contract.publishing.mode is PublishMode.REPLACE:
            newest = self._snapshot_ends.get(table)
            if newest is not None and newest > load.window.end:
                return LoadResult(is_superseded=True)
            self._snapshot_ends[table] = load.window.end
            self.tables[table] = dict(enumerate(rows))
        else:
            self._merge(table, load, rows)
        self.markers[load.batch_id] = load
        self.applied.append((load.batch_id, load.manifest_sha256))
        return LoadResult(rows_staged=len(rows))

    def _merge(self, table: tuple[str, str], load: NativeLoad, rows: Sequence[Row]) -> None:
        stored = self.tables.setdefault(table, {})
        ends = self._window_ends.setdefault(table, {})
        for row in rows:
            known = stored.get(row.key)
            if known is None or (row.changed_at, load.window.end) >= (known.changed_at, ends[row.key]):
                stored[row.key], ends[row.key] = row, load.window.end


class SimulatedCatalog:
    """External tables: what readers of the lake find."""

    def __init__(self, world: World) -> None:
        self._world = world
        #: By source, table and batch.
        self.partitions: dict[tuple[str, str, str], ExternalBatch] = {}
        self.snapshots: dict[tuple[str, str], ExternalBatch] = {}

    def put_partition(self, table: ExternalTable, batch: ExternalBatch) -> None:
        self._world.effect("catalog.put_partition", lambda: self._put_partition(table, batch))

    def _put_partition(self, table: ExternalTable, batch: ExternalBatch) -> None:
        key = table.source, table.table, batch.batch_id
        shown = self.partitions.get(key)
        if shown is not None and shown.attempt > batch.attempt:
            raise LostLease(f"{batch.batch_id}: attempt {shown.attempt} has put the partition")
        self.partitions[key] = batch

    def put_snapshot(self, table: ExternalTable, batch: ExternalBatch, *, goes_back: bool = False) -> bool:
        assert not goes_back
        return self._world.effect("catalog.put_snapshot", lambda: self._put_snapshot(table, batch))  # type: ignore[no-any-return]

    def _put_snapshot(self, table: ExternalTable, batch: ExternalBatch) -> bool:
        shown = self.snapshots.get((table.source, table.table))
        if shown is not None and shown.window_end > batch.window_end:
            return False
        if shown is not None and shown.batch_id == batch.batch_id and shown.attempt > batch.attempt:
            raise LostLease(f"{batch.batch_id}: attempt {shown.attempt} has put the snapshot")
        self.snapshots[table.source, table.table] = batch
        return True
