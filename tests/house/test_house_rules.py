"""What every file of the house keeps to."""

import ast
import re
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("services", "lambdas", "shared", "cli", "local", "infra", "reconciliation", "upkeep", "bench")
MODULES = sorted(file for package in PACKAGES for file in (ROOT / package).glob("**/*.py"))

#: Places of one machine, and package indexes other than the public one. In pieces, so that this file keeps them too.
_NOT_FOR_OTHERS = re.compile(
    r"(?<![\w.-])/(?:ro" + r"ot|wo" + r"rk)/|(?:^|\s)--(?:extra-)?index" + r"-url\b|--find" + r"-links\b"
)


def test_the_house_is_not_empty() -> None:
    assert len(MODULES) > 50


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.relative_to(ROOT)))
def test_every_module_says_what_it_is(module: Path) -> None:
    assert ast.get_docstring(ast.parse(module.read_text()))


def test_no_tracked_file_names_a_place_that_others_do_not_have() -> None:
    found = {
        f"{file.relative_to(ROOT)}:{number}"
        for file in tracked_files()
        for number, line in enumerate(text_of(file).splitlines(), start=1)
        if _NOT_FOR_OTHERS.search(line)
    }

    assert not found


@cache
def tracked_files() -> tuple[Path, ...]:
    """Return the files that are in the repository and still on the disk."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout of the repository")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    return tuple(file for file in files if file.is_file())


def text_of(file: Path) -> str:
    """Return a file as text; of other files, what can be read."""
    return file.read_text(errors="replace")


@pytest.mark.parametrize(
    ("line", "is_told"),
    [
        ("see /wo" + "rk/here", True),
        ("cd /ro" + "ot/x", True),
        ("pip install --index" + "-url https://mirror.example/simple x", True),
        ("uv pip compile --no-emit-index-url", False),
        ("s3://bucket/wo" + "rk/part", False),
        ("a/frame" + "work/ and /working", False),
    ],
)
def test_the_rule_about_places_can_tell(line: str, is_told: bool) -> None:
    assert bool(_NOT_FOR_OTHERS.search(line)) is is_told
