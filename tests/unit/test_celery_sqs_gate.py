"""
The gate for a new release of Celery, kombu or billiard.

`shared/celery_sqs` overrides methods of theirs that may change with any release. What these tests read in the
installed source is what the module relies on; a release is taken once they, `test_celery_sqs.py` and
`tests/integration/test_celery_sqs_worker.py` are green with it.
"""

import ast
import inspect
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import celery.worker.consumer.consumer
import celery.worker.request
import pytest
from celery.utils.imports import symbol_by_name
from kombu import Connection

from shared.celery_sqs import WorkerQueue, WorkerSettings, make_worker_app, transport
from shared.celery_sqs.consumer import SuccessOnlyConsumer
from shared.celery_sqs.queue import ReceivedMessage
from shared.celery_sqs.request import SuccessOnlyRequest
from shared.celery_sqs.transport import SqsChannel, SqsTransport
from shared.messages import EXTRACT_TASK, task_message

ROOT = Path(__file__).parents[2]

#: The releases with which the tests above were green. Change them last.
TESTED = {"celery": "5.7.0", "kombu": "5.7.0", "billiard": "4.3.2"}


# ---- versions ----------------------------------------------------------------------------------------------


def test_the_installed_releases_are_those_that_were_tested() -> None:
    assert {name: version(name) for name in TESTED} == TESTED


def test_the_project_takes_the_tested_releases_and_no_others() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    pinned = {
        requirement
        for extra in extras.values()
        for requirement in extra
        if re.match(r"[\w-]+", requirement)[0] in TESTED  # type: ignore[index]
    }

    assert pinned == {f"{name}=={release}" for name, release in TESTED.items()}


@pytest.mark.parametrize("file", sorted((ROOT / "requirements").glob("*.txt")), ids=lambda file: file.name)
def test_every_locked_set_holds_the_tested_releases(file: Path) -> None:
    locked = dict(re.findall(r"(?m)^([\w-]+)==(\S+)", file.read_text()))

    assert {name: locked[name] for name in TESTED if name in locked}.items() <= TESTED.items()


# ---- where Celery deletes messages -------------------------------------------------------------------------

#: Every method of Celery's worker that deletes a message, and why none but success comes to it.
DELETES = {
    # The one that is wanted.
    "Request.on_success": "the task returned",
    # `task_acks_late`: not before the task has ended.
    "Request.on_accepted": "only without task_acks_late",
    "Request.execute": "only in the pool `solo`; run_worker takes prefork",
    "Request.execute_using_pool": "only in a pool that ends tasks at once; run_worker takes prefork",
    "Request.on_timeout": "only with task_acks_on_timeout",
    "Request._announce_revoked": "no remote control can revoke, no message can expire",
    # SuccessOnlyRequest replaces on_failure, which alone calls the others.
    "Request.on_failure": "replaced",
    "Request.on_retry": "called by on_failure",
    "Request._retry_worker_lost": "called by on_failure",
    "Consumer.on_decode_error": "replaced",
}


def test_celery_deletes_messages_where_it_is_known_and_nowhere_else() -> None:
    found = _methods_that(celery.worker.request, _deletes) | _methods_that(
        celery.worker.consumer.consumer, _deletes
    )

    assert found <= set(DELETES), f"look at these before the bump: {sorted(found - set(DELETES))}"
    assert {"Request.on_success", "Request.on_failure", "Consumer.on_decode_error"} <= found


@pytest.mark.parametrize("method", ["on_retry", "_retry_worker_lost"])
def test_what_only_a_failure_calls_is_called_by_nothing_else(method: str) -> None:
    callers = _methods_that(celery.worker.request, lambda node: _calls_own(node, method))

    assert callers <= {"Request.on_failure"}


def test_the_settings_that_keep_messages_are_those_that_celery_knows() -> None:
    app = an_app()

    assert app.conf.task_acks_late is True
    assert app.conf.task_reject_on_worker_lost is True
    for name in ("task_acks_on_failure", "task_acks_on_timeout", "worker_enable_remote_control"):
        assert app.conf[name] is False
    assert app.conf.worker_cancel_long_running_tasks_on_connection_loss is False
    assert symbol_by_name(app.conf.worker_consumer) is SuccessOnlyConsumer
    assert app.Task.Request is SuccessOnlyRequest


def _methods_that(module: ModuleType, does: Any) -> set[str]:
    """Return the methods, as `Class.method`, with a node of which something holds."""
    tree = ast.parse(inspect.getsource(module))
    return {
        # The class that `create_request_cls` makes is a Request too.
        f"{owner.name}.{method.name}"
        for owner in ast.walk(tree)
        if isinstance(owner, ast.ClassDef)
        for method in owner.body
        if isinstance(method, ast.FunctionDef) and any(does(node) for node in ast.walk(method))
    }


def _deletes(node: ast.AST) -> bool:
    return _calls(node, "acknowledge") or _calls(node, "ack")


def _calls(node: ast.AST, method: str) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method


def _calls_own(node: ast.AST, method: str) -> bool:
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="self"), attr=name)):
            return name == method
        case _:
            return False


# ---- what stands in for it ---------------------------------------------------------------------------------


def an_app() -> Any:
    return make_worker_app(
        "extractor",
        queue=WorkerQueue("extract", "http://127.0.0.1:9/q"),
        settings=WorkerSettings(),
        task_modules=[],
    )


def test_what_celery_cannot_decode_is_left_to_sqs() -> None:
    settled = []
    message = SimpleNamespace(
        ack=lambda: settled.append("deleted"), reject_log_error=lambda *_: settled.append("left")
    )
    consumer = SimpleNamespace(connection_errors=())

    SuccessOnlyConsumer.on_decode_error(consumer, message, ValueError("x"))

    assert settled == ["left"]


@pytest.mark.parametrize("broken", ["parse_task_message", "deliver"])
def test_an_error_that_nobody_foresaw_leaves_the_message_to_sqs_and_the_worker_alive(
    broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, hidden = a_channel(monkeypatch)
    error = RecursionError("a defect of ours")
    if broken == "parse_task_message":
        monkeypatch.setattr(transport, "parse_task_message", raising(error))
    else:
        monkeypatch.setattr(channel.connection, "_deliver", raising(error))
    body = task_message(EXTRACT_TASK, {"batch_id": "b1"}, queue="extract", task_id="b1")

    channel._hand_on(ReceivedMessage("1", "receipt", body, receive_count=2))

    assert hidden == [("receipt", 20)]
    assert len(channel.qos) == 0


def a_channel(monkeypatch: pytest.MonkeyPatch) -> tuple[SqsChannel, list[tuple[str, int]]]:
    """Return a channel, and the list of what it hides in SQS for how many seconds."""
    hidden: list[tuple[str, int]] = []
    options = {
        "queue": WorkerQueue("extract", "http://127.0.0.1:9/q"),
        "settings": WorkerSettings(region="x"),
    }
    connection = Connection(transport=SqsTransport, transport_options=options)
    channel: SqsChannel = connection.channel()
    monkeypatch.setattr(
        channel.connection.queue, "hide", lambda receipt, *, seconds: hidden.append((receipt, seconds))
    )
    return channel, hidden


def raising(error: Exception) -> Any:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def test_a_worker_sends_nothing_through_celery(monkeypatch: pytest.MonkeyPatch) -> None:
    channel, _ = a_channel(monkeypatch)

    with pytest.raises(NotImplementedError, match="sends nothing through Celery"):
        channel._put("extract", {})


def test_the_probe_of_liveness_is_not_troubled_by_a_file_that_cannot_be_touched(tmp_path: Path) -> None:
    WorkerSettings(alive_file=tmp_path / "alive").touch_alive_file()
    WorkerSettings(alive_file=tmp_path / "missing" / "alive").touch_alive_file()

    assert (tmp_path / "alive").exists()
