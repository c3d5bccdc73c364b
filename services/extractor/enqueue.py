"""Enqueueing: ask each source for its clock, plan what is due, send. What cron runs."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import structlog

from services.extractor.scouting import SourceScout
from shared.catalog import Source
from shared.errors import EsclusaError
from shared.fleet import Fleet
from shared.outbox import send_pending
from shared.planning import PlannedTable, plan_source, register_source
from shared.stage import describe
from shared.visits import visiting

log = structlog.get_logger()

MAX_SOURCES_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class EnqueuedSource:
    """What enqueueing a source came to."""

    source: str
    tables: tuple[PlannedTable, ...] = ()
    #: Why nothing, or not everything, could be planned. The other sources are not affected.
    error: EsclusaError | None = None

    @property
    def planned_count(self) -> int:
        """How many batches were planned."""
        return sum(len(table.planned) for table in self.tables)


def enqueue(sources: Iterable[Source], *, fleet: Fleet) -> list[EnqueuedSource]:
    """
    Plan and send what is due of each source.

    Sources are asked side by side: one that hangs until its timeout, or fails in a way nobody foresaw, holds up
    none of the others.
    """
    with ThreadPoolExecutor(MAX_SOURCES_AT_ONCE, thread_name_prefix="enqueue") as threads:
        outcomes = list(threads.map(partial(_enqueue_source, fleet=fleet), sources))
    send_pending(fleet.ledger, fleet.sender)
    return outcomes


def _enqueue_source(source: Source, *, fleet: Fleet) -> EnqueuedSource:
    contracts = source.contracts()
    try:
        register_source(
            contracts,
            expected_by=source.expected_by,
            limits=source.limits,
            ledger=fleet.ledger,
        )
        with (
            visiting(source.name, who="enqueue", ledger=fleet.ledger),
            SourceScout(contracts, secrets=fleet.secrets) as scout,
        ):
            planned = plan_source(
                contracts, ledger=fleet.ledger, scout=scout, bucket=fleet.settings.bucket(source.name)
            )
    except EsclusaError as error:
        log.warning("source_not_enqueued", source=source.name, error=str(error))
        return EnqueuedSource(source.name, error=error)
    except Exception as error:
        log.exception("source_not_enqueued", source=source.name)
        return EnqueuedSource(source.name, error=EsclusaError(f"source {source.name!r}: {describe(error)}"))
    errors = [table.error for table in planned if table.error is not None]
    return EnqueuedSource(source.name, tuple(planned), errors[0] if errors else None)
