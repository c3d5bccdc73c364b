"""What `esclusa check` looks at, one thing after the other. What fails keeps nothing else from being looked at."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cli.context import Connections
from shared.domain.contracts import SourceKind
from shared.errors import ConfigurationError, EsclusaError
from shared.ports import QueueName
from shared.visits import SourceBusy, visiting

if TYPE_CHECKING:
    from services.extractor.readers import SourceReader
    from shared.catalog import Catalog, Source
    from shared.fleet import Fleet
    from shared.ports import Ledger, QueueInspector, SecretStore

QUERY_SECONDS = 10.0


class Verdict(StrEnum):
    """What a look came to."""

    OK = "ok"
    #: Allowed, and perhaps not meant.
    WARNING = "warning"
    FAILED = "failed"
    #: Nothing was looked at: there is nothing, or it cannot be looked at without leaving something behind.
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at."""

    #: `file`, `secret`, `table`, `settings`, `ledger`, `bucket`, `queue` or `warehouse`.
    kind: str
    subject: str
    verdict: Verdict
    detail: str = ""


def run_checks(directory: Path, *, only: str | None, connections: Connections) -> Iterator[Check]:
    """
    Look at files, secrets, sources, ledger, buckets, queues and warehouse, of one source or of all.

    Raises:
        ConfigurationError: if there is no file of the source asked for.
    """
    from shared.catalog import read_sources

    catalog = read_sources(directory)
    sources = _chosen(catalog, only)
    yield from _check_files(catalog, sources, only=only)
    try:
        fleet = connections.fleet()
    except EsclusaError as error:
        yield Check("settings", "fleet", Verdict.FAILED, str(error))
        yield from _check_sources(sources, connections.secrets(), ledger=None)
        return
    yield from _check_sources(sources, fleet.secrets, ledger=fleet.ledger)
    yield _tried("ledger", "control database", partial(ledger_revision, fleet))
    for source in sources:
        bucket = fleet.settings.bucket(source.name)
        yield _tried("bucket", bucket, partial(_look_into_bucket, fleet, bucket))
    yield from _check_queues(fleet, connections)
    yield _tried("warehouse", "warehouse", partial(ask_warehouse, fleet, connections))


def _chosen(catalog: "Catalog", only: str | None) -> Sequence["Source"]:
    if only is None:
        return catalog.sources
    if any(Path(problem.file).stem == only for problem in catalog.problems):
        return ()
    return [catalog.source(only)]


def _check_files(catalog: "Catalog", sources: Sequence["Source"], *, only: str | None) -> Iterator[Check]:
    for source in sources:
        yield Check("file", str(source.file), Verdict.OK, f"{len(source.tables)} tables")
    for verdict, problems in ((Verdict.WARNING, catalog.warnings), (Verdict.FAILED, catalog.problems)):
        for problem in problems:
            if only in {None, Path(problem.file).stem}:
                where = f"{problem.file}:{problem.line}" if problem.line else problem.file
                yield Check("file", where, verdict, str(problem).removeprefix(where).lstrip(": "))


def _check_sources(
    sources: Sequence["Source"], secrets: "SecretStore", *, ledger: "Ledger | None"
) -> Iterator[Check]:
    references = dict.fromkeys(reference for source in sources for reference in source.references())
    for reference in references:
        yield _tried("secret", reference, partial(_resolve, secrets, reference))
    for source in sources:
        with ExitStack() as visit:
            try:
                if ledger is not None:
                    visit.enter_context(
                        visiting(
                            source.name, who="check", ledger=ledger, connection_count=2, may_go_uncounted=True
                        )
                    )
            except SourceBusy as error:
                yield Check("table", source.name, Verdict.FAILED, str(error))
                continue
            yield from _check_tables(source, secrets)


def _resolve(secrets: "SecretStore", reference: str) -> str:
    secrets.resolve(reference)
    return ""


def _check_tables(source: "Source", secrets: "SecretStore") -> Iterator[Check]:
    from services.extractor.readers import open_reader

    for contract in source.contracts():
        with open_reader(contract, secrets=secrets) as reader:
            for finding in reader.check():
                verdict = Verdict.OK if finding.is_ok else Verdict.FAILED
                yield Check("table", finding.subject, verdict, finding.detail)
            most = source.limits.max_rows_of_a_batch
            # A REST source could only be counted by reading all of it.
            is_counted = contract.cursor is None and source.kind is not SourceKind.REST
            if is_counted and most is not None:
                subject = f"{contract.source}.{contract.table}"
                yield _tried("pace", subject, partial(_fits_into_a_batch, reader, most))


def _fits_into_a_batch(reader: "SourceReader", most: int) -> str:
    """Count a table that is read whole each time: at the pace of its source it may never be done."""
    row_count = reader.count_rows()
    if row_count > most:
        raise ConfigurationError(
            f"expected at most {most} rows, all that limits.rows_per_second lets a batch read by limits.deadline, found "
            f"{row_count}: no snapshot of it could ever be read. Raise them, or give the table a cursor"
        )
    return f"{row_count} rows of {most} that a batch can read in time"


def ledger_revision(fleet: "Fleet") -> str:
    """Return what revision the ledger's tables have, and what to know of it."""
    from infra.migrations import POST, PRE, current, newest, pending
    from shared.ledger.postgres import PostgresLedger

    dsn = fleet.secrets.resolve(fleet.settings.ledger_dsn)
    ledger = PostgresLedger(dsn)
    # Its first transaction refuses tables that do not fit.
    with closing(ledger), ledger.transaction():
        found, expected = current(dsn, PRE), newest(PRE)
    remarks = [f"revision {found}"]
    if found != expected:
        remarks.append(f"newer than this version of Esclusa, which needs {expected}")
    if left := pending(dsn, POST):
        remarks.append(
            f"{len(left)} removals wait for `esclusa migrate --phase post`, once no older version runs"
        )
    return "; ".join(remarks)


def _look_into_bucket(fleet: "Fleet", bucket: str) -> str:
    next(iter(fleet.store.list(bucket, "tmp/")), None)
    return ""


def _check_queues(fleet: "Fleet", connections: Connections) -> Iterator[Check]:
    inspector = connections.queues(fleet)
    for queue in QueueName:
        yield _tried("queue", queue, partial(_look_into_queue, inspector, queue))


def _look_into_queue(inspector: "QueueInspector", queue: QueueName) -> str:
    inspector.depth(queue)
    dead = inspector.depth(queue, dead_letters=True)
    return f"{dead.visible} dead letters" if dead.visible else ""


def ask_warehouse(fleet: "Fleet", connections: Connections) -> str:
    """Ask the warehouse for anything."""
    connections.warehouse(fleet).query("SELECT 1", row_limit=1, timeout_seconds=QUERY_SECONDS)
    return ""


def _tried(kind: str, subject: str, look: Callable[[], str]) -> Check:
    try:
        return Check(kind, subject, Verdict.OK, look())
    except EsclusaError as error:
        # The subject stands before it already.
        return Check(kind, subject, Verdict.FAILED, str(error).removeprefix(f"{subject}: "))
