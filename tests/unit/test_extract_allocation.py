"""How memory is handed out to the processes that extract."""

import json
import subprocess
import sys

import pytest

from services.extractor import allocation


def test_children_get_what_whoever_runs_the_worker_has_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in allocation.ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")

    allocation.prepare_children()

    child = subprocess.run(
        [sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))"],
        check=True,
        capture_output=True,
    )
    found = json.loads(child.stdout)
    assert {name: found[name] for name in allocation.ENVIRONMENT} == {
        **allocation.ENVIRONMENT,
        "MALLOC_ARENA_MAX": "7",
    }
