"""The house keeps its order: who may import whom, and what a Lambda loads before its first message."""

import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from importlinter.cli import lint_imports

from infra.plan import FUNCTION_QUEUES, SCHEDULES

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = [*FUNCTION_QUEUES, *SCHEDULES]

#: Each costs more at a cold start than all else together, or belongs to workers and people only. Not rich:
#: structlog takes it where it is installed, and in the zip of the Lambdas it is not.
HEAVY = {
    "alembic",
    "celery",
    "kombu",
    "polars",
    "pyarrow",
    "numpy",
    "pandas",
    "requests",
    "typer",
    "duckdb",
}


def test_every_import_contract_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    exit_code = lint_imports(config_filename=str(ROOT / "pyproject.toml"), cache_dir=None)

    assert exit_code == 0, capsys.readouterr().out


def test_the_domain_is_standard_library_only() -> None:
    graph = grimp.build_graph("shared", include_external_packages=True, cache_dir=None)
    domain = {module for module in graph.modules if module.startswith("shared.domain")}

    imported = {other for module in domain for other in graph.find_modules_directly_imported_by(module)}

    strangers = {
        other
        for other in imported - domain
        if other.partition(".")[0] not in sys.stdlib_module_names and other != "shared"
    }
    assert domain
    assert strangers == set()


def test_every_handler_is_in_the_contract_of_lambdas() -> None:
    contracts = (ROOT / "pyproject.toml").read_text()
    folders = {path.parent.name for path in ROOT.glob("lambdas/*/handler.py")}

    assert folders == {function.replace("-", "_") for function in FUNCTIONS}
    assert [folder for folder in folders if f'"lambdas.{folder}"' not in contracts] == []


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_lambda_loads_nothing_heavy_before_its_first_message(function: str) -> None:
    module = f"lambdas.{function.replace('-', '_')}.handler"
    program = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"

    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )

    loaded = {name.partition(".")[0] for name in json.loads(finished.stdout)}
    assert module.partition(".")[0] in loaded
    assert loaded & HEAVY == set()
