"""What the tests of outages measure with: a loop without a pause is seen, whichever way a part is away."""

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import requests
from support.relay import MAX_REQUESTS_PER_SECOND, Away, Relays

from local.ports import LOOPBACK

SECONDS = 1.0


class Always200(http.server.BaseHTTPRequestHandler):
    """A server with nothing to say."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer((LOOPBACK, 0), Always200)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join(timeout=10)
    server.server_close()


def ask_once(port: int) -> None:
    with suppress(requests.RequestException):
        requests.get(f"http://{LOOPBACK}:{port}/", timeout=0.05)


def send_once(port: int) -> None:
    """Ask as a client does that gives up as soon as nobody answers."""
    with suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=1) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")


def rate_of(act: Callable[[int], None], port: int, how: Away, *, pause_seconds: float) -> float:
    """Do something again and again while a part is away; return how many asks a second are counted."""
    with Relays().running() as relays:
        front = relays.open(port, dependency="it")
        with relays.away("it", how):
            began = time.monotonic()
            while time.monotonic() < began + SECONDS:
                act(front)
                time.sleep(pause_seconds)
            took = time.monotonic() - began
            time.sleep(0.2)  # the relay's thread notes the last ones
        return relays.asks_by_asker("it", since=began).total() / took


@pytest.mark.parametrize(
    ("how", "act"), [(Away.REFUSING, send_once), (Away.ERROR_503, ask_once), (Away.SILENT, send_once)]
)
def test_a_loop_without_a_pause_is_over_the_bound_and_one_with_pauses_below(
    port: int, how: Away, act: Callable[[int], None]
) -> None:
    hot = rate_of(act, port, how, pause_seconds=0.0)
    patient = rate_of(act, port, how, pause_seconds=0.25)

    assert hot > MAX_REQUESTS_PER_SECOND
    assert 0 < patient < MAX_REQUESTS_PER_SECOND
