"""`down`, and what `--delete-data` may delete; Ctrl-C."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.commands import run_command

from cli.local import delete_stack_data
from cli.output import ExitCode
from local.processes import Home, ProcessSpec, supervise
from shared.errors import ConfigurationError

ROOT = Path(__file__).parents[2]
MADE_BY_A_STACK = (
    "aws/state/queues.json",
    "logs/aws.log",
    "postgres/data/PG_VERSION",
    "secrets.json",
    "crm.jsonl",
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "home")
    for name in (*MADE_BY_A_STACK, "environment.json", "state.json.new"):
        file = home.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    return home


def test_down_where_nothing_ever_was_makes_nothing(tmp_path: Path) -> None:
    ended = run_command("down", ESCLUSA_HOME=str(tmp_path / "home"))

    assert ended.exit_code == ExitCode.OK
    assert "nothing to stop" in ended.output
    assert not (tmp_path / "home").exists()


def test_down_keeps_the_data(home: Home) -> None:
    ended = run_command("down", ESCLUSA_HOME=str(home.path))

    assert ended.exit_code == ExitCode.OK
    assert all((home.path / name).exists() for name in MADE_BY_A_STACK)


def test_delete_data_leaves_no_home_behind(home: Home) -> None:
    ended = run_command("down", "--delete-data", ESCLUSA_HOME=str(home.path))

    assert ended.exit_code == ExitCode.OK
    assert not home.path.exists()


def test_delete_data_keeps_what_the_stack_did_not_make(home: Home) -> None:
    theirs = home.path / "thesis.tex"
    theirs.write_text("years of work")

    ended = run_command("down", "--delete-data", ESCLUSA_HOME=str(home.path))

    assert ended.exit_code == ExitCode.OK
    assert "thesis.tex" in ended.errors
    assert [path.name for path in home.path.iterdir()] == ["thesis.tex"]


def test_no_data_is_deleted_under_a_stack_that_runs(home: Home) -> None:
    sleeper = ProcessSpec(name="aws", command=[sys.executable, "-c", "import time; time.sleep(60)"])
    with supervise(home, purpose="tests") as supervisor:
        supervisor.start(sleeper)

    try:
        with pytest.raises(ConfigurationError, match="aws was started again"):
            delete_stack_data(home)
        assert all((home.path / name).exists() for name in MADE_BY_A_STACK)
    finally:
        with supervise(home, purpose="tests") as supervisor:
            supervisor.stop_all()


def test_a_port_that_is_no_number_is_told(home: Home) -> None:
    ended = run_command("down", ESCLUSA_HOME=str(home.path), ESCLUSA_LOCAL_PORT_BASE="many")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "ESCLUSA_LOCAL_PORT_BASE" in ended.errors


def test_up_with_mistakes_in_the_source_files_starts_nothing(tmp_path: Path) -> None:
    (tmp_path / "shop.yaml").write_text("name: shop\nkind: carrier-pigeon\n")

    ended = run_command("up", "--sources", str(tmp_path), ESCLUSA_HOME=str(tmp_path / "home"))

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "shop.yaml:2: kind" in ended.errors
    assert not (tmp_path / "home").exists()


def test_a_home_that_cannot_be_a_directory_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")

    ended = run_command("up", "--sources", str(ROOT / "sources"), ESCLUSA_HOME=str(tmp_path / "home"))

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "ESCLUSA_HOME" in ended.errors


def test_ctrl_c_ends_a_command_without_a_traceback() -> None:
    program = (
        "import sys, time, cli.main\n"
        "from cli.output import errors_told\n"
        "def wait(): print('waiting', flush=True); time.sleep(60)\n"
        "cli.main.app.command('wait')(errors_told()(wait))\n"
        "sys.argv = ['esclusa', 'wait']; cli.main.main()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)

    assert process.returncode == ExitCode.INTERRUPTED
    assert errors == "interrupted\n"
