"""One log record is one JSON line. Each test is a process of its own: logging is configured once per process."""

import json
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
SETUP = """
import logging, sys, threading, warnings
import structlog
from shared.telemetry.logs import bound, configure_logging
log = structlog.get_logger()
configure_logging("extractor")
"""


def run(script: str, *, exit_code: int = 0) -> str:
    """Run a script after `SETUP` and return its standard output; nothing may reach standard error."""
    done = subprocess.run(
        [sys.executable, "-c", SETUP + textwrap.dedent(script)],
        cwd=REPOSITORY,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == b""
    assert done.returncode == exit_code
    return done.stdout.decode("ascii")


def records(script: str, *, exit_code: int = 0) -> list[dict[str, Any]]:
    """Return the records a script logs; each must be one line and strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in run(script, exit_code=exit_code).splitlines()]


def test_a_record_tells_what_when_and_where_first_and_then_its_facts():
    [record] = records('log.info("stage_completed", record_count=12_840, duration_seconds=4.1)')

    assert list(record)[:4] == ["timestamp", "level", "service", "event"]
    assert record["timestamp"].endswith("Z")
    assert (record["level"], record["service"], record["event"]) == ("info", "extractor", "stage_completed")
    assert (record["record_count"], record["duration_seconds"]) == (12_840, 4.1)


def test_ids_are_bound_for_a_block_and_let_go_after_it():
    inner, outer, outside = records(
        """
        with bound(batch_id="b1", source="shop", table="orders"):
            with bound(stage="extract", attempt=2):
                log.info("inner")
            logging.getLogger("celery").warning("outer")
        log.info("outside")
        """
    )

    assert (inner["batch_id"], inner["source"], inner["table"]) == ("b1", "shop", "orders")
    assert (inner["stage"], inner["attempt"]) == ("extract", 2)
    assert outer["batch_id"] == "b1"
    assert "stage" not in outer
    assert "batch_id" not in outside


def test_no_value_can_look_like_another_record_or_move_the_cursor():
    hostile = 'x\n{"level": "critical", "event": "forged"}\r\x1b[2J\x9b31m\u2028\u2029\x85\x00\ud800'

    output = run(
        f"hostile = {hostile!a}\nlog.info('event' + hostile, note=hostile, **{{'key' + hostile: 1}})"
    )

    [line] = output.splitlines()
    assert not any(ord(character) < 32 or ord(character) > 126 for character in line)
    assert json.loads(line)["note"].startswith('x\n{"level"')
    assert json.loads(line)["level"] == "info"


def test_fields_cannot_pose_as_what_the_record_is():
    [record] = records(
        'log.warning("real", level="debug", service="other", timestamp="never", logger="mine")'
    )

    assert (record["level"], record["service"]) == ("warning", "extractor")
    assert record["timestamp"] != "never"


def test_libraries_and_warnings_leave_through_the_same_door():
    library, warning = records(
        r"""
        logging.getLogger("celery.worker").error("task %s\nfailed", "t1")
        warnings.warn("old\nway", stacklevel=1)
        """
    )

    assert (library["event"], library["level"], library["logger"]) == (
        "task t1\nfailed",
        "error",
        "celery.worker",
    )
    assert (warning["logger"], warning["service"]) == ("py.warnings", "extractor")
    assert "old\nway" in warning["event"]


@pytest.mark.parametrize("logger", ["log", 'logging.getLogger("library")'])
def test_an_exception_is_one_field_of_one_line_without_local_variables(logger):
    [record] = records(
        f"""
        def read(row):
            raise ValueError("cannot read\\nthe row")
        try:
            try:
                read("row contents")
            except ValueError as error:
                raise RuntimeError("stage failed") from error
        except RuntimeError:
            {logger}.exception("attempt_failed")
        """
    )

    outer, cause = record["exception"]
    assert (record["event"], record["level"]) == ("attempt_failed", "error")
    assert (outer["exc_type"], outer["exc_value"]) == ("RuntimeError", "stage failed")
    assert (cause["exc_type"], cause["exc_value"]) == ("ValueError", "cannot read\nthe row")
    assert cause["frames"][-1]["name"] == "read"
    assert "row contents" not in json.dumps(record)


def test_an_exception_that_nobody_caught_is_one_line_too():
    in_thread, in_process = records(
        """
        def fail():
            raise ValueError("in thread")
        thread = threading.Thread(target=fail, name="heartbeat")
        thread.start()
        thread.join()
        raise ValueError("in process, postgresql://reader:hunter2@db/shop")
        """,
        exit_code=1,
    )

    assert (in_thread["event"], in_thread["level"]) == ("uncaught_exception", "critical")
    assert in_thread["thread"] == "heartbeat"
    assert in_process["exception"][0]["exc_value"] == "in process, postgresql://***@db/shop"


def test_secrets_do_not_stand_in_a_record_wherever_they_come_from():
    output = run(
        """
        log.info("connected", dsn="hunter2", nested={"api_key": "hunter2", "list": [{"token": "hunter2"}]})
        log.info("connected to postgresql://reader:hunter2@db/shop")
        logging.getLogger("odbc").warning("Driver=x;UID=reader;PWD={hunter2};")
        with bound(source="https://x:hunter2@crm"):
            try:
                raise ConnectionError("password=hunter2 host=db")
            except ConnectionError as error:
                error.add_note("Authorization: Bearer hunter2hunter2")
                log.exception("failed")
        """
    )

    assert len(output.splitlines()) == 4
    assert "hunter2" not in output


def test_a_library_that_would_log_requests_is_quiet_at_any_level():
    logged = records(
        """
        configure_logging("extractor", level="DEBUG")
        for name in ("botocore.endpoint", "urllib3.connectionpool", "boto3", "s3transfer"):
            logging.getLogger(name).debug("request with a secret")
            logging.getLogger(name).info("credentials found")
        logging.getLogger("other").debug("seen")
        log.debug("seen too")
        """
    )

    assert [record["event"] for record in logged] == ["seen", "seen too"]


def test_what_lies_below_the_level_is_not_written():
    logged = records(
        """
        configure_logging("extractor", level="WARNING")
        log.info("unseen")
        logging.getLogger("library").info("unseen")
        log.warning("seen")
        """
    )

    assert [record["event"] for record in logged] == ["seen"]


def test_configuring_twice_writes_no_record_twice():
    [record] = records('configure_logging("processor")\nlog.info("once")')

    assert record["service"] == "processor"


def test_an_unknown_level_is_told():
    [record] = records('configure_logging("extractor", level="LOUD")', exit_code=1)

    expected = "log level should be one of DEBUG, INFO, WARNING, ERROR, CRITICAL, found 'LOUD'"
    assert record["exception"][0]["exc_value"] == expected


def test_a_record_that_cannot_be_written_is_told_in_one_line_without_its_text():
    [record] = records('logging.getLogger("library").error("%d", "hunter2")')

    assert record == {"level": "error", "event": "log_record_not_written", "logger": "library"}
