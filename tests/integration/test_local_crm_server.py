"""What the sample CRM promises over HTTP."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import pytest
import requests

from local.crm import Crm, CrmServer

TOKEN = "a-token-of-the-tests"
HEADERS = {"Authorization": f"Bearer {TOKEN}"}


def serve(requests_per_second: float) -> Iterator[str]:
    crm = Crm(anchor=datetime(2026, 3, 1, tzinfo=UTC), contact_count=250, deal_count=250)
    with CrmServer(crm, port=0, token=TOKEN, requests_per_second=requests_per_second) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.url
        server.shutdown()
        thread.join()


@pytest.fixture
def url() -> Iterator[str]:
    yield from serve(requests_per_second=1_000)


@pytest.fixture
def slow_url() -> Iterator[str]:
    yield from serve(requests_per_second=3)


def get(url: str, headers: dict[str, str] | None = None) -> requests.Response:
    return requests.get(url, headers=HEADERS if headers is None else headers, timeout=10)


def test_contacts_come_in_numbered_pages_with_totals(url: str) -> None:
    answers = [get(f"{url}/v1/contacts?page={page}&per_page=100").json() for page in (1, 2, 3, 4)]

    assert [len(answer["data"]) for answer in answers] == [100, 100, 50, 0]
    assert {(answer["total"], answer["total_pages"]) for answer in answers} == {(250, 3)}
    assert len({record["id"] for answer in answers for record in answer["data"]}) == 250


def test_deals_come_by_following_next(url: str) -> None:
    following, ids = f"{url}/v1/deals?limit=100", []
    while following:
        answer = get(following).json()
        ids += [record["id"] for record in answer["data"]]
        following = answer["next"]

    assert len(ids) == 250
    assert len(set(ids)) == 250


def test_the_next_link_keeps_the_filters(url: str) -> None:
    middle = get(f"{url}/v1/deals?limit=200").json()["data"][100]["updated_at"]

    first = get(f"{url}/v1/deals?limit=60&updated_before={middle}").json()
    second = get(first["next"]).json()

    assert first["total"] == 100
    assert [len(first["data"]), len(second["data"]), second["next"]] == [60, 40, None]
    assert all(record["updated_at"] < middle for record in first["data"] + second["data"])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
    ],
)
def test_nothing_but_health_is_told_without_the_token(url: str, headers: dict[str, str]) -> None:
    answer = get(f"{url}/v1/contacts", headers)

    assert answer.status_code == 401
    assert "data" not in answer.json()
    assert get(f"{url}/v1/health", headers).json() == {"status": "ok"}


def test_above_its_rate_it_answers_429_and_says_when_to_come_back(slow_url: str) -> None:
    answers = [get(f"{slow_url}/v1/contacts?per_page=1") for _ in range(30)]

    refused = [answer for answer in answers if answer.status_code == 429]
    assert [answer.status_code for answer in answers[:3]] == [200, 200, 200]
    assert refused
    assert {answer.headers["Retry-After"] for answer in refused} == {"1"}


def test_each_answer_tells_the_clock_of_the_source(url: str) -> None:
    answer = get(f"{url}/v1/deals")

    drift = parsedate_to_datetime(answer.headers["Date"]) - datetime.now(UTC)
    assert abs(drift.total_seconds()) < 60


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/contacts?page=x", 400),
        ("/v1/contacts?page=1&page=2", 400),
        ("/v1/deals?cursor=zzz", 400),
        ("/v1/deals?limit=" + "1" * 3_000, 400),
        ("/v1/nothing", 404),
        ("/", 404),
    ],
)
def test_a_request_that_means_nothing_gets_a_reason_as_json(url: str, path: str, status: int) -> None:
    answer = get(url + path)

    assert answer.status_code == status
    assert answer.json()["error"]
