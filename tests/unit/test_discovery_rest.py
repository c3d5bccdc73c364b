"""`discover` for REST sources: from sample records to a source file."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path

import pytest

from local.crm import Crm
from services.extractor.discovery.rest import RestSample, discover_rest
from shared.catalog import load_sources
from shared.domain.contracts import MaskKind, PublishMode, TableContract
from shared.errors import ConfigurationError

FILTERS = {"after_parameter": "updated_after", "before_parameter": "updated_before"}


def discovered(
    directory: Path, records: Iterable[Mapping[str, object]], options: Mapping[str, str] | None = None
) -> TableContract:
    """The contract that the discovered file of one endpoint says."""
    sample = RestSample("/v1/things", records, options or {})
    (directory / "crm.yaml").write_text(
        discover_rest([sample], source="crm", base_url="env:CRM_URL", token="env:CRM_TOKEN")
    )
    (contract,) = load_sources(directory).contracts()
    return contract


def test_the_sample_crm_is_taken_in_with_nothing_personal(tmp_path: Path) -> None:
    crm = Crm(anchor=datetime(2026, 11, 22, tzinfo=UTC), contact_count=300, deal_count=10)

    contract = discovered(tmp_path, crm.contacts.values(), FILTERS)

    kept = [column.name for column in contract.columns if column.mask.kind is MaskKind.KEEP]
    assert kept == [
        "id",
        "owner_id",
        "properties_score",
        "properties_consent",
        "archived",
        "created_at",
        "updated_at",
    ]
    assert contract.column("address_city").path == "address.city"
    assert str(contract.column("properties_tags").type) == "json"
    assert contract.key == ("id",)
    assert contract.cursor is not None
    assert contract.cursor.column == "updated_at"
    assert contract.publishing.mode is PublishMode.MERGE


def test_without_filters_each_batch_is_a_snapshot(tmp_path: Path) -> None:
    records = [{"id": 1, "updated_at": "2026-11-22T10:00:00Z"}]

    contract = discovered(tmp_path, records)

    assert contract.cursor is None
    assert contract.publishing.mode is PublishMode.REPLACE


def test_values_decide_the_types_and_mixed_ones_stay_text(tmp_path: Path) -> None:
    records = [
        {
            "id": 1,
            "n": 1,
            "f": Decimal("1.5"),
            "m": 1,
            "d": "2026-11-22",
            "b": True,
            "big": 2**70,
            "never": None,
        },
        {"id": 2, "n": None, "f": 2, "m": "x", "d": "2026-11-23", "b": False, "big": 1, "never": None},
    ]

    contract = discovered(tmp_path, records)

    assert {column.name: str(column.type) for column in contract.columns} == {
        "id": "int64",
        "n": "int64",
        "f": "string",
        "m": "string",
        "d": "date",
        "b": "boolean",
        "big": "string",
        "never": "string",
    }
    assert not contract.column("m").leaves
    assert not contract.column("never").leaves


def test_names_that_no_path_can_say_stay_within_a_json_column(tmp_path: Path) -> None:
    records = [{"id": 1, "a.b": 5, "nested": {"x y": 1, "z.z": 2}, "deep": {"a": {"b": {"c": {"d": 1}}}}}]

    contract = discovered(tmp_path, records)

    assert {column.name: column.path for column in contract.columns} == {
        "id": "",
        "a.b": "",
        "nested": "",
        "deep_a_b_c": "deep.a.b.c",
    }
    assert str(contract.column("nested").type) == "json"


def test_an_endless_endpoint_is_looked_at_for_a_bounded_time(tmp_path: Path) -> None:
    contract = discovered(tmp_path, ({"id": number} for number in count()))

    assert contract.key == ("id",)


def test_no_value_stands_in_the_file() -> None:
    records = [{"id": "ana@example.org", "who": "Ana Secretperson", "n": 4242424242}]

    text = discover_rest([RestSample("/x", records)], source="crm", base_url="env:CRM_URL")

    assert not any(value in text for value in ("ana@", "Secretperson", "4242424242"))
    assert "EDIT: id is withheld" in text


def test_nothing_to_look_at_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="at least one endpoint"):
        discover_rest([RestSample("/x", [])], source="crm", base_url="env:CRM_URL")
