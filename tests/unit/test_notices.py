"""Notices reach a webhook whole and signed, once, at the one place that was named, and in bounded time."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support.ledger_rows import NOON

from shared.domain.alarms import Alarm, AlarmKind
from shared.errors import SecretNotFound, Unavailable
from shared.notices.document import MAX_LISTED_ALARMS, headline, notice_document
from shared.notices.webhook import Webhook
from shared.ports import Notice
from shared.secrets.memory import MemorySecrets

RAISED = Alarm(AlarmKind.TABLE_LATE, "shop.größe", NOON, "nothing planned since …")
RESOLVED = replace(RAISED, kind=AlarmKind.BATCH_HELD, subject="b1", resolved_at=NOON)
NOTICE = Notice("0123abcd", "esclusa", NOON, (RAISED,), (RESOLVED,))
PATH = "/hooks/T0P-s3cret"


@dataclass(slots=True)
class Receiver:
    """A server that keeps what it is sent and answers as it is told."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    #: Between the bytes of an answer that never ends.
    drip_seconds: float | None = None
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serving(receiver: Receiver) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            receiver.requests.append((self.path, headers, body))
            if receiver.drip_seconds is not None:
                self._drip(receiver.drip_seconds)
                return
            self.send_response(receiver.status)
            for name, value in receiver.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            receiver.requests.append((f"GET {self.path}", {}, b""))
            self.send_response(200)
            self.end_headers()

        def _drip(self, seconds: float) -> None:
            for _ in range(int(20 / seconds)):
                try:
                    self.wfile.write(b"X")
                except OSError:
                    return
                time.sleep(seconds)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    receiver.url = f"http://127.0.0.1:{server.server_port}{PATH}"
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()


def webhook(url: str, *, key: str | None = None, patience_seconds: float = 8.0) -> Webhook:
    secrets = MemorySecrets({"env:URL": url} | ({"env:KEY": key} if key else {}))
    return Webhook(
        "env:URL",
        key_reference="env:KEY" if key else None,
        secrets=secrets,
        seconds_since_epoch=lambda: 1_700_000_000.9,
        patience=timedelta(seconds=patience_seconds),
    )


# ---- what is told ------------------------------------------------------------------------------------------------


def test_a_notice_names_every_alarm_with_what_became_of_it() -> None:
    document = json.loads(notice_document(NOTICE))

    assert document["text"].splitlines() == [
        "esclusa: 1 alarm raised, 1 alarm resolved",
        "raised: table_late shop.größe: nothing planned since …",
        "resolved: batch_held b1: nothing planned since …",
    ]
    assert (document["version"], document["id"], document["fleet"]) == (1, "0123abcd", "esclusa")
    assert (document["raised_count"], document["resolved_count"], document["is_cut"]) == (1, 1, False)
    assert document["alarms"][0] == {
        "event": "raised",
        "kind": "table_late",
        "subject": "shop.größe",
        "detail": "nothing planned since …",
        "raised_at": "2026-11-22T12:00:00+00:00",
        "resolved_at": None,
    }
    assert document["alarms"][1]["event"] == "resolved"


def test_a_notice_of_thousands_of_alarms_with_endless_details_stays_small() -> None:
    alarms = tuple(replace(RAISED, subject="ü" * 127, detail="ü" * 100_000) for _ in range(5_000))
    notice = Notice("1", "esclusa", NOON, alarms)

    text = notice_document(notice)

    document = json.loads(text)
    assert len(text.encode()) < 256 * 1024
    assert document["raised_count"] == 5_000
    assert document["is_cut"]
    assert len(document["alarms"]) == MAX_LISTED_ALARMS
    assert document["text"].endswith("and 4990 more; `esclusa alarms` lists all")


def test_a_headline_is_one_short_line_of_ascii() -> None:
    line = headline(replace(NOTICE, fleet="f" * 200, raised=(RAISED,) * 1_000))

    assert len(line) == 100
    assert line.isascii()
    assert line.isprintable()


# ---- a webhook ---------------------------------------------------------------------------------------------------


def test_a_notice_is_posted_as_json_to_the_very_url() -> None:
    with serving(Receiver()) as receiver:
        webhook(receiver.url).notify(NOTICE)

    ((path, headers, body),) = receiver.requests
    assert path == PATH
    assert body.decode() == notice_document(NOTICE)
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == "0123abcd"
    assert "webhook-signature" not in headers


@pytest.mark.parametrize(
    ("secret", "key"),
    [("correct horse", b"correct horse"), ("whsec_" + base64.b64encode(b"\0\xff").decode(), b"\0\xff")],
)
def test_a_receiver_with_the_key_can_tell_that_a_notice_is_ours(secret: str, key: bytes) -> None:
    with serving(Receiver()) as receiver:
        webhook(receiver.url, key=secret).notify(NOTICE)

    ((_, headers, body),) = receiver.requests
    signed = b".".join((headers["webhook-id"].encode(), headers["webhook-timestamp"].encode(), body))
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-timestamp"] == "1700000000"
    assert headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed_and_no_success(status: int) -> None:
    with (
        serving(Receiver()) as elsewhere,
        serving(Receiver(status, {"Location": elsewhere.url})) as receiver,
        pytest.raises(Unavailable, match=str(status)),
    ):
        webhook(receiver.url).notify(NOTICE)

    assert len(receiver.requests) == 1
    assert elsewhere.requests == []


@pytest.mark.parametrize("status", [400, 403, 404, 429, 500, 503])
def test_an_answer_that_is_no_success_is_no_delivery_and_shows_no_url(status: int) -> None:
    with serving(Receiver(status)) as receiver, pytest.raises(Unavailable) as caught:
        webhook(receiver.url).notify(NOTICE)

    assert f"found {status}" in str(caught.value)
    assert "env:URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:1/s3cret", "https://no-such-host.invalid/s3cret", "https://127.0.0.1:1/s3cret a\tb"],
)
def test_a_receiver_that_is_away_is_told_without_its_url(url: str) -> None:
    with pytest.raises(Unavailable) as caught:
        webhook(url).notify(NOTICE)

    assert "no answer" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.timeout(30)
def test_a_receiver_that_answers_a_byte_at_a_time_is_given_up() -> None:
    started = time.monotonic()

    with (
        serving(Receiver(drip_seconds=0.1)) as receiver,
        pytest.raises(Unavailable, match="no answer within"),
    ):
        webhook(receiver.url, patience_seconds=1.0).notify(NOTICE)

    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/s3cret",
        "ftp://127.0.0.1/s3cret",
        "file:///etc/s3cret",
        "s3cret",
        "https://",
        # What `urlsplit` says of it would quote it.
        "https://me:s3cret\u2100@hooks.example/",
    ],
)
def test_a_notice_leaves_this_machine_by_tls_or_not_at_all(url: str) -> None:
    with pytest.raises(SecretNotFound) as caught:
        webhook(url).notify(NOTICE)

    assert "https://" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_key_that_is_no_base64_is_refused_and_not_shown() -> None:
    with serving(Receiver()) as receiver, pytest.raises(SecretNotFound) as caught:
        webhook(receiver.url, key="whsec_s3cret!").notify(NOTICE)

    assert receiver.requests == []
    assert "s3cret" not in str(caught.value)


def test_a_reference_that_leads_nowhere_is_named() -> None:
    nowhere = Webhook("env:URL", key_reference=None, secrets=MemorySecrets({}))

    with pytest.raises(SecretNotFound, match="env:URL"):
        nowhere.notify(NOTICE)
