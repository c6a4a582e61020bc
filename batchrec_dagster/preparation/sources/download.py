"""Downloads files from the web.

A download that is cut goes on where it ended. A file appears only when it is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import TypeVar

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

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


def read_start(url: str, size: int) -> bytes:
    """The first bytes at this address, at most `size`. Raises DownloadError."""

    def attempt() -> bytes:
        with open_response(url) as response:
            return _read(response.read, size)

    return _retry(url, attempt)


def download(url: str, path: Path) -> None:
    """Fetch the file to `path`, unless it exists already. Raises DownloadError."""
    part = path.with_name(f"{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Other processes must not write to the same part at the same time.
        with durable.exclusive_lock(path.with_name(f"{path.name}.lock")):
            if path.exists():
                return
            attempts = _Download(url, part)
            try:
                _retry(url, attempts.fetch)
                durable.publish(part, path)
            finally:
                part.unlink(missing_ok=True)
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


class _Download:
    """Fetches a file in several attempts, of which each goes on where the last one was cut.

    url: the file's address.
    part: the path at which its pieces are collected.
    """

    def __init__(self, url: str, part: Path) -> None:
        self._url = url
        self._part = part
        self._received = 0
        """How many bytes of the file are in the part."""
        self._validator: str | None = None
        """The version of the file of which they are; None without one."""

    def fetch(self) -> None:
        """Download the file, or what is missing of it, in one attempt.

        Raises DownloadError, or TemporaryError if another attempt may help.
        """
        headers = {}
        if self._received and self._validator:
            headers = {"Range": f"bytes={self._received}-", "If-Range": self._validator}
        with open_response(self._url, headers) as response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                # The file has changed, or the server does not support ranges: here is all of it.
                self._received = 0
                self._validator = _choose_validator(response)
            elif not self._is_next_piece(response):
                self._received = 0
                raise TemporaryError("the server sent another piece than the one asked for")
            self._receive(response)

    def _is_next_piece(self, response: BaseHTTPResponse) -> bool:
        """Whether the piece is of the same version of the file, and begins where the part ends."""
        content_range = response.headers.get("Content-Range", "")
        is_next = content_range.startswith(f"bytes {self._received}-")
        return is_next and _choose_validator(response) in {None, self._validator}

    def _receive(self, response: BaseHTTPResponse) -> None:
        """Write the body to the part."""
        remaining, start = response.length_remaining, self._received
        total = None if remaining is None else start + remaining
        _check_size(self._url, total)
        speed = _SpeedCheck(self._url)
        with self._part.open("ab" if start else "wb") as file:
            try:
                while chunk := _read(response.read1, CHUNK):
                    file.write(chunk)
                    self._received += len(chunk)
                    _check_size(self._url, self._received)
                    speed.count(len(chunk))
            except TemporaryError as error:
                of_total = "" if total is None else f" of {total}"
                raise TemporaryError(
                    f"cut after {self._received}{of_total} bytes: {error}",
                    has_progress=self._received > start,
                ) from error


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
