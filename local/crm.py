"""
The sample CRM: a REST API as they are, on loopback, that knows nothing of Esclusa.

    python -m local.crm --port 45662 --journal .esclusa/crm.jsonl --changes-per-second 1

    GET /v1/contacts?page=1&per_page=100&updated_after=…&updated_before=…   pages by number
    GET /v1/deals?limit=100&updated_after=…&updated_before=…                pages by the link `next`
    GET /v1/health                                                          without a token

Wants `Authorization: Bearer <token>`; the token is read from CRM_TOKEN. The filters are half-open, `[after, before)`.
Answers 429 with Retry-After above a rate. Records are sorted by (updated_at, id), so a record that changes during a
reading moves to the end, and pages by number shift: the trap that real CRMs set.

The records are made from a seed; what changes is appended to a journal and replayed at the next start.
"""

import argparse
import base64
import hmac
import json
import os
import random
import signal
import ssl
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qs, urlencode, urlsplit

LOOPBACK = "127.0.0.1"
TOKEN_VARIABLE = "CRM_TOKEN"  # noqa: S105 (the name of a variable, no token)
SEED = 20_240_229
CONTACT_COUNT, DEAL_COUNT = 5_000, 3_000
SPREAD = timedelta(days=90)
DEFAULT_PAGE_RECORDS, MAX_PAGE_RECORDS = 100, 200
MAX_QUERY_CHARACTERS = 2_000

Record = dict[str, Any]


@dataclass(slots=True)
class RateLimit:
    """A bucket of tokens: so many requests at once, and so many a second from then on."""

    requests_per_second: float
    clock: Callable[[], float] = time.monotonic
    _allowance: float = field(init=False)
    _checked_at: float = field(init=False)
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._allowance = self.requests_per_second
        self._checked_at = self.clock()

    def admits(self) -> bool:
        """Return whether one more request may be served now, and count it."""
        with self._lock:
            now = self.clock()
            gained = (now - self._checked_at) * self.requests_per_second
            self._allowance = min(self.requests_per_second, self._allowance + gained)
            self._checked_at = now
            if self._allowance < 1:
                return False
            self._allowance -= 1
            return True


class Crm:
    """The records of the CRM, and the changes made to them."""

    def __init__(
        self, *, anchor: datetime, contact_count: int = CONTACT_COUNT, deal_count: int = DEAL_COUNT
    ) -> None:
        dice = random.Random(SEED)
        self.contacts = {i: make_contact(i, dice, anchor) for i in range(1, contact_count + 1)}
        self.deals = {i: make_deal(i, dice, anchor, contact_count) for i in range(1, deal_count + 1)}
        self._lock = threading.Lock()
        self._journal: Path | None = None

    @classmethod
    def open(cls, journal: Path, *, now: datetime) -> "Crm":
        """
        Return the CRM as its journal left it. The first start fixes the anchor: all records are older than that.

        A last line cut short by a crash is dropped: nobody has seen that change.
        """
        lines = journal.read_text().splitlines() if journal.exists() else []
        entries = list(_complete_entries(lines))
        if not entries:
            entries = [{"anchor": write_moment(now)}]
        crm = cls(anchor=read_moment(entries[0]["anchor"]))
        for change in entries[1:]:
            crm.records(change["kind"])[change["record"]["id"]] = change["record"]
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        crm._journal = journal
        return crm

    def records(self, kind: str) -> dict[int, Record]:
        """Return all records of `contacts` or `deals`, by id."""
        return {"contacts": self.contacts, "deals": self.deals}[kind]

    def find(self, kind: str, *, after: str | None, before: str | None) -> list[Record]:
        """Return the records with `after <= updated_at < before`, by (updated_at, id)."""
        with self._lock:
            found = [
                record
                for record in self.records(kind).values()
                if (after is None or record["updated_at"] >= after)
                and (before is None or record["updated_at"] < before)
            ]
        return sorted(found, key=lambda record: (record["updated_at"], record["id"]))

    def change_something(self, dice: random.Random, *, now: datetime) -> Record:
        """Change a record, or add a contact, and return it as it is now."""
        kind = dice.choice(["contacts", "deals"])
        with self._lock:
            records = self.records(kind)
            if kind == "contacts" and dice.random() < 0.2:
                record = make_contact(max(records) + 1, dice, now)
            else:
                record = dict(records[dice.randrange(1, max(records) + 1)])
                if kind == "contacts":
                    record["lifecycle_stage"] = dice.choice(["lead", "customer", "former"])
                else:
                    record["probability"] = round(dice.random(), 3)
            record["updated_at"] = write_moment(now)
            records[record["id"]] = record
            if self._journal is not None:
                with self._journal.open("a") as journal:
                    journal.write(json.dumps({"kind": kind, "record": record}) + "\n")
        return record


def make_contact(number: int, dice: random.Random, anchor: datetime) -> Record:
    """Return a contact with personal data at the top and below, and with texts that break careless readers."""
    first = dice.choice(
        ["Aisha", "Björn", "Carmen", "Đorđe", "Eve", "Fadi", "Grażyna", "Hugo", 'Ian "Ace"', "李"]
    )
    last = dice.choice(["O'Neill", "Peña", "Quirk", "Ramos", "Šimić", "Taylor", "Ünal", "van\nDyk", "Weiß"])
    updated = anchor - timedelta(microseconds=dice.randrange(1, SPREAD // timedelta(microseconds=1)))
    return {
        "id": number,
        "email": _email_of(number),
        "first_name": first,
        "last_name": last,
        "phone": dice.choice([None, "", f"+44 20 7946 {number:04d}"]),
        "lifecycle_stage": dice.choice(["lead", "customer", "former"]),
        "address": None
        if number % 25 == 0
        else {
            "street": f"{number} High Street",
            "city": dice.choice(["Zürich", "A Coruña", "NULL", ""]),
            "postal_code": f"{dice.randrange(100_000):05d}",
            "country": dice.choice(["CH", "ES", "IE"]),
        },
        "owner": {"id": number % 7, "name": f"Agent {number % 7}", "email": f"agent{number % 7}@crm.example"},
        "properties": {
            "score": round(dice.random() * 100, 2),
            "consent": dice.choice([True, False, None]),
            "tags": dice.sample(["vip", "newsletter", 'said "hi"', "a,b", "🚀"], k=dice.randrange(4)),
            "note": dice.choice(
                [None, "", "NULL", "=1+1", "two\nlines", f"call contact.{number}@example.com"]
            ),
        },
        "archived": number % 33 == 0,
        "created_at": write_moment(updated - timedelta(days=dice.randrange(1, 900))),
        "updated_at": write_moment(updated),
    }


def _email_of(number: int) -> str | None:
    """Return the address of a contact: none, one of the CRM's own, or, in other letters, a customer's of the shop."""
    if number % 40 == 0:
        return None
    return f"contact.{number}@example.com" if number % 2 else f"Customer.{number}@Example.com"


def make_deal(number: int, dice: random.Random, anchor: datetime, contact_count: int) -> Record:
    """Return a deal. The amount is a text: JSON numbers are floating-point to most who read them."""
    updated = anchor - timedelta(microseconds=dice.randrange(1, SPREAD // timedelta(microseconds=1)))
    cents = dice.randrange(10_000_000)
    return {
        "id": number,
        "contact_id": dice.randrange(1, contact_count + 1),
        "title": f"Deal {number}: "
        + dice.choice(["renewal", "pilot, phase 2", 'upgrade "gold"', "Größe XL"]),
        "stage": dice.choice(["open", "won", "lost"]),
        "amount": {"value": f"{cents // 100}.{cents % 100:02d}", "currency": dice.choice(["EUR", "GBP"])},
        "probability": None if number % 12 == 0 else round(dice.random(), 3),
        "owner": {"id": number % 7, "name": f"Agent {number % 7}", "email": f"agent{number % 7}@crm.example"},
        "expected_on": None if number % 9 == 0 else (updated + timedelta(days=30)).date().isoformat(),
        "created_at": write_moment(updated - timedelta(days=dice.randrange(1, 300))),
        "updated_at": write_moment(updated),
    }


class Rejected(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: HTTPStatus, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


class CrmServer(ThreadingHTTPServer):
    """The HTTP server: one thread to a connection."""

    daemon_threads = True

    def __init__(
        self,
        crm: Crm,
        *,
        port: int,
        token: str,
        requests_per_second: float = 20.0,
        host: str = LOOPBACK,
        bind_host: str = LOOPBACK,
        certificate: Path | None = None,
    ) -> None:
        super().__init__((bind_host, port), CrmHandler)
        self.host = host
        self.scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            # The handshake is done by the thread of the connection: a client that is slow holds up no other.
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
            self.scheme = "https"
        self.crm = crm
        self.token = token
        self.rate_limit = RateLimit(requests_per_second)

    @property
    def url(self) -> str:
        """Where clients reach it; the links in its answers begin with it."""
        return f"{self.scheme}://{self.host}:{self.server_address[1]}"


class CrmHandler(BaseHTTPRequestHandler):
    """Answers one request."""

    protocol_version = "HTTP/1.1"
    server_version = "sample-crm"
    sys_version = ""
    timeout = 30
    server: CrmServer

    def do_GET(self) -> None:
        try:
            self._send(HTTPStatus.OK, self._answer())
        except Rejected as rejected:
            self._send(rejected.status, {"error": str(rejected)}, rejected.headers)

    def _answer(self) -> Record:
        address = urlsplit(self.path)
        if address.path == "/v1/health":
            return {"status": "ok"}
        self._require_token()
        if not self.server.rate_limit.admits():
            raise Rejected(
                HTTPStatus.TOO_MANY_REQUESTS, "too many requests, wait a second", {"Retry-After": "1"}
            )
        parameters = read_parameters(address.query)
        match address.path:
            case "/v1/contacts":
                return list_contacts(self.server.crm, parameters)
            case "/v1/deals":
                return list_deals(self.server.crm, parameters, url=f"{self.server.url}/v1/deals")
            case _:
                raise Rejected(HTTPStatus.NOT_FOUND, "expected /v1/contacts or /v1/deals")

    def _require_token(self) -> None:
        given = self.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {self.server.token}".encode()):
            raise Rejected(
                HTTPStatus.UNAUTHORIZED, "a valid bearer token is needed", {"WWW-Authenticate": "Bearer"}
            )

    def _send(self, status: HTTPStatus, answer: Record, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps(answer, ensure_ascii=False).encode()
        self.send_response(status)  # also sends Date, the clock of the source
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (given by BaseHTTPRequestHandler)
        """Write nothing: a query may hold what nobody wants in a log."""


def list_contacts(crm: Crm, parameters: Mapping[str, str]) -> Record:
    """Return one page, by number, with the totals."""
    page = read_number(parameters, "page", default=1, highest=1_000_000)
    per_page = read_number(parameters, "per_page", default=DEFAULT_PAGE_RECORDS, highest=MAX_PAGE_RECORDS)
    found = crm.find("contacts", after=read_filter(parameters, "updated_after"), before=_before(parameters))
    return {
        "data": found[(page - 1) * per_page : page * per_page],
        "page": page,
        "per_page": per_page,
        "total": len(found),
        "total_pages": -(-len(found) // per_page),
    }


def list_deals(crm: Crm, parameters: Mapping[str, str], *, url: str) -> Record:
    """Return the records after the cursor, and the link to those that follow, or null at the end."""
    limit = read_number(parameters, "limit", default=DEFAULT_PAGE_RECORDS, highest=MAX_PAGE_RECORDS)
    found = crm.find("deals", after=read_filter(parameters, "updated_after"), before=_before(parameters))
    start = read_cursor(parameters["cursor"]) if "cursor" in parameters else ("", 0)
    rest = [record for record in found if (record["updated_at"], record["id"]) > start]
    following = None
    if len(rest) > limit:
        last = rest[limit - 1]
        cursor = write_cursor((last["updated_at"], last["id"]))
        following = f"{url}?{urlencode({**parameters, 'limit': limit, 'cursor': cursor})}"
    return {"data": rest[:limit], "total": len(found), "next": following}


def read_parameters(query: str) -> dict[str, str]:
    """
    Return the parameters of a query; each may be given once.

    Raises:
        Rejected: 400, if the query is too long or a parameter comes twice.
    """
    if len(query) > MAX_QUERY_CHARACTERS:
        raise Rejected(
            HTTPStatus.BAD_REQUEST, f"the query must have at most {MAX_QUERY_CHARACTERS} characters"
        )
    parameters = parse_qs(query, keep_blank_values=True)
    repeated = sorted(name for name, values in parameters.items() if len(values) > 1)
    if repeated:
        raise Rejected(HTTPStatus.BAD_REQUEST, f"given more than once: {', '.join(repeated)}")
    return {name: values[0] for name, values in parameters.items()}


def read_number(parameters: Mapping[str, str], name: str, *, default: int, highest: int) -> int:
    """
    Return a parameter as a number from 1 to `highest`.

    Raises:
        Rejected: 400, if it is something else.
    """
    text = parameters.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= highest):
        raise Rejected(HTTPStatus.BAD_REQUEST, f"{name} must be a number from 1 to {highest}")
    return int(text)


def read_filter(parameters: Mapping[str, str], name: str) -> str | None:
    """
    Return a moment in the form in which the records bear it, so that texts compare as moments do.

    Raises:
        Rejected: 400, if it is no moment with a zone.
    """
    if name not in parameters:
        return None
    try:
        moment = read_moment(parameters[name])
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise Rejected(
            HTTPStatus.BAD_REQUEST, f"{name} must be a moment with a zone, as 2026-01-31T12:00:00Z"
        )
    return write_moment(moment)


def _before(parameters: Mapping[str, str]) -> str | None:
    return read_filter(parameters, "updated_before")


def write_cursor(position: tuple[str, int]) -> str:
    """Return a position as an opaque text."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode()


def read_cursor(cursor: str) -> tuple[str, int]:
    """
    Return the position that a cursor stands for.

    Raises:
        Rejected: 400, if it is not one of ours.
    """
    try:
        updated_at, number = json.loads(base64.urlsafe_b64decode(cursor))
        return str(updated_at), int(number)
    except (ValueError, TypeError) as error:
        raise Rejected(HTTPStatus.BAD_REQUEST, "cursor must be one that an answer gave") from error


def write_moment(moment: datetime) -> str:
    """Return a moment in UTC, always with six digits, so that the texts sort as the moments do."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def read_moment(text: str) -> datetime:
    """Return the moment of a text."""
    return datetime.fromisoformat(text)


def _complete_entries(lines: list[str]) -> list[Record]:
    entries = []
    for line in lines:
        try:
            entries.append(json.loads(line))
        except ValueError:
            break
    return entries


def keep_changing(crm: Crm, *, changes_per_second: float, stopped: threading.Event) -> None:
    """Change records until told to stop."""
    dice = random.Random()
    while not stopped.wait(1 / changes_per_second):
        crm.change_something(dice, now=datetime.now(UTC))


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m local.crm", description="The sample CRM.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--requests-per-second", type=float, default=20.0)
    parser.add_argument("--host", default=LOOPBACK, help="the name by which clients reach it")
    parser.add_argument("--bind-host", default=LOOPBACK, help="the address to listen on")
    parser.add_argument("--certificate", type=Path, help="serve HTTPS with this key and certificate (PEM)")
    parser.add_argument("--changes-per-second", type=float, default=0.0, help="0 changes nothing")
    chosen = parser.parse_args(arguments)
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        parser.error(
            f"the environment variable {TOKEN_VARIABLE} must hold the token that clients have to show"
        )
    crm = Crm.open(chosen.journal, now=datetime.now(UTC))
    server = CrmServer(
        crm,
        port=chosen.port,
        token=token,
        requests_per_second=chosen.requests_per_second,
        host=chosen.host,
        bind_host=chosen.bind_host,
        certificate=chosen.certificate,
    )
    signal.signal(signal.SIGTERM, _leave)
    if chosen.changes_per_second > 0:
        threading.Thread(
            target=keep_changing,
            args=(crm,),
            kwargs={"changes_per_second": chosen.changes_per_second, "stopped": threading.Event()},
            daemon=True,
        ).start()
    server.serve_forever()
    return 0


def _leave(*_: object) -> NoReturn:
    raise SystemExit(0)


if __name__ == "__main__":
    sys.exit(main())
