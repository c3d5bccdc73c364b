"""
What `esclusa doctor` looks at: whether a process in one role, on this machine and with these settings, can do its work.

`esclusa check` is about source files and what they name; this is about the place where a service runs. Every look is bounded
in time and leaves nothing behind: no object, no version, no message, and it receives none.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from cli.checks import Verdict, ask_warehouse, ledger_revision
from cli.diagnosis_aws import look_at_bucket, look_at_catalog, look_at_identity, look_at_queue
from cli.diagnosis_machine import (
    look_at_disk,
    look_at_drivers,
    look_at_settings,
    look_at_source_files,
    look_at_versions,
)
from cli.findings import (
    ADVICE,
    READ_SOURCES,
    READ_WAREHOUSE,
    SKEW_FAILURE,
    SKEW_WARNING,
    Finding,
    Look,
    Patient,
    ok,
    skewed,
)
from infra.matrix import CERTIFICATES, LEDGER
from infra.plan import AUDITOR, OPERATOR, UPKEEP, WORKER_QUEUES
from shared.deadline import within
from shared.errors import EsclusaError
from shared.ports import QueueName
from shared.visits import visiting

if TYPE_CHECKING:
    from shared.catalog import Source

#: So many looks at the same time: each waits for somebody else.
_AT_ONCE = 8


def diagnose(patient: Patient) -> Iterator[Finding]:
    """Look at everything, side by side, and return what was found in the order of looking."""
    looks = list(_looks(patient))
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="doctor") as pool:
        yield from pool.map(lambda look: _bounded(*look, patience=patient.patience), looks)


def _bounded(name: str, look: Look, *, patience: timedelta) -> Finding:
    try:
        return within(patience, look, what=name)
    except EsclusaError as error:
        return Finding(
            name,
            Verdict.FAILED,
            str(error).removeprefix(f"{name}: "),
            ADVICE.get(name.split(maxsplit=1)[0], ""),
        )
    except Exception as error:  # noqa: BLE001 - whatever a library raises, the other looks are told
        return Finding(
            name,
            Verdict.FAILED,
            f"{type(error).__name__}, unforeseen",
            "report it with the output of --verbose",
        )


def _looks(patient: Patient) -> Iterator[tuple[str, Look]]:
    yield "settings", partial(look_at_settings, patient)
    yield "source files", partial(look_at_source_files, patient)
    yield "versions", look_at_versions
    yield "disk", partial(look_at_disk, patient)
    yield "drivers", partial(look_at_drivers, patient)
    yield "identity", partial(look_at_identity, patient)
    yield "ledger", partial(_ledger, patient)
    yield "clock of the ledger", partial(_clock_of_ledger, patient)
    for reference in _references(patient):
        yield f"secret {reference}", partial(_secret, patient, reference)
    for source in patient.catalog.sources:
        bucket = patient.fleet.settings.bucket(source.name)
        yield f"bucket {bucket}", partial(look_at_bucket, patient, bucket)
        if patient.role in READ_SOURCES:
            yield f"source {source.name}", partial(_source, patient, source)
    for queue in QueueName if patient.role == OPERATOR else WORKER_QUEUES.get(patient.role, ()):
        yield f"queue {queue}", partial(look_at_queue, patient, queue)
    if patient.role in READ_WAREHOUSE:
        yield "warehouse", partial(_warehouse, patient)
    if patient.role in {"publisher", UPKEEP}:
        yield "catalog", partial(look_at_catalog, patient)


# ---- databases and secrets -----------------------------------------------------------------------------------


def _references(patient: Patient) -> list[str]:
    may = patient.lines.get("secretsmanager:GetSecretValue", ())
    settings = patient.fleet.settings
    references = [settings.ledger_dsn] if LEDGER in may else []
    references += [settings.ca_certificates] if settings.ca_certificates and CERTIFICATES in may else []
    for source in patient.catalog.sources:
        origin = source.tables[0].origin
        references += origin.connection_references if patient.role in READ_SOURCES else ()
        references += origin.mask_keys.values() if patient.role in {"extractor", AUDITOR} else ()
    return list(dict.fromkeys(references))


def _secret(patient: Patient, reference: str) -> Finding:
    patient.fleet.secrets.resolve(reference)
    return ok(f"secret {reference}", "it is there")


def _ledger(patient: Patient) -> Finding:
    return ok("ledger", ledger_revision(patient.fleet))


def _clock_of_ledger(patient: Patient) -> Finding:
    with patient.fleet.ledger.transaction() as tx:
        skew = datetime.now(UTC) - tx.now()
    if abs(skew) > SKEW_WARNING:
        return skewed("clock of the ledger", skew, whose="the ledger")
    return ok("clock of the ledger", f"{abs(skew).total_seconds():.1f} seconds apart")


def _source(patient: Patient, source: "Source") -> Finding:
    from services.extractor.scouting import SourceScout

    name = f"source {source.name}"
    with (
        visiting(source.name, who="doctor", ledger=patient.fleet.ledger, patience=patient.patience),
        SourceScout(source.contracts(), secrets=patient.fleet.secrets) as scout,
    ):
        skew = datetime.now(UTC) - scout.clock()
    found = f"it answers; its clock is {abs(skew).total_seconds():.0f} seconds apart"
    if abs(skew) > SKEW_FAILURE:
        return Finding(
            name,
            Verdict.WARNING,
            found,
            "windows are closed by its clock: they end that much sooner or later",
        )
    return ok(name, found)


def _warehouse(patient: Patient) -> Finding:
    ask_warehouse(patient.fleet, patient.connections)
    if patient.role != "publisher":
        return ok("warehouse", "it answers")
    warehouse = patient.connections.warehouse(patient.fleet)
    answer = warehouse.query(
        "SELECT has_database_privilege(current_database(), 'CREATE'), has_database_privilege(current_database(), 'TEMP')",
        row_limit=1,
        timeout_seconds=patient.patience.total_seconds(),
    )
    ((may_create, may_stage),) = answer.rows
    missing = [word for word, may in (("CREATE", may_create), ("TEMP", may_stage)) if not may]
    if missing:
        return Finding(
            "warehouse",
            Verdict.FAILED,
            f"its user lacks {' and '.join(missing)} on the database",
            "grant it: schemas are made, and rows are staged in temporary tables",
        )
    return ok("warehouse", "it answers; its user may make schemas and temporary tables")
