"""Files from the web: resumed when cut, checked, and in place only when they are whole."""

from __future__ import annotations

import hashlib
import http.client
import logging
import ssl
import sys
import urllib.error
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic, sleep
from typing import IO, TypeVar
from urllib import request
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

log = logging.getLogger(__name__)

CHUNK = 1024 * 1024
SMALL = 64 * 1024
TIMEOUT = 30.0
# Attempts in a row that brought nothing; those that brought a piece do not count.
ATTEMPTS = 4
# Seconds before the second attempt; twice as many before each one after it.
FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
SECONDS_BETWEEN_LOG_LINES = 10.0

# The server, or something before it, is busy or has lost its way for now.
PASSING = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class DownloadError(Exception):
    """A file could not be fetched; the message names it (without its query) and the mend."""


class NotThereError(DownloadError):
    """There is no file at this address."""


class _PassingError(Exception):
    """Worth another attempt, not before `after` seconds. `received`: this one brought a piece."""

    def __init__(self, reason: str, *, after: float = 0, received: bool = False) -> None:
        super().__init__(reason)
        self.after = after
        self.received = received


@dataclass(frozen=True)
class Remote:
    """What a server tells of a file: a version that changes with it, and its size in bytes."""

    version: str | None
    size: int | None


def look_up(url: str) -> Remote:
    """What is known of the file without reading it. Raises DownloadError."""

    def ask() -> Remote:
        # Not HEAD: an address that is signed for GET refuses it.
        with _get(url) as response:
            version = response.headers["ETag"] or response.headers["Last-Modified"]
            return Remote(version, _length(response))

    return _persistently(url, ask)


def read_text(url: str) -> str:
    """The text at this address, 64 KiB of it at most. Raises DownloadError."""

    def ask() -> str:
        with _get(url) as response:
            return _read(response, SMALL).decode(errors="replace")

    return _persistently(url, ask)


def download(url: str, path: Path, *, md5: str | None = None) -> None:
    """Fetch the file to `path`, unless there is one already.

    What came before a cut, in this process or in an earlier one, is kept beside `path`, and used
    if the server still has the same file. `md5`: hexadecimal, what the content has to have.
    Raises DownloadError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _one_at_a_time(path):
            if path.exists():
                return
            part = _persistently(url, lambda: _fetch(url, path))
            if md5 is not None and (found := _md5(part)) != md5:
                part.unlink()
                raise DownloadError(
                    f"{shown(url)} came damaged and was deleted: its MD5 is {found}, published is"
                    f" {md5}; try again, or look whether a proxy changes it"
                )
            part.replace(path)
    except OSError as error:
        raise DownloadError(f"cannot keep {shown(url)} in {path.parent}: {error}") from error
    log.info("downloaded %s, %d bytes", shown(url), path.stat().st_size)


def shown(url: str) -> str:
    """The address without its query, which may be a signature and has no place in a log."""
    return url.partition("?")[0]


def _persistently(url: str, attempt: Callable[[], T]) -> T:
    failed = 0
    while True:
        try:
            return attempt()
        except _PassingError as error:
            failed = 1 if error.received else failed + 1
            if failed >= ATTEMPTS:
                raise DownloadError(
                    f"cannot fetch {shown(url)}: {error} ({failed} attempts); try again later, or"
                    " look at the network and its proxy"
                ) from error
            wait = min(max(FIRST_PAUSE * 2 ** (failed - 1), error.after), LONGEST_PAUSE)
            log.warning("%s: %s; trying again in %g s", shown(url), error, wait)
            sleep(wait)


def _fetch(url: str, path: Path) -> Path:
    """Bring what there is of the file to its full length; the part, which is whole then."""
    with _get(url) as response:
        part = _part_of(path, response)
        have = part.stat().st_size if part.exists() else 0
        whole = _length(response)
        if have and have == whole:
            return part
        validator = _validator(response)
        if not have or not validator or (whole is not None and have > whole):
            return _receive(url, response, part, 0)
    with _get(url, {"Range": f"bytes={have}-", "If-Range": validator}) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            # It has changed since, or the server does not send ranges: here is all of it.
            return _receive(url, response, _part_of(path, response), 0)
        asked = (response.headers["Content-Range"] or "").startswith(f"bytes {have}-")
        if not asked or _validator(response) not in {None, validator}:
            part.unlink()
            raise _PassingError("the server sent another piece than the one asked for")
        return _receive(url, response, part, have)


def _receive(url: str, response: http.client.HTTPResponse, part: Path, start: int) -> Path:
    """Write what comes to the part, from the byte `start` on; the part."""
    rest = _length(response)
    total = None if rest is None else start + rest
    have = start
    with (
        part.open("ab" if start else "wb") as file,
        _progress(shown(url), start, total) as advance,
    ):
        try:
            while chunk := _read(response, CHUNK):
                file.write(chunk)
                have += len(chunk)
                advance(len(chunk))
        except _PassingError as error:
            raise _PassingError(str(error), received=have > start) from error
    if total is not None and have < total:
        raise _PassingError(f"cut after {have} of {total} bytes", received=have > start)
    return part


def _validator(response: http.client.HTTPResponse) -> str | None:
    """What makes sure, in If-Range, that two pieces are of the same file (RFC 9110, 13.1.5)."""
    etag: str | None = response.headers["ETag"]
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers["Last-Modified"]


def _part_of(path: Path, response: http.client.HTTPResponse) -> Path:
    """Where the pieces of this version of the file are put together; those of others go."""
    version = hashlib.sha256((_validator(response) or "").encode()).hexdigest()[:16]
    part = path.with_name(f"{path.name}.{version}.part")
    for other in path.parent.iterdir():
        if other.name.startswith(f"{path.name}.") and other.suffix == ".part" and other != part:
            other.unlink()
    return part


def _length(response: http.client.HTTPResponse) -> int | None:
    text = response.headers["Content-Length"] or ""
    return int(text) if text.isdecimal() else None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _read(response: http.client.HTTPResponse, amount: int) -> bytes:
    try:
        return response.read(amount)
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(f"the connection broke ({_reason(error)})") from error


class _WithinTheWeb(request.HTTPRedirectHandler):
    """Follows redirects to http and https only (urllib would go to ftp), and never back to http."""

    def redirect_request(
        self,
        req: request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> request.Request | None:
        if urlsplit(newurl).scheme not in {req.type, "https"}:
            raise DownloadError(
                f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not followed:"
                " write an address that serves the file over https"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _get(url: str, headers: dict[str, str] | None = None) -> Iterator[http.client.HTTPResponse]:
    # Put together by hand: build_opener() would open file: and ftp: addresses too.
    opener = request.OpenerDirector()
    for handler in (
        request.ProxyHandler(),
        request.UnknownHandler(),
        request.HTTPHandler(),
        request.HTTPSHandler(),
        request.HTTPDefaultErrorHandler(),
        _WithinTheWeb(),
        request.HTTPErrorProcessor(),
    ):
        opener.add_handler(handler)
    opener.addheaders = [("User-Agent", "batchrec"), ("Accept-Encoding", "identity")]
    try:
        response = opener.open(request.Request(url, headers=headers or {}), timeout=TIMEOUT)  # noqa: S310
    except urllib.error.HTTPError as error:
        raise _refusal(url, error) from error
    except (OSError, http.client.HTTPException) as error:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise DownloadError(
                f"cannot trust the server of {shown(url)}: {cause.verify_message}; if a proxy"
                " stands between, name its certificates in SSL_CERT_FILE"
            ) from error
        raise _PassingError(f"no connection ({_reason(cause)})") from error
    with response:
        if encoding := response.headers["Content-Encoding"]:
            raise DownloadError(
                f"{shown(url)} is only sent compressed ({encoding}), unasked: have it served as"
                " it is, or as a .zip"
            )
        yield response


def _refusal(url: str, error: urllib.error.HTTPError) -> Exception:
    answer = " ".join(f"{error.code} {error.reason}".split())
    error.close()
    if error.code in PASSING:
        after = error.headers["Retry-After"] or ""
        return _PassingError(
            f"the server says {answer}", after=int(after) if after.isdecimal() else 0
        )
    if error.code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return NotThereError(f"there is no {shown(url)} ({answer}): look at the address")
    if error.code in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return DownloadError(
            f"{shown(url)} is not for everyone ({answer}): sign the address anew, or put the file"
            " into a bucket and write s3://bucket/key"
        )
    return DownloadError(f"cannot fetch {shown(url)}: the server says {answer}")


def _reason(error: object) -> str:
    return str(error) or type(error).__name__


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Keeps other processes from fetching the same file into the same part."""
    if sys.platform == "win32":
        yield
        return
    import fcntl

    with path.with_name(f"{path.name}.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(url: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """Where to tell of bytes that came: a bar on a terminal, elsewhere a line now and then."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(url.rpartition("/")[2], total=total, completed=start)
            yield lambda size: bar.advance(task, size)
        return

    of = "" if total is None else f" of {total / 1e6:.1f} MB"
    have, next_line = start, monotonic()

    def advance(size: int) -> None:
        nonlocal have, next_line
        have += size
        if monotonic() >= next_line:
            log.info("downloading %s: %.1f MB%s", url, have / 1e6, of)
            next_line = monotonic() + SECONDS_BETWEEN_LOG_LINES

    yield advance
