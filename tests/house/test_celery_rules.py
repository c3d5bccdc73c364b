"""What nobody may ask of Celery: whatever it would hold in a worker's memory, or write to SQS by itself."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted(
    file for package in ("services", "shared", "lambdas", "cli") for file in (ROOT / package).glob("**/*.py")
)

#: Each sends a message past the outbox, or holds one in memory: a task says "again" by raising.
FORBIDDEN_CALLS = {"retry", "apply_async", "delay", "send_task", "signature"}
#: Each has a message dropped, or held in a worker's memory while SQS counts its deliveries.
FORBIDDEN_ARGUMENTS = {"countdown", "eta", "expires"}
#: What a task may say of itself. Anything else could override the settings that keep messages.
TASK_ARGUMENTS = {"name"}


def breaches(tree: ast.AST) -> Iterator[str]:
    """Return what a module asks of Celery and should not, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr=name)) if name in FORBIDDEN_CALLS:
                yield f"{node.lineno}: .{name}()"
            case ast.Call(func=ast.Name(id="shared_task"), args=positional, keywords=keywords):
                names = {keyword.arg for keyword in keywords}
                if positional or names != TASK_ARGUMENTS:
                    yield f"{node.lineno}: shared_task with anything but a name"
            case ast.FunctionDef(decorator_list=decorators) if any(
                isinstance(decorator, ast.Name) and decorator.id == "shared_task" for decorator in decorators
            ):
                yield f"{node.lineno}: shared_task without a name"
            case ast.ImportFrom(module="celery", names=names):
                taken = {name.name for name in names}
                if taken & {"chain", "chord", "group", "chunks", "signature"}:
                    yield f"{node.lineno}: a workflow of Celery's"
        if isinstance(node, ast.Call):
            yield from (
                f"{node.lineno}: {keyword.arg}="
                for keyword in node.keywords
                if keyword.arg in FORBIDDEN_ARGUMENTS
            )


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_no_module_asks_celery_for_what_would_lose_or_double_messages(module: Path) -> None:
    assert list(breaches(ast.parse(module.read_text()))) == []


def test_every_service_has_a_task_that_the_rule_sees() -> None:
    doors = [file for file in MODULES if "@shared_task(" in file.read_text() and file.name == "tasks.py"]

    assert len(doors) == 3


@pytest.mark.parametrize(
    ("code", "is_told"),
    [
        ("self.retry(exc=error)", True),
        ("extract.retry()", True),
        ("extract.delay('b1')", True),
        ("extract.apply_async(kwargs={})", True),
        ("app.send_task('esclusa.extract')", True),
        ("extract.signature()", True),
        ("send(message, countdown=5)", True),
        ("send(message, eta=moment)", True),
        ("send(message, expires=60)", True),
        ("from celery import chain", True),
        ("@shared_task\ndef extract(): ...", True),
        ("@shared_task(name='x', acks_late=False)\ndef extract(): ...", True),
        ("@shared_task(name='x', bind=True)\ndef extract(): ...", True),
        ("@shared_task(name='x')\ndef extract(): ...", False),
        ("from celery import Celery, shared_task", False),
        ("delay = schedule.delay", False),
        ("call(retry_after=5, expires_at=moment)", False),
    ],
)
def test_the_rule_can_tell(code: str, is_told: bool) -> None:
    assert bool(list(breaches(ast.parse(code)))) is is_told
