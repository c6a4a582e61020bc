"""Downloads files from the web.

An interrupted download is resumed. A file is verified, and appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import TypeVar

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

from batchrec_dagster.preparation.sources.download_progress import show_progress
from batchrec_dagster.preparation.sources.limits import MAX_FILE_GB, Limits
from batchrec_dagster.preparation.sources.web_request import (
    DownloadError,
    TemporaryError,
    find_reason,
    open_response,
    safe_url,
)
from batchrec_dagster.storage import durable

log = logging.getLogger(__name__)

CHUNK = 1024 * 1024
MAX_TEXT_BYTES = 64 * 1024
# How many attempts in a row may fail without progress. Attempts that brought a piece do not count.
ATTEMPTS = 4
# Seconds, of urllib3's exponential backoff: 0 before the second attempt, then 2, 4, 8 times this.
PAUSE = 1.0
LONGEST_PAUSE = 60
# A server that sends a byte now and then would delay a run forever. So at least this many bytes
# must arrive in each span of this many seconds, and the whole response within a day.
SPEED_SPAN = 60.0
LEAST_BYTES_PER_SPAN = 60_000
LONGEST_SECONDS = 24 * 3600.0

T = TypeVar("T")


@dataclass(frozen=True)
class RemoteFile:
    """What a server says about a file."""

    version: str | None
    """A version that changes when the file changes; None if the server has none."""
    size: int | None
    """The size in bytes; None if the server does not say it."""


def describe_remote_file(url: str) -> RemoteFile:
    """The version and the size of the file, which is not read. Raises DownloadError."""

    def attempt() -> RemoteFile:
        # GET and not HEAD, because an address that is signed for GET refuses HEAD.
        with open_response(url) as response:
            version = response.headers.get("ETag") or response.headers.get("Last-Modified")
            return RemoteFile(version, response.length_remaining)

    return _retry(url, attempt)


def read_text(url: str) -> str:
    """The text at this address, at most 64 KiB of it. Raises DownloadError."""

    return read_start(url, MAX_TEXT_BYTES).decode(errors="replace")


def read_start(url: str, size: int) -> bytes:
    """The first bytes at this address, at most `size`. Raises DownloadError."""

    def attempt() -> bytes:
        with open_response(url) as response:
            return _read(response.read, size)

    return _retry(url, attempt)


def download(url: str, path: Path, *, md5: str | None = None) -> None:
    """Fetch the file to `path`, unless it exists already.

    If the connection breaks, the part that has arrived is kept next to `path`. This process or a
    later one continues from it, if the server still has the same file.

    md5: the checksum of the whole content, in hexadecimal.

    Raises DownloadError.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other processes must not write to the same part at the same time.
        with durable.exclusive_lock(path.with_name(f"{path.name}.lock")):
            if path.exists():
                return
            part = _retry(url, lambda: _fetch(url, path))
            actual = _compute_md5(part) if md5 is not None else None
            if actual != md5:
                part.unlink()
                raise DownloadError(
                    f"{safe_url(url)} arrived damaged and was deleted: its MD5 is {actual},"
                    f" published is {md5}. Try again, or check whether a proxy changes it"
                )
            durable.publish(part, path)
    except OSError as error:
        raise DownloadError(f"cannot write {safe_url(url)} to {path.parent}: {error}") from error
    log.info("downloaded %s, %d bytes", safe_url(url), path.stat().st_size)


def _retry(url: str, attempt: Callable[[], T]) -> T:
    """The result of `attempt`, which is called again after temporary errors.

    Raises DownloadError after the last attempt. urllib3 itself could retry, but it does not resume
    a body, and it logs the query.
    """
    all_retries = Retry(
        ATTEMPTS - 1, backoff_factor=PAUSE, backoff_max=LONGEST_PAUSE, retry_after_max=LONGEST_PAUSE
    )
    retries = all_retries
    while True:
        try:
            return attempt()
        except TemporaryError as error:
            try:
                if error.has_progress:
                    retries = all_retries
                retries = retries.increment(error=error)
            except MaxRetryError:
                raise DownloadError(
                    f"cannot fetch {safe_url(url)}: {error} ({ATTEMPTS} attempts). Try again later,"
                    " or look at the network and its proxy"
                ) from error
            log.warning("%s: %s; trying again", safe_url(url), error)
            try:
                retries.sleep(error.response)
            except InvalidHeader:  # Retry-After is neither seconds nor a date.
                retries.sleep()


def _fetch(url: str, path: Path) -> Path:
    """Download the file in one attempt, and return the path of the complete part.

    Continues a part that an earlier attempt left, if it belongs to the same version of the file.
    """
    with open_response(url) as response:
        part = _prepare_part(path, response)
        have = part.stat().st_size if part.exists() else 0
        total = response.length_remaining
        if have and have == total:
            return part
        validator = _choose_validator(response)
        if not have or not validator or (total is not None and have > total):
            return _receive(url, response, part, 0)
    with open_response(url, {"Range": f"bytes={have}-", "If-Range": validator}) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            # The file has changed, or the server does not support ranges: here is all of it.
            return _receive(url, response, _prepare_part(path, response), 0)
        content_range = response.headers.get("Content-Range", "")
        if not content_range.startswith(f"bytes {have}-") or _choose_validator(response) not in {
            None,
            validator,
        }:
            part.unlink()
            raise TemporaryError("the server sent another piece than the one asked for")
        return _receive(url, response, part, have)


def _receive(url: str, response: BaseHTTPResponse, part: Path, start: int) -> Path:
    """Write the body to the part, from the byte `start` on. Returns the path of the part."""
    remaining = response.length_remaining
    total = None if remaining is None else start + remaining
    have = start
    _check_size(url, total)
    speed = _SpeedCheck(url)
    with (
        part.open("ab" if start else "wb") as file,
        show_progress(safe_url(url), start, total) as advance,
    ):
        try:
            while True:
                chunk = _read(response.read1, CHUNK)
                if not chunk:
                    break
                file.write(chunk)
                have += len(chunk)
                _check_size(url, have)
                speed.count(len(chunk))
                advance(len(chunk))
        except TemporaryError as error:
            of_total = "" if total is None else f" of {total}"
            raise TemporaryError(
                f"cut after {have}{of_total} bytes: {error}", has_progress=have > start
            ) from error
    return part


def _check_size(url: str, size: int | None) -> None:
    if size is None:
        return
    limit = Limits.from_environment().download_bytes
    if size > limit:
        raise DownloadError(
            f"{safe_url(url)} is larger than the {limit} bytes that {MAX_FILE_GB} allows: set it"
            " higher if that is real data"
        )


class _SpeedCheck:
    """Raises DownloadError when an answer takes too long, or arrives too slowly."""

    def __init__(self, url: str) -> None:
        self._url = safe_url(url)
        self._start = self._span_start = monotonic()
        self._span_bytes = 0

    def count(self, size: int) -> None:
        """Count bytes that have arrived."""
        self._span_bytes += size
        now = monotonic()
        if now - self._start > LONGEST_SECONDS:
            hours = LONGEST_SECONDS / 3600
            raise DownloadError(f"{self._url} took more than {hours:g} hours")
        if now - self._span_start <= SPEED_SPAN:
            return
        if self._span_bytes < LEAST_BYTES_PER_SPAN:
            raise DownloadError(
                f"{self._url} sends less than {LEAST_BYTES_PER_SPAN} bytes in {SPEED_SPAN:g} s: try"
                " again later, or put the file into a bucket"
            )
        self._span_start, self._span_bytes = now, 0


def _read(read: Callable[[int], bytes], size: int) -> bytes:
    try:
        return read(size)
    except (OSError, HTTPError) as error:
        raise TemporaryError(f"the connection broke ({find_reason(error)})") from error


def _choose_validator(response: BaseHTTPResponse) -> str | None:
    """The value for If-Range, which ensures that two pieces are of the same file; None without one.

    See RFC 9110, section 13.1.5.
    """
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")


def _prepare_part(path: Path, response: BaseHTTPResponse) -> Path:
    """The path at which the pieces of this version of the file are collected.

    The pieces of other versions are deleted.
    """
    version = hashlib.sha256((_choose_validator(response) or "").encode()).hexdigest()[:16]
    part = path.with_name(f"{path.name}.{version}.part")
    for other in path.parent.iterdir():
        if other.name.startswith(f"{path.name}.") and other.suffix == ".part" and other != part:
            other.unlink()
    return part


def _compute_md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
