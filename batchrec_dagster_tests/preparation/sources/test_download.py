import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests

from batchrec_dagster.preparation.sources import download as module
from batchrec_dagster.preparation.sources import web_request
from batchrec_dagster.preparation.sources.download import (
    download,
)
from batchrec_dagster.preparation.sources.peers import is_public
from batchrec_dagster.preparation.sources.web_request import DownloadError
from batchrec_dagster_tests.guard.servers.web import Page, Web, serving

CONTENT = bytes(range(256)) * 40
MONDAY = "Mon, 05 Jan 2009 10:00:00 GMT"


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
    web.pages["/ratings.zip"] = page
    return web.url("/ratings.zip")


def list_leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_a_server_that_falls_silent_is_asked_again(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pause(seconds: float) -> None:
        monkeypatch.setattr(web_request, "TIMEOUT", 120.0)  # for an answer on a busy machine

    monkeypatch.setattr("urllib3.util.retry.time.sleep", pause)
    monkeypatch.setattr(web_request, "TIMEOUT", 0.2)
    download(serve(web, Page(CONTENT, stalls=[0.6])), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
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


def test_an_answer_that_comes_in_drops_or_never_ends_is_given_up(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(web, Page(CONTENT))
    monkeypatch.setattr(module, "SPEED_SPAN", 0.0)
    with pytest.raises(DownloadError, match="sends less than 60000 bytes in 0 s"):
        download(url, tmp_path / "a.zip")
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.0)
    with pytest.raises(DownloadError, match="took more than 0 hours"):
        download(serve(web, Page(CONTENT, etag='"2"')), tmp_path / "a.zip")


def test_nothing_leads_from_https_back_to_http() -> None:
    answer = requests.Response()
    answer.status_code = 302
    answer.url = "https://example.com/b?secret=1"
    answer.headers["Location"] = "http://example.com/a?secret=2"
    with pytest.raises(DownloadError, match=r"redirects to http://example.com/a, .*over https"):
        web_request._check_redirect(answer)
    answer.headers["Location"] = "/c"
    web_request._check_redirect(answer)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no file locks of this kind")
def test_two_at_once_fetch_it_once(web: Web, tmp_path: Path) -> None:
    url = serve(web, Page(CONTENT, stalls=[0.2]))
    threads = [
        threading.Thread(target=download, args=(url, tmp_path / "a.zip"), daemon=True)
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(web.requests) == 1
