"""The table of crash points shows what the simulation hits, and nothing else."""

import re
from collections.abc import Iterator
from itertools import chain

import pytest
from support.crash_points import BEGIN, END, PAGE, Healer, tabulate, try_all
from support.simulation.effects import FAULTS, Fault
from support.simulation.journeys import JOURNEYS, plain
from support.simulation.world import simulation


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulation():
        yield


def test_the_table_of_crash_points_lists_every_side_effect_and_mode_and_each_was_tried() -> None:
    shown = rows_of(PAGE.read_text().split(BEGIN)[1].split(END)[0])
    anew = rows_of(
        tabulate(chain.from_iterable(try_all(journey, start=50, step=400) for journey in JOURNEYS))
    )

    assert {effect: row[0] for effect, row in shown.items()} == {
        effect: row[0] for effect, row in anew.items()
    }
    assert shown["side effect"][2:-1] == list(FAULTS)
    cells = {effect: row[2:-1] for effect, row in shown.items() if effect != "side effect"}
    assert [effect for effect, row in cells.items() if "" in row] == []


def test_a_mode_that_is_said_to_need_nobody_needs_nobody() -> None:
    shown = rows_of(PAGE.read_text().split(BEGIN)[1].split(END)[0])
    mode = shown["side effect"].index(Fault.DUPLICATE)

    needed = {
        trial.effect: trial.healers for trial in try_all(plain, faults=[Fault.DUPLICATE], start=3, step=40)
    }

    for effect, healers in needed.items():
        assert {str(healer) for healer in healers} <= set(shown[effect][mode].split()), effect


def test_the_page_explains_every_letter_of_the_table() -> None:
    section = PAGE.read_text().split("### Crash points in memory")[1].split(BEGIN)[0]

    assert set(Healer) <= set(re.findall(r"`(\w)`", section))


def rows_of(table: str) -> dict[str, list[str]]:
    """Return the rows of a table in Markdown, by their first cell."""
    rows = [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in table.splitlines()]
    return {row[0].strip(): row[1:] for row in rows if len(row) > 1}
