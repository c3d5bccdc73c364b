"""The pages tell the code as it is: links, names, states, lists and decisions."""

import ast
import importlib
import inspect
import pkgutil
import re
from enum import Enum
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Protocol

import pytest

import shared.domain
import shared.ports
from cli.explain import CURES
from lambdas.sweeper.settings import SweeperSettings
from shared.celery_sqs.settings import WorkerSettings
from shared.domain.batches import EDGES
from shared.domain.reasons import Reason
from shared.settings import FleetSettings

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("**/*.md"))]
DECISIONS = sorted(DOCS.glob("adr/[0-9]*.md"))

_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)\s]+)\)")
_CODE = re.compile(r"(?s)```.*?```")
_NAMED = re.compile(r"([\w./-]+\.py)(?:::(\w+(?:\.\w+)?))?")


def of_page(page: Path) -> str:
    """Return how a page is called in the output of tests."""
    return str(page.relative_to(ROOT))


# ---- links and references --------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_link_leads_somewhere(page: Path) -> None:
    dead = [
        link for link in _LINK.findall(_CODE.sub("", page.read_text())) if not leads_somewhere(page, link)
    ]

    assert not dead


def leads_somewhere(page: Path, link: str) -> bool:
    """Return whether a relative link has a target, and the target the heading that is named."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    return target.exists() and (not anchor or anchor in anchors(target))


@cache
def anchors(page: Path) -> frozenset[str]:
    """Return the anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"(?m)^#+ (.*)$", _CODE.sub("", page.read_text()))
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=of_page)
def test_every_file_and_name_a_page_speaks_of_exists(page: Path) -> None:
    spans = re.findall(r"`([^`\n]+)`", _CODE.sub("", page.read_text()))
    named = [match.groups() for span in spans if (match := _NAMED.fullmatch(span)) and "/" in match[1]]

    missing = [f"{path}::{name}" for path, name in named if not exists(path, name)]

    assert not missing


def exists(path: str, name: str | None) -> bool:
    """Return whether a file, and if given a function, class, method or constant of it, exists."""
    if not (ROOT / path).is_file():
        return False
    return name is None or name in names_in(ROOT / path)


@cache
def names_in(file: Path) -> frozenset[str]:
    """Return what a module defines: `function`, `CONSTANT`, `Class` and `Class.method`."""
    return frozenset(chain.from_iterable(_names_of(node) for node in ast.parse(file.read_text()).body))


def _names_of(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef(name=name):
            return [name]
        case ast.ClassDef(name=name, body=body):
            return [name, *(f"{name}.{inner}" for statement in body for inner in _names_of(statement))]
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


# ---- the tour ----------------------------------------------------------------------------------------------


def test_the_tour_shows_every_transition_and_no_other() -> None:
    (block,) = re.findall(r"(?s)```states\n(.*?)```", (DOCS / "tour.md").read_text())
    shown = [tuple(line.split()[:3:2]) for line in block.splitlines()]

    assert sorted(shown) == sorted((str(old), str(new)) for old, new in EDGES)


# ---- the glossary ------------------------------------------------------------------------------------------


def test_the_glossary_lists_every_closed_list_of_the_domain_with_its_members() -> None:
    section = (DOCS / "glossary.md").read_text().split("## Closed lists")[1].split("## Ports")[0]

    rows = re.findall(r"(?m)^\| `([\w/]+\.py)::(\w+)` \| (.*) \|$", section)
    listed = {f"{path}::{name}": re.findall(r"`([^`]+)`", cell) for path, name, cell in rows}
    listed.pop("shared/domain/reasons.py::Reason")  # a table of its own, in delivery.md

    assert listed == {
        name: members for name, members in closed_lists().items() if not name.endswith("::Reason")
    }


def closed_lists() -> dict[str, list[str]]:
    """Return the members of each enum of the domain, and of the queues."""
    modules = [
        shared.ports,
        *(
            importlib.import_module(f"shared.domain.{module.name}")
            for module in pkgutil.iter_modules(shared.domain.__path__)
        ),
    ]
    return {
        f"{module.__name__.replace('.', '/')}.py::{name}": [str(member.value) for member in found]
        for module in modules
        for name, found in vars(module).items()
        if inspect.isclass(found) and issubclass(found, Enum) and found.__module__ == module.__name__
    }


def test_the_glossary_lists_every_port() -> None:
    section = (DOCS / "glossary.md").read_text().split("## Ports")[1]
    ports = {
        name
        for name, found in vars(shared.ports).items()
        if inspect.isclass(found) and Protocol in found.__bases__ and found.__module__ == "shared.ports"
    }

    assert set(re.findall(r"`shared/ports\.py::(\w+)`", section)) == ports


def test_the_words_of_the_glossary_stand_once_and_in_order() -> None:
    words = re.findall(r"(?m)^\*\*([^*]+)\*\*", (DOCS / "glossary.md").read_text())

    assert words == sorted(set(words))


# ---- delivery ----------------------------------------------------------------------------------------------


def test_the_page_about_delivery_tells_every_reason_and_what_cures_it() -> None:
    table = (DOCS / "delivery.md").read_text().split("## Reasons")[1].split("## What is not promised")[0]

    rows = [line for line in table.splitlines() if line.startswith("| `")]

    assert rows == [f"| `{reason}` | {meanings()[reason]} | {CURES[reason]} |" for reason in Reason]


def meanings() -> dict[str, str]:
    """Return what stands above each reason in the code."""
    text = (ROOT / "shared" / "domain" / "reasons.py").read_text()
    return {slug: meaning for meaning, slug in re.findall(r'    #: (.*)\n    [A-Z_0-9]+ = "(\w+)"', text)}


def test_the_times_on_the_page_about_delivery_are_those_of_the_settings() -> None:
    told = dict(re.findall(r"`ESCLUSA_([A-Z_]+)` \((\d+)\)", (DOCS / "delivery.md").read_text()))
    fields = {
        name.upper(): str(field.default)
        for model in (FleetSettings, WorkerSettings, SweeperSettings)
        for name, field in model.model_fields.items()
    }

    assert told
    assert told == {name: fields[name] for name in told}


def test_every_promise_stands_on_the_page_about_delivery() -> None:
    numbers = re.findall(r"(?m)^\*\*(\d+)\. ", (DOCS / "delivery.md").read_text())

    assert numbers == [str(number) for number in range(1, 31)]


# ---- decisions ---------------------------------------------------------------------------------------------


def test_every_decision_is_in_the_index_under_its_title() -> None:
    index = re.findall(r"(?m)^- \[(.+)\]\(([\w-]+\.md)\)$", (DOCS / "adr" / "README.md").read_text())

    wanted = [(title_of(decision), decision.name) for decision in DECISIONS]
    assert index == wanted, "\n".join(f"- [{title}]({name})" for title, name in wanted)


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda decision: decision.name)
def test_a_decision_bears_its_number_and_status(decision: Path) -> None:
    assert title_of(decision).split(".")[0] == str(int(decision.name[:4]))
    assert re.search(r"(?m)^Status: (accepted|superseded by \d+)\.?$", decision.read_text())


def title_of(decision: Path) -> str:
    """Return the heading of a decision, without its mark."""
    return decision.read_text().splitlines()[0].removeprefix("# ")
