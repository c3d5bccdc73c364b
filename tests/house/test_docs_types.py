"""The page about types is the one that the dialects make, and no product is left out of it."""

from pathlib import Path

import pytest

from services.extractor.dialects import Carriage, DialectName
from services.extractor.dialects.page import TYPES, render
from services.extractor.dialects.registry import dialect_of

PAGE = Path(__file__).parents[2] / "docs" / "types.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == render(), "run: python -m services.extractor.dialects.page > docs/types.md"


def test_every_product_is_on_the_page() -> None:
    assert set(TYPES) == set(DialectName)


@pytest.mark.parametrize(
    ("name", "source_type"), [(name, source_type) for name, types in TYPES.items() for source_type in types]
)
def test_every_type_has_a_text_or_the_reason_why_not(name: DialectName, source_type: str) -> None:
    dialect = dialect_of(name)
    fate = dialect.fate_of(source_type)

    told = fate.note if fate.carriage is Carriage.REFUSED else dialect.text_of("c", source_type)

    assert told


@pytest.mark.parametrize(
    ("name", "source_type"), [(name, source_type) for name, types in TYPES.items() for source_type in types]
)
def test_a_contract_may_declare_the_fate_that_the_page_tells(name: DialectName, source_type: str) -> None:
    dialect = dialect_of(name)
    fate = dialect.fate_of(source_type)

    assert dialect.can_carry(source_type, fate.type) is (fate.carriage is not Carriage.REFUSED)
