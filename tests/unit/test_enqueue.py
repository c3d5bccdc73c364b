"""Enqueueing several sources: each for itself, side by side."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.extractor import enqueue as story
from services.extractor import scouting
from shared.catalog import Source, load_sources
from shared.errors import Unavailable
from shared.ledger.memory import MemoryLedger
from shared.queues.memory import MemoryQueues

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def sources() -> tuple[Source, ...]:
    return load_sources(Path("sources")).sources


@pytest.fixture
def fleet() -> Any:
    settings = SimpleNamespace(bucket=lambda source: f"esclusa-{source}")
    return SimpleNamespace(
        ledger=MemoryLedger(lambda: NOON), sender=MemoryQueues(), secrets=None, settings=settings
    )


def readers_whose_clock(tell: Any) -> Any:
    """Return a stand-in for `open_reader`: `tell(source)` is asked for the source's clock."""

    @contextmanager
    def open_reader(contract: Any, *, secrets: Any, limits: Any) -> Iterator[Any]:
        yield SimpleNamespace(
            clock=lambda: tell(contract.source), open_since=lambda: None, cursor_bounds=lambda _: None
        )

    return open_reader


@pytest.mark.parametrize("error", [Unavailable("away"), ZeroDivisionError("a driver's defect")])
def test_a_source_that_fails_holds_up_none_of_the_others(
    error: Exception, sources: tuple[Source, ...], fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(source: str) -> datetime:
        if source == "crm":
            raise error
        return NOON

    monkeypatch.setattr(scouting, "open_reader", readers_whose_clock(tell))

    outcomes = {outcome.source: outcome for outcome in story.enqueue(sources, fleet=fleet)}

    assert outcomes["shop"].planned_count == 4
    assert outcomes["crm"].planned_count == 0
    assert "crm" in str(outcomes["crm"].error) or str(outcomes["crm"].error) == "away"


@pytest.mark.timeout(20)
def test_sources_are_asked_side_by_side(
    sources: tuple[Source, ...], fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both_are_asked = threading.Barrier(2, timeout=10)

    def tell(_: str) -> datetime:
        both_are_asked.wait()
        return NOON

    monkeypatch.setattr(scouting, "open_reader", readers_whose_clock(tell))

    outcomes = story.enqueue(sources, fleet=fleet)

    assert [outcome.error for outcome in outcomes] == [None, None]


def test_a_source_that_never_answers_is_expected_all_the_same(
    sources: tuple[Source, ...], fleet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(_: str) -> datetime:
        raise Unavailable("away")

    monkeypatch.setattr(scouting, "open_reader", readers_whose_clock(tell))

    story.enqueue(sources, fleet=fleet)

    with fleet.ledger.transaction() as tx:
        expected = {(item.source, item.table): item.expected_by for item in tx.expectations()}
        places = {guard.source: guard.limits.max_concurrent_extracts for guard in tx.source_guards()}
    assert expected == {
        (source.name, table): patience for source in sources for table, patience in source.expected_by.items()
    }
    assert places == {"crm": 2, "shop": 4}
