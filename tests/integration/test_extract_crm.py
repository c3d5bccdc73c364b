"""The extractor on the sample CRM, which changes while it is read."""

import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from support.extraction import HMAC_EMAIL, bodies, column, make_contract, run_extract, updated_at

from local.crm import Crm, CrmServer
from shared.domain.contracts import SourceKind, TableContract
from shared.domain.windows import Window

TOKEN = "token-of-the-crm"
OPTIONS = {
    "contacts": {"paging": "page", "size_parameter": "per_page"},
    "deals": {"paging": "next_link", "next_link": "next", "size_parameter": "limit"},
}


@contextmanager
def running(crm: Crm, *, requests_per_second: float) -> Iterator[str]:
    server = CrmServer(crm, port=0, token=TOKEN, requests_per_second=requests_per_second)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def contract_of(kind: str, page_size: int) -> TableContract:
    columns = [column("id", "int64"), column("updated_at", "timestamptz")]
    if kind == "contacts":
        columns.append(column("email", mask=HMAC_EMAIL))
    return make_contract(
        columns,
        relation=(f"/v1/{kind}",),
        cursor=updated_at(),
        kind=SourceKind.REST,
        connection={"base_url": "env:BASE_URL", "token": "env:TOKEN"},
        options={
            "records_path": "data",
            "total_path": "total",
            "page_size": str(page_size),
            "after_parameter": "updated_after",
            "before_parameter": "updated_before",
            **OPTIONS[kind],
        },
    )


@pytest.mark.parametrize("kind", ["contacts", "deals"])
def test_no_record_that_stays_in_the_window_is_missed_while_others_leave_it(kind: str) -> None:
    anchor = datetime.now(UTC) - timedelta(days=1)
    crm = Crm(anchor=anchor, contact_count=1500, deal_count=1500)
    finished, dice = threading.Event(), random.Random(1)

    def keep_changing() -> None:
        while not finished.wait(0.02):
            crm.change_something(dice, now=datetime.now(UTC))

    changes = threading.Thread(target=keep_changing, daemon=True)
    with running(crm, requests_per_second=400) as url:
        changes.start()
        try:
            result, store = run_extract(
                contract_of(kind, 30),
                secrets={"env:BASE_URL": url, "env:TOKEN": TOKEN},
                window=Window(None, anchor + timedelta(hours=1)),
            )
        finally:
            finished.set()
            changes.join()

    read_ids = {int(line.split(b",")[0]) for line in b"".join(bodies(result, store)).splitlines()}
    before = (anchor + timedelta(hours=1)).isoformat()
    unchanged = {number for number, record in crm.records(kind).items() if record["updated_at"] < before}
    assert len(unchanged) < 1500
    assert unchanged <= read_ids


def test_no_personal_value_of_a_contact_leaves_unmasked() -> None:
    crm = Crm(anchor=datetime.now(UTC) - timedelta(days=1), contact_count=300, deal_count=1)

    with running(crm, requests_per_second=1000) as url:
        result, store = run_extract(
            contract_of("contacts", 100),
            secrets={"env:BASE_URL": url, "env:TOKEN": TOKEN},
            window=Window(None, datetime.now(UTC) - timedelta(hours=1)),
        )

    document = b"".join(bodies(result, store)).decode() + json.dumps(result.manifest) + repr(result.evidence)
    for record in crm.contacts.values():
        assert not any(text in document for text in _personal_texts(record))
    assert result.counts["rows_written"] == 300


def _personal_texts(record: dict[str, Any]) -> list[str]:
    return [
        text
        for name in ("email", "phone", "last_name", "name")
        if len(text := str(record.get(name) or "")) > 5
    ]
