"""A web server on this machine that can be told to misbehave."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Page:
    """A file that the server serves.

    Each request uses up one entry of `cuts`, `statuses` and `stalls`.

    cuts: the numbers of bytes after which the connection is closed.
    statuses: the HTTP statuses that are answered in place of the file.
    stalls: the seconds of delay before an answer.
    next: the page that replaces this page when a range is requested.
    """

    content: bytes
    etag: str | None = '"1"'
    last_modified: str | None = None
    ranges: bool = True
    heeds_if_range: bool = True
    sends_length: bool = True
    headers: dict[str, str] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    stalls: list[float] = field(default_factory=list)
    next: Page | None = None


@dataclass
class Web:
    """A web server of a test.

    pages: the pages by path, without the query.
    requests: the path and the Range header of each request that arrived.
    """

    address: str
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)

    def url(self, path: str) -> str:
        return self.address + path

    @property
    def ranges(self) -> list[str]:
        return [range_header for _, range_header in self.requests if range_header]


@contextmanager
def serving() -> Iterator[Web]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.web = web = Web(f"http://127.0.0.1:{server.server_port}")  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        web: Web = self.server.web  # type: ignore[attr-defined]
        path, range_header = self.path.partition("?")[0], self.headers["Range"]
        web.requests.append((path, range_header))
        page = web.pages.get(path)
        if page is None:
            self.send_error(404)
            return
        if range_header and page.next is not None:
            page = web.pages[path] = page.next
        if page.stalls:
            time.sleep(page.stalls.pop(0))
        status = page.statuses.pop(0) if page.statuses else 200
        body = page.content if status == 200 else b""
        start = self._start(page, range_header)
        if start is not None and status == 200:
            status, body = 206, page.content[start:]
            whole = len(page.content)
            self.send_response(status)
            self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
        else:
            self.send_response(status)
        if page.etag:
            self.send_header("ETag", page.etag)
        # RFC 9110, 15.3.7: headers that If-Range has confirmed need not be sent again.
        if page.last_modified and status == 200:
            self.send_header("Last-Modified", page.last_modified)
        if page.sends_length:
            self.send_header("Content-Length", str(len(body)))
        for name, value in page.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)
        except OSError:
            self.close_connection = True  # The client closed the connection early.

    def _start(self, page: Page, range_header: str | None) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", range_header or "")
        is_unchanged = self.headers["If-Range"] in {page.etag, page.last_modified}
        if not match or not page.ranges or (page.heeds_if_range and not is_unchanged):
            return None
        return int(match[1])

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: tests look at the recorded requests."""
