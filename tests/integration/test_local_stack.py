"""What `up` and `down` promise: again and again, after any kill, and nothing is left behind."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import psycopg
import pytest
import requests

from local import aws
from local.ports import LOOPBACK, PortBlock, find_free_port
from local.postgres import EmbeddedPostgres, find_postgres_processes
from local.processes import Home, ProcessSpec, find_supervised, living_processes, supervise
from local.stack import FOUNDATION_NAMES, Stack, bring_up, describe, take_down
from shared.errors import ConfigurationError


def find_free_block() -> PortBlock:
    while True:
        block = PortBlock(find_free_port())
        with suppress(OSError):
            for port in (block.postgres, block.crm):
                socket.create_server((LOOPBACK, port)).close()
            return block


@pytest.fixture(scope="module")
def ports() -> PortBlock:
    return find_free_block()


@pytest.fixture(scope="module")
def home(server_directory: Path, ports: PortBlock) -> Iterator[Home]:
    home = Home(server_directory / "stack")
    yield home
    down(home, ports)
    EmbeddedPostgres(home.path, ports.postgres).delete()


def up(home: Home, ports: PortBlock) -> Stack:
    with supervise(home, purpose="up") as supervisor:
        return bring_up(supervisor, ports=ports, crm_changes_per_second=5)


def down(home: Home, ports: PortBlock) -> list[str]:
    with supervise(home, purpose="down") as supervisor:
        return take_down(supervisor, ports=ports)


def everything_of(home: Home, ports: PortBlock) -> list[psutil.Process]:
    data_directory = EmbeddedPostgres(home.path, ports.postgres).data_directory
    return [*find_supervised(home), *find_postgres_processes(data_directory)]


def count_orders(stack: Stack) -> int:
    with psycopg.connect(stack.shop_reader_dsn) as connection:
        (count,) = connection.execute("SELECT count(*) FROM orders").fetchone() or (None,)
        assert isinstance(count, int)
        return count


def test_up_gives_every_part_and_the_samples_with_their_rows(home: Home, ports: PortBlock) -> None:
    stack = up(home, ports)

    contacts = requests.get(
        f"{stack.crm_url}/v1/contacts", headers={"Authorization": f"Bearer {stack.crm_token}"}, timeout=10
    ).json()
    assert count_orders(stack) == 200_000
    assert contacts["total"] >= 5_000
    assert aws.answers(ports.aws)
    for dsn in (stack.control_dsn, stack.warehouse_dsn):
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS may_be_made (value text)")


def test_a_second_up_starts_nothing_and_says_so(home: Home, ports: PortBlock) -> None:
    up(home, ports)
    before = living_processes(home)

    again = up(home, ports)

    assert again.started == ()
    assert again.already_running == FOUNDATION_NAMES
    assert living_processes(home) == before


@pytest.mark.parametrize("name", FOUNDATION_NAMES)
def test_up_starts_only_what_is_dead(home: Home, ports: PortBlock, name: str) -> None:
    up(home, ports)
    before = living_processes(home)
    os.kill(before[name], signal.SIGKILL)
    psutil.wait_procs([psutil.Process(before[name])], timeout=10)

    again = up(home, ports)

    assert again.started == (name,)
    assert {other: pid for other, pid in living_processes(home).items() if other != name} == {
        other: pid for other, pid in before.items() if other != name
    }


def test_after_a_kill_of_everything_up_brings_back_all_of_it(home: Home, ports: PortBlock) -> None:
    up(home, ports)
    for process in everything_of(home, ports):
        with suppress(psutil.NoSuchProcess):
            process.kill()

    stack = up(home, ports)

    assert set(stack.started) == set(FOUNDATION_NAMES)
    assert count_orders(stack) == 200_000


def test_after_a_loss_of_the_state_file_up_starts_from_a_clean_table(home: Home, ports: PortBlock) -> None:
    up(home, ports)
    home.state_file.unlink()

    stack = up(home, ports)

    assert set(stack.started) == set(FOUNDATION_NAMES)
    assert count_orders(stack) == 200_000


def test_down_leaves_no_process_and_the_next_up_finds_the_data(home: Home, ports: PortBlock) -> None:
    up(home, ports)
    with supervise(home, purpose="up") as supervisor:
        supervisor.start(ProcessSpec("worker", ["sleep", "600"]))

    stopped = down(home, ports)
    left = everything_of(home, ports)
    again = up(home, ports)

    assert set(stopped) == {*FOUNDATION_NAMES, "worker"}
    assert left == []
    assert count_orders(again) == 200_000


def test_down_of_a_stack_that_does_not_run_is_no_error(home: Home, ports: PortBlock) -> None:
    down(home, ports)

    assert down(home, ports) == []


@pytest.mark.parametrize(
    ("part", "purpose"),
    [("aws", "the local AWS server"), ("postgres", "PostgreSQL"), ("crm", "the sample CRM")],
)
def test_a_taken_port_is_named_and_nothing_is_left_half_started(
    server_directory: Path, part: str, purpose: str
) -> None:
    ports = find_free_block()
    home = Home(server_directory / f"taken-{part}")

    with socket.create_server((LOOPBACK, getattr(ports, part))), pytest.raises(ConfigurationError) as refusal:
        up(home, ports)

    assert f"port {getattr(ports, part)} on 127.0.0.1, wanted for {purpose}, is taken by" in str(
        refusal.value
    )
    assert living_processes(home) == {}


def test_a_stack_that_runs_is_not_taken_for_one_on_other_ports(home: Home, ports: PortBlock) -> None:
    up(home, ports)

    with pytest.raises(ConfigurationError, match="runs already, but with other settings"):
        up(home, find_free_block())

    assert set(living_processes(home)) == set(FOUNDATION_NAMES)


def test_a_stack_that_never_was_is_not_described(tmp_path: Path, ports: PortBlock) -> None:
    with pytest.raises(ConfigurationError, match="no stack was brought up here yet"):
        describe(Home(tmp_path), ports=ports)

    assert list(tmp_path.iterdir()) == []


def test_a_stack_told_in_words_holds_no_password(home: Home, ports: PortBlock) -> None:
    stack = describe(home, ports=ports)

    assert stack.crm_token not in repr(stack)
    assert "postgresql://" not in repr(stack)


def test_no_password_is_on_a_command_line_or_in_a_log(home: Home, ports: PortBlock) -> None:
    stack = up(home, ports)
    secrets = [
        stack.crm_token,
        *(dsn.split(":")[2].partition("@")[0] for dsn in (stack.control_dsn, stack.shop_owner_dsn)),
    ]

    command_lines = " ".join(" ".join(process.cmdline()) for process in everything_of(home, ports))
    logs = "".join(file.read_text(errors="replace") for file in home.logs.iterdir())

    assert not [secret for secret in secrets if secret in command_lines + logs]
