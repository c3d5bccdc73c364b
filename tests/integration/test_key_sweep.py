"""Rows that are gone at the source are found by their keys, on PostgreSQL, through every service."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from support.extraction import BUCKET, MASK_KEY, column, make_assignment, make_contract

from services.extractor.extract import extract
from services.extractor.readers import open_reader
from services.processor.process import process
from services.publisher.memory import MemoryCatalog
from services.publisher.postgres import PostgresWarehouse
from services.publisher.publish import publish
from shared.domain.batches import Batch, Stage, batch_id
from shared.domain.contracts import (
    Cursor,
    DeleteMode,
    Deletes,
    KeyRanges,
    KeySweep,
    Mask,
    MaskKind,
    TableContract,
    keys_of,
)
from shared.domain.files import FileFormat
from shared.domain.key_ranges import KnownCells, RangeReading
from shared.domain.reasons import Reason
from shared.domain.windows import Window, slot_of
from shared.errors import Refused
from shared.lifecycle import CarriedRows
from shared.object_store.memory import MemoryObjectStore
from shared.secrets.memory import MemorySecrets

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
PSEUDONYM = Mask(MaskKind.HMAC, domain="people", key_id="k1")

TABLE = """
CREATE TABLE customers (country text NOT NULL, "the; id" integer NOT NULL, name text, seen timestamptz NOT NULL,
                        PRIMARY KEY (country, "the; id"));
INSERT INTO customers SELECT CASE WHEN i % 2 = 0 THEN 'it' ELSE 'NULL' END, i, 'n' || i, '2026-01-01 10:00Z'
    FROM generate_series(1, 100) i;
"""


def swept(mask: Mask) -> TableContract:
    contract = make_contract(
        [
            column("country", mask=mask, nullable=False),
            column("the; id", "int32", nullable=False),
            column("name"),
            column("seen", "timestamptz"),
        ],
        cursor=Cursor("seen", lag=timedelta(0), overlap=timedelta(0)),
    )
    return replace(
        contract,
        key=("country", "the; id"),
        deletes=Deletes(DeleteMode.SWEEP, max_rows=20, max_ratio=0.2),
    )


class Lead:
    """Leads batches of a table from the source to the warehouse, both in one database."""

    def __init__(self, dsn: str, contract: TableContract) -> None:
        self.dsn = dsn
        self.contract = contract
        self.store = MemoryObjectStore()
        self.known: KnownCells | None = None
        self.carried: CarriedRows | None = None

    def __call__(
        self, slot: str, window: Window, *, is_sweep: bool = False, **more: object
    ) -> Mapping[str, int]:
        contract = keys_of(self.contract) if is_sweep else self.contract
        sweep = KeySweep(timedelta(0), versions=(1,)) if is_sweep else None
        assignment = replace(make_assignment(contract, window=window), sweep=sweep)
        batch: Batch = replace(
            assignment.batch,
            id=batch_id(contract.source, contract.table, slot),
            slot=slot,
            attempts=dict.fromkeys(Stage, 1),
            bucket=BUCKET,
            **more,  # type: ignore[arg-type]
        )
        secrets = MemorySecrets({"env:SHOP_DSN": self.dsn, "env:MASK_KEY": MASK_KEY})
        is_ranged = contract.is_read_by_ranges
        assignment = replace(assignment, batch=batch, known_cells=self.known if is_ranged else None)
        with open_reader(contract, secrets=secrets) as reader:
            extracted = extract(assignment, reader=reader, store=self.store, secrets=secrets)
        reading = RangeReading.from_entry(extracted.manifest.get("ranges"))
        carried = self.carried if reading and reading.baseline else None
        if carried is not None and reading is not None:
            carried = replace(carried, intervals=reading.intervals)
        files = tuple(extracted.files)
        processed = process(replace(assignment, files=files, carried=carried), store=self.store)
        published = publish(
            replace(
                assignment,
                batch=batch,
                files=tuple(file for file in processed.files if file.format is FileFormat.PARQUET),
            ),
            warehouse=PostgresWarehouse(self.dsn, store=self.store),
            catalog=MemoryCatalog(),
        )
        if reading is not None:
            # Known by being published, as the ledger has it.
            parquet = tuple(file for file in processed.files if file.format is FileFormat.PARQUET)
            self.known = KnownCells(batch.id, reading.bits, reading.digests)
            self.carried = CarriedRows(batch.id, parquet, reading.column, ())
        counts = {**extracted.counts, **processed.counts, **published.counts}
        return {str(name): count for name, count in counts.items()}

    def load(self, until: datetime) -> Mapping[str, int]:
        return self(slot_of(until), Window(None, until))

    def sweep(self, until: datetime, **more: object) -> Mapping[str, int]:
        return self(f"keys {slot_of(until)}", Window(None, until), is_sweep=True, **more)

    def ask(self, query: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            cursor = connection.execute(query)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("mask", [Mask(MaskKind.KEEP), PSEUDONYM], ids=["clear", "pseudonym"])
def test_rows_that_were_deleted_go_and_nothing_but_keys_is_read_for_it(
    fresh_database: str, mask: Mask
) -> None:
    lead = Lead(fresh_database, swept(mask))
    lead.ask(TABLE)
    lead.load(NOON)
    lead.ask('DELETE FROM customers WHERE "the; id" <= 7')
    lead.ask("INSERT INTO customers VALUES ('it', 1000, 'later', '2026-01-01 12:30Z')")
    lead.load(NOON + HOUR)

    counts = lead.sweep(NOON)

    assert (counts["rows_read"], counts["rows_deleted"]) == (94, 7)
    found = lead.ask('SELECT min("the; id"), max("the; id"), count(*) FROM shop.customers')
    assert found == [(8, 1000, 94)]


def test_many_deletes_at_once_are_held_until_somebody_approves_them(fresh_database: str) -> None:
    lead = Lead(fresh_database, swept(Mask(MaskKind.KEEP)))
    lead.ask(TABLE)
    lead.load(NOON)
    lead.ask("TRUNCATE customers")

    with pytest.raises(Refused) as refused:
        lead.sweep(NOON)

    assert refused.value.reason is Reason.DELETE_BURST
    assert lead.ask("SELECT count(*) FROM shop.customers") == [(100,)]
    assert lead.sweep(NOON, is_approved=True)["rows_deleted"] == 100
    assert lead.ask("SELECT count(*) FROM shop.customers") == [(0,)]


def test_a_row_that_comes_back_under_its_key_is_there_again(fresh_database: str) -> None:
    lead = Lead(fresh_database, swept(Mask(MaskKind.KEEP)))
    lead.ask(TABLE)
    lead.load(NOON)
    lead.ask('DELETE FROM customers WHERE "the; id" = 2')
    lead.sweep(NOON)
    lead.ask("INSERT INTO customers VALUES ('it', 2, 'anew', '2026-01-01 12:30Z')")

    lead.load(NOON + HOUR)
    lead.sweep(NOON + 2 * HOUR)

    assert lead.ask('SELECT name FROM shop.customers WHERE "the; id" = 2') == [("anew",)]


def in_ranges(mask: Mask = Mask(MaskKind.KEEP)) -> TableContract:  # noqa: B008 (frozen)
    return replace(swept(mask), key_ranges=KeyRanges(rows_per_range=8))


@pytest.mark.parametrize("mask", [Mask(MaskKind.KEEP), PSEUDONYM], ids=["clear", "pseudonym"])
def test_a_sweep_by_ranges_reads_those_that_differ_and_deletes_what_is_gone(
    fresh_database: str, mask: Mask
) -> None:
    """The pseudonym is of the key's first column; it is cut into ranges by the other one."""
    contract = in_ranges(mask)
    contract = replace(
        contract,
        columns=tuple(
            replace(item, mask=Mask(MaskKind.KEEP)) if item.name == "the; id" else item
            for item in contract.columns
        ),
    )
    lead = Lead(fresh_database, contract)
    lead.ask(TABLE)
    lead.load(NOON)
    first = lead.sweep(NOON)
    lead.ask('DELETE FROM customers WHERE "the; id" IN (50, 51)')

    second = lead.sweep(NOON + HOUR)
    third = lead.sweep(NOON + 2 * HOUR)

    assert (first["rows_read"], first["rows_deleted"]) == (100, 0)
    assert second["rows_deleted"] == 2
    assert 0 < second["rows_read"] < 40
    assert second["rows_staged"] == 98
    assert (third["rows_read"], third["rows_deleted"], third["rows_staged"]) == (0, 0, 98)
    assert lead.ask('SELECT count(*) FROM shop.customers WHERE "the; id" IN (50, 51)') == [(0,)]


def test_a_row_that_came_and_went_between_two_sweeps_by_ranges_goes(fresh_database: str) -> None:
    """Its range is at the source as it was when it was swept last: nothing of it is read, and all the same it is told."""
    lead = Lead(fresh_database, in_ranges())
    lead.ask(TABLE)
    lead.load(NOON)
    lead.sweep(NOON)
    lead.ask("INSERT INTO customers VALUES ('it', 1000, 'guest', '2026-01-01 12:30Z')")
    lead.load(NOON + HOUR)
    lead.ask('DELETE FROM customers WHERE "the; id" = 1000')

    counts = lead.sweep(NOON + HOUR)

    assert (counts["rows_read"], counts["rows_deleted"]) == (0, 1)
    assert lead.ask("SELECT count(*) FROM shop.customers") == [(100,)]


def test_a_burst_of_deletes_is_held_by_ranges_too(fresh_database: str) -> None:
    lead = Lead(fresh_database, in_ranges())
    lead.ask(TABLE)
    lead.load(NOON)
    lead.sweep(NOON)
    lead.ask('DELETE FROM customers WHERE "the; id" > 60')

    with pytest.raises(Refused) as refused:
        lead.sweep(NOON + HOUR)

    assert refused.value.reason is Reason.DELETE_BURST
    assert lead.sweep(NOON + HOUR, is_approved=True)["rows_deleted"] == 40
