"""A proxy between a client and a server that can be told to misbehave."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

# The first line of a request for an object.
GET = re.compile(rb"^GET ([^ ?]+)[^ ]* HTTP/1", re.MULTILINE)
RESET = b""  # This fault cuts the connection without an answer.


def answer(status: str, content_type: str, body: str) -> bytes:
    """Return an HTTP answer that ends its connection."""
    return (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    ).encode()


def personalize_error(status: str, code: str) -> bytes:
    """Return an error in the form of Personalize's errors."""
    body = f'{{"__type": "{code}", "message": "from the proxy"}}'
    return answer(status, "application/x-amz-json-1.1", body)


def s3_error(status: str, code: str) -> bytes:
    """Return an error in the form of S3's errors."""
    body = f"<Error><Code>{code}</Code><Message>from the proxy</Message></Error>"
    return answer(status, "application/xml", body)


@dataclass
class Proxy:
    """A proxy in front of a server.

    fault: the answer to every request in place of the server's answer; None to forward requests.
    refused: the number of connections that got the fault.
    unheard: for each next piece of the server's answers, whether it is lost with its connection.
    lost: the number of lost pieces.
    downloads: the path of each GET, without its query.
    """

    port: int
    upstream: tuple[str, int]
    fault: bytes | None = None
    refused: int = 0
    unheard: Iterator[bool] = field(default_factory=lambda: iter(()))
    lost: int = 0
    downloads: list[str] = field(default_factory=list)
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def misbehave(self, fault: bytes | None) -> None:
        """Answer every request with this fault from now on, and cut the open connections."""
        self.fault = fault
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            if self.fault is None:
                await self._forward(reader, writer)
            else:
                self.refused += 1
                await _refuse(reader, writer, self.fault)
        except (OSError, asyncio.IncompleteReadError):
            writer.transport.abort()
        finally:
            self._open.discard(writer)
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_connection(*self.upstream)
        try:
            await asyncio.gather(self._ask(reader, to_server), self._answer(from_server, writer))
        finally:
            to_server.close()

    async def _ask(self, reader: asyncio.StreamReader, to_server: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            self.downloads += [path.decode() for path in GET.findall(data)]
            to_server.write(data)
            await to_server.drain()
        to_server.close()

    async def _answer(self, from_server: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        while data := await from_server.read(1 << 16):
            if next(self.unheard, False):
                self.lost += 1
                to.transport.abort()
                return
            to.write(data)
            await to.drain()
        to.close()


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, fault: bytes) -> None:
    if fault == RESET:
        writer.transport.abort()
        return
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    if length and b"100-continue" not in head.lower():
        await reader.readexactly(int(length[1]))
    writer.write(fault)
    await writer.drain()


@contextmanager
def proxy(upstream: str) -> Iterator[Proxy]:
    """Start a proxy in front of the server at this address, and yield it."""
    address = urlsplit(upstream)
    assert address.hostname
    assert address.port
    new_proxy = Proxy(0, (address.hostname, address.port))
    loop = new_proxy._loop
    # The event loop runs in this thread, because an open browser keeps a loop running in the main
    # thread.
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server_start = asyncio.start_server(new_proxy._serve, "127.0.0.1", 0)
    server = asyncio.run_coroutine_threadsafe(server_start, loop).result()
    new_proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield new_proxy
    finally:
        asyncio.run_coroutine_threadsafe(_end(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(server: asyncio.Server) -> None:
    server.close()
    serving_tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in serving_tasks:
        task.cancel()
    await asyncio.gather(*serving_tasks, return_exceptions=True)
