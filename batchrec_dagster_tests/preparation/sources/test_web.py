"""Files on the web: what cannot be seen from the copy alone."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from batchrec_dagster.preparation.sources import web_request
from batchrec_dagster.preparation.sources.peers import is_public
from batchrec_dagster.preparation.sources.web_request import DownloadError
from batchrec_dagster_tests.guard.builders import zip_members
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.web import Page, Web, serving

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def web(server: Web, waits: list[float]) -> Web:
    server.pages.clear()
    server.requests.clear()
    return server


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between attempts, which are noted and not made."""
    seconds_slept: list[float] = []
    # The server really stalls; only the pauses of urllib3 are left out.
    fake = SimpleNamespace(sleep=seconds_slept.append, time=time.time)
    monkeypatch.setattr("urllib3.util.retry.time", fake)
    monkeypatch.setenv("no_proxy", "*")
    return seconds_slept


def serve(web: Web, page: Page) -> str:
    web.pages["/ratings.bin"] = page
    return web.url("/ratings.bin")


def test_a_server_that_falls_silent_is_asked_again(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(seconds: float) -> None:
        monkeypatch.setattr(web_request, "TIMEOUT", 120.0)  # for an answer on a busy machine

    monkeypatch.setattr("urllib3.util.retry.time.sleep", pause)
    monkeypatch.setattr(web_request, "TIMEOUT", 0.2)
    (copied,) = preparation.copy_raw(tmp_path, {"source": serve(web, Page(CONTENT, stalls=[0.6]))})
    assert copied.path.read_bytes() == CONTENT
    assert len(web.requests) == 3


def test_a_file_without_a_version_is_downloaded_once(web: Web, tmp_path: Path) -> None:
    url = serve(web, Page(CONTENT, etag=None))
    (copied,) = preparation.copy_raw(
        tmp_path, {"source": url}, lambda: serve(web, Page(CONTENT[::-1], etag=None))
    )
    assert copied.path.read_bytes() == CONTENT
    assert copied.version == f"sha256 {hashlib.sha256(CONTENT).hexdigest()}"
    # The first question finds no version, and the second fetches the file.
    assert len(web.requests) == 2


@pytest.mark.attack
@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("::ffff:93.184.215.14", True),
        ("::ffff:169.254.169.254", False),
        ("168.63.129.16", False),
        ("::ffff:168.63.129.16", False),
        ("192.0.0.192", False),
        ("100.100.100.200", False),
        # IPv4 addresses within IPv6: 127.0.0.1, 169.254.169.254, 10.0.0.1.
        ("::7f00:1", False),
        ("::ffff:0:127.0.0.1", False),
        ("64:ff9b::a9fe:a9fe", False),
        ("64:ff9b:1::a00:1", False),
        ("2002:7f00:1::", False),
        ("2001:0:a00:1::1", False),
        ("2001:0:5db8:d70e:0:0:f5ff:fffe", False),
        # These are addresses behind a gateway of this network.
        ("64:ff9b::5db8:d70e", False),
        ("fd00:ec2::254", False),
        ("fe80::1%eth0", False),
        ("fec0::1", False),
    ],
)
def test_only_addresses_of_the_internet_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_a_redirect_to_a_public_address_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = requests.Response()
    answer.status_code = 302
    answer.url = "https://93.184.215.14/a"
    answer.headers["Location"] = "https://1.1.1.1/a"
    web_request._check_redirect(answer)


def test_nothing_leads_from_https_back_to_http() -> None:
    answer = requests.Response()
    answer.status_code = 302
    answer.url = "https://example.com/b?secret=1"
    answer.headers["Location"] = "http://example.com/a?secret=2"
    with pytest.raises(DownloadError, match=r"redirects to http://example.com/a, .*over https"):
        web_request._check_redirect(answer)
    answer.headers["Location"] = "/c"
    web_request._check_redirect(answer)


def test_an_archive_is_fetched_once_for_two_that_want_it_at_once(web: Web, tmp_path: Path) -> None:
    members = {"1.csv": b"a", "2.csv": b"b"}
    web.pages["/a.zip"] = Page(zip_members(members), stalls=[0, 0, 0.3])

    def copy(name: str) -> bytes:
        ratings = {"source": web.url(f"/a.zip!/{name}")}
        (copied,) = preparation.copy_raw(tmp_path, ratings)
        return copied.path.read_bytes()

    with ThreadPoolExecutor(2) as threads:
        assert [*threads.map(copy, members)] == [*members.values()]
    # Each asks for its version, and one fetches it.
    assert len(web.requests) == 3
