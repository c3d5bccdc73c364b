"""What `esclusa doctor` looks at on this machine: settings, versions, disk, drivers."""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.checks import Verdict
from cli.context import settings_named
from cli.findings import READ_SOURCES, Finding, Patient, ok, skipped
from infra.plan import AUDITOR, UPKEEP, WORKER_QUEUES
from shared.celery_sqs.settings import WorkerSettings
from shared.ledger.postgres import LONGEST_ANSWER_SECONDS
from shared.ports import QueueName

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings


#: Free space of temporary files, by role. A processor lays down a batch as CSV and as Parquet.
GIB = 1024**3
NEEDED_DISK_BYTES: Mapping[str, int] = {"processor": 5 * GIB}
NEEDED_DISK_BYTES_OF_OTHERS = GIB // 4


def look_at_settings(patient: Patient) -> Finding:
    """Look at the settings of the role: whether any is missing, or contradicts another."""
    from services.extractor.settings import ExtractorSettings
    from services.processor.settings import ProcessorSettings
    from services.publisher.settings import PublisherSettings

    own: Mapping[str, Sequence[type[BaseSettings]]] = {
        "extractor": [ExtractorSettings],
        "processor": [ProcessorSettings],
        "publisher": [PublisherSettings],
        AUDITOR: [PublisherSettings],
        UPKEEP: [PublisherSettings],
    }
    fleet = patient.fleet.settings
    remarks: list[str] = []
    with settings_named():
        for model in own.get(patient.role, ()):
            model()
        if patient.role in WORKER_QUEUES:
            remarks = list(_doubtful_times(patient, WorkerSettings.beside(fleet)))
    without_url = [str(queue) for queue in QueueName if queue not in fleet.queue_urls]
    if without_url and "sqs:SendMessage" in patient.lines:
        return Finding(
            "settings",
            Verdict.FAILED,
            f"ESCLUSA_QUEUE_URLS lacks {', '.join(without_url)}",
            "name every queue: whoever commits sends whatever the outbox holds",
        )
    if remarks:
        return Finding("settings", Verdict.WARNING, "; ".join(remarks), "see docs/settings.md")
    return ok("settings", "none contradicts another")


def _doubtful_times(patient: Patient, worker: WorkerSettings) -> Iterator[str]:
    """Return what no process refuses, and works badly."""
    lease = patient.fleet.settings.claim_lease_seconds
    # A renewal that hangs, and the one after it, have to come before the lease is over.
    if not patient.is_local and lease / 3 <= LONGEST_ANSWER_SECONDS:
        yield (
            f"ESCLUSA_CLAIM_LEASE_SECONDS ({lease}): one renewal that the ledger leaves unanswered loses the lease; expected "
            f"more than three times the {LONGEST_ANSWER_SECONDS} seconds that an answer may take"
        )
    if patient.role == "extractor":
        for source in patient.catalog.sources:
            deadline = source.limits.deadline.total_seconds()
            if deadline >= worker.soft_time_limit_seconds:
                yield (
                    f"source {source.name}: its limits.deadline ({deadline:g} s) should be below "
                    f"ESCLUSA_SOFT_TIME_LIMIT_SECONDS ({worker.soft_time_limit_seconds})"
                )


def look_at_source_files(patient: Patient) -> Finding:
    """Say which sources are looked at: those whose files are sound."""
    catalog = patient.catalog
    if catalog.problems:
        files = sorted({Path(problem.file).name for problem in catalog.problems})
        return Finding(
            "source files",
            Verdict.WARNING,
            f"mistakes in {', '.join(files)}: what they name is not looked at",
            "`esclusa check` tells each by file and line",
        )
    if not catalog.sources:
        return skipped("source files", f"there is none in {catalog.directory}")
    return ok("source files", f"{len(catalog.sources)} sources")


def look_at_versions() -> Finding:
    """Compare the libraries that are pinned to a version with those that are installed."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    wrong, pinned = set(), set()
    for text in requires("esclusa") or ():
        requirement = Requirement(text)
        if not any(specifier.operator == "==" for specifier in requirement.specifier):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            continue  # of an extra that is not installed here
        pinned.add(requirement.name)
        if found not in requirement.specifier:
            wrong.add(f"{requirement.name} {found}, tested with {requirement.specifier}")
    python = ".".join(map(str, sys.version_info[:3]))
    if wrong:
        return Finding(
            "versions",
            Verdict.WARNING,
            "; ".join(sorted(wrong)),
            "install from requirements/*.txt: other versions were not tested",
        )
    return ok(
        "versions", f"esclusa {version('esclusa')}, Python {python}, {len(pinned)} pinned libraries as tested"
    )


def look_at_disk(patient: Patient) -> Finding:
    """Look whether temporary files can be written, and how large."""
    directory = tempfile.gettempdir()
    needed = NEEDED_DISK_BYTES.get(patient.role, NEEDED_DISK_BYTES_OF_OTHERS)
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            file.write(b"esclusa")
        free = shutil.disk_usage(directory).free
    except OSError as error:
        return Finding(
            "disk",
            Verdict.FAILED,
            f"{directory}: {error.strerror}",
            "mount a writable directory there, or set TMPDIR",
        )
    found = f"{directory}: {free / GIB:.1f} GiB free"
    if free < needed:
        return Finding(
            "disk", Verdict.WARNING, found, f"expected at least {needed / GIB:g} GiB for the files of a batch"
        )
    return ok("disk", found)


def look_at_drivers(patient: Patient) -> Finding:
    """Look whether the drivers of ODBC that sources name are installed."""
    from shared.domain.contracts import SourceKind

    odbc = [source for source in patient.catalog.sources if source.kind is SourceKind.ODBC]
    if patient.role not in READ_SOURCES or not odbc:
        return skipped("drivers", "no source of this role is read through ODBC")
    import pyodbc

    installed = sorted(pyodbc.drivers())
    missing = {}
    for source in odbc:
        text = patient.fleet.secrets.resolve(source.tables[0].origin.connection["connection_string"])
        driver = _driver_of(text)
        # A path needs no entry; a DSN names its driver itself.
        if driver and driver not in installed and not Path(driver).exists():
            missing[source.name] = driver
    if missing:
        told = ", ".join(f"{driver} of source {name}" for name, driver in missing.items())
        return Finding(
            "drivers",
            Verdict.FAILED,
            f"not installed: {told}; there are {', '.join(installed) or 'none'}",
            "install the driver, or name one of these in the connection string",
        )
    return ok("drivers", ", ".join(installed))


def _driver_of(connection_string: str) -> str | None:
    """Return the driver that a connection string names, and nothing else of it."""
    for part in connection_string.split(";"):
        name, _, value = part.partition("=")
        if name.strip().lower() == "driver":
            return value.strip().strip("{}") or None
    return None
