"""
`make demo`: the main job from end to end on one machine, with the proof that nothing is missing.

Brings the fleet up, plans what is due at the sample shop and the sample CRM, lets the shop change while workers
and Lambdas are at work, restarts whatever dies meanwhile, and compares source and warehouse row by row.
Run again it is incremental. Sources that somebody added beside the samples are provisioned, and left alone.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from local.fleet import Running, dead_processes, start_beside, up
from local.processes import PYTHON, Home, ProcessSpec, living_processes, supervise
from local.proof import Comparison, compare
from local.shop import DSN_VARIABLE
from services.extractor.enqueue import enqueue
from services.publisher.app import connect_warehouse
from shared.catalog import Catalog, Source, load_sources
from shared.domain.batches import HELD_STATES, STATES_AT_REST, Batch, BatchState
from shared.domain.contracts import TableContract
from shared.domain.counts import Count
from shared.errors import ConfigurationError, EsclusaError, Unavailable
from shared.fleet import Fleet
from shared.settings import FleetSettings
from shared.telemetry.logs import configure_logging

#: What the demo moves. For other sources it knows no truth to compare with, and would wait for their schedules.
SAMPLE_SOURCES = ("crm", "shop")
WRITER = "shop-writer"
WRITER_SECONDS = 15.0
ENQUEUE_EVERY_SECONDS = 5.0
LOOK_EVERY_SECONDS = 0.5
_WIDTH_OF_LOGS = 150

#: What an analyst would ask: two sources, joined by a pseudonym. No address is in either table.
QUESTION = """\
SELECT contacts.country, count(DISTINCT contacts.id) AS contacts, count(*) AS orders,
       sum(orders.total_amount) AS turnover
FROM crm.contacts
JOIN shop.customers ON customers.email = contacts.email
JOIN shop.orders ON orders.customer_id = customers.customer_id
WHERE orders.currency = 'EUR'
GROUP BY contacts.country ORDER BY turnover DESC"""


@dataclass(frozen=True, slots=True)
class TableSummary:
    """What a run did with a table, and what the comparison found."""

    contract: TableContract
    batches: tuple[Batch, ...]
    comparison: Comparison
    seconds: float

    def total(self, count: Count) -> int:
        """Add up a count over the batches of the run."""
        return sum(batch.counts.get(count, 0) for batch in self.batches)

    @property
    def held(self) -> tuple[Batch, ...]:
        """The batches that need a person."""
        return tuple(batch for batch in self.batches if batch.state in HELD_STATES)

    @property
    def is_sound(self) -> bool:
        """Whether every count agrees."""
        published = [batch for batch in self.batches if batch.state is BatchState.PUBLISHED]
        staged = sum(batch.counts.get(Count.ROWS_STAGED, 0) for batch in published)
        in_final = sum(batch.counts.get(Count.ROWS_IN_FINAL, 0) for batch in published)
        return (
            not self.held
            and self.comparison.is_equal
            and self.total(Count.ROWS_REJECTED) == 0
            and staged == in_final
            and self.total(Count.ROWS_READ)
            == self.total(Count.ROWS_WRITTEN) + self.total(Count.ROWS_OUTSIDE_WINDOW)
            and self.total(Count.ROWS_WRITTEN)
            == self.total(Count.ROWS_IN_FINAL) + self.total(Count.ROWS_DEDUPLICATED)
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the demo and return its exit code.

    0 if every count agrees, 1 if not, 2 if a file or setting is wrong, 3 if a part is away, 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(prog="python -m local.demo", description=__doc__)
    parser.add_argument("--sources", type=Path, default=Path("sources"))
    parser.add_argument(
        "--seconds", type=float, default=240.0, help="the most that batches may take to arrive"
    )
    chosen = parser.parse_args(arguments)
    console = Console()
    if not console.is_terminal:
        # Logs of CI are as wide as they need to be.
        console = Console(width=_WIDTH_OF_LOGS)
    configure_logging("demo", level="CRITICAL")
    try:
        return run_demo(console, Home.find(), chosen.sources, limit_seconds=chosen.seconds)
    except KeyboardInterrupt:
        console.print(
            "interrupted; what was started runs on: `make demo` goes on with it, `make down` stops it"
        )
        return 130
    except Unavailable as error:
        console.print(f"[red]unavailable:[/] {escape(str(error))}", highlight=False)
        return 3
    except EsclusaError as error:
        console.print(f"[red]error:[/] {escape(str(error))}", highlight=False)
        return 2


def run_demo(console: Console, home: Home, sources_directory: Path, *, limit_seconds: float) -> int:
    """Bring the fleet up, move what is due, and prove it."""
    began = time.monotonic()
    with console.status("starting") as status:
        running = up(home, sources_directory, on_step=status.update)
    console.print(f"fleet up after {time.monotonic() - began:.0f} s, state in {home.path}", highlight=False)
    os.environ.update(running.environment)
    fleet = Fleet.connect(FleetSettings())
    samples = sample_sources(load_sources(sources_directory))
    known = _batch_ids(fleet)
    _start_writer(home, running)
    mover = Mover(console, home, sources_directory, fleet, samples, known)
    mover.move_while_the_shop_changes()
    mover.move_the_rest(deadline=time.monotonic() + limit_seconds)
    contracts = [contract for source in samples for contract in source.contracts()]
    summaries = _summarise(contracts, fleet=fleet, running=running, known=known)
    _print_summaries(console, summaries, fleet)
    console.print(f"[bold]{time.monotonic() - began:.0f} s in all[/]", highlight=False)
    return 0 if all(summary.is_sound for summary in summaries) else 1


def sample_sources(catalog: Catalog) -> list[Source]:
    """
    Return the samples of a catalog.

    Raises:
        ConfigurationError: if one of them is not declared any more.
    """
    return [catalog.source(name) for name in SAMPLE_SOURCES]


def _batch_ids(fleet: Fleet) -> set[str]:
    with fleet.ledger.transaction() as tx:
        return {batch.id for batch in tx.batches()}


def _start_writer(home: Home, running: Running) -> None:
    seed = int(time.time())
    spec = ProcessSpec(
        name=WRITER,
        command=[
            PYTHON,
            "-m",
            "local.shop",
            "writer",
            "--seconds",
            str(WRITER_SECONDS),
            "--seed",
            str(seed),
        ],
        environment={DSN_VARIABLE: running.stack.shop_owner_dsn},
    )
    with supervise(home, purpose="demo") as supervisor:
        start_beside(supervisor, spec)


class Mover:
    """Plans again and again, shows how far batches are, and restarts what died."""

    def __init__(
        self,
        console: Console,
        home: Home,
        sources_directory: Path,
        fleet: Fleet,
        sources: Sequence[Source],
        known: set[str],
    ) -> None:
        self._console = console
        self._home = home
        self._sources_directory = sources_directory
        self._fleet = fleet
        self._sources = sources
        self._known = known

    def move_while_the_shop_changes(self) -> None:
        """Plan every few seconds until the writer has ended and what it wrote last is due."""
        slowest = max(
            contract.schedule.every + contract.cursor.lag
            for source in self._sources
            for contract in source.contracts()
            if contract.cursor
        )
        settled_at: float | None = None
        with self._shown() as show:
            while settled_at is None or time.monotonic() < settled_at:
                if settled_at is None and WRITER not in living_processes(self._home):
                    settled_at = time.monotonic() + slowest.total_seconds()
                self._enqueue()
                self._wait(ENQUEUE_EVERY_SECONDS, show)
            self._enqueue()

    def move_the_rest(self, *, deadline: float) -> None:
        """
        Wait until every batch is at rest.

        Raises:
            Unavailable: if some are still on their way at the deadline.
        """
        with self._shown() as show:
            # A snapshot is not planned while an earlier one is on its way: one more, of the settled shop.
            for _ in range(2):
                self._wait_for_open_batches(show, deadline=deadline)
                self._enqueue()
            self._wait_for_open_batches(show, deadline=deadline)

    def _wait_for_open_batches(self, show: Live, *, deadline: float) -> None:
        while self._has_open_batches():
            if time.monotonic() > deadline:
                raise Unavailable(
                    "batches are still on their way; `esclusa status` and the logs say where they stand"
                )
            self._wait(LOOK_EVERY_SECONDS, show)

    def _enqueue(self) -> None:
        # Whoever is away now is asked again in a few seconds.
        enqueue(self._sources, fleet=self._fleet)

    def _wait(self, seconds: float, show: Live) -> None:
        until = time.monotonic() + seconds
        while (rest := until - time.monotonic()) > 0:
            self._restart_the_dead()
            with suppress(Unavailable):
                show.update(self._progress())
            time.sleep(min(rest, LOOK_EVERY_SECONDS))

    def _restart_the_dead(self) -> None:
        if dead := dead_processes(self._home):
            self._console.print(f"[yellow]restarting {', '.join(sorted(dead))}[/]")
            try:
                up(self._home, self._sources_directory)
            except (Unavailable, ConfigurationError) as error:
                # A process that is still dying, or somebody who restarts it as well: again at the next look.
                self._console.print(f"[yellow]not yet: {escape(str(error))}[/]", highlight=False)

    def _has_open_batches(self) -> bool:
        """Whether any batch is on its way. While the ledger is away some may be."""
        with suppress(Unavailable), self._fleet.ledger.transaction() as tx:
            on_their_way = frozenset(BatchState) - STATES_AT_REST
            return any(
                tx.batches(source=source.name, states=on_their_way, limit=1) for source in self._sources
            )
        return True

    @contextmanager
    def _shown(self) -> Iterator[Live]:
        with Live(console=self._console, transient=True, auto_refresh=True) as live:
            yield live

    def _progress(self) -> Table:
        table = Table(
            "table", "planned", "extract", "gates", "process", "publish", "published", "held", box=None
        )
        with self._fleet.ledger.transaction() as tx:
            batches = [
                batch
                for source in self._sources
                for batch in tx.batches(source=source.name)
                if batch.id not in self._known
            ]
        for name in sorted({(batch.source, batch.table) for batch in batches}):
            columns = dict.fromkeys(_COLUMNS, 0)
            for batch in batches:
                if (batch.source, batch.table) == name:
                    columns[_column_of(batch.state)] += 1
            table.add_row(".".join(name), *(str(count or "") for count in columns.values()))
        return table


_COLUMNS = ("planned", "extract", "gates", "process", "publish", "published", "held")


def _column_of(state: BatchState) -> str:
    match state:
        case BatchState.PLANNED:
            return "planned"
        case BatchState.EXTRACTING:
            return "extract"
        case BatchState.READY | BatchState.PROCESSING:
            return "process"
        case BatchState.COMMITTED | BatchState.PUBLISHING:
            return "publish"
        case BatchState.PUBLISHED | BatchState.SUPERSEDED:
            return "published"
        case BatchState.QUARANTINED | BatchState.FAILED:
            return "held"
        case _:
            return "gates"


# ---- the proof ------------------------------------------------------------------------------------------------


def _summarise(
    contracts: Sequence[TableContract], *, fleet: Fleet, running: Running, known: set[str]
) -> list[TableSummary]:
    summaries = []
    for contract in contracts:
        with fleet.ledger.transaction() as tx:
            batches = [
                batch
                for batch in tx.batches(source=contract.source, table=contract.table)
                if batch.id not in known
            ]
            planned_until = tx.watermark(contract.source, contract.table)
        if planned_until is None:
            raise Unavailable(f"{contract.source}.{contract.table} was never planned")
        comparison = compare(contract, stack=running.stack, planned_until=planned_until)
        summaries.append(TableSummary(contract, tuple(batches), comparison, _seconds(batches)))
    return summaries


def _seconds(batches: Sequence[Batch]) -> float:
    if not batches:
        return 0.0
    first: datetime = min(batch.planned_at for batch in batches)
    return (max(batch.changed_at for batch in batches) - first).total_seconds()


def _print_summaries(console: Console, summaries: Sequence[TableSummary], fleet: Fleet) -> None:
    console.print(summary_table(summaries))
    for summary in summaries:
        _print_trouble(console, summary)
    _print_question(console, fleet)


def summary_table(summaries: Sequence[TableSummary]) -> Table:
    """Show what a run did, one column per table of a source: so it fits a terminal of 80 columns."""
    table = Table(
        "",
        # Names are broken behind the source, so that numbers decide how wide a column is.
        *(
            Column(f"{summary.contract.source}.\n{summary.contract.table}", justify="right", no_wrap=True)
            for summary in summaries
        ),
        title="What this run moved, and what source and warehouse hold now",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    shown: dict[str, Callable[[TableSummary], str]] = {
        "batches": lambda summary: f"{len(summary.batches):,}",
        "rows read": lambda summary: f"{summary.total(Count.ROWS_READ):,}",
        "rows in CSV": lambda summary: f"{summary.total(Count.ROWS_WRITTEN):,}",
        "rows in Parquet": lambda summary: f"{summary.total(Count.ROWS_IN_FINAL):,}",
        "doubles": lambda summary: f"{summary.total(Count.ROWS_DEDUPLICATED):,}",
        "rejected": lambda summary: f"{summary.total(Count.ROWS_REJECTED):,}",
        "due at source": lambda summary: f"{summary.comparison.source_row_count:,}",
        "in warehouse": lambda summary: f"{summary.comparison.warehouse_row_count:,}",
        "dropped columns": lambda summary: str(sum(not item.leaves for item in summary.contract.columns)),
        "masked columns": lambda summary: str(
            sum(item.mask.changes_values for item in summary.contract.columns)
        ),
        "seconds": lambda summary: f"{summary.seconds:.0f}",
        "verdict": lambda summary: "[green]equal[/]" if summary.is_sound else "[red]differs[/]",
    }
    for title, cell in shown.items():
        table.add_row(title, *(cell(summary) for summary in summaries))
    return table


def _print_trouble(console: Console, summary: TableSummary) -> None:
    name = f"{summary.contract.source}.{summary.contract.table}"
    for batch in summary.held:
        trouble = f"{name}: batch {batch.id} is {batch.state}: {batch.reason}: {batch.detail}"
        console.print(f"[red]{escape(trouble)}[/]")
    found = summary.comparison
    if not found.is_equal:
        console.print(
            f"[red]{name}: {found.missing_or_different} rows missing or different in the warehouse, "
            f"{found.unexpected} unexpected[/]"
        )


def _print_question(console: Console, fleet: Fleet) -> None:
    answer = connect_warehouse(fleet).query(QUESTION, row_limit=20, timeout_seconds=30)
    table = Table(
        *answer.columns, title="What an analyst asks of it: turnover with contacts of the CRM, by pseudonym"
    )
    for row in answer.rows:
        table.add_row(*(str(value) for value in row))
    console.print(QUESTION, highlight=False, style="dim")
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
