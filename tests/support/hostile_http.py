"""A REST server that answers as it is told, and lies if it is told to."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    path: str
    parameters: dict[str, str]
    headers: dict[str, str]


@dataclass
class Reply:
    """What is sent back. `body` that is no bytes becomes JSON."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    #: Cut the connection after so many bytes of the body.
    cut_after: int | None = None
    #: Takes over the raw connection instead of any of the above.
    raw: Callable[[BaseHTTPRequestHandler], None] | None = None


class HostileServer(ThreadingHTTPServer):
    """Answers GET by `answer`, and HEAD with nothing but a date."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, answer: Callable[[Asked], Reply]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.asked: list[Asked] = []
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


class _Handler(BaseHTTPRequestHandler):
    server: HostileServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = Asked("GET", parts.path, dict(parse_qsl(parts.query)), dict(self.headers))
        self.server.asked.append(asked)
        reply = self.server.answer(asked)
        if reply.raw is not None:
            self.close_connection = True
            reply.raw(self)
            return
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: reply.cut_after])
        if reply.cut_after is not None:
            self.close_connection = True

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""

    def drip(self, piece: bytes) -> None:
        """Send the same bytes for ever, a few at a time."""
        try:
            while not self.server.stopping.wait(0.05):
                self.wfile.write(piece)
        except OSError:
            return


@contextmanager
def hostile_server(answer: Callable[[Asked], Reply]) -> Iterator[HostileServer]:
    """Run a server for the length of a block."""
    server = HostileServer(answer)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
