"""The page about operations tells every alarm and every metric, and no other."""

import re
from pathlib import Path

from lambdas.watcher.metrics import METRICS, NAMESPACE
from shared.domain.alarms import AlarmKind

ALARMS = (
    (Path(__file__).parents[2] / "docs" / "operations.md")
    .read_text()
    .split("\n## Alarms\n")[1]
    .partition("\n## ")[0]
)


def test_every_alarm_is_told() -> None:
    table = ALARMS.split("\n\n")[1]

    assert re.findall(r"(?m)^\| `(\w+)` \|", table) == list(AlarmKind)


def test_every_metric_is_told_with_its_unit_and_what_it_is_told_apart_by() -> None:
    rows = re.findall(r"(?m)^\| `([a-z_]+)` \| (seconds|count) \|([^|]*)\|", ALARMS)

    told = {name: (unit.capitalize(), tuple(re.findall(r"`(\w+)`", by))) for name, unit, by in rows}

    assert told == dict(METRICS)
    assert f"`{NAMESPACE}`" in ALARMS
