"""What an EC2 instance does at its first boot: sound cloud-config, each container in the role of its service."""

import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.host import SERVICES, Host, user_data
from infra.plan import SERVICE_ROLES
from shared.errors import ConfigurationError

ROOT = Path(__file__).parents[2]

HOST = Host(
    region="eu-west-1",
    registry="111122223333.dkr.ecr.eu-west-1.amazonaws.com",
    tag="0.1.0",
    source_bucket="acme-code",
    role_arns={role: f"arn:aws:iam::111122223333:role/esclusa-{role}" for role in SERVICE_ROLES},
    environment={
        "ESCLUSA_LEDGER_DSN": "secretsmanager:esclusa/ledger#dsn",
        "ESCLUSA_QUEUE_URLS": '{"extract":"https://sqs.eu-west-1.amazonaws.com/111122223333/esclusa-extract"}',
    },
    counts={"extractor": 2, "processor": 1},
)
DOCUMENT = yaml.safe_load(user_data(HOST))
FILES: Mapping[str, dict[str, Any]] = {file["path"]: file for file in DOCUMENT["write_files"]}


def run_script(tmp_path: Path, path: str, *arguments: str, **environment: str) -> list[str]:
    """Run a script of the instance with a docker that only tells what it was called with."""
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir(exist_ok=True)
    docker.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n')
    docker.chmod(0o755)
    for service in SERVICES:
        file = FILES.get(f"/etc/esclusa/services/{service}")
        if file:
            (tmp_path / service).write_text(file["content"])
    script = tmp_path / "script"
    script.write_text(FILES[path]["content"].replace("/etc/esclusa/services", str(tmp_path)))
    found = subprocess.run(
        ["sh", str(script), *arguments],
        env={"PATH": f"{docker.parent}:/usr/bin:/bin", **environment},
        check=True,
        capture_output=True,
        text=True,
    )
    return found.stdout.splitlines()


def test_it_is_a_cloud_config_that_ec2_takes() -> None:
    text = user_data(HOST)

    assert text.startswith("#cloud-config\n")
    assert len(text.encode()) <= 16 * 1024
    with pytest.raises(ConfigurationError, match="at most 16384 bytes"):
        user_data(replace(HOST, environment={"ESCLUSA_LONG": "x" * 16384}))


def test_every_service_that_is_asked_for_is_started_as_often_and_no_other() -> None:
    started = [command for command in DOCUMENT["runcmd"] if "esclusa@" in command]

    assert [command.rpartition("@")[2] for command in started] == [
        "extractor-1",
        "extractor-2",
        "processor-1",
    ]
    assert "/etc/esclusa/services/publisher" not in FILES


@pytest.mark.parametrize(("instance", "role"), [("extractor-2", "extractor"), ("processor-1", "processor")])
def test_a_service_runs_in_its_own_role_without_rights_on_the_host(
    tmp_path: Path, instance: str, role: str
) -> None:
    words = run_script(tmp_path, "/usr/local/bin/esclusa-service", instance)

    assert words[0] == "run"
    assert f"esclusa-{instance}" in words
    assert f"AWS_PROFILE={role}" in words
    assert words[-1] == f"{HOST.registry}/esclusa-{role}:0.1.0"
    assert {"--read-only", "no-new-privileges", "/etc/esclusa:/etc/esclusa:ro"} <= set(words)
    assert ("--tmpfs" in words) == (role == "extractor")


def test_each_worker_of_the_host_tells_its_metrics_at_a_port_of_its_own(tmp_path: Path) -> None:
    told = [
        next(word for word in words if word.startswith("ESCLUSA_METRICS_PORT="))
        for instance in ("extractor-1", "extractor-2", "processor-1")
        for words in [run_script(tmp_path, "/usr/local/bin/esclusa-service", instance)]
    ]

    assert told == [f"ESCLUSA_METRICS_PORT={port}" for port in (9464, 9465, 9466)]


def test_the_command_has_the_port_after_those_of_the_workers(tmp_path: Path) -> None:
    assert "ESCLUSA_METRICS_PORT=9467" in run_script(tmp_path, "/usr/local/bin/esclusa", "metrics")


def test_ports_that_there_are_not_are_refused() -> None:
    environment = {**HOST.environment, "ESCLUSA_METRICS_PORT": "65533"}

    with pytest.raises(ConfigurationError, match="ESCLUSA_METRICS_PORT: expected at most 65532"):
        user_data(replace(HOST, environment=environment))


@pytest.mark.parametrize(("setting", "port"), [("0", 0), ("20000", 20002)])
def test_the_setting_of_the_port_of_metrics_holds_for_the_first_worker_and_0_for_all(
    setting: str, port: int
) -> None:
    host = replace(HOST, environment={**HOST.environment, "ESCLUSA_METRICS_PORT": setting})
    files = {file["path"]: file["content"] for file in yaml.safe_load(user_data(host))["write_files"]}

    assert f"FIRST_METRICS_PORT={port}\n" in files["/etc/esclusa/services/processor"]


def test_what_runs_away_takes_its_container_down_and_neither_memory_nor_disk_of_the_host(
    tmp_path: Path,
) -> None:
    compose = yaml.safe_load((ROOT / "compose.workers.yml").read_text())["services"]

    for service, (_, _, options) in SERVICES.items():
        words = options.split()
        assert words[words.index("--memory") + 1] == compose[service]["mem_limit"], service
    words = run_script(tmp_path, "/usr/local/bin/esclusa-service", "extractor-1")
    assert words[words.index("--log-driver") + 1] == "local"
    assert "--memory" in words
    words = run_script(tmp_path, "/usr/local/bin/esclusa", "compact")
    assert "--memory" in words
    # Proofs and compactions lay files down: in memory they would count as memory.
    assert "--tmpfs" not in words
    assert words[words.index("--volume", words.index("--memory")) + 1] == "/tmp"  # noqa: S108


@pytest.mark.parametrize(
    ("command", "role"),
    [
        ("enqueue", "planner"),
        ("recount", "planner"),
        ("prove", "auditor"),
        ("compact", "upkeep"),
        ("widen", "upkeep"),
    ],
)
def test_a_command_of_cron_runs_in_the_role_that_it_needs(tmp_path: Path, command: str, role: str) -> None:
    words = run_script(tmp_path, "/usr/local/bin/esclusa", command, "--source", "a shop")

    assert f"AWS_PROFILE={role}" in words
    assert words[-4:] == [f"{HOST.registry}/esclusa-control:0.1.0", command, "--source", "a shop"]


def test_a_doctor_can_be_called_in_the_role_of_a_service(tmp_path: Path) -> None:
    words = run_script(tmp_path, "/usr/local/bin/esclusa", "doctor", ESCLUSA_ROLE="processor")

    assert "AWS_PROFILE=processor" in words


def test_there_is_a_profile_for_each_role_that_the_instance_takes() -> None:
    config = FILES["/etc/esclusa/aws.config"]["content"]

    for role in SERVICE_ROLES:
        assert f"[profile {role}]\nrole_arn = {HOST.role_arns[role]}\n" in config
    assert config.count("credential_source = Ec2InstanceMetadata") == len(SERVICE_ROLES)


def test_settings_are_written_as_docker_reads_them() -> None:
    lines = FILES["/etc/esclusa/environment"]["content"].splitlines()

    assert dict(line.split("=", 1) for line in lines) == HOST.environment


@pytest.mark.parametrize(("soft", "seconds"), [({}, 90), ({"ESCLUSA_SOFT_SHUTDOWN_SECONDS": "300"}, 330)])
def test_a_service_is_killed_only_after_it_had_its_time_to_end(soft: dict[str, str], seconds: int) -> None:
    document = yaml.safe_load(user_data(replace(HOST, environment={**HOST.environment, **soft})))

    (unit,) = (file["content"] for file in document["write_files"] if file["path"].endswith("@.service"))
    assert f"docker stop --time {seconds} esclusa-%i\n" in unit
    assert f"TimeoutStopSec={seconds + 10}\n" in unit


def test_the_unit_is_one_that_systemd_would_take() -> None:
    unit = FILES["/etc/systemd/system/esclusa@.service"]["content"]

    # systemd replaces variables in commands, and a percent sign begins a specifier.
    commands = [line for line in unit.splitlines() if line.startswith("Exec")]
    assert not [line for line in commands if "$" in line]
    assert set("".join(commands).replace("%i", "")) & {"%"} == set()
    assert "Restart=always" in unit
