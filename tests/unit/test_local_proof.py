"""The proof of the demo reads the sample CRM while it changes."""

from types import SimpleNamespace
from typing import Any

import pytest

from local import proof
from shared.errors import Unavailable

STACK: Any = SimpleNamespace(crm_url="http://crm", crm_token="secret")


def shifting_pages(*, readings_that_miss: int) -> Any:
    """Return a CRM of four contacts on two pages, of which one falls between the pages in the first readings."""
    readings = 0

    def get(url: str, token: str) -> dict[str, Any]:
        nonlocal readings
        is_second = "&page=2" in url
        readings += not is_second
        missed = readings <= readings_that_miss
        ids = ([4, 1] if missed else [3, 4]) if is_second else [1, 2]
        return {"data": [{"id": number} for number in ids], "total": 4, "total_pages": 2}

    return get


def test_a_record_that_falls_between_two_pages_is_found_in_another_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proof, "_get", shifting_pages(readings_that_miss=2))

    found = proof._crm_records(STACK, "/v1/contacts")

    assert sorted(int(record["id"]) for record in found) == [1, 2, 3, 4]


def test_a_crm_that_never_shows_all_its_records_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "_get", shifting_pages(readings_that_miss=1000))

    with pytest.raises(Unavailable, match="has 4 records, and showed only 3"):
        proof._crm_records(STACK, "/v1/contacts")
