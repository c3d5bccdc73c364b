"""The command line as a whole: what it costs, what it says of itself, and how settings that are wrong are told."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.commands import run_command

from cli.output import ExitCode

ROOT = Path(__file__).parents[2]
HEAVY = [
    "polars",
    "boto3",
    "botocore",
    "celery",
    "kombu",
    "pyarrow",
    "psycopg",
    "sqlalchemy",
    "alembic",
    "duckdb",
]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("LEDGER_DSN", "WAREHOUSE_DSN", "QUEUE_URLS", "DEPLOYMENT", "REGION", "BUCKET_PREFIX"):
        monkeypatch.delenv(f"ESCLUSA_{name}", raising=False)
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    monkeypatch.setenv("ESCLUSA_HOME", str(tmp_path / "home"))


def test_help_costs_no_driver_and_no_client() -> None:
    program = f"import sys, cli.main; print([name for name in {HEAVY!r} if name in sys.modules])"

    found = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert found.stdout.strip() == "[]"


def test_help_tells_the_exit_codes_and_whose_settings_are_taken() -> None:
    told = " ".join(run_command("--help").output.split())

    for code in ExitCode:
        assert f" {int(code)} " in told
    assert "ESCLUSA_LEDGER_DSN is not set" in told


def test_version_prints_the_version() -> None:
    assert run_command("version").output.startswith("esclusa ")
    assert set(run_command("version", "--json").document) == {"version"}


def test_a_command_that_is_none_is_a_usage_error() -> None:
    assert run_command("statsu").exit_code == ExitCode.CONFIGURATION


def test_a_missing_setting_is_told_by_the_name_people_set() -> None:
    ended = run_command("status")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert ended.errors.startswith("error: ESCLUSA_LEDGER_DSN: expected a value, found nothing")
    assert ended.output == ""


def test_every_wrong_setting_is_told_and_no_value_shown() -> None:
    ended = run_command(
        "status",
        ESCLUSA_LEDGER_DSN="env:X",
        ESCLUSA_DEPLOYMENT="the-moon",
        ESCLUSA_MAX_ATTEMPTS="hunter2",
        ESCLUSA_QUEUE_URLS='{"no-such-queue": "u"}',
    )

    assert ended.exit_code == ExitCode.CONFIGURATION
    for name in ("ESCLUSA_DEPLOYMENT", "ESCLUSA_MAX_ATTEMPTS", "ESCLUSA_QUEUE_URLS.no-such-queue"):
        assert name in ended.errors
    assert "hunter2" not in ended.errors


def test_a_setting_that_should_be_json_is_told_by_name() -> None:
    ended = run_command("status", ESCLUSA_LEDGER_DSN="env:X", ESCLUSA_QUEUE_URLS="nonsense")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "ESCLUSA_QUEUE_URLS: expected JSON" in ended.errors


def test_local_without_an_endpoint_is_refused() -> None:
    ended = run_command("status", ESCLUSA_LEDGER_DSN="env:X", ESCLUSA_DEPLOYMENT="local")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "AWS_ENDPOINT_URL" in ended.errors


def test_an_endpoint_that_is_no_url_is_refused() -> None:
    ended = run_command("status", ESCLUSA_LEDGER_DSN="env:X", AWS_ENDPOINT_URL="localhost:4566")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "AWS_ENDPOINT_URL: expected a URL" in ended.errors


def test_a_profile_that_is_not_there_is_told(tmp_path: Path) -> None:
    ended = run_command(
        "status",
        ESCLUSA_LEDGER_DSN="env:LEDGER",
        LEDGER="postgresql://x@127.0.0.1:1/x",
        AWS_PROFILE="no-such-profile",
        AWS_CONFIG_FILE=str(tmp_path / "none"),
        AWS_SHARED_CREDENTIALS_FILE=str(tmp_path / "none"),
    )

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "no-such-profile" in ended.errors


def test_a_ledger_that_does_not_answer_is_unavailable_and_its_password_is_not_told() -> None:
    ended = run_command(
        "status",
        ESCLUSA_LEDGER_DSN="env:LEDGER",
        LEDGER="postgresql://me:hunter2@127.0.0.1:1/control",
        AWS_EC2_METADATA_DISABLED="true",
    )

    assert ended.exit_code == ExitCode.UNAVAILABLE
    assert "127.0.0.1:1" in ended.errors
    assert "hunter2" not in ended.errors
    assert "Traceback" not in ended.errors


def test_without_settings_those_of_the_local_stack_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    settings = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "ESCLUSA_DEPLOYMENT": "local",
        "ESCLUSA_LEDGER_DSN": "env:NOWHERE_TO_BE_FOUND",
    }
    (home / "environment.json").write_text(json.dumps(settings))
    # Restored after the test, for the command sets these in its own process.
    for name in settings:
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("AWS_PROFILE", "of-a-real-account")

    ended = run_command("status")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "NOWHERE_TO_BE_FOUND" in ended.errors


def test_settings_of_the_local_stack_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "environment.json").write_text("{")

    ended = run_command("status")

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "environment.json: expected JSON" in ended.errors


def test_data_goes_to_standard_output_and_logs_to_standard_error() -> None:
    program = (
        "import structlog, cli.main\n"
        "from typer.testing import CliRunner\n"
        "cli.main.app.command('tell')(lambda: structlog.get_logger().info('told'))\n"
        "import sys; sys.argv = ['esclusa', '-v', 'tell']; cli.main.main()"
    )

    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert ended.stdout == ""
    assert json.loads(ended.stderr)["event"] == "told"


def test_an_argument_that_is_no_text_is_a_usage_error() -> None:
    program = "import cli.main; cli.main.main()"

    ended = subprocess.run(
        [sys.executable, "-c", program, "why", b"\xff\x1b"], cwd=ROOT, capture_output=True, check=False
    )

    assert ended.returncode == ExitCode.CONFIGURATION
    assert ended.stderr == b"error: expected arguments in UTF-8, found \\udcff\\x1b\n"


@pytest.mark.parametrize("value", ["0", "-1", "99999999999999999999", "nan", "inf"])
@pytest.mark.parametrize(
    "arguments", [("files", "--limit"), ("query", "SELECT 1", "--limit"), ("query", "x", "--timeout")]
)
def test_a_number_out_of_bounds_is_a_usage_error(arguments: tuple[str, ...], value: str) -> None:
    assert run_command(*arguments, value).exit_code == ExitCode.CONFIGURATION
