"""Dockerfiles and compose files keep to what docs/containers.md promises of them."""

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator

from infra.images.__main__ import IMAGES
from local.containers import CONTROL_HOST, SHOP_HOST, WAREHOUSE_HOST, environment_of_fleet
from shared.celery_sqs.settings import WorkerSettings
from shared.liveness import FILE_VARIABLE

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted(ROOT / path for path in IMAGES.values())
LOCAL, AWS = "docker-compose.yml", "compose.aws.yml"
WORKERS = ("extractor", "backfiller", "processor", "publisher")
DATABASES = {CONTROL_HOST, WAREHOUSE_HOST, SHOP_HOST}


def of_file(path: Path) -> str:
    """Return how a file is called in the output of tests."""
    return str(path.relative_to(ROOT))


# ---- images ------------------------------------------------------------------------------------------------


def test_no_dockerfile_is_forgotten() -> None:
    found = {path for path in ROOT.glob("*/**/Dockerfile") if ".venv" not in path.parts}

    assert found == set(DOCKERFILES)


def test_every_package_of_the_wheel_comes_into_the_build() -> None:
    built = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"][
        "wheel"
    ]["packages"]
    let_in = (ROOT / ".dockerignore").read_text().splitlines()

    assert {f"!{package}" for package in built} <= set(let_in)


def test_all_images_are_built_from_the_same_stages() -> None:
    (shared,) = {
        re.findall(r"(?s)# ---- shared stages.*# ---- end of the shared stages", f.read_text())[0]
        for f in DOCKERFILES
    }

    assert "COPY --from=base /opt/esclusa /opt/esclusa" in shared


@pytest.mark.parametrize("dockerfile", DOCKERFILES, ids=of_file)
def test_an_image_is_pinned_by_an_argument_and_runs_as_nobody_without_a_shell(dockerfile: Path) -> None:
    text = dockerfile.read_text()
    last_stage = text.rpartition("FROM runtime")[2]

    assert set(re.findall(r"(?m)^FROM (\S+)", text)) <= {"${PYTHON_IMAGE}", "wheels", "base", "runtime"}
    assert re.search(r"(?m)^ARG PYTHON_IMAGE=python:3\.11-slim-bookworm$", text)
    assert re.findall(r"(?m)^USER (.*)$", text) == ["10001:10001"]
    assert re.search(r'(?m)^ENTRYPOINT \["', last_stage)
    # After this line nothing is done as root any more.
    assert "RUN" not in last_stage.partition("USER")[2]
    for label in ("version", "revision", "created", "licenses", "title"):
        assert f"org.opencontainers.image.{label}" in last_stage


def test_every_worker_says_whether_it_lives() -> None:
    for worker in ("extractor", "processor", "publisher"):
        text = (ROOT / IMAGES[f"esclusa-{worker}"]).read_text()

        assert f"ENV {FILE_VARIABLE}=/tmp/esclusa-alive" in text
        assert 'CMD ["python", "-m", "shared.liveness"]' in text


# ---- compose -----------------------------------------------------------------------------------------------


@cache
def composed(name: str) -> dict[str, dict[str, Any]]:
    """Return the services of a compose file, with what they extend filled in, as Compose does."""
    document = yaml.safe_load((ROOT / name).read_text())
    return {service: _extended(dict(form)) for service, form in document["services"].items()}


def _extended(form: dict[str, Any]) -> dict[str, Any]:
    extends = form.pop("extends", None)
    if extends is None:
        return form
    base = _extended(
        dict(yaml.safe_load((ROOT / extends["file"]).read_text())["services"][extends["service"]])
    )
    merged = {**base, **form}
    merged["environment"] = {**base.get("environment", {}), **form.get("environment", {})}
    merged["volumes"] = [*base.get("volumes", []), *form.get("volumes", [])]
    return merged


SERVICES = [(name, service) for name in (LOCAL, AWS) for service in composed(name)]


@pytest.mark.parametrize("name", [LOCAL, AWS, "compose.workers.yml"])
def test_a_compose_file_is_one_by_the_specification(name: str) -> None:
    import check_jsonschema

    schema = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    document = yaml.safe_load((ROOT / name).read_text())

    assert not [
        error.message for error in Draft7Validator(json.loads(schema.read_text())).iter_errors(document)
    ]


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_a_container_can_do_no_more_than_it_must(name: str, service: str) -> None:
    form = composed(name)[service]

    assert form["read_only"] is True
    assert form["cap_drop"] == ["ALL"]
    assert form["security_opt"] == ["no-new-privileges:true"]
    assert form["pids_limit"] > 0
    assert form["mem_limit"]
    assert "privileged" not in form
    if service in DATABASES:
        assert set(form["cap_add"]) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "SETGID", "SETUID"}
    else:
        assert form["user"] == "10001:10001"
        assert "cap_add" not in form


@pytest.mark.parametrize("service", ["processor", "publisher", "control"])
def test_who_works_on_files_has_them_on_the_disk(service: str) -> None:
    form = composed(AWS)[service]

    assert "/tmp" in form["volumes"]  # noqa: S108
    assert "tmpfs" not in form


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_nothing_is_published_beyond_this_machine(name: str, service: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in composed(name)[service].get("ports", []))


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_no_environment_holds_a_secret(name: str, service: str) -> None:
    environment = composed(name)[service].get("environment", {})

    suspects = {
        key: value for key, value in environment.items() if re.search("PASSWORD|TOKEN|SECRET|KEY|DSN", key)
    }
    harmless = {
        **{key: value for key, value in environment_of_fleet().items() if key.startswith("AWS_")},
        "PASSWORD_FILE": environment.get("PASSWORD_FILE"),
    }
    assert all(
        harmless.get(key) == value or value.startswith(("secretsmanager:", "${"))
        for key, value in suspects.items()
    )


@pytest.mark.parametrize(("name", "service"), SERVICES)
def test_an_image_of_ours_has_the_version_of_the_project(name: str, service: str) -> None:
    image = composed(name)[service]["image"]
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert image.endswith((f":${{ESCLUSA_TAG:-{version}}}", "postgres:15-bookworm}"))


@pytest.mark.parametrize("service", [*WORKERS, "enqueuer", "scheduler", "provision", "migrate"])
def test_the_settings_of_the_local_fleet_are_those_that_it_is_provisioned_with(service: str) -> None:
    environment = composed(LOCAL)[service]["environment"]

    assert {key: environment.get(key) for key in environment_of_fleet()} == environment_of_fleet()


@pytest.mark.parametrize("name", [LOCAL, AWS])
@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_has_the_time_that_a_soft_stop_takes(name: str, worker: str) -> None:
    form = composed(name)[worker]
    defaults = WorkerSettings()
    soft = int(form["environment"].get("ESCLUSA_SOFT_SHUTDOWN_SECONDS", defaults.soft_shutdown_seconds))
    wait = int(form["environment"].get("ESCLUSA_WAIT_TIME_SECONDS", defaults.wait_time_seconds))

    assert int(form["stop_grace_period"].removesuffix("s")) >= soft + wait + 10


def test_only_those_mount_a_secret_who_need_it() -> None:
    mounted: dict[str, set[str]] = {}
    for service, form in composed(LOCAL).items():
        for volume in form.get("volumes", []):
            if volume.partition(":")[0].endswith("-secret"):
                mounted.setdefault(volume.partition(":")[0], set()).add(service)
                assert volume.endswith(":ro") or service == "secrets"
    everything = {"secrets", "provision", "shop"}

    assert mounted == {
        "control-secret": everything | {"control-db"},
        "warehouse-secret": everything | {"warehouse-db"},
        "shop-secret": everything | {"shop-db"},
        "crm-secret": everything | {"crm"},
        "mask-secret": everything,
    }


def test_against_aws_nothing_local_runs() -> None:
    services = composed(AWS)

    assert set(services) == {*WORKERS, "enqueuer", "exporter", "control"}
    for form in services.values():
        assert not set(form["environment"]) & {
            "AWS_ENDPOINT_URL",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
        }
        assert form["logging"]["driver"] == "awslogs"
