"""
The page about settings, written from the models: `python -m cli.settings_page > docs/settings.md`.

A test in `tests/house/` compares the page with the models.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from pydantic_settings import BaseSettings

from infra.settings import InfraSettings
from lambdas.sweeper.settings import SweeperSettings
from lambdas.watcher.settings import WatcherSettings
from local.ports import DEFAULT_PORT_BASE, PORT_BASE_VARIABLE
from local.processes import HOME_VARIABLE
from services.extractor.settings import ExtractorSettings
from services.processor.settings import ProcessorSettings
from services.publisher.settings import PublisherSettings
from shared.celery_sqs.settings import WorkerSettings
from shared.settings import BackoffSettings, FleetSettings
from shared.telemetry.settings import ExporterSettings, MetricsSettings

#: In the order of the page. What is read by most comes first.
MODELS: Mapping[type[BaseSettings], str] = MappingProxyType(
    {
        FleetSettings: "Every process: workers, Lambdas and the command.",
        BackoffSettings: "Every process, as before.",
        WorkerSettings: "Each worker: extractor, processor, publisher.",
        MetricsSettings: "Each worker, and `esclusa metrics`.",
        ExporterSettings: "`esclusa metrics`.",
        ExtractorSettings: "The extractor.",
        ProcessorSettings: "The processor.",
        PublisherSettings: "The publisher, and `esclusa query`.",
        SweeperSettings: "The sweeper.",
        WatcherSettings: "The watcher, and `esclusa alarms`.",
        InfraSettings: "`esclusa infra`, in AWS: what it deploys. The embedded stack has values of its own.",
    }
)

_HEAD = """\
# Settings

Every setting is an environment variable, read once when a process starts. Settings that contradict each other stop
the process and name what contradicts. What belongs to a source or a table (schedule, masks, limits) stands in its
file: [sources](sources.md). Secrets are never settings: a setting holds a *reference* to one.

This page is written from the code: `python -m cli.settings_page > docs/settings.md`.
"""

_UNITS = MappingProxyType({"_seconds": "seconds", "_in_bytes": "bytes"})

_BOUNDS = MappingProxyType(
    {Ge: ("ge", "at least"), Gt: ("gt", "above"), Le: ("le", "at most"), Lt: ("lt", "below")}
)


@dataclass(frozen=True, slots=True)
class LocalVariable:
    """A variable of the person at the keyboard, which no process of a deployed fleet reads."""

    name: str
    default: str
    description: str


LOCAL_VARIABLES = (
    LocalVariable(
        HOME_VARIABLE, "`.esclusa`", "Directory of the fleet on this machine: data, logs, passwords."
    ),
    LocalVariable(
        PORT_BASE_VARIABLE,
        f"`{DEFAULT_PORT_BASE}`",
        "First of the ports of the fleet on this machine: AWS server, PostgreSQL, sample CRM follow one another.",
    ),
    LocalVariable("ESCLUSA_SOURCES", "`sources`", "Directory of the source files that the command reads."),
)


def variables() -> frozenset[str]:
    """Return every variable that a process of a deployed fleet reads."""
    return frozenset(
        _variable(model, name, field)
        for model in MODELS
        if model is not InfraSettings
        for name, field in model.model_fields.items()
    )


def render() -> str:
    """Return the whole page."""
    sections = [_section(model, readers) for model, readers in MODELS.items()]
    return "\n".join([_HEAD, *sections, _local_section()])


def _section(model: type[BaseSettings], readers: str) -> str:
    own = [(name, field) for name, field in model.model_fields.items() if name in model.__annotations__]
    rows = [_row(_variable(model, name, field), field, name) for name, field in own]
    return f"## {model.__name__}\n\n{readers} Defined in `{model.__module__}`.\n\n{_table(rows)}"


def _local_section() -> str:
    rows = [(f"`{entry.name}`", entry.default, "", entry.description) for entry in LOCAL_VARIABLES]
    return f"## On one machine\n\n`make demo` and the command `esclusa`, where a person starts them.\n\n{_table(rows)}"


def _table(rows: list[tuple[str, str, str, str]]) -> str:
    lines = ["| variable | default | unit | meaning |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _row(variable: str, field: FieldInfo, name: str) -> tuple[str, str, str, str]:
    bounds = _bounds(field)
    description = f"{field.description} Allowed: {bounds}." if bounds else str(field.description)
    return f"`{variable}`", _default(field), _unit(name), description


def _variable(model: type[BaseSettings], name: str, field: FieldInfo) -> str:
    if isinstance(field.validation_alias, str):
        return field.validation_alias
    return f"{model.model_config.get('env_prefix', '')}{name}".upper()


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value == "":
        return "none"
    if isinstance(value, Enum):
        return f"`{value.value}`"
    return f"`{json.dumps(value)}`" if isinstance(value, dict) else f"`{value}`"


def _unit(name: str) -> str:
    return next((unit for ending, unit in _UNITS.items() if name.endswith(ending)), "")


def _bounds(field: FieldInfo) -> str:
    return ", ".join(
        f"{words} {getattr(constraint, attribute)}"
        for kind, (attribute, words) in _BOUNDS.items()
        for constraint in field.metadata
        if isinstance(constraint, kind)
    )


if __name__ == "__main__":
    print(render(), end="")
