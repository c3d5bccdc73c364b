"""What `local.processes` promises: nothing runs twice, nothing of others is killed, nothing is left behind."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from local.processes import (
    SUPERVISED_BY_VARIABLE,
    Home,
    ProcessSpec,
    Supervisor,
    Tier,
    find_supervised,
    inherited_environment,
    living_processes,
    read_state,
    record_of,
    supervise,
    write_privately,
)
from shared.errors import ConfigurationError, Unavailable

SLEEPER = ProcessSpec("sleeper", [sys.executable, "-c", "import time; time.sleep(120)"], stop_seconds=5.0)
STUBBORN = ProcessSpec(
    "stubborn",
    [
        *(sys.executable, "-c"),
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(120)",
    ],
    stop_seconds=0.3,
)
PARENT = ProcessSpec(
    "parent",
    [
        *(sys.executable, "-c"),
        (
            "import subprocess, sys, time\n"
            "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'], start_new_session=True)\n"
            "print('ready', flush=True)\n"
            "time.sleep(120)"
        ),
    ],
    stop_seconds=5.0,
)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path / "home")
    yield home
    left = find_supervised(home)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5)


@pytest.fixture
def supervisor(home: Home) -> Iterator[Supervisor]:
    with supervise(home, purpose="test") as supervisor:
        yield supervisor


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 seconds in vain"
        time.sleep(0.02)


def has_written(home: Home, name: str, text: str) -> bool:
    return text in home.log_file(name).read_text()


def test_a_started_process_is_known_to_the_next_command(home: Home) -> None:
    with supervise(home, purpose="up") as first:
        first.start(SLEEPER)

    with supervise(home, purpose="down") as second:
        known = second.is_alive("sleeper")
        stopped = second.stop_all()

    assert known
    assert stopped == ["sleeper"]
    assert living_processes(home) == {}


def test_starting_a_process_that_runs_does_nothing(supervisor: Supervisor) -> None:
    supervisor.start(SLEEPER)
    before = living_processes(supervisor.home)

    started = supervisor.start(SLEEPER)

    assert not started
    assert living_processes(supervisor.home) == before


def test_a_killed_process_is_started_again(supervisor: Supervisor) -> None:
    supervisor.start(SLEEPER)
    first_pid = living_processes(supervisor.home)["sleeper"]
    os.kill(first_pid, signal.SIGKILL)
    wait_for(lambda: not supervisor.is_alive("sleeper"))

    started = supervisor.start(SLEEPER)

    assert started
    assert living_processes(supervisor.home)["sleeper"] != first_pid
    assert [record.name for record in read_state(supervisor.home)] == ["sleeper"]


def test_a_process_that_runs_with_other_settings_is_refused_not_replaced(supervisor: Supervisor) -> None:
    supervisor.start(SLEEPER)

    with pytest.raises(
        ConfigurationError, match=r"runs already, but with other settings.*--port 1.*stop the stack"
    ):
        supervisor.start(replace(SLEEPER, command=[*SLEEPER.command, "--port", "1"]))

    assert supervisor.is_alive("sleeper")


def test_a_reused_pid_is_neither_taken_for_ours_nor_killed(supervisor: Supervisor) -> None:
    with subprocess.Popen(["sleep", "60"]) as stranger:
        record = replace(record_of(SLEEPER, stranger.pid), created_at_epoch_seconds=time.time() - 3600)
        supervisor._write_state([record])

        alive = supervisor.is_alive("sleeper")
        supervisor.stop_all()

        assert not alive
        assert stranger.poll() is None
        stranger.kill()


def test_a_process_that_ignores_sigterm_is_killed_in_bounded_time(supervisor: Supervisor) -> None:
    supervisor.start(STUBBORN)
    wait_for(lambda: has_written(supervisor.home, "stubborn", "deaf"))

    stopped = supervisor.stop("stubborn")

    assert stopped
    assert find_supervised(supervisor.home) == []


def test_what_a_process_started_ends_with_it_even_in_a_session_of_its_own(supervisor: Supervisor) -> None:
    supervisor.start(PARENT)
    wait_for(lambda: has_written(supervisor.home, "parent", "ready"))
    assert len(find_supervised(supervisor.home)) == 2

    supervisor.stop("parent")

    assert find_supervised(supervisor.home) == []


def test_children_of_a_killed_parent_are_swept(supervisor: Supervisor) -> None:
    supervisor.start(PARENT)
    wait_for(lambda: has_written(supervisor.home, "parent", "ready"))
    os.kill(living_processes(supervisor.home)["parent"], signal.SIGKILL)

    supervisor.stop_all()

    assert find_supervised(supervisor.home) == []


@pytest.mark.parametrize("content", [None, "", "{", '{"processes": [{"pid": 1}]}', "[]"])
def test_a_lost_or_broken_state_file_leaves_nothing_behind(
    supervisor: Supervisor, content: str | None
) -> None:
    supervisor.start(SLEEPER)
    if content is None:
        supervisor.home.state_file.unlink()
    else:
        supervisor.home.state_file.write_text(content)

    stopped = supervisor.stop_all()

    assert len(stopped) == 1
    assert find_supervised(supervisor.home) == []


def test_a_sweep_spares_what_the_state_file_names(supervisor: Supervisor) -> None:
    supervisor.start(PARENT)
    wait_for(lambda: has_written(supervisor.home, "parent", "ready"))

    swept = supervisor.sweep_strays()

    assert swept == []
    assert len(find_supervised(supervisor.home)) == 2


def test_the_processes_of_another_home_are_left_alone(supervisor: Supervisor, tmp_path: Path) -> None:
    with supervise(Home(tmp_path / "other"), purpose="test") as other:
        other.start(SLEEPER)

        supervisor.stop_all()

        assert other.is_alive("sleeper")
        other.stop_all()


def test_a_command_never_takes_itself_or_its_shell_for_a_stray(home: Home) -> None:
    home.prepare()
    script = (
        "from pathlib import Path\nimport sys\nfrom local.processes import Home, supervise\n"
        "with supervise(Home(Path(sys.argv[1])), purpose='down') as supervisor:\n    print(supervisor.stop_all())"
    )

    down = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" "$2"; echo "the shell lives"', sys.executable, script, str(home.path)],
        env=inherited_environment() | {SUPERVISED_BY_VARIABLE: str(home.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    assert down.stdout.splitlines() == ["[]", "the shell lives"]


def test_workers_end_before_what_they_work_against(supervisor: Supervisor, tmp_path: Path) -> None:
    ends = tmp_path / "ends"
    code = (
        "import pathlib, signal, sys, time\n"
        "def end(*_):\n"
        "    time.sleep(0.3 if sys.argv[1] == 'worker' else 0)\n"
        "    pathlib.Path(sys.argv[2]).open('a').write(sys.argv[1] + '\\n')\n"
        "    sys.exit(0)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "print('ready', flush=True)\n"
        "time.sleep(120)"
    )
    for name, tier in (("foundation", Tier.FOUNDATION), ("worker", Tier.WORKER)):
        supervisor.start(ProcessSpec(name, [sys.executable, "-c", code, name, str(ends)], tier=tier))
    wait_for(lambda: all(has_written(supervisor.home, name, "ready") for name in ("foundation", "worker")))

    supervisor.stop_all()

    assert ends.read_text().split() == ["worker", "foundation"]


def test_a_second_command_is_told_who_is_at_work(home: Home) -> None:
    with (
        supervise(home, purpose="up"),
        pytest.raises(
            ConfigurationError, match=rf"`up` \(pid {os.getpid()}\) is at work on this stack, so `down` can"
        ),
        supervise(home, purpose="down"),
    ):
        pass

    with supervise(home, purpose="down") as supervisor:
        assert supervisor.home == home


def test_the_lock_ends_with_its_holder_not_with_the_processes_it_started(home: Home) -> None:
    script = (
        "from pathlib import Path\nimport os, signal, sys\n"
        "from local.processes import Home, ProcessSpec, supervise\n"
        "with supervise(Home(Path(sys.argv[1])), purpose='up') as supervisor:\n"
        "    supervisor.start(ProcessSpec('sleeper', ['sleep', '120']))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )

    up = subprocess.run(
        [sys.executable, "-c", script, str(home.path)], env=inherited_environment(), check=False
    )

    assert up.returncode == -signal.SIGKILL
    with supervise(home, purpose="down") as supervisor:
        assert supervisor.stop_all() == ["sleeper"]


def test_a_process_that_dies_at_once_is_reported_with_the_end_of_its_log(supervisor: Supervisor) -> None:
    supervisor.start(ProcessSpec("broken", [sys.executable, "-c", "raise SystemExit('no such luck')"]))

    with pytest.raises(Unavailable, match=r"broken ended while it was starting[\s\S]*no such luck"):
        supervisor.wait_until("broken", lambda: False, within_seconds=20)


def test_a_process_that_never_answers_is_given_up(supervisor: Supervisor) -> None:
    supervisor.start(SLEEPER)

    with pytest.raises(Unavailable, match="sleeper is not ready after 0 seconds"):
        supervisor.wait_until("sleeper", lambda: False, within_seconds=0.1)


def test_a_program_that_does_not_exist_is_named(supervisor: Supervisor) -> None:
    with pytest.raises(Unavailable, match=r"absent: could not start no-such-program-anywhere"):
        supervisor.start(ProcessSpec("absent", ["no-such-program-anywhere"]))


def test_no_process_inherits_the_aws_account_of_the_person_at_the_keyboard(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "production")
    code = "import json, os; print(json.dumps({k: v for k, v in os.environ.items() if k.startswith('AWS_')}), flush=True)"

    supervisor.start(
        ProcessSpec("curious", [sys.executable, "-c", code], environment={"AWS_REGION": "nowhere"})
    )

    wait_for(lambda: has_written(supervisor.home, "curious", "\n"))
    assert json.loads(supervisor.home.log_file("curious").read_text()) == {"AWS_REGION": "nowhere"}


def test_private_files_are_readable_by_their_owner_only_whatever_the_umask(tmp_path: Path) -> None:
    file = tmp_path / "secrets.json"
    file.write_text("old")
    file.chmod(0o644)
    umask = os.umask(0)

    write_privately(file, "new")

    os.umask(umask)
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.parametrize(("value", "expected"), [({}, ".esclusa"), ({"ESCLUSA_HOME": ""}, ".esclusa")])
def test_the_home_lies_in_the_current_directory_unless_told_otherwise(
    value: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    home = Home.find(value)

    assert home.path == tmp_path / expected
    assert Home.find({"ESCLUSA_HOME": "/elsewhere"}).path == Path("/elsewhere")
