"""The page about source files tells the format as it is."""

import re
from pathlib import Path

import pytest

from shared.catalog import forms, load_sources
from shared.domain.contracts import ColumnKind, MaskKind

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()


def test_the_example_of_the_page_can_be_loaded(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "shop.yaml").write_text(example)

    catalog = load_sources(tmp_path)

    assert [contract.table for contract in catalog.contracts()] == ["orders"]
    assert not catalog.warnings


@pytest.mark.parametrize(
    "word",
    sorted(
        {
            *forms.WholePostgresSource.model_fields,
            *forms.WholeDatabaseTable.model_fields,
            *forms.WholeRestTable.model_fields,
            *forms.RestColumnForm.model_fields,
            *forms.RestOptionsForm.model_fields,
            *forms.RestLimits.model_fields,
            *forms.RestConnection.model_fields,
            *forms.WholeOdbcSource.model_fields,
            *forms.OdbcConnection.model_fields,
            *forms.SqlalchemyConnection.model_fields,
            *forms.Product,
            *forms.Fetch,
            *(kind for kind in ColumnKind if kind is not ColumnKind.DECIMAL),
            *MaskKind,
        }
    ),
)
def test_every_key_type_and_mask_is_on_the_page(word: str) -> None:
    assert re.search(rf"`[^`\n]*\b{re.escape(word)}\b[^`\n]*`", PAGE)
