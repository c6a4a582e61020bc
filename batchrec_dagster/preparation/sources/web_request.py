"""GET requests for files on the web, which refuse unsafe redirects and explain their errors.

No message has a part of an address that may be secret: the query, the user or the password.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

from urllib3 import BaseHTTPResponse
from urllib3.exceptions import HTTPError

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.sources.source import trim_url

if TYPE_CHECKING:
    import requests

# The seconds to wait for a connection, and for each piece of a response.
TIMEOUT = 30.0
# The statuses that a server, or a proxy in front of a server, sends while it is busy or down.
TEMPORARY_STATUSES = {408, 425, 429, 500, 502, 503, 504}


class DownloadError(UserError):
    """An error of a file that could not be fetched.

    The message has the file's address, without the query, and the fix.
    """


class TemporaryError(Exception):
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


@contextmanager
def open_response(url: str, headers: dict[str, str] | None = None) -> Iterator[BaseHTTPResponse]:
    """Yield the response to a GET request before its body is read.

    Raises DownloadError, or TemporaryError if another attempt may help.
    """
    import requests

    from batchrec_dagster.preparation.sources.peers import NotPublicError, PublicRedirects

    common_headers = {"User-Agent": "batchrec", "Accept-Encoding": "identity"}
    # requests itself ignores the certificates of the system and of SSL_CERT_FILE.
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
                hooks={"response": _require_safe_redirect},
            )
        except (requests.ConnectionError, requests.Timeout) as error:
            reason = find_reason(error)
            if "CERTIFICATE_VERIFY_FAILED" in reason:
                raise DownloadError(
                    f"cannot trust the server of {trim_url(url)}: {reason}. If a proxy replaces its"
                    " certificate, set SSL_CERT_FILE to the proxy's certificates"
                ) from error
            raise TemporaryError(f"no connection ({reason})") from error
        except NotPublicError as error:
            raise _build_redirect_error(url, str(error)) from error
        except requests.RequestException as error:
            # The message of the error may have the query.
            raise DownloadError(
                f"cannot fetch {trim_url(url)} ({type(error).__name__}): check that the address,"
                " and the proxy if one is set, are whole URLs of http or https"
            ) from error
        with answer:
            response: BaseHTTPResponse = answer.raw
            if response.status >= HTTPStatus.BAD_REQUEST:
                raise _explain_refusal(url, response)
            encoding = response.headers.get("Content-Encoding")
            if encoding:
                raise DownloadError(
                    f"{trim_url(url)} is only sent compressed ({encoding}), although the request"
                    " excluded that: serve it as it is, or as a .zip"
                )
            yield response


def _require_safe_redirect(answer: requests.Response, **_: Any) -> None:
    """Raise DownloadError for a redirect from https to http, or to a host that is not public.

    A redirect within the same host and port may stay at an address that is not public. requests
    itself would follow all redirects.
    """
    target = urljoin(answer.url, answer.headers.get("Location", ""))
    if answer.is_redirect and answer.url.startswith("https:") and target.startswith("http:"):
        raise DownloadError(
            f"{trim_url(answer.url)} redirects to {trim_url(target)}, which is not followed: give"
            " an address that serves the file over https"
        )
    if answer.is_redirect and not _is_public(target) and _get_host(target) != _get_host(answer.url):
        raise _build_redirect_error(answer.url, trim_url(target))


def _build_redirect_error(url: str, target: str) -> DownloadError:
    return DownloadError(
        f"{trim_url(url)} redirects to {target}, an address within this network, which is not"
        " followed: if you trust it, give that address itself"
    )


def _get_host(url: str) -> tuple[str | None, int | None]:
    """Return the host name and the port of the URL."""
    parts = urlsplit(url)
    return parts.hostname, parts.port


def _is_public(url: str) -> bool:
    """Return whether all addresses of the URL's host are public."""
    from batchrec_dagster.preparation.sources.peers import is_public

    parts = urlsplit(url)
    try:
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 0, type=socket.SOCK_STREAM)
    except (OSError, ValueError):
        return True  # A host without an address cannot be connected to either.
    return all(is_public(str(entry[4][0])) for entry in addresses)


def _explain_refusal(url: str, response: BaseHTTPResponse) -> Exception:
    """Return the error for a response with an error status."""
    answer = " ".join(f"{response.status} {response.reason or ''}".split())
    if response.status in TEMPORARY_STATUSES:
        return TemporaryError(f"the server says {answer}", response)
    if response.status in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
        return DownloadError(f"there is no {trim_url(url)} ({answer}): check the address")
    if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return DownloadError(
            f"{trim_url(url)} is not public ({answer}): sign the address again, or put the file"
            " into a bucket and write s3://bucket/key"
        )
    return DownloadError(f"cannot fetch {trim_url(url)}: the server says {answer}")


def find_reason(error: Exception) -> str:
    """Return the cause of the error in one line.

    The text of a MaxRetryError itself would have the query.
    """
    cause = error.args[0] if error.args else error
    cause = getattr(cause, "reason", cause) if isinstance(cause, HTTPError) else cause
    return str(cause) or type(cause).__name__
