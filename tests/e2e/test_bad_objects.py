"""Objects that are not what the ledger says: refused by name, set aside, and cured by a replay; the rest goes on."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.fleet import SmallFleet, until

from shared.domain.batches import GATE_STATES, Batch, BatchState
from shared.domain.files import Area, DataFile, Location
from shared.domain.reasons import Reason

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass
class Vandal:
    """Does to objects what no attempt of ours does."""

    s3: Any
    done: list[Location] = field(default_factory=list)

    def body(self, location: Location) -> bytes:
        body: bytes = self.s3.get_object(Bucket=location.bucket, Key=location.key)["Body"].read()
        return body

    def put(self, location: Location, body: bytes, *, keeps_metadata: bool = True) -> None:
        head = self.s3.head_object(Bucket=location.bucket, Key=location.key)
        metadata = head["Metadata"] if keeps_metadata else {}
        self.s3.put_object(Bucket=location.bucket, Key=location.key, Body=body, Metadata=metadata)

    def truncate(self, file: DataFile) -> None:
        self.put(file.location, self.body(file.location)[:-7])

    def alter(self, file: DataFile) -> None:
        body = self.body(file.location)
        middle = len(body) // 2
        self.put(file.location, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])

    def empty(self, file: DataFile) -> None:
        self.put(file.location, b"")

    def replace_by_foreign(self, file: DataFile) -> None:
        self.put(file.location, self.body(file.location), keeps_metadata=False)

    def delete(self, file: DataFile) -> None:
        self.s3.delete_object(Bucket=file.location.bucket, Key=file.location.key)


TABLE_OF_AREA = {
    Area.TMP: "customers",
    Area.INPUT: "products",
    Area.PROCESSING: "orders",
    Area.FINAL: "order_items",
}


@pytest.mark.parametrize(
    "harm",
    [
        {
            Area.TMP: (Vandal.truncate, Reason.SIZE_MISMATCH),
            Area.INPUT: (Vandal.alter, Reason.CHECKSUM_MISMATCH),
            Area.PROCESSING: (Vandal.delete, Reason.OBJECT_MISSING),
            Area.FINAL: (Vandal.alter, Reason.CHECKSUM_MISMATCH),
        },
        {
            Area.TMP: (Vandal.empty, Reason.SIZE_MISMATCH),
            Area.INPUT: (Vandal.replace_by_foreign, Reason.METADATA_MISMATCH),
            Area.PROCESSING: (Vandal.alter, Reason.CHECKSUM_MISMATCH),
            Area.FINAL: (Vandal.truncate, Reason.SIZE_MISMATCH),
        },
    ],
    ids=["truncated-altered-deleted-altered", "emptied-foreign-altered-truncated"],
)
def test_a_spoilt_object_quarantines_its_batch_at_its_gate_and_a_replay_cures_it(
    fleet: SmallFleet, harm: dict[Area, tuple[Callable[[Vandal, DataFile], None], Reason]]
) -> None:
    fleet.move_everything("shop")
    vandal = Vandal(fleet.client("s3"))
    for table in ("customers", "orders", "order_items"):
        fleet.shop(f"UPDATE {table} SET updated_at = now()")
    known = {batch.id for batch in fleet.batches()}

    spoilt: dict[Area, Batch] = {}
    with fleet.gates_closed() as open_gate:
        waiting = until(lambda: planned_of_each_table(fleet, known), what="a batch of each table", pause=0.5)
        for area, (spoil, _) in harm.items():
            for batch in waiting.values():
                fleet.wait_for_state(batch.id, GATE_STATES[area][0])
            spoilt[area] = waiting.pop(TABLE_OF_AREA[area])
            for file in fleet.files(spoilt[area].id, areas=[area]):
                spoil(vandal, file)
            open_gate(area)
        held = {
            area: fleet.wait_for_state(batch.id, BatchState.QUARANTINED) for area, batch in spoilt.items()
        }

    assert {area: batch.reason for area, batch in held.items()} == {
        area: reason for area, (_, reason) in harm.items()
    }
    for area, batch in held.items():
        if harm[area][1] is not Reason.OBJECT_MISSING:
            wait_until_set_aside(fleet, batch, area)
    for batch in held.values():
        assert fleet.replay(batch.id)
    for batch in held.values():
        fleet.wait_for_state(batch.id, BatchState.PUBLISHED)
    fleet.move_everything("shop")
    fleet.assert_all_equal()


def planned_of_each_table(fleet: SmallFleet, known: set[str]) -> dict[str, Batch] | None:
    """Plan what is due, and return a new batch of each table when all have one."""
    fleet.enqueue("shop")
    found = {batch.table: batch for batch in fleet.batches(source="shop") if batch.id not in known}
    return found if len(found) == 4 else None


def wait_until_set_aside(fleet: SmallFleet, batch: Batch, area: Area) -> None:
    """Wait until the refused object of a batch lies in quarantine and nothing of it in its area."""

    def is_set_aside() -> bool:
        files = fleet.files(batch.id)
        refused = [file for file in files if file.area is area and file.reason is not None]
        aside = [file for file in files if file.area is Area.QUARANTINE]
        return (
            bool(refused)
            and bool(aside)
            and all(fleet.fleet.store.head(file.location) is None for file in refused)
            and all(fleet.fleet.store.head(file.location) is not None for file in aside)
        )

    until(is_set_aside, what=f"the refused object of {batch.table} in {area}/ to be set aside")


def test_an_object_put_in_by_hand_is_set_aside_and_moves_nothing(fleet: SmallFleet) -> None:
    fleet.move_everything("shop")
    published = next(iter(fleet.batches(table="orders", states=frozenset({BatchState.PUBLISHED}))))
    s3, bucket = fleet.client("s3"), fleet.bucket()
    keys = {
        "tmp/by hand.csv": Area.TMP,
        "tmp/=1+1/ünï%20código+%2F.csv": Area.TMP,
        "tmp/orders/b00112233445566778899aabb/a1/part-00000.csv": Area.TMP,
        f"tmp/orders/{published.id}/a77/part-00000.csv": Area.TMP,
        "input/orders.csv": Area.INPUT,
        "processing/orders.csv": Area.PROCESSING,
        f"final/orders/day=2026-01-01/batch={published.id}/a9/part-00000.parquet": Area.FINAL,
        "final/orders/x.parquet": Area.FINAL,
    }

    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=b"order_id\n666\n")
    fleet.move_everything("shop")

    for key, area in keys.items():
        location = Location(bucket, key)
        file = until(lambda at=location: fleet.file(at), what=f"{key} to be recorded")
        assert (file.area, file.reason) == (area, Reason.FOREIGN_OBJECT)
        until(lambda at=location: fleet.fleet.store.head(at) is None, what=f"{key} to be set aside")
    aside = [info.location.key for info in fleet.fleet.store.list(bucket, "quarantine/")]
    assert all(any(name.startswith(f"quarantine/{key}@") for name in aside) for key in keys)
    fleet.assert_all_equal()
