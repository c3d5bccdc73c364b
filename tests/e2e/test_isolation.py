"""Two bad sources beside a sound one: what the sound one brings arrives, and each bad one keeps to its place."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from support.fleet import SmallFleet, until
from support.relay import Away, Relays

from services.extractor.enqueue import enqueue
from shared.domain.batches import Attempt, BatchState, Stage
from shared.domain.sources import FAILURES_THAT_OPEN, SourceGuard
from shared.fleet import Fleet
from shared.settings import FleetSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TABLES = ("one", "two", "three")
SCHEMA = "".join(
    f"CREATE TABLE {table} (id integer PRIMARY KEY); INSERT INTO {table} SELECT generate_series(1, 50);"
    for table in TABLES
)
#: The small fleet has two extractors: each bad source may have one of them.
BAD = {"mute": Away.SILENT, "gone": Away.REFUSING}


def source_file(name: str) -> str:
    lines = [
        f"name: {name}",
        "kind: postgres",
        f"connection: {{dsn: 'secretsmanager:esclusa/{name}#dsn'}}",
        "limits: {max_concurrent_extracts: 1}",
        "schedule: {every: 1h, max_window: 1h, catch_up_limit: 24}",
        "tables:",
    ]
    for table in TABLES:
        lines += [
            f"  {table}:",
            f"    relation: public.{table}",
            "    columns:",
            "      id: {source_type: integer, type: int32, nullable: false, mask: keep}",
            "    key: [id]",
            "    cursor: none",
            "    publish: {mode: replace, target: both}",
        ]
    return "\n".join(lines) + "\n"


@contextmanager
def bad_sources(fleet: SmallFleet, relays: Relays) -> Iterator[None]:
    """
    Plan batches of sources that answered the planner, and go bad before any worker reads them.

    After the block they answer again.
    """
    with ExitStack() as cure:
        planner = Fleet.connect(FleetSettings())
        for name, how in BAD.items():
            reference = f"secretsmanager:esclusa/{name}#dsn"
            direct = conninfo_to_dict(planner.secrets.resolve(reference))  # which the planner remembers
            port = relays.open(int(str(direct["port"])), dependency=name)
            behind_relay = make_conninfo(**{**direct, "host": "127.0.0.1", "port": port})  # type: ignore[arg-type]
            fleet.put_secret(f"esclusa/{name}", {"dsn": behind_relay})
            cure.enter_context(relays.away(name, how))
        chosen = [source for source in fleet.catalog_sources() if source.name in BAD]
        outcomes = enqueue(chosen, fleet=planner)
        assert [outcome.error for outcome in outcomes] == [None, None]
        yield


def test_a_mute_and_a_failing_source_delay_no_other_and_recover_by_themselves(fleet: SmallFleet) -> None:
    with ExitStack() as stack:
        for name in BAD:
            stack.enter_context(fleet.own_source(name, SCHEMA))
            fleet.write_source(name, source_file(name))
        fleet.up()
        relays = stack.enter_context(Relays().running())
        with bad_sources(fleet, relays):
            until(lambda: attempts_of(fleet, "mute"), what="the mute source to hold a worker")
            fleet.shop("UPDATE orders SET updated_at = now(), item_count = 9 WHERE order_id <= 200")

            move_shop(fleet)
            guards = until(lambda: opened(fleet), what="both breakers to open")

            bad = fleet.batches(source="mute") + fleet.batches(source="gone")
            assert {batch.state for batch in bad} <= {BatchState.PLANNED, BatchState.EXTRACTING}
            fleet.assert_all_equal("shop")
        for name in BAD:
            for batch in fleet.batches(source=name):
                fleet.wait_for_state(batch.id, BatchState.PUBLISHED)

        assert [guard.limits.max_concurrent_extracts for guard in guards] == [1, 1]
        for name in BAD:
            assert not overlapping(attempts_of(fleet, name))
            assert [fleet.warehouse(f"SELECT count(*) FROM {name}.{table}") for table in TABLES] == [
                [(50,)]
            ] * len(TABLES)


def move_shop(fleet: SmallFleet) -> None:
    """Plan what is in the shop now, and wait until all of it is published."""
    with psycopg.connect(fleet.stack.control_dsn) as connection:
        (moment,) = connection.execute("SELECT now()").fetchone() or (None,)
    tables = [
        contract.table
        for source in fleet.catalog_sources()
        if source.name == "shop"
        for contract in source.contracts()
    ]

    def planned_beyond() -> bool:
        fleet.enqueue("shop")
        with fleet.fleet.ledger.transaction() as tx:
            marks = [tx.watermark("shop", table) for table in tables]
        return all(mark is not None and mark > moment for mark in marks)

    def published() -> bool:
        return all(batch.state is BatchState.PUBLISHED for batch in fleet.batches(source="shop"))

    until(planned_beyond, what="the shop to be planned", pause=0.5)
    until(published, what="the shop to be published while other sources are bad")


def opened(fleet: SmallFleet) -> list[SourceGuard]:
    """Return the guards of the bad sources, once all their breakers opened."""
    with fleet.fleet.ledger.transaction() as tx:
        guards = [guard for guard in tx.source_guards() if guard.source in BAD]
    has_opened = all(guard.failures_in_a_row >= FAILURES_THAT_OPEN and guard.open_until for guard in guards)
    return guards if len(guards) == len(BAD) and has_opened else []


def attempts_of(fleet: SmallFleet, source: str) -> list[Attempt]:
    """Return the extract attempts of a source, in the order of their beginning."""
    with fleet.fleet.ledger.transaction() as tx:
        found = [attempt for batch in tx.batches(source=source) for attempt in tx.attempts(batch.id)]
    extracts = [attempt for attempt in found if attempt.stage is Stage.EXTRACT]
    return sorted(extracts, key=lambda attempt: attempt.claimed_at)


def overlapping(attempts: Sequence[Attempt]) -> list[tuple[Attempt, Attempt]]:
    """Return attempts that began before the one before them ended."""
    return [
        (one, next_one)
        for one, next_one in pairwise(attempts)
        if one.ended_at is None or next_one.claimed_at < one.ended_at
    ]
