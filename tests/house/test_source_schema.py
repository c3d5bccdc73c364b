"""The JSON Schema that editors read is the one that the forms make, and the samples fit it."""

import json
from pathlib import Path

import jsonschema
import pytest
import yaml

from shared.catalog import SCHEMA_FILE_NAME, write_json_schema

SOURCES = Path(__file__).parents[2] / "sources"


def test_the_schema_is_up_to_date(tmp_path: Path) -> None:
    write_json_schema(tmp_path / SCHEMA_FILE_NAME)

    assert (SOURCES / SCHEMA_FILE_NAME).read_text() == (tmp_path / SCHEMA_FILE_NAME).read_text()


@pytest.mark.parametrize("file", sorted(SOURCES.glob("*.yaml")), ids=lambda file: file.name)
def test_every_source_file_fits_the_schema_and_names_it(file: Path) -> None:
    schema = json.loads((SOURCES / SCHEMA_FILE_NAME).read_text())
    text = file.read_text()

    jsonschema.validate(yaml.safe_load(text), schema)

    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA_FILE_NAME}\n")


def test_the_schema_refuses_an_unknown_key() -> None:
    schema = json.loads((SOURCES / SCHEMA_FILE_NAME).read_text())
    content = yaml.safe_load((SOURCES / "shop.yaml").read_text())

    content["tables"]["orders"]["colums"] = {}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)
