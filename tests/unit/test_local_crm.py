"""What the sample CRM promises, without a server: the same records from the same seed, and a journal that survives."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import pytest

from local.crm import (
    Crm,
    RateLimit,
    Rejected,
    list_contacts,
    list_deals,
    read_cursor,
    read_moment,
    read_parameters,
    write_cursor,
    write_moment,
)

ANCHOR = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def crm() -> Crm:
    return Crm(anchor=ANCHOR)


def test_two_starts_with_one_anchor_make_the_same_records(crm: Crm) -> None:
    again = Crm(anchor=ANCHOR)

    assert (len(crm.contacts), len(crm.deals)) == (5_000, 3_000)
    assert crm.contacts == again.contacts
    assert crm.deals == again.deals


def test_all_records_are_older_than_the_anchor_and_at_most_90_days(crm: Crm) -> None:
    moments = [
        read_moment(record["updated_at"])
        for kind in ("contacts", "deals")
        for record in crm.records(kind).values()
    ]

    assert max(moments) < ANCHOR
    assert min(moments) >= ANCHOR - timedelta(days=90)


def test_the_records_hold_what_breaks_careless_readers(crm: Crm) -> None:
    notes = {contact["properties"]["note"] for contact in crm.contacts.values()}
    tags = {tag for contact in crm.contacts.values() for tag in contact["properties"]["tags"]}

    assert {None, "", "NULL", "=1+1", "two\nlines"} <= notes
    assert {'said "hi"', "a,b", "🚀"} <= tags
    assert any(contact["address"] is None for contact in crm.contacts.values())
    assert any(contact["email"] is None for contact in crm.contacts.values())


def test_filters_are_half_open(crm: Crm) -> None:
    record = crm.contacts[7]
    moment = record["updated_at"]

    from_it = crm.find("contacts", after=moment, before=None)
    up_to_it = crm.find("contacts", after=None, before=moment)

    assert record in from_it
    assert record not in up_to_it
    assert len(from_it) + len(up_to_it) == 5_000


def test_pages_by_number_give_every_contact_once(crm: Crm) -> None:
    pages = [list_contacts(crm, {"page": str(page), "per_page": "200"}) for page in range(1, 27)]

    ids = [record["id"] for page in pages for record in page["data"]]
    assert sorted(ids) == list(range(1, 5_001))
    assert pages[0]["total"] == 5_000
    assert pages[0]["total_pages"] == 25
    assert pages[25]["data"] == []


def test_following_the_cursor_gives_every_deal_once(crm: Crm) -> None:
    ids: list[int] = []
    parameters = {"limit": "170", "updated_before": write_moment(ANCHOR)}
    while True:
        answer = list_deals(crm, parameters, url="http://crm/v1/deals")
        ids += [record["id"] for record in answer["data"]]
        if answer["next"] is None:
            break
        parameters = read_parameters(answer["next"].partition("?")[2])
        assert parameters["updated_before"] == write_moment(ANCHOR)

    assert sorted(ids) == list(range(1, 3_001))
    assert len(ids) == 3_000


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"page": "0"}, "page must be a number"),
        ({"page": "1.5"}, "page must be a number"),
        ({"per_page": "201"}, "per_page must be a number from 1 to 200"),
        ({"per_page": "9" * 400}, "per_page must be a number"),
        ({"updated_after": "yesterday"}, "updated_after must be a moment"),
        ({"updated_before": "2026-01-01T00:00:00"}, "updated_before must be a moment with a zone"),
    ],
)
def test_parameters_that_mean_nothing_are_refused_by_name(
    crm: Crm, parameters: dict[str, str], message: str
) -> None:
    with pytest.raises(Rejected, match=message) as rejected:
        list_contacts(crm, parameters)

    assert rejected.value.status == 400


@pytest.mark.parametrize("cursor", ["", "x", "bnVsbA==", "WzFd", "e30=", "ÿ", "W251bGwsIG51bGxd"])
def test_a_cursor_nobody_gave_is_refused(cursor: str) -> None:
    with pytest.raises(Rejected, match="cursor must be one that an answer gave"):
        read_cursor(cursor)


def test_a_cursor_says_where_it_was() -> None:
    assert read_cursor(write_cursor(("2026-01-01T00:00:00.000001Z", 12))) == (
        "2026-01-01T00:00:00.000001Z",
        12,
    )


def test_a_rate_limit_admits_so_many_at_once_and_then_so_many_a_second() -> None:
    now = [0.0]
    limit = RateLimit(20, clock=lambda: now[0])

    at_once = sum(limit.admits() for _ in range(50))
    now[0] = 0.25
    a_quarter_second_later = sum(limit.admits() for _ in range(50))
    now[0] = 3600.0
    after_an_hour = sum(limit.admits() for _ in range(50))

    assert (at_once, a_quarter_second_later, after_an_hour) == (20, 5, 20)


def test_changes_and_anchor_survive_a_restart(tmp_path: Path) -> None:
    journal = tmp_path / "crm.jsonl"
    first = Crm.open(journal, now=ANCHOR)
    dice = Random(3)
    for elapsed_seconds in range(40):
        first.change_something(dice, now=ANCHOR + timedelta(seconds=elapsed_seconds))

    second = Crm.open(journal, now=ANCHOR + timedelta(days=1))

    assert second.contacts == first.contacts
    assert second.deals == first.deals
    assert len(second.contacts) > 5_000
    assert len(second.find("contacts", after=write_moment(ANCHOR), before=None)) > 5


def test_a_change_cut_short_by_a_crash_is_dropped_and_later_ones_are_kept(tmp_path: Path) -> None:
    journal = tmp_path / "crm.jsonl"
    first = Crm.open(journal, now=ANCHOR)
    kept = first.change_something(Random(1), now=ANCHOR)
    with journal.open("a") as file:
        file.write('{"kind": "contacts", "rec')

    second = Crm.open(journal, now=ANCHOR)
    later = second.change_something(Random(2), now=ANCHOR)

    third = Crm.open(journal, now=ANCHOR)
    assert [json.loads(line).get("record") for line in journal.read_text().splitlines()] == [
        None,
        kept,
        later,
    ]
    assert third.contacts == second.contacts
