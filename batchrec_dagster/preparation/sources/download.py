"""Downloads files from the web.

An interrupted download is resumed. A file is verified, and appears only when it is complete.
"""

from __future__ import annotations

import hashlib
import logging
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urljoin, urlsplit

from urllib3 import BaseHTTPResponse, Retry
from urllib3.exceptions import HTTPError, InvalidHeader, MaxRetryError

from batchrec_dagster.preparation.sources.limits import MAX_FILE_GB, Limits
from batchrec_dagster.storage import durable

if TYPE_CHECKING:
    import requests

log = logging.getLogger(__name__)

CHUNK = 1024 * 1024
MAX_TEXT_BYTES = 64 * 1024
TIMEOUT = 30.0
# How many attempts in a row may fail without progress. Attempts that brought a piece do not count.
ATTEMPTS = 4
# Seconds, of urllib3's exponential backoff: 0 before the second attempt, then 2, 4, 8 times this.
PAUSE = 1.0
LONGEST_PAUSE = 60
SECONDS_BETWEEN_LOG_LINES = 10.0
# A server that sends a byte now and then would delay a run forever. So at least this many bytes
# must arrive in each span of this many seconds, and the whole response within a day.
SPEED_SPAN = 60.0
LEAST_BYTES_PER_SPAN = 60_000
LONGEST_SECONDS = 24 * 3600.0

# The statuses of a server, or a proxy in front of it, that is busy or down for now.
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}

T = TypeVar("T")


class DownloadError(Exception):
    """A file could not be fetched. The message has its address, without a query, and the fix."""


class MissingFileError(DownloadError):
    """There is no file at this address."""


class _TemporaryError(Exception):
    """An error that is worth another attempt.

    response: the server's response, which may say when to try again.
    has_progress: whether this attempt brought a piece of the file.
    """

    def __init__(
        self, reason: str, response: BaseHTTPResponse | None = None, *, has_progress: bool = False
    ) -> None:
        super().__init__(reason)
        self.response = response
        self.has_progress = has_progress


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
        with _get(url) as response:
            version = response.headers.get("ETag") or response.headers.get("Last-Modified")
            return RemoteFile(version, response.length_remaining)

    return _retry(url, attempt)


def read_text(url: str) -> str:
    """The text at this address, at most 64 KiB of it. Raises DownloadError."""

    def attempt() -> str:
        with _get(url) as response:
            return _read(response.read, MAX_TEXT_BYTES).decode(errors="replace")

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
            if md5 is not None and (actual := _compute_md5(part)) != md5:
                part.unlink()
                raise DownloadError(
                    f"{safe_url(url)} arrived damaged and was deleted: its MD5 is {actual},"
                    f" published is {md5}. Try again, or check whether a proxy changes it"
                )
            durable.publish(part, path)
    except OSError as error:
        raise DownloadError(f"cannot write {safe_url(url)} to {path.parent}: {error}") from error
    log.info("downloaded %s, %d bytes", safe_url(url), path.stat().st_size)


def safe_url(url: str) -> str:
    """The address without its query and its user, which may hold secrets.

    They may be a signature and a password, which must not be in a log.
    """
    scheme, separator, remainder = url.partition("?")[0].partition("://")
    host, slash, path = remainder.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"


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
        except _TemporaryError as error:
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
    with _get(url) as response:
        part = _prepare_part(path, response)
        have = part.stat().st_size if part.exists() else 0
        total = response.length_remaining
        if have and have == total:
            return part
        validator = _choose_validator(response)
        if not have or not validator or (total is not None and have > total):
            return _receive(url, response, part, 0)
    with _get(url, {"Range": f"bytes={have}-", "If-Range": validator}) as response:
        if response.status != HTTPStatus.PARTIAL_CONTENT:
            # The file has changed, or the server does not support ranges: here is all of it.
            return _receive(url, response, _prepare_part(path, response), 0)
        content_range = response.headers.get("Content-Range", "")
        if not content_range.startswith(f"bytes {have}-") or _choose_validator(response) not in {
            None,
            validator,
        }:
            part.unlink()
            raise _TemporaryError("the server sent another piece than the one asked for")
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
        _progress(safe_url(url), start, total) as advance,
    ):
        try:
            while chunk := _read(response.read1, CHUNK):
                file.write(chunk)
                have += len(chunk)
                _check_size(url, have)
                speed.count(len(chunk))
                advance(len(chunk))
        except _TemporaryError as error:
            of_total = "" if total is None else f" of {total}"
            raise _TemporaryError(
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
        raise _TemporaryError(f"the connection broke ({_find_reason(error)})") from error


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


@contextmanager
def _get(url: str, headers: dict[str, str] | None = None) -> Iterator[BaseHTTPResponse]:
    """The response to a GET, whose body is not read yet.

    Raises DownloadError, or _TemporaryError if another attempt may help.
    """
    import requests

    from batchrec_dagster.preparation.sources.peers import NotPublicError, PublicRedirects

    common_headers = {"User-Agent": "batchrec", "Accept-Encoding": "identity"}
    # The certificates of the system or of SSL_CERT_FILE, which requests itself ignores.
    certificates = ssl.get_default_verify_paths()
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, PublicRedirects(url))
        try:
            answer = session.get(
                url,
                headers=common_headers | (headers or {}),
                timeout=TIMEOUT,
                stream=True,
                verify=certificates.cafile or certificates.capath or True,
                hooks={"response": _check_redirect},
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = _find_reason(error)
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise DownloadError(
                    f"cannot trust the server of {safe_url(url)}: {reason}. If a proxy replaces its"
                    " certificate, set SSL_CERT_FILE to the proxy's certificates"
                ) from error
            raise _TemporaryError(f"no connection ({reason})") from error
        except NotPublicError as error:
            raise _build_redirect_error(url, str(error)) from error
        except requests.RequestException as error:
            # The message of the error may have the query.
            raise DownloadError(
                f"cannot fetch {safe_url(url)} ({type(error).__name__}): check that the address,"
                " and the proxy if one is set, are whole URLs of http or https"
            ) from error
        with answer:
            response: BaseHTTPResponse = answer.raw
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _explain_refusal(url, response)
            if encoding := response.headers.get("Content-Encoding"):
                raise DownloadError(
                    f"{safe_url(url)} is only sent compressed ({encoding}), although the request"
                    " excluded that: serve it as it is, or as a .zip"
                )
            yield response


def _check_redirect(answer: requests.Response, **_: Any) -> None:
    """Raise DownloadError for a redirect from https to http, or to an address that is not public.

    requests itself would follow both.
    """
    target = urljoin(answer.url, answer.headers.get("Location", ""))
    if answer.is_redirect and answer.url.startswith("https:") and target.startswith("http:"):
        raise DownloadError(
            f"{safe_url(answer.url)} redirects to {safe_url(target)}, which is not followed: give"
            " an address that serves the file over https"
        )
    if answer.is_redirect and not _is_public(target) and _get_host(target) != _get_host(answer.url):
        raise _build_redirect_error(answer.url, safe_url(target))


def _build_redirect_error(url: str, target: str) -> DownloadError:
    return DownloadError(
        f"{safe_url(url)} redirects to {target}, an address within this network, which is not"
        " followed: if you trust it, give that address itself"
    )


def _get_host(url: str) -> tuple[str | None, int | None]:
    """The host name and the port of the URL."""
    parts = urlsplit(url)
    return parts.hostname, parts.port


def _is_public(url: str) -> bool:
    """Whether all addresses of the URL's host are public."""
    from batchrec_dagster.preparation.sources.peers import is_public

    parts = urlsplit(url)
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 0, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return True  # A host without an address cannot be connected to either.
    return all(is_public(str(entry[4][0])) for entry in addresses)


def _explain_refusal(url: str, response: BaseHTTPResponse) -> Exception:
    """The error for a status that is not a success."""
    answer = " ".join(f"{response.status} {response.reason or ''}".split())
    if response.status in TEMPORARY_STATUSES:
        return _TemporaryError(f"the server says {answer}", response)
    if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return MissingFileError(f"there is no {safe_url(url)} ({answer}): check the address")
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return DownloadError(
            f"{safe_url(url)} is not public ({answer}): sign the address again, or put the file"
            " into a bucket and write s3://bucket/key"
        )
    return DownloadError(f"cannot fetch {safe_url(url)}: the server says {answer}")


def _find_reason(error: Exception) -> str:
    """The cause of the error in one line. A MaxRetryError's own text would have the query."""
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause) if isinstance(cause, HTTPError) else cause
    return str(cause) or type(cause).__name__


@contextmanager
def _progress(url: str, start: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to call with the number of bytes received, to show the progress.

    It shows a bar on a terminal, and elsewhere logs a line now and then.
    """
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

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

    of_total = "" if total is None else f" of {total / 1e6:.1f} MB"
    have, next_line = start, monotonic()

    def advance(size: int) -> None:
        nonlocal have, next_line
        have += size
        if monotonic() >= next_line:
            log.info("downloading %s: %.1f MB%s", url, have / 1e6, of_total)
            next_line = monotonic() + SECONDS_BETWEEN_LOG_LINES

    yield advance
