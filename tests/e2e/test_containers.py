"""
The main job in containers: images are built, the fleet is scaled, one container is killed under load, rows are compared.

One test tells the whole story: to bring the fleet up takes longer than everything else.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.containers import ComposedFleet, compose_command, composed_fleet, require_engine, wait_until

from infra.images.__main__ import IMAGES, SBOM, read_files
from infra.images.__main__ import main as images
from local.containers import SECRET_FILES

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parents[2]
ORDERS = 5_000
SETTLED_WITHIN_SECONDS = 420

#: An extract that has taken so long waits for a table, and will not end between our look and our blow.
HELD_FOR = timedelta(seconds=2)

#: Held by another session, these tables keep every extract of them waiting: so one is killed at its work.
HOLD_TABLES = """\
PGPASSWORD="$(cat "$PASSWORD_FILE")" psql --quiet --host 127.0.0.1 --username shop_owner --dbname shop --command \
"BEGIN; LOCK TABLE orders, order_items, customers, products IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(12)" """


@pytest.fixture(scope="module")
def built() -> None:
    """All images, built."""
    require_engine()
    assert images(["build"]) == 0


@pytest.fixture(scope="module")
def fleet(built: None) -> Iterator[ComposedFleet]:
    with composed_fleet(ESCLUSA_SHOP_ORDERS=str(ORDERS)) as fleet:
        yield fleet


def test_the_main_job_runs_scaled_and_outlives_the_death_of_a_container(fleet: ComposedFleet) -> None:
    fleet.up("--scale", "extractor=4", "--scale", "processor=2")
    wait_until(lambda: batches_open(fleet), what="the first batches", within_seconds=120)
    assert_hardened(fleet)
    assert_no_secret_is_shown(fleet)

    batch_id = kill_an_extractor_at_work(fleet)

    wait_until(
        lambda: (found := fleet.compare()) and all(table["is_equal"] for table in found),
        what="source and warehouse to be equal",
        within_seconds=SETTLED_WITHIN_SECONDS,
    )
    found = {table["table"]: table for table in fleet.compare() or []}
    assert found["shop.orders"]["warehouse_row_count"] > ORDERS * 0.9  # some are marked as deleted
    assert found["crm.contacts"]["warehouse_row_count"] >= 5_000
    # The lease of the dead one has to end, and a sweep to come.
    wait_until(
        lambda: fleet.esclusa("why", batch_id)["batch"]["state"] == "published",
        what="the batch of the killed container to be published",
        within_seconds=SETTLED_WITHIN_SECONDS,
    )
    killed = fleet.esclusa("why", batch_id)
    assert len([attempt for attempt in killed["attempts"] if attempt["stage"] == "extract"]) > 1

    # Whatever stood in a container and not in a volume is gone now.
    fleet.up(
        "--force-recreate",
        "--scale",
        "extractor=4",
        "--scale",
        "processor=2",
        "aws",
        "control-db",
        "warehouse-db",
    )
    wait_until(
        lambda: (again := fleet.compare()) and all(table["is_equal"] for table in again),
        what="everything to be there again",
        within_seconds=120,
    )

    volumes = {mount["Name"] for form in fleet.containers() for mount in form["Mounts"] if "Name" in mount}
    fleet.compose("down", "--volumes")
    assert not any(fleet.leftovers().values()), fleet.leftovers()
    assert not volumes & set(fleet.docker("volume", "ls", "--quiet").split())


def batches_open(fleet: ComposedFleet) -> bool:
    """Return whether something is planned for every table of the shop."""
    try:
        tables = fleet.esclusa("status", "--source", "shop")["tables"]
    except json.JSONDecodeError:  # the container is not up yet
        return False
    return len([table for table in tables if table["batches"]]) == 4


def kill_an_extractor_at_work(fleet: ComposedFleet) -> str:
    """Kill the container of an extractor that has a batch in hand; return the batch."""
    holding = subprocess.Popen(
        ["docker", "exec", fleet.containers("shop-db")[0]["Id"], "sh", "-c", HOLD_TABLES],
        stdout=subprocess.DEVNULL,
    )
    try:
        at_work: dict[str, str] = {}

        def look() -> bool:
            for form in fleet.containers("extractor"):
                told = [json.loads(line) for line in logs_of(form["Id"]) if line.startswith("{")]
                done = {record["batch_id"] for record in told if record["event"] == "message_done"}
                at_work.update(
                    {
                        record["batch_id"]: form["Id"]
                        for record in told
                        if record["event"] == "stage_claimed"
                        and record.get("source") == "shop"
                        and record["batch_id"] not in done
                        and datetime.now(UTC) - datetime.fromisoformat(record["timestamp"]) > HELD_FOR
                    }
                )
            return bool(at_work)

        wait_until(look, what="an extractor at work", within_seconds=60, pause_seconds=0.2)
        batch_id, container = at_work.popitem()
        fleet.docker("kill", container)
        return batch_id
    finally:
        holding.wait()


def logs_of(container: str) -> list[str]:
    done = subprocess.run(["docker", "logs", container], capture_output=True, text=True, check=True)
    return [*done.stdout.splitlines(), *done.stderr.splitlines()]


def assert_hardened(fleet: ComposedFleet) -> None:
    """Check of every container what the engine enforces, whatever the compose file says."""
    for form in fleet.containers():
        host, name = form["HostConfig"], form["Name"]
        assert host["ReadonlyRootfs"], name
        assert host["CapDrop"] == ["ALL"], name
        assert host["SecurityOpt"] == ["no-new-privileges:true"], name
        assert host["PidsLimit"], name
        assert host["Memory"], name
        assert not host["Privileged"], name
        published = [binding for bindings in (host["PortBindings"] or {}).values() for binding in bindings]
        assert all(binding["HostIp"] == "127.0.0.1" for binding in published), name
        if "esclusa-" in form["Config"]["Image"]:
            assert form["Config"]["User"] == "10001:10001", name
            assert not host["CapAdd"], name


def assert_no_secret_is_shown(fleet: ComposedFleet) -> None:
    """Check that no password stands in what the engine shows of containers and of images."""
    (provision,) = fleet.containers("provision")
    secrets = [
        fleet.compose(
            *("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "provision"),
            *("-c", f"print(*(open('/run/secrets/' + name).read() for name in {SECRET_FILES!r}))"),
        ).stdout.split()
    ][0]
    assert len(secrets) == len(SECRET_FILES)
    shown = json.dumps(fleet.containers())
    shown += "".join(fleet.docker("history", "--no-trunc", form["Image"]) for form in [provision])

    assert not [secret for secret in secrets if secret in shown]


@pytest.mark.parametrize("name", sorted(IMAGES))
def test_an_image_tells_where_it_comes_from_and_what_is_in_it(name: str, built: None) -> None:
    version = re.findall(r'(?m)^version = "(.*)"$', (ROOT / "pyproject.toml").read_text())[0]
    inspected = subprocess.run(
        ["docker", "image", "inspect", f"{name}:{version}"], capture_output=True, text=True, check=True
    )
    config = json.loads(inspected.stdout)[0]["Config"]
    materials = json.loads((ROOT / "dist" / "images" / f"{name}.cdx.json").read_text())

    assert config["User"] == "10001:10001"
    assert config["Labels"]["org.opencontainers.image.version"] == version
    assert re.match(r"[0-9a-f]{40}", config["Labels"]["org.opencontainers.image.revision"])
    assert not [variable for variable in config["Env"] if re.search("INDEX|PASSWORD|TOKEN", variable)]
    components = {component["name"].lower(): component["version"] for component in materials["components"]}
    lock = "local-server" if name == "esclusa-local" else name.removeprefix("esclusa-")
    locked = re.findall(r"(?m)^([\w.-]+)==([^ ;]+)", (ROOT / "requirements" / f"{lock}.txt").read_text())
    assert {"boto3", "polars", "pyarrow"} <= set(components)
    assert all(dict(locked)[name] == version for name, version in components.items() if name in dict(locked))


def test_an_image_holds_nothing_that_it_was_only_built_with(built: None) -> None:
    version = re.findall(r'(?m)^version = "(.*)"$', (ROOT / "pyproject.toml").read_text())[0]
    files = read_files(f"esclusa-extractor:{version}")

    assert SBOM in files
    # No compiler, no package manager of ours, no tests, and no source but what is imported.
    assert not [
        path
        for path in files
        if re.search(r"(^|/)(bin/(gcc|ld)|cc1)$|^opt/esclusa/bin/pip|^src/|^build/|^wheels/", path)
    ]


def test_compose_takes_all_files(built: None, tmp_path: Path) -> None:
    settings = tmp_path / "esclusa.env"
    settings.write_text("ESCLUSA_LEDGER_DSN=secretsmanager:esclusa/ledger#dsn\n")
    command = compose_command()
    assert command is not None
    for file in ("docker-compose.yml", "compose.aws.yml", "compose.workers.yml"):
        done = subprocess.run(
            [*command, "--file", file, "config", "--quiet"],
            cwd=ROOT,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "ESCLUSA_ENV_FILE": str(settings)},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 0, done.stderr
