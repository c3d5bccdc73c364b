"""The page about drift is the one that the comparison makes, and no kind of change is left out of it."""

import re
from pathlib import Path

from services.extractor.dialects import DialectName
from services.extractor.drift_page import FATES, SAMPLES, render
from shared.domain.drift import HOLDING, ChangeKind

PAGE = Path(__file__).parents[2] / "docs" / "drift.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run: python -m services.extractor.drift_page > docs/drift.md"


def test_every_kind_of_change_and_every_product_is_on_the_page() -> None:
    assert set(FATES) == set(ChangeKind)
    assert set(SAMPLES) == set(DialectName)


def test_a_change_is_told_as_held_exactly_if_it_holds() -> None:
    held = PAGE.read_text().split("**Held**")[1].split("## ")[0]

    assert set(re.findall(r"(?m)^\| `(\w+)` \|", held)) == set(HOLDING)
