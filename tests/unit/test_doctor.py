"""`esclusa doctor` where everything is in memory, or away: verdicts, advice, bounds, and no secret in what it tells."""

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.commands import Ended, OneAnswer, Shell

from cli import diagnosis, diagnosis_aws, diagnosis_machine
from cli.checks import Verdict
from cli.context import Connections
from cli.diagnosis_machine import look_at_disk, look_at_drivers, look_at_settings, look_at_versions
from cli.doctor import Role
from cli.findings import Finding, Patient
from services.publisher.warehouse import QueryResult
from shared.catalog import read_sources
from shared.errors import ConfigurationError, Unavailable
from shared.secrets.memory import MemorySecrets
from shared.settings import Deployment

SOURCE = """\
name: {name}
kind: {kind}
connection: {connection}
tables:
  orders:
    relation: public.orders
    key: [id]
    schedule: {{every: 1h}}
    publish: {{mode: replace}}
    columns:
      id: {{type: int64, nullable: false, mask: keep}}
"""
PASSWORD = "hunter2"


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "sources"
    directory.mkdir()
    return directory


@pytest.fixture(autouse=True)
def _aws_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    # A port at which nobody listens: what asks AWS is refused at once.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "none")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "none")


def patient(
    sources: Path, role: str = "extractor", *, shell: Shell | None = None, **settings: Any
) -> Patient:
    fleet = (shell or Shell()).fleet
    fleet = replace(fleet, settings=fleet.settings.model_copy(update=settings))
    connections = Connections(warehouse=lambda _: (shell or Shell()).warehouse)
    return Patient(role, fleet, connections, read_sources(sources), timedelta(seconds=2))


def run(sources: Path, *words: str, shell: Shell | None = None) -> Ended:
    return (shell or Shell()).run("doctor", "--timeout", "2", *words, ESCLUSA_SOURCES=str(sources))


def test_whatever_is_away_is_told_with_advice_and_the_rest_is_looked_at(sources: Path) -> None:
    (sources / "shop.yaml").write_text(
        SOURCE.format(name="shop", kind="postgres", connection="{dsn: env:SHOP_DSN}")
    )
    secrets = MemorySecrets({"env:SHOP_DSN": f"postgresql://reader:{PASSWORD}@127.0.0.1:9/shop"})

    ended = run(sources, "--role", "extractor", "--json", shell=Shell(secrets=secrets))

    checks = {check["name"]: check for check in ended.document["checks"]}
    assert (ended.exit_code, ended.document["is_ok"], ended.document["role"]) == (1, False, "extractor")
    assert {name for name, check in checks.items() if check["verdict"] == "failed"} >= {
        *("settings", "identity", "ledger", "bucket esclusa-shop", "source shop"),
        *("queue extract", "queue backfill", "secret env:LEDGER_DSN"),
    }
    assert all(check["advice"] for check in checks.values() if check["verdict"] == "failed")
    assert checks["secret env:SHOP_DSN"]["verdict"] == "ok"
    assert checks["versions"]["verdict"] == "ok"
    assert PASSWORD not in ended.output + ended.errors


def test_people_read_a_line_for_each_look_and_what_to_do_below_it(sources: Path) -> None:
    ended = run(sources)

    assert ended.exit_code == 1
    assert "ok      versions: esclusa" in ended.output
    assert "failed  settings: ESCLUSA_QUEUE_URLS lacks extract, " in ended.output
    assert "        name every queue" in ended.output


@pytest.mark.parametrize("role", Role)
def test_every_role_is_looked_at_in_what_it_needs(sources: Path, role: str) -> None:
    (sources / "shop.yaml").write_text(
        SOURCE.format(name="shop", kind="postgres", connection="{dsn: env:SHOP_DSN}")
    )

    names = {name for name, _ in diagnosis._looks(patient(sources, role))}

    assert {"settings", "disk", "ledger", "identity", "bucket esclusa-shop"} <= names
    assert ("source shop" in names) == (role in {"extractor", "planner", "auditor"})
    assert ("warehouse" in names) == (role in {"publisher", "auditor", "upkeep"})
    assert ("catalog" in names) == (role in {"publisher", "upkeep"})
    assert ("queue process" in names) == (role in {"processor", "operator"})


def test_a_look_that_never_ends_is_given_up_and_holds_up_no_other(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hanging(_: Patient) -> Iterator[tuple[str, Any]]:
        yield "ledger", lambda: time.sleep(60)
        yield "disk", lambda: Finding("disk", Verdict.OK, "there is some")

    monkeypatch.setattr(diagnosis, "_looks", hanging)
    began = time.monotonic()

    slow, quick = diagnosis.diagnose(replace(patient(sources), patience=timedelta(seconds=0.2)))

    assert time.monotonic() - began < 5
    assert (slow.verdict, quick.verdict) == (Verdict.FAILED, Verdict.OK)
    assert "no answer within 0.2 seconds" in slow.found


def test_what_nobody_foresaw_fails_its_look_only_and_shows_no_text_that_may_be_secret(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> Finding:
        raise RuntimeError(PASSWORD)

    monkeypatch.setattr(diagnosis, "_looks", lambda _: iter([("disk", broken)]))

    (found,) = diagnosis.diagnose(patient(sources))

    assert found.verdict is Verdict.FAILED
    assert PASSWORD not in found.found + found.advice


def test_mistakes_in_source_files_are_told_for_their_sources_are_not_looked_at(sources: Path) -> None:
    (sources / "shop.yaml").write_text("name: shop\n")

    ended = run(sources, "--role", "planner", "--json")

    (found,) = (check for check in ended.document["checks"] if check["name"] == "source files")
    assert (found["verdict"], "esclusa check" in found["advice"]) == ("warning", True)


# ---- settings ----------------------------------------------------------------------------------------------------

ALL_URLS = dict.fromkeys(diagnosis_machine.QueueName, "https://queue")


def test_settings_that_fit_are_said_to(sources: Path) -> None:
    found = look_at_settings(patient(sources, queue_urls=ALL_URLS))

    assert found.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ESCLUSA_HARD_TIME_LIMIT_SECONDS", "800"), ("ESCLUSA_VISIBILITY_TIMEOUT_SECONDS", "900")],
)
def test_times_that_contradict_each_other_fail(
    sources: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(ConfigurationError, match="times that contradict each other"):
        look_at_settings(patient(sources, queue_urls=ALL_URLS))


def test_a_lease_as_long_as_the_longest_task_fails(sources: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"ESCLUSA_CLAIM_LEASE_SECONDS \(900\) has to be below"):
        look_at_settings(patient(sources, queue_urls=ALL_URLS, claim_lease_seconds=900))


def test_a_lease_that_one_unanswered_renewal_loses_is_a_warning(sources: Path) -> None:
    found = look_at_settings(patient(sources, queue_urls=ALL_URLS, claim_lease_seconds=105))

    assert found.verdict is Verdict.WARNING
    assert "one renewal" in found.found
    lasting = look_at_settings(patient(sources, queue_urls=ALL_URLS, claim_lease_seconds=106))
    assert lasting.verdict is Verdict.OK


def test_a_source_whose_deadline_comes_after_the_end_of_the_task_is_a_warning(sources: Path) -> None:
    text = SOURCE.format(name="shop", kind="postgres", connection="{dsn: env:SHOP_DSN}")
    (sources / "shop.yaml").write_text(text + "limits: {deadline: 20m}\n")

    found = look_at_settings(patient(sources, queue_urls=ALL_URLS))

    assert found.verdict is Verdict.WARNING
    assert "source shop: its limits.deadline (1200 s)" in found.found


# ---- this machine ------------------------------------------------------------------------------------------------


def test_a_pinned_library_of_another_version_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["celery==5.0.0", "boto3>=1", "absent==1"])

    found = look_at_versions()

    assert found.verdict is Verdict.WARNING
    assert found.found.startswith("celery ")
    assert "tested with ==5.0.0" in found.found


def test_a_full_disk_is_a_warning_and_one_that_takes_nothing_fails(
    sources: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(diagnosis_machine, "NEEDED_DISK_BYTES", {"processor": 2**62})
    assert look_at_disk(patient(sources, "processor")).verdict is Verdict.WARNING
    assert look_at_disk(patient(sources, "publisher")).verdict is Verdict.OK

    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "absent"))
    assert look_at_disk(patient(sources, "publisher")).verdict is Verdict.FAILED


def test_a_driver_that_is_not_installed_is_named_and_nothing_else_of_the_connection(sources: Path) -> None:
    connection = "{connection_string: env:ERP}\ndialect: mysql"
    (sources / "erp.yaml").write_text(SOURCE.format(name="erp", kind="odbc", connection=connection))
    secrets = MemorySecrets({"env:ERP": f"Driver={{No Such Driver}};Server=db;PWD={PASSWORD}"})

    found = look_at_drivers(patient(sources, shell=Shell(secrets=secrets)))

    assert found.verdict is Verdict.FAILED
    assert "No Such Driver of source erp" in found.found
    assert PASSWORD not in found.found
    assert look_at_drivers(patient(sources, "processor")).verdict is Verdict.SKIPPED


def test_a_warehouse_whose_user_may_not_stage_rows_fails(
    sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = Shell(warehouse=OneAnswer(QueryResult(("a", "b"), ((True, False),), is_cut=False)))
    whole = Shell(warehouse=OneAnswer(QueryResult(("a", "b"), ((True, True),), is_cut=False)))

    found = diagnosis._warehouse(patient(sources, "publisher", shell=lacking))

    assert (found.verdict, found.found) == (Verdict.FAILED, "its user lacks TEMP on the database")
    assert diagnosis._warehouse(patient(sources, "publisher", shell=whole)).verdict is Verdict.OK


def test_a_clock_that_is_wrong_is_told_by_how_much(sources: Path) -> None:
    shell = Shell()
    shell.clock.moment = datetime.now(UTC) - timedelta(days=1)

    found = diagnosis._clock_of_ledger(patient(sources, shell=shell))

    assert found.verdict is Verdict.FAILED
    assert "seconds ahead of that of the ledger" in found.found


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.OPERATOR])
def test_whoever_has_not_the_role_of_the_service_is_told(
    sources: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    class Sts:
        def get_caller_identity(self) -> dict[str, str]:
            return {"Arn": "arn:aws:sts::111122223333:assumed-role/admin/me"}

    monkeypatch.setattr(diagnosis_aws, "_client", lambda *_: Sts())

    found = diagnosis_aws.look_at_identity(patient(sources, role, deployment=Deployment.AWS))

    assert found.verdict is Verdict.WARNING
    assert f"expected the role esclusa-{role}" in found.found


@pytest.mark.parametrize("role", ["publisher", "auditor", "upkeep"])
def test_whoever_speaks_to_the_warehouse_needs_its_settings(
    sources: Path, monkeypatch: pytest.MonkeyPatch, role: str
) -> None:
    monkeypatch.setenv("ESCLUSA_WAREHOUSE", "oracle")

    with pytest.raises(ConfigurationError, match="ESCLUSA_WAREHOUSE"):
        look_at_settings(patient(sources, role, queue_urls=ALL_URLS))


def test_a_wrong_answer_of_a_place_is_no_success(sources: Path) -> None:
    class Away:
        def query(self, *_: object, **__: object) -> QueryResult:
            raise Unavailable("warehouse: no answer")

    (found,) = (
        item
        for item in diagnosis.diagnose(patient(sources, "auditor", shell=Shell(warehouse=Away())))
        if item.name == "warehouse"
    )

    assert (found.verdict, found.found) == (Verdict.FAILED, "no answer")
