"""
Relays between a fleet and its servers: they take one dependency away while the fleet runs, and count who still asks.

A relay passes bytes on and understands no more of them than whom they are for. S3 and SQS share one local server
and are told apart by the service that a request was signed for; databases have a relay each.
"""

import asyncio
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar

from local.ports import LOOPBACK

#: `Authorization: AWS4-HMAC-SHA256 Credential=<key>/<date>/<region>/<service>/aws4_request, …`
#: Source: AWS General Reference, "Signature Version 4: authorization header".
_SIGNED_FOR = re.compile(rb"(?i)credential=[^/]+/\d{8}/[^/]+/([a-z0-9-]+)/aws4_request")
_BEGINS_REQUEST = re.compile(rb"(?:GET|PUT|POST|HEAD|DELETE|PATCH) /")
_CONTENT_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d+)")

_CHUNK_BYTES = 256 * 1024

#: What all processes of a small fleet together may ask of a part that is away. Their pauses are seconds long;
#: a loop without a pause asks hundreds of times a second.
MAX_REQUESTS_PER_SECOND = 20.0

_T = TypeVar("_T")


class Away(Enum):
    """How a dependency is away."""

    #: Every connection is reset, the open ones at once: its process has gone.
    REFUSING = "refuses"
    #: Everything is taken and nothing answered: its host hangs. In the end it starts anew and resets what was open.
    SILENT = "is silent"
    #: The same, but whoever is between has lost the connections for good: only new ones are answered afterwards.
    FORGETFUL = "is silent, and never answers on the old connections again"
    #: Answers each HTTP request with 503.
    ERROR_503 = "answers 503"


@dataclass(frozen=True, slots=True)
class Ask:
    """One request, or one attempt to connect, while a dependency was away."""

    dependency: str
    #: Who asked, as the relay's `name_asker` calls the process.
    asker: str
    at: float


@dataclass(slots=True, eq=False)
class _Link:
    """One connection of a client, and what is behind it."""

    dependency: str
    asker: str
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter | None = None
    #: Nothing is passed on any more, in either direction.
    is_lost: bool = False

    def reset(self) -> None:
        """End the connection as a host does that knows nothing of it."""
        client: socket.socket = self.client.get_extra_info("socket")
        with suppress(OSError):
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.transport.abort()
        if self.server is not None:
            self.server.transport.abort()


@dataclass(slots=True)
class Relays:
    """
    All relays of a fleet, in one thread.

    `name_asker` is given the local port of a client and returns what process that is. It may be slow: it is
    asked once for each connection, in another thread.
    """

    name_asker: Callable[[int], str] = lambda _: "unknown"
    #: What was asked while it was away.
    asks: list[Ask] = field(default_factory=list)
    _away: dict[str, Away] = field(default_factory=dict)
    _links: set[_Link] = field(default_factory=set)
    _tasks: set["asyncio.Task[None]"] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @contextmanager
    def running(self) -> Iterator["Relays"]:
        """Pass on while the block runs."""
        thread = threading.Thread(target=self._loop.run_forever, name="relays", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._call(self._close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(timeout=10)

    def open(self, port: int, *, dependency: str | None = None) -> int:
        """
        Return the port of a new relay to a port on loopback.

        Without `dependency` it is an AWS server, and each connection is for the service it is signed for first.
        """

        async def start() -> int:
            server = await asyncio.start_server(
                lambda reader, writer: self._serve(reader, writer, port, dependency), LOOPBACK, 0
            )
            opened: int = server.sockets[0].getsockname()[1]
            return opened

        return self._call(start())

    @contextmanager
    def away(self, dependency: str, how: Away) -> Iterator[None]:
        """Take a dependency away while the block runs."""
        self._call(self._take_away(dependency, how))
        try:
            yield
        finally:
            self._call(self._bring_back(dependency))

    def asks_by_asker(self, dependency: str, *, since: float) -> Counter[str]:
        """Count who asked for what was away, from a moment of `time.monotonic` on."""
        return Counter(
            ask.asker for ask in list(self.asks) if ask.dependency == dependency and ask.at >= since
        )

    # ---- in the thread of the relays -------------------------------------------------------------------------

    def _call(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _take_away(self, dependency: str, how: Away) -> None:
        self._away[dependency] = how
        for link in [link for link in self._links if link.dependency == dependency]:
            if how is Away.REFUSING:
                link.reset()
            elif how is not Away.ERROR_503:
                link.is_lost = True

    async def _bring_back(self, dependency: str) -> None:
        how = self._away.pop(dependency)
        if how is Away.SILENT:
            for link in [link for link in self._links if link.dependency == dependency and link.is_lost]:
                link.reset()

    async def _close(self) -> None:
        for link in list(self._links):
            link.reset()
        for task in self._tasks:
            task.cancel()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, dependency: str | None
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError, asyncio.CancelledError):
                await self._pass_on(reader, writer, port, dependency)
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, dependency: str | None
    ) -> None:
        # PostgreSQL and HTTP are alike in this: the client speaks first.
        head = await reader.read(_CHUNK_BYTES)
        if not head:
            return
        if dependency is None:
            signed_for = _SIGNED_FOR.search(head)
            dependency = signed_for[1].decode() if signed_for else "unsigned"
        asker = await asyncio.to_thread(self.name_asker, writer.get_extra_info("peername")[1])
        link = _Link(dependency, asker, writer)
        self._links.add(link)
        try:
            match self._away.get(dependency):
                case Away.REFUSING:
                    self._note(link)
                    link.reset()
                    return
                case Away.SILENT | Away.FORGETFUL:
                    link.is_lost = True
            # What nobody answers is counted where it is read.
            server_reader, link.server = await asyncio.open_connection(LOOPBACK, port)
            back = asyncio.create_task(self._answer(link, server_reader))
            try:
                await self._ask(link, reader, head)
            finally:
                link.server.close()
                back.cancel()
        finally:
            self._links.discard(link)

    async def _ask(self, link: _Link, reader: asyncio.StreamReader, chunk: bytes) -> None:
        """Pass on what a client says."""
        assert link.server is not None
        is_http = _BEGINS_REQUEST.match(chunk) is not None
        while chunk:
            is_request = _BEGINS_REQUEST.match(chunk) is not None if is_http else True
            how = self._away.get(link.dependency)
            if how is not None and is_request:
                self._note(link)
            if how is Away.ERROR_503 and is_request:
                await self._refuse(link, reader, chunk)
                return
            if not link.is_lost:
                link.server.write(chunk)
                await link.server.drain()
            chunk = await reader.read(_CHUNK_BYTES)

    async def _answer(self, link: _Link, reader: asyncio.StreamReader) -> None:
        """Pass on what a server says."""
        with suppress(OSError):
            while chunk := await reader.read(_CHUNK_BYTES):
                if not link.is_lost:
                    link.client.write(chunk)
                    await link.client.drain()
            if not link.is_lost:
                link.client.close()

    async def _refuse(self, link: _Link, reader: asyncio.StreamReader, chunk: bytes) -> None:
        head, _, body = chunk.partition(b"\r\n\r\n")
        length = _CONTENT_LENGTH.search(head)
        missing = (int(length[1]) if length else 0) - len(body)
        if b"100-continue" not in head.lower():
            # A client that still sends when the connection closes would see a reset, and not the answer.
            while missing > 0 and (more := await reader.read(_CHUNK_BYTES)):
                missing -= len(more)
        body = b"<Error><Code>ServiceUnavailable</Code><Message>injected</Message></Error>"
        link.client.write(
            b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Type: application/xml\r\n"
            + f"Content-Length: {0 if head.startswith(b'HEAD') else len(body)}\r\n\r\n".encode()
            + (b"" if head.startswith(b"HEAD") else body)
        )
        await link.client.drain()
        link.client.close()

    def _note(self, link: _Link) -> None:
        self.asks.append(Ask(link.dependency, link.asker, time.monotonic()))
