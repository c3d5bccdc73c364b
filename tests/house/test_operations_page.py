"""The page about operations tells every alarm, and no other."""

import re
from pathlib import Path

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
