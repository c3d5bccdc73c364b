"""What is done to published tables, tried: what the ledger shows, runs that die, and the sweeper afterwards."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from support.lake_house import LakeHouse
from support.publish_batches import BUCKET, Row

from lambdas.sweeper.limits import SweepLimits
from lambdas.sweeper.report import SweepReport
from lambdas.sweeper.sweep import sweep
from services.publisher.rows import read_blocks
from shared.domain.files import Area
from shared.domain.retries import RetryPolicy
from shared.errors import Unavailable
from shared.ports import Ledger, LedgerTransaction
from shared.queues.memory import MemoryQueues
from shared.visible import visible_files


def ledger_rows(house: LakeHouse) -> list[Row]:
    """Return the rows of the files that the ledger shows."""
    with house.ledger.transaction() as tx:
        files = visible_files(tx, "shop", "orders")
        contracts = {
            one.contract_version: tx.contract("shop", "orders", one.contract_version) for one in files
        }
    blocks = [
        block
        for one in files
        for block in read_blocks(
            one.file, columns=contracts[one.contract_version].contract.output_columns, store=house.store
        )
    ]
    return sorted((row for block in blocks for row in block.rows()), key=repr)


def sweep_after(house: LakeHouse, time: timedelta, **limits: int) -> SweepReport:
    house.clock.moment += time
    return sweep(
        ledger=house.ledger,
        store=house.store,
        sender=MemoryQueues(),
        buckets=[BUCKET],
        limits=SweepLimits(stray_after=timedelta(0), foreign_after=timedelta(0), **limits),
        retry=RetryPolicy(max_attempts=3),
        areas=tuple(Area),
    )


def interrupt_at(house: LakeHouse, effect: str, *, before: bool) -> None:
    """Have the next call of an effect end in an outage, before or after it was done."""
    owner = house.catalog if hasattr(house.catalog, effect) else house.store
    original: Callable[..., object] = getattr(owner, effect)

    def once(*args: object, **kwargs: object) -> object:
        delattr(owner, effect)
        if not before:
            original(*args, **kwargs)
        raise Unavailable(f"{effect}, {'before' if before else 'after'}")

    setattr(owner, effect, once)


class DyingLedger:
    """A ledger whose n-th transaction, and every one after it, ends in an outage: before its commit or after it."""

    def __init__(self, ledger: Ledger, *, number: int, before: bool) -> None:
        self.ledger, self.number, self.before, self.begun = ledger, number, before, 0

    @contextmanager
    def transaction(self) -> Iterator[LedgerTransaction]:
        self.begun += 1
        if self.begun > self.number:
            raise Unavailable("dead")
        with self.ledger.transaction() as tx:
            yield tx
            if self.begun == self.number and self.before:
                raise Unavailable("before the commit")
        if self.begun == self.number:
            raise Unavailable("after the commit")
