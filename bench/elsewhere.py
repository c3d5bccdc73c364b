"""
An S3 that takes whatever it is sent and keeps nothing: what an S3 on other machines is to this one, but for the network.

A local S3 server hashes, copies and writes with the cores that the extractor and the database need, and costs more than
either. This one only receives, so that signing, checksums and sending are measured as they are: the client's own.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from subprocess import PIPE, Popen
from typing import IO, cast
from urllib.parse import parse_qs, urlsplit

from local import aws
from local.ports import LOOPBACK

RECEIVE_SIZE_IN_BYTES = 256 * 1024

_NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


class Taker(BaseHTTPRequestHandler):
    """The calls of an upload, and nothing else."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_PUT(self) -> None:
        """Take an object, or a part of one."""
        self._take()
        self._answer("")

    def do_POST(self) -> None:
        """Begin or complete an object of parts."""
        self._take()
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        name = "InitiateMultipartUpload" if "uploads" in query else "CompleteMultipartUpload"
        self._answer(f'<{name}Result {_NAMESPACE}><UploadId>1</UploadId><ETag>"1"</ETag></{name}Result>')

    def do_DELETE(self) -> None:
        """Abort an upload."""
        self._answer("", HTTPStatus.NO_CONTENT)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 (the name is that of the base)
        """Say nothing of each call."""

    def _take(self) -> None:
        left, buffer = int(self.headers.get("Content-Length", "0")), memoryview(self.server.buffer)  # type: ignore[attr-defined]
        while left:
            received = self.rfile.readinto(buffer[: min(left, len(buffer))])  # type: ignore[attr-defined]
            if not received:
                raise ConnectionError(f"a body ended {left} bytes too early")
            left -= received

    def _answer(self, text: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def s3_elsewhere() -> Iterator[Mapping[str, str]]:
    """Run it in a process of its own, and return the environment of its clients."""
    with Popen([sys.executable, "-m", "bench.elsewhere"], stdout=PIPE, text=True) as process:
        try:
            port = int(cast("IO[str]", process.stdout).readline())
            yield aws.client_environment(port)
        finally:
            process.terminate()


def main() -> None:
    """Serve, and say where."""
    server = ThreadingHTTPServer((LOOPBACK, 0), Taker)
    server.daemon_threads = True
    # What comes is never looked at, so all may overwrite it.
    server.buffer = bytearray(RECEIVE_SIZE_IN_BYTES)  # type: ignore[attr-defined]
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
