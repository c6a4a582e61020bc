"""Files on the web: `http://` and `https://`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import BinaryIO, Self, TypeVar
from urllib.parse import unquote, urlsplit

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import MAX_FILE_GB, Limits
from batchrec_dagster.preparation.sources.source import (
    EMPTY,
    ListedFile,
    RowSource,
    SourceContext,
    make_filename,
    name_errors,
    trim_url,
)
from batchrec_dagster.preparation.sources.web_request import (
    DownloadError,
    TemporaryError,
    find_reason,
    open_response,
)
from batchrec_dagster.storage.durable import CHUNK, compute_sha256

log = logging.getLogger(__name__)

# How many attempts in a row may fail without progress. Attempts that brought a piece do not count.
ATTEMPTS = 4
# Seconds, of urllib3's exponential backoff: 0 before the second attempt, then 2, 4, 8 times this.
PAUSE = 1.0
LONGEST_PAUSE = 60

T = TypeVar("T")


@dataclass(frozen=True)
class WebFile(RowSource):
    """The file at an address of the web."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises FileError."""
        try:
            parts = urlsplit(text)
            host, _ = parts.hostname, parts.port
        except ValueError as error:
            raise FileError(f"it is not a web address ({error})") from error
        if not host:
            raise FileError("it is not a web address: there is no host in it")
        if parts.username is not None:
            raise FileError("it has a password in it, which would get into logs: sign the address")
        if not text.isascii() or " " in text:
            raise FileError("write spaces and letters beyond ASCII with % (a space is %20)")
        return cls(text)

    def files(self, context: SourceContext) -> list[ListedFile]:
        with name_errors(self.display_name):
            version, size = _describe(self.text)
            if size == 0:
                raise FileError(EMPTY)
            if version is not None:
                read = partial(_download_and_read, self.text)
                return [self._build_file(f"{version}, {size} bytes", read)]
            # Only the content says whether it changed, and what is copied is what was looked at.
            content = _download_to_disk(self.text)
            fingerprint = f"sha256 {compute_sha256(_read_again(content))}"
            return [self._build_file(fingerprint, partial(_read_again, content))]

    def start(self, size: int) -> ListedFile:
        """The first bytes of the file, as if they were all; its version is not asked for."""
        return self._build_file("", lambda: iter([_read_start(self.text, size)]))

    def _build_file(self, fingerprint: str, read: Callable[[], Iterator[bytes]]) -> ListedFile:
        filename = make_filename(unquote(urlsplit(self.text).path))
        return ListedFile(self.display_name, filename, fingerprint, read)


def _describe(url: str) -> tuple[str | None, int | None]:
    """What changes when the file does, and its size in bytes; None for what the server does not
    say. The file is not read. Raises DownloadError."""

    def read_headers(response: BaseHTTPResponse) -> tuple[str | None, int | None]:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        return version, response.length_remaining

    # GET and not HEAD, because an address that is signed for GET refuses HEAD.
    return _ask(url, read_headers)


def _read_start(url: str, size: int) -> bytes:
    """The first bytes at this address. Raises DownloadError."""
    return _ask(url, lambda response: _read(partial(response.read, size)))


def _download_and_read(url: str) -> Iterator[bytes]:
    yield from _read_again(_download_to_disk(url))


def _read_again(content: BinaryIO) -> Iterator[bytes]:
    content.seek(0)
    return iter(partial(content.read, CHUNK), b"")


def _download_to_disk(url: str) -> BinaryIO:
    """The whole file, on the disk of this machine until it is closed. Raises DownloadError."""
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the last reference)
    _retry(url, _Download(url, file).fetch)
    log.info("downloaded %s, %d bytes", trim_url(url), file.tell())
    return file


def _ask(url: str, use: Callable[[BaseHTTPResponse], T]) -> T:
    """What is made of the response, whose body is not read yet. Raises DownloadError."""

    def attempt() -> T:
        with open_response(url) as response:
            return use(response)

    return _retry(url, attempt)


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
                    f"cannot fetch {trim_url(url)}: {error} ({ATTEMPTS} attempts). Try again later,"
                    " or look at the network and its proxy"
                ) from error
            log.warning("%s: %s; trying again", trim_url(url), error)
            try:
                retries.sleep(error.response)
            except InvalidHeader:  # Retry-After is neither seconds nor a date.
                retries.sleep()


@dataclass
class _Download:
    """Fetches a file in several attempts, of which each goes on where the last one was cut."""

    url: str

    file: BinaryIO
    """Takes the content."""

    validator: str | None = None
    """The version of the file of which the file has the start; None without one."""

    def fetch(self) -> None:
        """Download the file, or what is missing of it, in one attempt.

        Raises DownloadError, or TemporaryError if another attempt may help.
        """
        headers, start = {}, self.file.tell()
        if start and self.validator:
            headers = {"Range": f"bytes={start}-", "If-Range": self.validator}
        with open_response(self.url, headers) as response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                # The file has changed, or the server does not support ranges: here is all of it.
                self._begin_again()
                self.validator = _choose_validator(response)
            elif not self._is_next_piece(response):
                self._begin_again()
                raise TemporaryError("the server sent another piece than the one asked for")
            self._receive(response)

    def _begin_again(self) -> None:
        self.file.seek(0)
        self.file.truncate()

    def _is_next_piece(self, response: BaseHTTPResponse) -> bool:
        """Whether the piece is of the same version of the file, and begins where the file ends."""
        content_range = response.headers.get("Content-Range", "")
        is_next = content_range.startswith(f"bytes {self.file.tell()}-")
        return is_next and _choose_validator(response) in {None, self.validator}

    def _receive(self, response: BaseHTTPResponse) -> None:
        """Write the body to the file."""
        start, remaining = self.file.tell(), response.length_remaining
        total = None if remaining is None else start + remaining
        _require_size(self.url, total or 0)
        try:
            while chunk := _read(partial(response.read1, CHUNK)):
                self.file.write(chunk)
                _require_size(self.url, self.file.tell())
        except TemporaryError as error:
            of_total = "" if total is None else f" of {total}"
            raise TemporaryError(
                f"cut after {self.file.tell()}{of_total} bytes: {error}",
                has_progress=self.file.tell() > start,
            ) from error


def _require_size(url: str, size: int) -> None:
    limit = Limits.from_environment().download_bytes
    if size > limit:
        raise DownloadError(
            f"{trim_url(url)} is larger than the {limit} bytes that {MAX_FILE_GB} allows: set it"
            " higher if that is real data"
        )


def _read(read: Callable[[], bytes]) -> bytes:
    """A piece of a body. Raises TemporaryError."""
    try:
        return read()
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
