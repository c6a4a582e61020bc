"""The source for a file on the web: `http://` and `https://`."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import BinaryIO, Self, TypeVar
from urllib.parse import unquote, urlsplit

from urllib3 import BaseHTTPResponse
from urllib3 import Retry as Attempts
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

from batchrec_dagster.errors import Retry
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

# The number of attempts without progress after which a download fails. An attempt that brings a
# piece of the file starts the count again.
ATTEMPTS = 4
# The unit of urllib3's exponential backoff in seconds. The pause is 0 before the second attempt,
# 2 times PAUSE before the third, and 4 times PAUSE before the fourth.
PAUSE = 1.0
LONGEST_PAUSE = 60

T = TypeVar("T")


@dataclass(frozen=True)
class WebFile(RowSource):
    """A file at a web address."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the file at this web address.

        Raises FileError if the address is not valid, or if it has a user, a space or a character
        beyond ASCII in it.
        """
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
            # Only the content shows whether the file changed. So the file is downloaded now, and
            # reading the file later returns this content.
            content = _download_to_disk(self.text)
            fingerprint = f"sha256 {compute_sha256(_read_again(content))}"
            return [self._build_file(fingerprint, partial(_read_again, content))]

    def start(self, size: int) -> ListedFile:
        """Return a listed file with only the first `size` bytes of the content.

        The server is not asked for a version, so the fingerprint is empty.
        """
        return self._build_file("", lambda: iter([_read_start(self.text, size)]))

    def _build_file(self, fingerprint: str, read: Callable[[], Iterator[bytes]]) -> ListedFile:
        filename = make_filename(unquote(urlsplit(self.text).path))
        return ListedFile(self.display_name, filename, fingerprint, read)


def _describe(url: str) -> tuple[str | None, int | None]:
    """Return the file's version and its size in bytes, without reading the file.

    The version changes when the file does. A value that the server does not send is None. Raises
    DownloadError or Retry.
    """

    def read_headers(response: BaseHTTPResponse) -> tuple[str | None, int | None]:
        version = response.headers.get("ETag") or response.headers.get("Last-Modified")
        return version, response.length_remaining

    # The request is a GET, because an address that is signed for GET refuses HEAD.
    return _ask(url, read_headers)


def _read_start(url: str, size: int) -> bytes:
    """Return the first `size` bytes at this address.

    Raises DownloadError or Retry.
    """
    return _ask(url, lambda response: _read(partial(response.read, size)))


def _download_and_read(url: str) -> Iterator[bytes]:
    yield from _read_again(_download_to_disk(url))


def _read_again(content: BinaryIO) -> Iterator[bytes]:
    content.seek(0)
    return iter(partial(content.read, CHUNK), b"")


def _download_to_disk(url: str) -> BinaryIO:
    """Download the whole file to this machine's disk, and return the open copy.

    The copy is deleted when it is closed. Raises DownloadError or Retry.
    """
    file: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the last reference)
    _retry(url, _Download(url, file).fetch)
    log.info("downloaded %s, %d bytes", trim_url(url), file.tell())
    return file


def _ask(url: str, use: Callable[[BaseHTTPResponse], T]) -> T:
    """Send a GET request and return the result of `use` on the response.

    The response's body has not been read when `use` gets the response. Raises DownloadError or
    Retry.
    """

    def attempt() -> T:
        with open_response(url) as response:
            return use(response)

    return _retry(url, attempt)


def _retry(url: str, attempt: Callable[[], T]) -> T:
    """Call `attempt` again after each temporary error, and return its result.

    Raises Retry after the last attempt. urllib3's own retries do not resume a body, and
    they log the query.
    """
    all_attempts = Attempts(
        ATTEMPTS - 1, backoff_factor=PAUSE, backoff_max=LONGEST_PAUSE, retry_after_max=LONGEST_PAUSE
    )
    attempts = all_attempts
    while True:
        try:
            return attempt()
        except TemporaryError as error:
            try:
                if error.has_progress:
                    attempts = all_attempts
                attempts = attempts.increment(error=error)
            except MaxRetryError:
                raise Retry(
                    f"cannot fetch {trim_url(url)}: {error} ({ATTEMPTS} attempts). Try again later,"
                    " or look at the network and its proxy"
                ) from error
            log.warning("%s: %s; trying again", trim_url(url), error)
            try:
                attempts.sleep(error.response)
            except InvalidHeader:  # Retry-After is neither seconds nor a date.
                attempts.sleep()


@dataclass
class _Download:
    """A download of a file in several attempts.

    Each attempt continues where the last attempt was cut.
    """

    url: str

    file: BinaryIO
    """The local file that takes the content."""

    validator: str | None = None
    """The server's version of the file that is being downloaded; None if there is no version."""

    def fetch(self) -> None:
        """Download the file, or the missing rest of the file, in one attempt.

        Raises DownloadError, or TemporaryError if another attempt may help.
        """
        headers, start = {}, self.file.tell()
        if start and self.validator:
            headers = {"Range": f"bytes={start}-", "If-Range": self.validator}
        with open_response(self.url, headers) as response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                # The response has the whole file: this is the first attempt, the file has changed,
                # or the server does not support ranges.
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
        """Return whether the response continues the same version of the file where `file` ends."""
        content_range = response.headers.get("Content-Range", "")
        is_next = content_range.startswith(f"bytes {self.file.tell()}-")
        return is_next and _choose_validator(response) in {None, self.validator}

    def _receive(self, response: BaseHTTPResponse) -> None:
        """Append the response's body to the file.

        Raises DownloadError if the file is too large, and TemporaryError if the connection breaks.
        """
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
    """Return the next piece of a body.

    Raises TemporaryError if the connection breaks.
    """
    try:
        return read()
    except (OSError, HTTPError) as error:
        raise TemporaryError(f"the connection broke ({find_reason(error)})") from error


def _choose_validator(response: BaseHTTPResponse) -> str | None:
    """Return the value for If-Range; None if the response has no such value.

    If-Range ensures that two pieces belong to the same version of the file. See RFC 9110, section
    13.1.5.
    """
    etag = response.headers.get("ETag")
    if etag and not etag.startswith("W/"):
        return etag
    return response.headers.get("Last-Modified")
