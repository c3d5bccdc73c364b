"""An HTTP proxy before a local AWS server that fails as networks and services fail, call by call."""

import http.client
import threading
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum, auto
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


class Fault(Enum):
    """What the proxy does instead of passing a call on."""

    #: Answers that the service is not available.
    SERVICE_UNAVAILABLE = auto()
    #: Closes the connection without an answer.
    DROP = auto()
    #: Takes the call and never answers.
    BLACK_HOLE = auto()
    #: Answers that the caller may not do this.
    ACCESS_DENIED = auto()
    #: Passes the call on and closes the connection instead of giving the answer back.
    LOSE_ANSWER = auto()


class FaultProxy:
    """Passes calls on to `target`, but for those that were ordered to fail."""

    def __init__(self, target: str) -> None:
        self._target = urlsplit(target).netloc
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        #: How often each action was called, `ReceiveMessage` for example.
        self.calls: dict[str, int] = defaultdict(int)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def order(self, action: str, fault: Fault, *, times: int = 1) -> None:
        """Let the next calls of an action fail."""
        self._faults[action].extend([fault] * times)

    def is_done(self, action: str) -> bool:
        """Say whether every ordered fault of an action has happened."""
        return not self._faults[action]

    @contextmanager
    def running(self) -> Iterator["FaultProxy"]:
        thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
        )
        thread.start()
        try:
            yield self
        finally:
            self._released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join(timeout=5)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                action = self.headers.get("X-Amz-Target", "").rpartition(".")[2]
                proxy.calls[action] += 1
                faults = proxy._faults[action]
                match faults.popleft() if faults else None:
                    case None:
                        self._answer(*self._passed_on(body))
                    case Fault.SERVICE_UNAVAILABLE:
                        self._answer(503, b'{"__type": "ServiceUnavailable", "message": "injected"}')
                    case Fault.ACCESS_DENIED:
                        self._answer(403, b'{"__type": "AccessDenied", "message": "injected"}')
                    case Fault.LOSE_ANSWER:
                        self._passed_on(body)
                        self.close_connection = True
                    case Fault.BLACK_HOLE:
                        proxy._released.wait(60)
                        self.close_connection = True
                    case Fault.DROP:
                        self.close_connection = True

            def _passed_on(self, body: bytes) -> tuple[int, bytes]:
                connection = http.client.HTTPConnection(proxy._target, timeout=30)
                try:
                    connection.request("POST", self.path, body, dict(self.headers))
                    response = connection.getresponse()
                    return response.status, response.read()
                finally:
                    connection.close()

            def _answer(self, status: int, body: bytes) -> None:
                try:
                    self.send_response(status)
                    self.send_header("Content-Type", "application/x-amz-json-1.0")
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    self.wfile.write(body)
                except OSError:
                    self.close_connection = True  # the caller has gone

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        return Handler
