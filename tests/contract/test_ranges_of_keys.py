"""Ranges of a key are summed and read alike by every reader of a database; and a table is then as it is at its source."""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl
import pytest
from support.databases import Source, SqliteDatabase, by_sqlalchemy
from support.extraction import HMAC, MASK_KEY, WINDOW, column, make_assignment
from support.reading import FEWER_WAYS, is_sqlite, make_customers, reader_on, source_by

from services.extractor.extract import extract
from services.extractor.readers import RangedSnapshot, open_reader
from services.processor.process import process
from shared.domain.contracts import Column, KeyRanges, QuarantineLimits, TableContract
from shared.domain.files import FileFormat
from shared.domain.key_ranges import CellSums, Interval, KeySpan, KnownCells, RangeReading
from shared.domain.reasons import Reason
from shared.errors import Refused
from shared.lifecycle import CarriedRows
from shared.object_store.memory import MemoryObjectStore
from shared.secrets.memory import MemorySecrets


@pytest.fixture(params=FEWER_WAYS)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Source]:
    """A fresh database, and one of the ways to read it."""
    with source_by(request, tmp_path) as found:
        yield found


def ranged(source: Source, *more: Column, rows_per_range: int = 4) -> TableContract:
    key = column("id", "int64" if is_sqlite(source) else "int32", nullable=False)
    contract = source.contract(key, *more)
    return replace(contract, key_ranges=KeyRanges(rows_per_range))


def sums(source: Source, contract: TableContract, *, bits: int) -> dict[int, CellSums]:
    with reader_on(source, contract) as reader, reader.open_snapshot(WINDOW) as snapshot:
        assert isinstance(snapshot, RangedSnapshot)
        return snapshot.cell_sums("id", bits=bits)


def test_cells_are_cut_alike_below_zero_and_above(source: Source) -> None:
    make_customers(source)
    numbers = [-9, -8, -1, 0, 1, 7, 8, 2**31 - 1, -(2**31)]
    source.run("INSERT INTO customers VALUES " + ", ".join(f"({number})" for number in numbers))

    found = sums(source, ranged(source), bits=3)
    with reader_on(source, ranged(source)) as reader, reader.open_snapshot(WINDOW) as snapshot:
        assert isinstance(snapshot, RangedSnapshot)
        span = snapshot.key_span("id")
        chunks = snapshot.read_ranges(
            "id", [Interval(-8, 0), Interval(2**31 - 8, 2**31), Interval(-(2**31), -(2**31) + 8)]
        )
        read = b"".join(chunk.body for chunk in chunks).replace(b'"', b"").split()

    counted: dict[int, int] = {}
    for number in numbers:
        counted[number >> 3] = counted.get(number >> 3, 0) + 1
    assert {cell: found[cell].row_count for cell in found} == counted
    assert span == KeySpan(9, -(2**31), 2**31 - 1)
    assert sorted(map(int, read)) == [-(2**31), -8, -1, 2**31 - 1]
    assert snapshot.rows_read_count == 4


def test_rows_add_up_to_the_same_in_any_order_and_null_empty_and_the_word_null_do_not(source: Source) -> None:
    contract = ranged(source, column("a"), column("b"))
    make_customers(source, f"a {source.server.text}", f"b {source.server.text}")

    def sums_of(*rows: str) -> CellSums:
        source.run("DELETE FROM customers", f"INSERT INTO customers VALUES {', '.join(rows)}")
        (found,) = sums(source, contract, bits=10).values()
        return found

    in_order, reversed_ = sums_of("(1, 'x', 'y')", "(2, '', NULL)"), sums_of("(2, '', NULL)", "(1, 'x', 'y')")
    alone = [
        sums_of(f"(1, {a}, {b})")
        for a, b in [
            ("NULL", "''"), ("''", "NULL"), ("NULL", "NULL"), ("''", "''"), ("'NULL'", "NULL"), ("'~'", "''"),
            ("'a,b'", "''"), ("'a'", "'b,'"), ("'a\",\"b'", "''"), ("'A,b'", "''"), ("'a '", "'b'"), ("'a'", "'b'"),
        ]
    ]  # fmt: skip
    twice = sums_of("(1, 'x', 'y')", "(1, 'x', 'y')")
    once = sums_of("(1, 'x', 'y')")

    assert in_order == reversed_
    assert len(set(alone)) == len(alone)
    assert (twice.row_count, twice.quarters) == (2, tuple(2 * quarter for quarter in once.quarters))


@dataclass
class Snapshots:
    """Snapshots of a table, one after the other, as extractor and processor make them and the ledger passes them on."""

    source: Source
    contract: TableContract
    store: MemoryObjectStore = field(default_factory=MemoryObjectStore)
    known: KnownCells | None = None
    carried: CarriedRows | None = None
    number: int = 0

    def take(self) -> tuple[dict[str, int], list[tuple[object, ...]]]:
        """Return the counts, and the rows that were processed."""
        self.number += 1
        secrets = MemorySecrets({"env:MASK_KEY": MASK_KEY, "env:MASK_KEY_2": MASK_KEY, **self.source.secrets})
        assignment = make_assignment(self.contract)
        batch = replace(assignment.batch, id=f"{assignment.batch.id[:-3]}{self.number:03}")
        assignment = replace(assignment, batch=batch, known_cells=self.known)
        with open_reader(self.contract, secrets=secrets) as reader:
            extracted = extract(assignment, reader=reader, store=self.store, secrets=secrets)
        reading = RangeReading.from_entry(extracted.manifest.get("ranges"))
        carried = self.carried if reading and reading.baseline else None
        if reading is not None and carried is not None:
            carried = replace(carried, intervals=reading.intervals)
        processed = process(
            replace(assignment, files=tuple(extracted.files), carried=carried), store=self.store
        )
        files = tuple(file for file in processed.files if file.format is FileFormat.PARQUET)
        is_known = reading is not None and not processed.counts["rows_rejected"]
        self.known = KnownCells(batch.id, reading.bits, reading.digests) if reading and is_known else None
        self.carried = CarriedRows(batch.id, files, "id", ()) if is_known else None
        rows = [row for file in files for row in pl.read_parquet(self.store.read(file.location)).iter_rows()]
        return {str(name): count for name, count in {**extracted.counts, **processed.counts}.items()}, rows


def test_a_table_is_as_it_is_at_its_source_and_only_what_changed_was_read(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    kept = Snapshots(source, ranged(source, column("name"), rows_per_range=50))
    drawn = random.Random(20)
    rows: dict[int, str | None] = {number: f"n{number}" for number in range(-100, 900)}
    source.run("INSERT INTO customers VALUES " + ", ".join(f"({n}, '{name}')" for n, name in rows.items()))
    first, _ = kept.take()
    read, snapshots = 0, 0

    for step in range(6):
        # One update, one delete, one insert; once nothing; and twice as many rows, so that the grid changes.
        if step == 3:
            more = dict.fromkeys(range(10000, 11000))
            source.run("INSERT INTO customers VALUES " + ", ".join(f"({number}, NULL)" for number in more))
            rows |= more
        elif step != 1:
            changed, gone, new = drawn.choice(list(rows)), drawn.choice(list(rows)), 2_000 + step
            rows[changed] = f"changed {step}"
            rows.pop(gone)
            rows[new] = ""
            source.run(
                f"UPDATE customers SET name = 'changed {step}' WHERE id = {changed}",
                f"DELETE FROM customers WHERE id = {gone}",
                f"INSERT INTO customers VALUES ({new}, '')",
            )
        counts, found = kept.take()

        assert dict(found) == rows  # type: ignore[arg-type]
        assert len(found) == len(rows) == counts["rows_read"] + counts.get("rows_carried_over", 0)
        if step == 1:
            assert counts["rows_read"] == 0
        if step != 3:
            read, snapshots = read + counts["rows_read"], snapshots + 1

    assert first["rows_read"] == 1000
    assert read / snapshots < 300


def test_a_table_that_was_emptied_is_empty_and_one_that_fills_again_is_read(source: Source) -> None:
    make_customers(source)
    kept = Snapshots(source, ranged(source))
    source.run("INSERT INTO customers VALUES (1), (2)")
    kept.take()

    source.run("DELETE FROM customers")
    _, emptied = kept.take()
    source.run("INSERT INTO customers VALUES (3)")
    _, filled = kept.take()

    assert (emptied, filled) == ([], [(3,)])


def test_pseudonyms_are_carried_over_and_digests_are_kept_under_the_mask_key(source: Source) -> None:
    make_customers(source, f"name {source.server.text}")
    kept = Snapshots(source, ranged(source, column("name", mask=HMAC), rows_per_range=1))
    source.run("INSERT INTO customers VALUES (1, 'Anna'), (1000000, 'Bert')")
    _, before = kept.take()
    clear = {sums_.quarters for sums_ in sums(source, kept.contract, bits=0).values()}
    source.run("UPDATE customers SET name = 'Berta' WHERE id = 1000000")
    counts, after = kept.take()

    assert counts["rows_read"] == counts["rows_carried_over"] == 1
    assert [row for row in after if row[0] == 1] == [row for row in before if row[0] == 1]
    assert after != before
    told = repr(kept.known)
    assert not any(format(quarter, "x") in told or str(quarter) in told for one in clear for quarter in one)


def test_a_row_without_a_key_is_rejected_and_counted_and_hides_no_change(source: Source) -> None:
    """No range has it, and no cell: it may stand neither for the cell of 0 nor be passed over."""
    integer, text = source.server.integer, source.server.text
    source.run(f"CREATE TABLE customers (id {integer}, name {text})")
    contract = replace(ranged(source, column("name"), rows_per_range=1), limits=QuarantineLimits(10, 1))
    kept = Snapshots(source, contract)
    source.run("INSERT INTO customers VALUES (0, 'zero'), (1, 'one'), (1000, 'thousand')")
    kept.take()

    source.run("INSERT INTO customers VALUES (NULL, 'nobody')")
    rejecting, _ = kept.take()
    source.run("UPDATE customers SET name = 'nought' WHERE id = 0")
    again, found = kept.take()
    source.run("DELETE FROM customers WHERE id IS NULL")
    kept.take()
    source.run("UPDATE customers SET name = 'zilch' WHERE id = 0")
    counts, at_last = kept.take()

    assert rejecting["rows_rejected"] == again["rows_rejected"] == 1
    assert sorted(found) == [(0, "nought"), (1, "one"), (1000, "thousand")]
    assert sorted(at_last) == [(0, "zilch"), (1, "one"), (1000, "thousand")]
    assert counts["rows_carried_over"] > 0


@pytest.mark.parametrize("type_", ["INTEGER", "TEXT"])
def test_a_table_of_sqlite_whose_keys_are_other_than_declared_is_read_whole(
    type_: str, tmp_path: Path
) -> None:
    """It keeps any value in any column, and compares texts as texts."""
    source = by_sqlalchemy(SqliteDatabase(tmp_path / "source.db"))
    source.run(f"CREATE TABLE customers (id {type_}, name TEXT)")
    contract = replace(ranged(source, column("name"), rows_per_range=1), limits=QuarantineLimits(10, 1))
    kept = Snapshots(source, contract)
    source.run("INSERT INTO customers VALUES " + ", ".join(f"({number}, 'a')" for number in range(1, 41)))
    kept.take()

    source.run(
        "INSERT INTO customers VALUES ('ten', 'b'), (1.5, 'b')",
        "UPDATE customers SET name = 'c' WHERE id = 9",
    )
    counts, found = kept.take()

    assert counts["rows_rejected"] == 2
    assert sorted(found) == [(number, "c" if number == 9 else "a") for number in range(1, 41)]


def test_rows_that_cannot_be_taken_over_hold_the_batch_and_the_cure_is_told(tmp_path: Path) -> None:
    source = by_sqlalchemy(SqliteDatabase(tmp_path / "source.db"))
    make_customers(source)
    kept = Snapshots(source, ranged(source))
    source.run("INSERT INTO customers VALUES (1), (2)")
    kept.take()
    assert kept.carried is not None

    for file in kept.carried.files:
        kept.store.delete(file.location)
    with pytest.raises(Refused, match="rows_per_range") as unknown:
        kept.take()
    kept.carried = replace(kept.carried, files=())
    with pytest.raises(Refused, match="are gone; replay it") as known:
        kept.take()

    assert unknown.value.reason is known.value.reason is Reason.OBJECT_MISSING
