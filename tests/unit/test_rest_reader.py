"""The REST reader against a real server on loopback, honest and otherwise."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import structlog
from support.extraction import (
    HMAC,
    KEEP,
    LAST4,
    WITHHOLD,
    bodies,
    column,
    make_contract,
    run_extract,
    updated_at,
)
from support.hostile_http import Asked, Reply, hostile_server

from services.extractor.readers import ReadLimits, open_reader
from services.extractor.readers import http as http_module
from shared.domain.contracts import SourceKind, TableContract
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, EsclusaError, Refused, Unavailable
from shared.lifecycle import StageResult
from shared.secrets.memory import MemorySecrets

TOKEN = "the-hidden-token"
COLUMNS = [column("id", "int64"), column("name")]


def contract_of(
    columns: Any = COLUMNS, *, cursor: Any = None, limits: Any = None, **options: str
) -> TableContract:
    connection = {"base_url": "env:BASE_URL", "token": "env:TOKEN", **(limits or {})}
    return make_contract(
        columns,
        relation=("/v1/contacts",),
        cursor=cursor,
        kind=SourceKind.REST,
        connection=connection,
        options=options,
    )


def read(contract: TableContract, url: str, **options: Any) -> tuple[StageResult, bytes]:
    result, store = run_extract(contract, secrets={"env:BASE_URL": url, "env:TOKEN": TOKEN}, **options)
    return result, b"".join(bodies(result, store))


def failure(contract: TableContract, answer: Callable[[Asked], Reply], **options: Any) -> EsclusaError:
    with hostile_server(answer) as server, pytest.raises((Refused, Unavailable)) as raised:
        read(contract, server.url, **options)
    assert TOKEN not in str(raised.value)
    return raised.value


def reason_of(error: EsclusaError) -> Reason | None:
    return error.reason if isinstance(error, Refused) else None


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(http_module, "DEFAULT_RETRY_AFTER_SECONDS", 0.01)


def people(first: int, last: int) -> list[dict[str, Any]]:
    return [{"id": number, "name": f"n{number}"} for number in range(first, last + 1)]


def lines(first: int, last: int) -> bytes:
    return b"".join(b"%d,n%d\n" % (number, number) for number in range(first, last + 1))


# ---- paging ------------------------------------------------------------------------------------------------


def by_page(count: int, size: int, *, first: int = 1, total: bool = True) -> Callable[[Asked], Reply]:
    def answer(asked: Asked) -> Reply:
        start = (int(asked.parameters["page"]) - first) * size
        body = {"data": people(start + 1, min(start + size, count))}
        return Reply({**body, "meta": {"total": count}} if total else body)

    return answer


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 30])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("total", [True, False])
@pytest.mark.parametrize("page_size", [{}, {"page_size": "10", "size_parameter": "per_page"}])
def test_pages_by_number(count: int, first: int, total: bool, page_size: dict[str, str]) -> None:
    options = {
        "paging": "page",
        "first_page": str(first),
        **page_size,
        **({"total_path": "meta.total"} if total else {}),
    }

    with hostile_server(by_page(count, 10, first=first, total=total)) as server:
        _, body = read(contract_of(**options), server.url)

    assert sorted(body.splitlines()) == sorted(lines(1, count).splitlines())
    assert server.asked[0].headers["Authorization"] == f"Bearer {TOKEN}"
    assert server.asked[0].parameters.get("per_page") == page_size.get("page_size")


@pytest.mark.parametrize("total", [True, False])
def test_pages_by_offset_whatever_their_size(total: bool) -> None:
    def answer(asked: Asked) -> Reply:
        skip = int(asked.parameters["skip"])
        body = {"data": people(skip + 1, min(skip + 7, 20))}
        return Reply({**body, "total": 20} if total else body)

    options = {"paging": "offset", "offset_parameter": "skip", "page_size": "10"}
    with hostile_server(answer) as server:
        _, body = read(contract_of(**options, **({"total_path": "total"} if total else {})), server.url)

    assert sorted(body.splitlines()) == sorted(lines(1, 20).splitlines())


def test_pages_by_cursor() -> None:
    following = {None: (1, 5, "b"), "b": (6, 10, 77), "77": (11, 12, None)}

    def answer(asked: Asked) -> Reply:
        first, last, cursor = following[asked.parameters.get("after")]
        return Reply({"results": people(first, last), "paging": {"next": cursor}})

    options = {
        "paging": "cursor",
        "cursor_parameter": "after",
        "cursor_path": "paging.next",
        "records_path": "results",
    }
    with hostile_server(answer) as server:
        _, body = read(contract_of(**options), server.url)

    assert body == lines(1, 12)


@pytest.mark.parametrize("style", ["absolute", "relative", "query", "header"])
def test_pages_by_next_link(style: str) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.parameters.get("c") == "2":
            return Reply({"data": people(6, 8), "next": None})
        link = {
            "absolute": server.url + "v1/contacts?c=2",
            "relative": "/v1/contacts?c=2",
            "query": "?c=2",
            "header": "",
        }[style]
        headers = {"Link": '</v1/contacts?c=2>; rel="next", </v1>; rel="first"'} if style == "header" else {}
        return Reply({"data": people(1, 5), "next": link}, headers=headers)

    options = {"paging": "next_link", "next_link": "header" if style == "header" else "next"}
    with hostile_server(answer) as server:
        _, body = read(contract_of(**options), server.url)

    assert body == lines(1, 8)


@pytest.mark.parametrize("paging", ["page", "offset"])
@pytest.mark.parametrize("leaving_at", range(2, 6))
def test_records_that_leave_while_pages_are_read_take_no_other_with_them(
    paging: str, leaving_at: int
) -> None:
    present = people(1, 45)

    def answer(asked: Asked) -> Reply:
        if len(server.asked) == leaving_at:
            del present[3:16]
        start = (
            int(asked.parameters["offset"])
            if paging == "offset"
            else 10 * (int(asked.parameters["page"]) - 1)
        )
        return Reply({"data": present[start : start + 10], "total": len(present)})

    with hostile_server(answer) as server:
        _, body = read(contract_of(paging=paging, page_size="10", total_path="total"), server.url)

    assert {record["id"] for record in present} <= {int(line.split(b",")[0]) for line in body.splitlines()}


@pytest.mark.parametrize("paging", ["page", "offset"])
@pytest.mark.parametrize("coming_at", range(2, 6))
def test_records_that_come_while_pages_are_read_hide_no_other(paging: str, coming_at: int) -> None:
    present = people(1, 45)

    def answer(asked: Asked) -> Reply:
        if len(server.asked) == coming_at:
            present[3:3] = people(101, 113)
        start = (
            int(asked.parameters["offset"])
            if paging == "offset"
            else 10 * (int(asked.parameters["page"]) - 1)
        )
        return Reply({"data": present[start : start + 10], "total": len(present)})

    with hostile_server(answer) as server:
        _, body = read(contract_of(paging=paging, page_size="10", total_path="total"), server.url)

    assert set(range(1, 46)) <= {int(line.split(b",")[0]) for line in body.splitlines()}


@pytest.mark.parametrize("paging", ["page", "offset"])
def test_a_page_that_comes_twice_is_refused(paging: str) -> None:
    error = failure(contract_of(paging=paging), lambda _: Reply({"data": people(1, 10)}))

    assert reason_of(error) is Reason.SOURCE_ANSWER_INVALID
    assert "twice" in str(error)


@pytest.mark.parametrize("paging", ["cursor", "next_link"])
def test_links_in_a_circle_are_refused(paging: str) -> None:
    def answer(asked: Asked) -> Reply:
        there = asked.parameters.get("cursor", "a")
        back = {"a": "b", "b": "c", "c": "b"}[there]
        body = {"data": people(1, 2) if there == "a" else people(3, 4) if there == "b" else people(5, 6)}
        return Reply({**body, "next": back if paging == "cursor" else f"?cursor={back}"})

    error = failure(contract_of(paging=paging, cursor_path="next", next_link="next"), answer)

    assert reason_of(error) is Reason.SOURCE_ANSWER_INVALID
    assert "circle" in str(error)


@pytest.mark.parametrize("paging", ["page", "offset"])
@pytest.mark.parametrize(
    "pages",
    [
        [(10, 25), (10, 25), (0, 25)],
        [(10, 25), (0, 25), (5, 25)],
        [(10, 25), (10, 25), (6, 25)],
        [(10, 25), (10, None), (5, 25)],
        [(10, 8)],
        [(0, 25)],
        [(10, 25)],
        [(5, -1)],
        [(5, True)],
        [(5, "many")],
        [(5, 1.5)],
    ],
)
def test_a_total_that_does_not_match_is_refused(paging: str, pages: list[tuple[int, Any]]) -> None:
    def answer(asked: Asked) -> Reply:
        position = (
            (int(asked.parameters["page"]) - 1) if paging == "page" else int(asked.parameters["offset"]) // 10
        )
        count, total = pages[position] if position < len(pages) else (0, 25)
        return Reply({"data": people(10 * position + 1, 10 * position + count), "total": total})

    error = failure(contract_of(paging=paging, page_size="10", total_path="total"), answer)

    assert reason_of(error) is Reason.SOURCE_ANSWER_INVALID


def test_a_source_may_allow_only_shorter_pages_than_asked_for() -> None:
    with hostile_server(by_page(35, 10)) as server:
        result, text = read(contract_of(paging="page", page_size="100", total_path="meta.total"), server.url)

    assert sorted(text.splitlines()) == sorted(lines(1, 35).splitlines())
    assert result.counts["rows_read"] == 35


# ---- origins -----------------------------------------------------------------------------------------------

ELSEWHERE = ["http://127.0.0.1:{other}/x", "https://127.0.0.1:{own}/x", "//127.0.0.1:{other}/x", "http://localhost:{own}/x",
             "http://127.0.0.1:{own}@127.0.0.1:{other}/x", "http://user:pw@127.0.0.1:{own}/x",
             "http://127.0.0.1:{other}\\@127.0.0.1:{own}/x", "http:\\\\127.0.0.1:{other}/x", "file:///etc/passwd",
             "ftp://127.0.0.1:{own}/x", "http://[::1]:{own}/x", "http://[::1", "//[", "http://127.0.0.1:99999/x"]  # fmt: skip


@pytest.mark.parametrize("link", ELSEWHERE)
@pytest.mark.parametrize("through", ["next link", "Link header", "redirect"])
def test_no_link_and_no_redirect_leads_to_another_origin(link: str, through: str) -> None:
    def answer(asked: Asked) -> Reply:
        target = link.format(own=server.server_address[1], other=other.server_address[1])
        if through == "redirect":
            return Reply(status=302, headers={"Location": target})
        headers = {"Link": f'<{target}>; rel="next"'} if through == "Link header" else {}
        return Reply({"data": people(1, 1), "next": target}, headers=headers)

    contract = contract_of(paging="next_link", next_link="next" if through == "next link" else "header")
    with (
        hostile_server(lambda _: Reply({"data": []})) as other,
        hostile_server(answer) as server,
        pytest.raises(Refused) as refused,
    ):
        read(contract, server.url)

    assert refused.value.reason is Reason.SOURCE_ANSWER_INVALID
    assert other.asked == []
    assert len(server.asked) == 1


def test_a_redirect_within_the_origin_is_followed() -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/v1/contacts":
            return Reply(status=307, headers={"Location": "/v2/contacts"})
        return Reply({"data": people(1, 2)})

    with hostile_server(answer) as server:
        _, body = read(contract_of(), server.url)

    assert body == lines(1, 2)
    assert server.asked[1].headers["Authorization"] == f"Bearer {TOKEN}"


def test_redirects_do_not_go_on_for_ever() -> None:
    error = failure(contract_of(), lambda asked: Reply(status=302, headers={"Location": asked.path + "x"}))

    assert reason_of(error) is Reason.SOURCE_ANSWER_INVALID


@pytest.mark.parametrize(
    "url", ["http://example.com/", "hidden-word", "https://user:hidden-word@example.com/", "https://example.com/?k=hidden-word"]
)  # fmt: skip
def test_a_base_url_that_would_betray_the_token_is_a_mistake_of_configuration(url: str) -> None:
    with pytest.raises(ConfigurationError, match="base_url") as wrong:
        read(contract_of(), url)

    assert "hidden-word" not in str(wrong.value)


def test_a_token_that_fits_no_header_is_not_shown() -> None:
    secrets = MemorySecrets({"env:BASE_URL": "https://example.com", "env:TOKEN": "hidden-word\nX: y"})

    with open_reader(contract_of(), secrets=secrets) as reader, pytest.raises(ConfigurationError) as wrong:
        reader.clock()

    assert "hidden-word" not in str(wrong.value)


# ---- time and size -----------------------------------------------------------------------------------------


def test_a_rate_limit_is_waited_for() -> None:
    def answer(asked: Asked) -> Reply:
        if len(server.asked) <= 6:
            return Reply(status=429, headers={"Retry-After": "0"})
        return Reply({"data": people(1, 1)})

    with hostile_server(answer) as server:
        _, body = read(contract_of(), server.url)

    assert body == lines(1, 1)


@pytest.mark.parametrize("relations", ["next", "last next", "NEXT", "Next\tlast"])
def test_a_next_link_may_have_other_relations_and_letters_of_any_case(relations: str) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/more":
            return Reply({"data": people(2, 2)})
        return Reply(
            {"data": people(1, 1)}, headers={"Link": f'</first>; rel="first", </more>; rel="{relations}"'}
        )

    with hostile_server(answer) as server:
        _, body = read(contract_of(paging="next_link", next_link="header"), server.url)

    assert body == lines(1, 2)


@pytest.mark.parametrize(
    "retry_after", ["Fri, 31 Dec 9999 23:59:59 -2300", "1 Jan 99999999999999999999 00:00", "soon", ""]
)
def test_a_rate_limit_that_says_nonsense_is_waited_for(retry_after: str) -> None:
    def answer(asked: Asked) -> Reply:
        if len(server.asked) == 1:
            return Reply(status=429, headers={"Retry-After": retry_after})
        return Reply({"data": people(1, 1)})

    with hostile_server(answer) as server:
        _, body = read(contract_of(), server.url)

    assert body == lines(1, 1)


@pytest.mark.parametrize("retry_after", ["3600", "Wed, 21 Oct 2099 07:28:00 GMT"])
def test_a_rate_limit_beyond_the_deadline_gives_the_slot_back(retry_after: str) -> None:
    error = failure(
        contract_of(),
        lambda _: Reply(status=429, headers={"Retry-After": retry_after}),
        limits=ReadLimits(read_timeout_seconds=5),
    )

    assert isinstance(error, Unavailable)
    assert "429" in str(error)


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408])
def test_an_error_of_the_server_is_asked_again(status: int) -> None:
    def answer(asked: Asked) -> Reply:
        return Reply({"data": people(1, 1)}) if len(server.asked) == 3 else Reply(status=status)

    with hostile_server(answer) as server:
        _, body = read(contract_of(), server.url)

    assert body == lines(1, 1)


def test_a_server_that_stays_broken_may_be_back_later() -> None:
    error = failure(contract_of(), lambda _: Reply(status=500))

    assert isinstance(error, Unavailable)


@pytest.mark.parametrize(
    ("status", "reason"),
    [(401, Reason.TABLE_MISSING), (403, Reason.TABLE_MISSING), (404, Reason.TABLE_MISSING),
     (400, Reason.SOURCE_ANSWER_INVALID), (204, Reason.SOURCE_ANSWER_INVALID), (304, Reason.SOURCE_ANSWER_INVALID)],
)  # fmt: skip
def test_a_final_no_is_refused_and_not_repeated(status: int, reason: Reason) -> None:
    with hostile_server(lambda _: Reply(status=status)) as server, pytest.raises(Refused) as refused:
        read(contract_of(), server.url)

    assert refused.value.reason is reason
    assert len(server.asked) == 1


def test_an_unreachable_server_may_be_back_later() -> None:
    with pytest.raises(Unavailable):
        read(contract_of(), "http://127.0.0.1:1/")


def _drip_body(handler: Any) -> None:
    handler.wfile.write(b'HTTP/1.1 200 OK\r\n\r\n{"data": [')
    handler.drip(b" ")


def _drip_counted_body(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    handler.drip(b" ")


def _drip_chunks(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFF\r\n")
    handler.drip(b" ")


def _drip_headers(handler: Any) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    handler.drip(b"x")


def _say_nothing(handler: Any) -> None:
    handler.drip(b"")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("raw", [_drip_body, _drip_counted_body, _drip_chunks, _drip_headers, _say_nothing])
def test_a_server_that_drips_holds_a_worker_for_a_bounded_time(raw: Any) -> None:
    error = failure(
        contract_of(limits={"timeout_seconds": "0.3"}),
        lambda _: Reply(raw=raw),
        limits=ReadLimits(read_timeout_seconds=1),
    )

    assert isinstance(error, Unavailable)
    # On a busy machine a request may be given up before the whole reading is.
    assert "cut" in str(error) or "ReadTimeout" in str(error)


def test_a_body_without_a_length_that_is_cut_by_us_does_not_count_as_whole() -> None:
    def whole_but_open(handler: Any) -> None:
        handler.wfile.write(b'HTTP/1.1 200 OK\r\n\r\n{"data": []}')
        handler.drip(b"")

    error = failure(
        contract_of(limits={"timeout_seconds": "0.3"}),
        lambda _: Reply(raw=whole_but_open),
        limits=ReadLimits(read_timeout_seconds=1),
    )

    assert isinstance(error, Unavailable)


@pytest.mark.parametrize(
    ("limits", "answer"),
    [
        ({"max_pages": "3"}, lambda asked: Reply({"data": people(int(asked.parameters["page"]), int(asked.parameters["page"]))})),
        ({"max_rows": "25"}, by_page(1000, 10)),
        ({"max_bytes": "2000"}, by_page(1000, 10)),
        ({"max_bytes": "2000"}, lambda _: Reply(gzip.compress(b" " * 10**6), headers={"Content-Encoding": "gzip"})),
    ],
    ids=["pages", "rows", "bytes", "unpacked bytes"],
)  # fmt: skip
def test_what_never_ends_is_refused(limits: dict[str, str], answer: Callable[[Asked], Reply]) -> None:
    error = failure(contract_of(paging="page", limits=limits), answer)

    assert reason_of(error) is Reason.SOURCE_LIMIT_EXCEEDED
    assert next(iter(limits)) in str(error)


def test_requests_keep_their_distance() -> None:
    contract = contract_of(
        paging="page", page_size="10", total_path="meta.total", limits={"requests_per_second": "20"}
    )

    with hostile_server(by_page(50, 10)) as server:
        began = datetime.now(UTC)
        read(contract, server.url)
        took = datetime.now(UTC) - began

    assert took >= timedelta(seconds=5 / 20)


# ---- lies --------------------------------------------------------------------------------------------------

LIES = {
    "HTML": b"<html>Please log in</html>",
    "nothing": b"",
    "cut JSON": b'{"data": [{"id": 1}',
    "NaN": b'{"data": [{"id": NaN}]}',
    "Infinity": b'{"data": [{"id": -Infinity}]}',
    "invalid UTF-8": b'{"data": [{"name": "\xff"}]}',
    "two names": b'{"data": [{"id": 1, "id": 2}]}',
    "another shape": b'{"error": "try again"}',
    "a list of numbers": b'{"data": [1, 2]}',
    "an object": b'{"data": {"id": 1}}',
    "null": b"null",
    "UTF-16": '{"data": []}'.encode("utf-16"),
    "deep": b'{"data": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
}


@pytest.mark.parametrize("body", LIES.values(), ids=LIES.keys())
def test_an_answer_that_cannot_be_true_never_leaves(body: bytes) -> None:
    error = failure(contract_of(), lambda _: Reply(body))

    assert reason_of(error) is Reason.SOURCE_ANSWER_INVALID
    assert "log in" not in str(error)


def test_a_body_that_is_cut_may_be_whole_the_next_time() -> None:
    body = json.dumps({"data": people(1, 3)}).encode()

    def answer(asked: Asked) -> Reply:
        return Reply(body, cut_after=None if len(server.asked) == 2 else 20)

    with hostile_server(answer) as server:
        _, read_body = read(contract_of(), server.url)
    error = failure(contract_of(), lambda _: Reply(body, cut_after=20))

    assert read_body == lines(1, 3)
    assert isinstance(error, Unavailable)


def test_a_value_nested_too_deeply_is_refused_by_name() -> None:
    error = failure(
        contract_of([column("id", "int64"), column("name", "json")]),
        lambda _: Reply(b'{"data": [{"id": 1, "name": ' + b"[" * 50 + b"]" * 50 + b"}]}"),
    )

    assert reason_of(error) is Reason.SOURCE_LIMIT_EXCEEDED


@pytest.mark.parametrize("text", ["a\\u0000b", "\\ud800"])
def test_text_that_cannot_be_carried_is_refused_by_name(text: str) -> None:
    error = failure(contract_of(), lambda _: Reply(f'{{"data": [{{"id": 1, "name": "{text}"}}]}}'.encode()))

    assert reason_of(error) is Reason.VALUE_NOT_REPRESENTABLE
    assert "'name'" in str(error)


# ---- values ------------------------------------------------------------------------------------------------


def test_numbers_keep_their_text_and_objects_become_json() -> None:
    body = (
        b'{"data": [{"id": 12345678901234567890123, "price": 1.10, "rate": 1E-7, "ok": true, "address": {"b": 1.0, "a": "\xc3\xa9"},'
        b' "note": "", "word": "NULL", "none": null, "raw": "1", "list": [1, "x", null]}]}'
    )
    names = ["id", "price", "rate", "ok", "address", "note", "word", "none", "missing", "list"]
    contract = contract_of([*(column(name) for name in names), column("raw", "json")])

    with hostile_server(lambda _: Reply(body)) as server:
        _, text = read(contract, server.url)

    expected = '12345678901234567890123,1.10,1E-7,true,"{""a"":""é"",""b"":1.0}","",NULL,,,"[1,""x"",null]","""1"""\n'
    assert text.decode() == expected


def test_values_stand_where_the_path_says() -> None:
    record = {"id": 1, "properties": {"email": "a@b.c", "a.b": "dotted"}, "name": None}
    columns = [
        column("id", "int64"),
        column("email", mask=HMAC, path="properties.email"),
        column("city", path="address.city"),
        column("phone", mask=LAST4, path="properties.phone"),
    ]

    with hostile_server(lambda _: Reply({"data": [record]})) as server:
        _, text = read(contract_of(columns), server.url)

    first, email, city, phone = text.decode().rstrip("\n").split(",")
    assert (first, city, phone) == ("1", "", "")
    assert len(email) == 64


@pytest.mark.parametrize(
    ("records", "absent"),
    [
        ([{"id": 1, "full_name": "n"}, {"id": 2}], [["name"]]),
        ([{"id": 1}, {"id": 2, "name": None}], []),
        ([], []),
    ],
    ids=["renamed", "left out where null", "no records"],
)
def test_a_column_that_no_record_names_is_reported(
    records: list[dict[str, Any]], absent: list[list[str]]
) -> None:
    with (
        hostile_server(lambda _: Reply({"data": records})) as server,
        structlog.testing.capture_logs() as logs,
    ):
        read(contract_of(), server.url)

    assert [entry["columns"] for entry in logs if entry["event"] == "columns_absent"] == absent


def test_fields_that_no_column_covers_never_leave_and_are_named() -> None:
    record = {
        "id": 1,
        "name": "n",
        "ssn": "clear-ssn",
        "properties": {"known": 1, "secret": "clear", "deep": {"x": "clear"}},
        "whole": {"anything": 1},
        "unset": None,
        "withheld": "clear-withheld",
        "nul\0": "clear",
    }
    columns = [
        *COLUMNS,
        column("known", path="properties.known"),
        column("whole", "json"),
        column("withheld", mask=WITHHOLD),
    ]

    with hostile_server(lambda _: Reply({"data": [record] * 3})) as server:
        result, text = read(contract_of(columns), server.url)

    new = [column["name"] for column in result.manifest["withheld"] if column["is_new"]]  # type: ignore[attr-defined]
    assert new == ["ssn", "properties.secret", "properties.deep", "nul\\x00"]
    assert result.counts["columns_withheld"] == 5
    assert b"clear" not in text
    assert "clear" not in repr(result)


def test_a_source_that_uses_data_as_names_fills_no_ledger() -> None:
    record = {"id": 1, "name": "n", **{f"x{number}": 1 for number in range(5000)}, "y" * 10_000: 1}

    with hostile_server(lambda _: Reply({"data": [record]})) as server:
        result, _ = read(contract_of(), server.url)

    assert result.counts["columns_withheld"] == 200


# ---- windows -----------------------------------------------------------------------------------------------

CURSOR_COLUMNS = [column("id", "int64"), column("updated_at", "timestamptz")]
MOMENTS = ["2025-12-31T23:49:59.999Z", "2025-12-31T23:50:00Z", "2026-01-01T12:00:00+02:00", "2026-01-01T23:59:59.9999999Z",
           "2026-01-02T00:00:00Z", "2026-01-02T01:00:00+02:00"]  # fmt: skip


def test_what_lies_outside_of_the_window_is_dropped_and_counted() -> None:
    records = [{"id": number, "updated_at": moment} for number, moment in enumerate(MOMENTS)]
    contract = contract_of(
        CURSOR_COLUMNS,
        cursor=updated_at(overlap=timedelta(minutes=10)),
        after_parameter="since",
        before_parameter="until",
    )

    with hostile_server(lambda _: Reply({"data": records})) as server:
        result, text = read(contract, server.url)

    assert [line[:1] for line in text.splitlines()] == [b"1", b"2", b"3", b"5"]
    assert (result.counts["rows_read"], result.counts["rows_outside_window"]) == (6, 2)
    assert server.asked[0].parameters == {
        "since": "2025-12-31T23:50:00.000000Z",
        "until": "2026-01-02T00:00:00.000000Z",
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.NULL_CURSOR),
        ("yesterday", Reason.SOURCE_ANSWER_INVALID),
        ({}, Reason.SOURCE_ANSWER_INVALID),
    ],
)
def test_a_record_whose_cursor_is_in_no_window_is_not_passed_over(value: Any, reason: Reason) -> None:
    error = failure(
        contract_of(CURSOR_COLUMNS, cursor=updated_at()),
        lambda _: Reply({"data": [{"id": 1, "updated_at": value}]}),
    )

    assert reason_of(error) is reason


# ---- beside the story --------------------------------------------------------------------------------------


def test_the_clock_is_the_servers_own() -> None:
    secrets = {"env:TOKEN": TOKEN}
    with hostile_server(lambda _: Reply()) as server:
        secrets["env:BASE_URL"] = server.url
        with open_reader(contract_of(), secrets=MemorySecrets(secrets)) as reader:
            clock = reader.clock()

    assert abs(clock - datetime.now(UTC)) < timedelta(minutes=1)
    assert server.asked == []


def test_a_check_names_the_columns_that_no_record_has() -> None:
    secrets = {"env:TOKEN": TOKEN}
    columns = [*COLUMNS, column("gone"), column("empty"), column("deep", path="a.b")]
    with hostile_server(
        lambda _: Reply({"data": [{"id": 1, "name": "n", "empty": None, "a": {}}]})
    ) as server:
        secrets["env:BASE_URL"] = server.url
        with open_reader(contract_of(columns), secrets=MemorySecrets(secrets)) as reader:
            (finding,) = reader.check()
        with open_reader(contract_of(), secrets=MemorySecrets(secrets)) as reader:
            (right,) = reader.check()
            count = reader.count_rows()

    assert not finding.is_ok
    assert "'gone'" in finding.detail
    assert "'deep'" in finding.detail
    assert "'empty'" not in finding.detail
    assert right.is_ok
    assert count == 1


def test_a_mask_works_on_records_as_on_rows() -> None:
    with hostile_server(by_page(25, 10)) as server:
        contract = contract_of([column("id", "int64", KEEP), column("name", mask=LAST4)], paging="page", page_size="10",
                               total_path="meta.total")  # fmt: skip
        result, text = read(
            contract, server.url, limits=ReadLimits(chunk_size_in_bytes=20), part_size_in_bytes=60
        )

    expected = {b"%d,%s" % (number, b"*" * (len(str(number)) + 1)) for number in range(1, 26)}
    assert set(text.splitlines()) == expected
    assert len(result.files) > 1
