"""
Asks one origin for JSON, within bounds.

Every request, each redirect and next link included, goes to the configured scheme, host and port, or is not sent.
Time, bytes and tries are bounded whatever the server does: a second thread cuts the connection when a request
takes too long in all, since a timeout of the socket begins anew with every byte that drips in.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any, Self, TypeVar
from urllib.parse import urljoin

import requests
import structlog
from requests.adapters import HTTPAdapter
from requests.utils import parse_header_links
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError, LocationParseError
from urllib3.util import parse_url

from services.extractor.readers.json_text import parse_json
from shared.domain.reasons import Reason
from shared.errors import ConfigurationError, EsclusaError, Refused, SourceUnavailable

log = structlog.get_logger()

T = TypeVar("T")

#: One answer is held in memory whole; as objects it takes some ten times its size.
MAX_ANSWER_BYTES = 32 * 1024 * 1024
MAX_REDIRECTS = 5
MAX_TRIES = 4
FIRST_PAUSE_SECONDS = 0.25
#: What a server that says 429 without Retry-After is given.
DEFAULT_RETRY_AFTER_SECONDS = 1.0

#: Names a file of certificate authorities, in place of those that come with requests: for servers within a company.
#: OpenSSL knows it by this name.
AUTHORITIES_VARIABLE = "SSL_CERT_FILE"

_READ_BYTES = 64 * 1024
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "localhost", "[::1]"})


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one reading may take."""

    connect_timeout_seconds: float = 10
    #: One request from its beginning to the last byte of its answer.
    request_timeout_seconds: float = 60
    #: All requests together, with their pauses.
    total_timeout_seconds: float = 600
    requests_per_second: float | None = None
    #: Of all answers together, unpacked.
    max_bytes: int = 2 * 1024**3


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    url: str
    document: Any
    #: The target of `Link: …; rel="next"`, as it was written.
    next_link: str | None


@dataclass(frozen=True, slots=True)
class _WebOrigin:
    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self | None:
        """Return the origin of a URL as `requests` will understand it; None if it has none, or a password."""
        try:
            parsed = parse_url(url)
        except LocationParseError:
            return None
        if parsed.scheme not in _DEFAULT_PORTS or not parsed.host or parsed.auth is not None:
            return None
        return cls(parsed.scheme, parsed.host.lower(), parsed.port or _DEFAULT_PORTS[parsed.scheme])


class _TryAgain(Exception):
    """A request may succeed if it is repeated; `final` is raised if it is not."""

    def __init__(self, final: EsclusaError, *, after_seconds: float | None = None) -> None:
        self.final = final
        #: What the server asked for. Such a try is not counted: the deadline bounds them.
        self.after_seconds = after_seconds


class JsonClient:
    """A connection to one origin for one reading. A context manager."""

    def __init__(self, base_url: str, *, token: str | None, limits: HttpLimits, place: str) -> None:
        """
        Raises:
            ConfigurationError: if the base URL is none, or would send the token over the net in clear; or if
                the token cannot stand in a header. Neither is repeated in the message.
        """
        self._place = place
        self._limits = limits
        self._origin = _require_base(base_url, place)
        self._base_url = base_url.rstrip("/") + "/"
        self._headers = {
            "Accept": "application/json",
            "Accept-Encoding": "gzip, deflate",
            "User-Agent": "esclusa",
        }
        if token is not None:
            if not (token.isascii() and token.isprintable() and " " not in token):
                raise ConfigurationError(f"{place}: the token should be of printable ASCII without spaces")
            self._headers["Authorization"] = f"Bearer {token}"
        # No session of `requests`: it would take proxies and credentials from the environment, keep cookies, and
        # look at redirects by itself.
        self._adapter = _CuttableAdapter()
        # What the adapter calls `verify`: a file of authorities, or those that come with requests.
        self._authorities = os.environ.get(AUTHORITIES_VARIABLE) or True
        self._deadline = time.monotonic() + limits.total_timeout_seconds
        self._next_request_at = 0.0
        self._received_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._adapter.close()
        self._adapter.forget()

    def url_of(self, path: str) -> str:
        """Return a path below the base URL."""
        return self._base_url + path.lstrip("/")

    def resolve(self, link: str, *, seen_at: str) -> str:
        """
        Return the URL that a link leads to.

        Raises:
            Refused: if it leads to another origin.
        """
        # Parsers differ over these, and one of them would be right about where the request goes.
        if any(character <= " " or character in "\\\x7f" for character in link):
            raise self._invalid("a link holds a character that no URL has")
        try:
            url = urljoin(seen_at, link)
        except ValueError:  # a bracket that opens no address
            raise self._invalid("a link is no URL") from None
        self._require_origin(url)
        return url

    def clock(self, url: str) -> datetime:
        """
        Return the server's clock, floored to the second. Any answer tells it, an error's too.

        Raises:
            SourceUnavailable: if there is no answer.
            Refused: if it bears no date.
        """
        return self._persistently(lambda: self._ask_clock(url))

    def get(self, url: str, parameters: Mapping[str, str]) -> Answer:
        """
        Return what a GET answers, asked for again after 429, 5xx, a broken connection or a broken body.

        Raises:
            SourceUnavailable: if it does not come in time.
            Refused: if the server says no, or answers what cannot be true.
        """
        return self._persistently(lambda: self._ask(url, parameters))

    # ---- the steps -----------------------------------------------------------------------------------------

    def _persistently(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer, a final no, or no time or try left."""
        tries = 0
        while True:
            try:
                return ask()
            except _TryAgain as failure:
                pause_seconds = failure.after_seconds
                if pause_seconds is None:
                    tries += 1
                    pause_seconds = FIRST_PAUSE_SECONDS * 2**tries
                if tries >= MAX_TRIES or time.monotonic() + pause_seconds >= self._deadline:
                    raise failure.final from failure.__cause__
                log.warning("request_repeated", place=self._place, pause_seconds=pause_seconds)
                time.sleep(pause_seconds)

    def _ask(self, url: str, parameters: Mapping[str, str]) -> Answer:
        for _ in range(MAX_REDIRECTS):
            with self._send("GET", url, parameters) as response:
                if not response.is_redirect:
                    self._require_success(response)
                    body = self._read_body(response)
                    return Answer(url, self._parse(body), _next_link(response))
                url, parameters = self.resolve(response.headers["Location"], seen_at=url), {}
        raise self._invalid(f"it redirects more than {MAX_REDIRECTS} times")

    def _ask_clock(self, url: str) -> datetime:
        with self._send("HEAD", url, {}) as response:
            moment = _moment_of(response.headers.get("Date", ""))
            if moment is None:
                raise self._invalid("it answers without a header Date that says when")
            return moment

    @contextmanager
    def _send(self, method: str, url: str, parameters: Mapping[str, str]) -> Iterator[requests.Response]:
        """Send a request, and cut the connection if it is not answered and read in time."""
        try:
            request = requests.Request(method, url, params=dict(parameters), headers=self._headers).prepare()
        except (requests.RequestException, ValueError):
            raise self._invalid("a link is no URL") from None
        self._require_origin(request.url or "")
        self._wait_for_turn()
        timeout_seconds = min(self._limits.request_timeout_seconds, self._deadline - time.monotonic())
        if timeout_seconds <= 0:
            raise self._too_slow()
        was_cut = threading.Event()
        watch = threading.Timer(timeout_seconds, self._adapter.cut, args=(was_cut,))
        watch.daemon = True
        watch.start()
        try:
            with self._adapter.send(
                request,
                stream=True,
                verify=self._authorities,
                timeout=(min(self._limits.connect_timeout_seconds, timeout_seconds), timeout_seconds),
            ) as response:
                yield response
        except (requests.RequestException, HTTPError, OSError, _TryAgain) as error:
            if was_cut.is_set():
                raise _TryAgain(self._too_slow()) from error
            if isinstance(error, _TryAgain):
                raise
            raise _TryAgain(self._broken(error)) from error
        finally:
            watch.cancel()
        if was_cut.is_set():
            # A body without a length ends, to all appearance, where it was cut.
            raise _TryAgain(self._too_slow())

    def _wait_for_turn(self) -> None:
        now = time.monotonic()
        if now < self._next_request_at:
            time.sleep(self._next_request_at - now)
        if self._limits.requests_per_second:
            self._next_request_at = time.monotonic() + 1 / self._limits.requests_per_second

    def _require_success(self, response: requests.Response) -> None:
        status = response.status_code
        if status == HTTPStatus.OK:
            return
        said = f"{self._place}: expected status 200, found {status}"
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            raise _TryAgain(SourceUnavailable(said), after_seconds=_retry_after_seconds(response))
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.REQUEST_TIMEOUT:
            raise _TryAgain(SourceUnavailable(said))
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            raise Refused(Reason.TABLE_MISSING, f"{said}; look at the path and the rights of the token")
        raise Refused(Reason.SOURCE_ANSWER_INVALID, said)

    def _read_body(self, response: requests.Response) -> bytes:
        body = bytearray()
        while piece := response.raw.read(_READ_BYTES, decode_content=True):
            body += piece
            self._received_bytes += len(piece)
            if len(body) > MAX_ANSWER_BYTES or self._received_bytes > self._limits.max_bytes:
                raise Refused(
                    Reason.SOURCE_LIMIT_EXCEEDED,
                    f"{self._place}: expected at most {MAX_ANSWER_BYTES} bytes in an answer and "
                    f"{self._limits.max_bytes} in all, found more; ask for smaller pages or raise max_bytes",
                )
        return bytes(body)

    def _parse(self, body: bytes) -> Any:
        try:
            return parse_json(body)
        except ValueError as error:
            # It may be a proxy's page that is gone a moment later.
            raise _TryAgain(self._invalid(f"it answers 200, but {error}")) from None

    def _require_origin(self, url: str) -> None:
        if _WebOrigin.of(url) != self._origin:
            raise self._invalid(
                f"a link or redirect leads away from {self._origin.scheme}://{self._origin.host}:{self._origin.port}; "
                "it was not followed"
            )

    def _invalid(self, found: str) -> Refused:
        return Refused(Reason.SOURCE_ANSWER_INVALID, f"{self._place}: {found}")

    def _too_slow(self) -> SourceUnavailable:
        return SourceUnavailable(
            f"{self._place}: expected an answer within {self._limits.request_timeout_seconds:g} seconds, and all "
            f"within {self._limits.total_timeout_seconds:g}, found neither; the connection was cut"
        )

    def _broken(self, error: Exception) -> SourceUnavailable:
        # The texts of these errors repeat the URL with its parameters.
        return SourceUnavailable(f"{self._place}: the connection failed ({type(error).__name__})")


class _CuttableAdapter(HTTPAdapter):
    """Connects as usual, and can cut every connection it made from another thread."""

    def __init__(self) -> None:
        #: A second handle of the newest connection. There is only one at a time.
        self._twins: list[socket.socket] = []
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        """Make the pools use connections that are remembered."""
        super().init_poolmanager(*arguments, **options)
        remember = self._remember

        class Connection(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return remember(super()._new_conn())

        class SecureConnection(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return remember(super()._new_conn())

        class Pool(HTTPConnectionPool):
            ConnectionCls = Connection

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = SecureConnection

        self.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": SecurePool}

    def cut(self, was_cut: threading.Event) -> None:
        """End all connections, in whatever they are; who reads from them is woken."""
        was_cut.set()
        for twin in list(self._twins):
            with suppress(OSError):
                twin.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Close what was kept to cut by."""
        while self._twins:
            self._twins.pop().close()

    def _remember(self, connection: socket.socket) -> socket.socket:
        """Keep a second handle of a connection: TLS takes the first one away, the second still reaches it."""
        self.forget()
        self._twins.append(connection.dup())
        return connection


def _require_base(base_url: str, place: str) -> _WebOrigin:
    origin = _WebOrigin.of(base_url)
    if origin is None or "?" in base_url or "#" in base_url:
        raise ConfigurationError(
            f"{place}: base_url should be scheme, host, port and path (https://api.example.com/), found something else"
        )
    if origin.scheme == "http" and origin.host not in _LOOPBACK_HOSTS:
        raise ConfigurationError(
            f"{place}: base_url should begin with https://, found http:// and a host that is not this machine; the "
            "token would travel in clear"
        )
    return origin


def _retry_after_seconds(response: requests.Response) -> float:
    """Return what Retry-After asks for, as seconds or as a date; a second if it says nothing."""
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return max(FIRST_PAUSE_SECONDS, float(text[:9]))
    moment = _moment_of(text)
    if moment is None:
        return DEFAULT_RETRY_AFTER_SECONDS
    return max(FIRST_PAUSE_SECONDS, (moment - datetime.now(UTC)).total_seconds())


def _moment_of(text: str) -> datetime | None:
    """Return the moment that a header tells, in UTC; None if it tells none. Of the old forms one has no zone."""
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _next_link(response: requests.Response) -> str | None:
    """
    Return the target of the link to the next page; None if there is none.

    A link may have several relations, in letters of any case: `rel="last NEXT"`. Source: RFC 8288, 3.3.
    """
    for link in parse_header_links(response.headers.get("Link", "")):
        if "next" in link.get("rel", "").lower().split():
            return str(link["url"])
    return None
