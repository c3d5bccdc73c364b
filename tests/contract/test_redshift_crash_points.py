"""
Every call that a load of Redshift makes is hit in every mode, and the next attempt brings the table to where it belongs.

What leaves the publisher on its way to Redshift: calls of the Data API, and of the buckets. The modes are those of the simulation
(support/simulation/effects.py), whose warehouse is one in memory; here the statements are executed, by PostgreSQL.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from support.publish_batches import APPEND, MERGE, REPLACE, Published, Row, at, column, contract_of
from support.redshift_server import FakeDataClient, redshift_stand_in, redshift_warehouse
from support.simulation.effects import FAULTS, Fault, Killed

from services.publisher.redshift.target import target_of_load
from services.publisher.warehouse import Rebuild
from shared.domain.contracts import Column, DeleteMode, Deletes, TableContract
from shared.errors import LostLease, Unavailable
from shared.measures import ColumnMeasure
from shared.object_store.memory import MemoryObjectStore

pytestmark = pytest.mark.timeout(300)

ANNA, BERT, ANNE, CLARA = (1, "Anna", at(1)), (2, "Bert", at(2)), (1, "Anne", at(16)), (3, "Clara", at(17))

CALLS = (
    "execute_statement",
    "batch_execute_statement",
    "describe_statement",
    "get_statement_result",
    "cancel_statement",
)
ASKED_OF_BUCKETS = ("put", "head", "sha256", "read", "open")

#: To die before or after one of these is to die after the last, or before the next, that changes something.
QUESTIONS = frozenset({"describe_statement", "get_statement_result", "head", "sha256", "read", "open"})
FAULTS_OF_QUESTIONS = (Fault.REFUSED, Fault.REPLY_LOST, Fault.STALL)


# ---- what is hit -------------------------------------------------------------------------------------------


@dataclass
class Border:
    """Everything passes here that leaves the publisher; one of it is hit."""

    index: int | None = None
    fault: Fault = Fault.NONE
    #: What others do while the publisher stands still.
    meanwhile: Callable[[], object] = lambda: None
    passed: list[str] = field(default_factory=list)

    def passing(self, name: str, do: Callable[..., Any], no_answer: Exception) -> Callable[..., Any]:
        def pass_(*arguments: Any, **named: Any) -> Any:
            self.passed.append(name)
            fault = self.fault if self.index == len(self.passed) - 1 else Fault.NONE
            if fault is Fault.KILL_BEFORE:
                raise Killed
            if fault is Fault.REFUSED:
                raise no_answer
            if fault is Fault.STALL:
                self.meanwhile()
            done = do(*arguments, **named)
            if fault is Fault.KILL_AFTER:
                raise Killed
            if fault is Fault.REPLY_LOST:
                raise no_answer
            return do(*arguments, **named) if fault is Fault.DUPLICATE else done

        return pass_


class Hit:
    """An object of whose methods some pass the border."""

    def __init__(self, inner: Any, names: Sequence[str], border: Border, no_answer: Exception) -> None:
        self._inner = inner
        for name in names:
            setattr(self, name, border.passing(name, getattr(inner, name), no_answer))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


THROTTLED = ClientError({"Error": {"Code": "ThrottlingException", "Message": "slow down"}}, "a call")


def hit_warehouse(client: FakeDataClient, border: Border) -> Any:
    lost = (
        THROTTLED
        if border.fault is Fault.REFUSED
        else EndpointConnectionError(endpoint_url="https://redshift-data")
    )
    data_api = Hit(client, CALLS, border, lost)
    store = Hit(client.store, ASKED_OF_BUCKETS, border, Unavailable("the bucket does not answer"))
    return redshift_warehouse(data_api, store)  # type: ignore[arg-type]


# ---- what is on its way ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Journey:
    """What was there before, what is done by each attempt in turn, and what is there at its end."""

    before: Callable[[Published], object]
    #: Make what an attempt of that number does with a warehouse; done again it tells that it was done before.
    attempt: Callable[[Published, int], Callable[[Any], Any]]
    after: Sequence[Row]
    #: The columns of a batch's contract, for its markers to be found.
    contract: TableContract = MERGE
    #: Of one batch: a replay leaves those of its loads before.
    most_markers: int = 1


def load_of(rows: Sequence[Row], contract: TableContract, **named: Any) -> Callable[..., Any]:
    def attempt(published: Published, number: int) -> Callable[[Any], Any]:
        load = published.batch(rows, contract, attempt=number, **named)
        return lambda warehouse: warehouse.load(load)

    return attempt


def nothing(_: Published) -> None:
    pass


def loaded(*rows: Row, contract: TableContract) -> Callable[[Published], object]:
    return lambda published: published.load(list(rows), contract, quarter=1)


def sweep_of(published: Published, number: int) -> Callable[[Any], Any]:
    keys = contract_of(Column("id", MERGE.columns[0].type, mask=MERGE.columns[0].mask), cursor=None)
    load = published.batch([(ANNA[0],)], keys, quarter=2, attempt=number)
    sweep = replace(load, batch_id="b5wee9", slot=f"keys {load.slot}", same_key_versions=(1,))
    return lambda warehouse: warehouse.prune(sweep)


def replay_of_an_append(published: Published, number: int) -> Callable[[Any], Any]:
    return load_of([ANNA, CLARA], APPEND, process_attempt=2)(published, number + 1)


def rebuild_of(published: Published, _: int) -> Callable[[Any], Any]:
    first = published.batch([ANNA, BERT], quarter=1)
    second = published.batch([ANNE, CLARA], quarter=2)
    rebuild = Rebuild("r1", (first,), (second.batch_id,), is_held=True)
    return lambda warehouse: warehouse.rebuild(rebuild)


def two_batches(published: Published) -> None:
    published.load([ANNA, BERT], quarter=1)
    published.load([ANNE, CLARA], quarter=2)


SWEPT = replace(MERGE, deletes=Deletes(DeleteMode.SWEEP, max_rows=2, max_ratio=1.0))
#: Of more bytes than the table's VARCHAR was made for.
LONG = (3, "Clara " * 100, at(17), "")
MORE = contract_of(*MERGE.columns, column("note"))

JOURNEYS = {
    "first append": Journey(nothing, load_of([ANNA, BERT], APPEND), [ANNA, BERT], APPEND),
    "first merge": Journey(nothing, load_of([ANNA, BERT], MERGE), [ANNA, BERT]),
    "first snapshot": Journey(nothing, load_of([ANNA, BERT], REPLACE), [ANNA, BERT], REPLACE),
    "append": Journey(
        loaded(ANNA, BERT, contract=APPEND),
        load_of([ANNE, CLARA], APPEND, quarter=2),
        [ANNA, ANNE, BERT, CLARA],
        APPEND,
    ),
    "merge": Journey(
        loaded(ANNA, BERT, contract=MERGE), load_of([ANNE, CLARA], MERGE, quarter=2), [ANNE, BERT, CLARA]
    ),
    "snapshot": Journey(
        loaded(ANNA, BERT, contract=REPLACE), load_of([ANNE], REPLACE, quarter=2), [ANNE], REPLACE
    ),
    "replay of an append": Journey(
        loaded(ANNA, BERT, contract=APPEND), replay_of_an_append, [ANNA, CLARA], APPEND, most_markers=2
    ),
    "another contract": Journey(
        loaded(ANNA, BERT, contract=MERGE),
        load_of([(*ANNE, "new"), LONG], MORE, quarter=2, version=2),
        [(*ANNE, "new"), (*BERT, None), LONG],
        MORE,
    ),
    "key sweep": Journey(loaded(ANNA, BERT, contract=SWEPT), sweep_of, [ANNA], SWEPT),
    "rebuild": Journey(two_batches, rebuild_of, [ANNA, BERT]),
}


# ---- how it ends -------------------------------------------------------------------------------------------


def marker_counts(published: Published, contract: TableContract) -> list[int]:
    """How many markers each batch has."""
    load = published.batch([], contract, quarter=9)
    target = target_of_load(load, [ColumnMeasure()] * len(contract.output_columns))
    query = f"SELECT count(*) FROM {target.loads} GROUP BY batch_id"
    with published.connect() as connection:
        return [count for (count,) in connection.execute(query.encode())]


def scratch_tables(published: Published) -> list[tuple[str, ...]]:
    with published.connect() as connection:
        return connection.execute(
            "SELECT relname FROM pg_class WHERE relname ~ '^_esclusa_rebuild_'"
        ).fetchall()


def calls_of(journey: Journey, dsn: str) -> list[str]:
    """What passes the border on a journey that nothing happens to."""
    border = Border()
    with redshift_stand_in(dsn, MemoryObjectStore()) as client:
        published = Published(redshift_warehouse(client, client.store), client.store, dsn, is_redshift=True)
        journey.before(published)
        journey.attempt(published, 1)(hit_warehouse(client, border))
        assert published.rows() == sorted(journey.after, key=repr)
    return border.passed


def try_one(journey: Journey, dsn: str, index: int, fault: Fault) -> None:
    with redshift_stand_in(dsn, MemoryObjectStore()) as client:
        published = Published(redshift_warehouse(client, client.store), client.store, dsn, is_redshift=True)
        journey.before(published)
        border = Border(index, fault, meanwhile=lambda: journey.attempt(published, 2)(published.warehouse))
        hit = journey.attempt(published, 1)
        # Who only stood still finds his own way, without a next attempt.
        gives_up = (LostLease,) if fault is Fault.STALL else (Killed, Unavailable)
        with suppress(*gives_up):
            hit(hit_warehouse(client, border))
        if fault is Fault.STALL:
            assert scratch_tables(published) == []
        assert len(border.passed) > index

        journey.attempt(published, 3)(published.warehouse)
        again = journey.attempt(published, 4)(published.warehouse)

        assert published.rows() == sorted(journey.after, key=repr)
        assert getattr(again, "was_loaded_before", None) or getattr(again, "was_done_before", None)
        assert max(marker_counts(published, journey.contract)) == journey.most_markers
        assert scratch_tables(published) == []


@pytest.mark.parametrize("name", JOURNEYS)
def test_whatever_call_is_hit_the_next_attempt_ends_with_each_row_once(
    name: str, redshift_database: str
) -> None:
    journey = JOURNEYS[name]
    calls = calls_of(journey, redshift_database)
    for index, call in enumerate(calls):
        for fault in FAULTS_OF_QUESTIONS if call in QUESTIONS else FAULTS:
            try:
                try_one(journey, redshift_database, index, fault)
            except BaseException as error:
                error.add_note(f"call {index} of {len(calls)} ({call}), {fault}")
                raise
