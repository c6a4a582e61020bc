import logging
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.preparation.sources import download as module
from batchrec_dagster.preparation.sources import web_request
from batchrec_dagster.preparation.sources.download import (
    ATTEMPTS,
    RemoteFile,
    describe_remote_file,
    download,
)
from batchrec_dagster.preparation.sources.peers import is_public
from batchrec_dagster.preparation.sources.web_request import DownloadError
from batchrec_dagster_tests.guard.repeats import repeats
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


def test_the_file_is_there_whole_and_nothing_else(web: Web, tmp_path: Path) -> None:
    target = tmp_path / "cache" / "a.zip"
    download(serve(web, Page(CONTENT)), target)
    assert target.read_bytes() == CONTENT
    assert list_leftovers(target.parent) == ["a.zip"]


def test_what_is_there_is_not_fetched_again(web: Web, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"already")
    download(serve(web, Page(CONTENT)), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == b"already"
    assert web.requests == []


def test_a_cut_download_goes_on_where_it_was_cut(web: Web, tmp_path: Path) -> None:
    download(serve(web, Page(CONTENT, cuts=[1000])), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == ["bytes=1000-"]


def test_a_download_that_is_given_up_leaves_nothing(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = serve(web, Page(CONTENT, cuts=[1000]))
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    with pytest.raises(DownloadError, match=r"cut after 1000 of 10240 bytes"):
        download(url, tmp_path / "a.zip")
    assert list_leftovers(tmp_path) == []


def test_pieces_that_come_keep_it_going_however_often_it_is_cut(web: Web, tmp_path: Path) -> None:
    cuts = [900] * (2 * ATTEMPTS)
    download(serve(web, Page(CONTENT, cuts=cuts)), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert len(web.ranges) > ATTEMPTS


def test_a_server_without_ranges_sends_it_all_again(web: Web, tmp_path: Path) -> None:
    download(serve(web, Page(CONTENT, ranges=False, cuts=[1000])), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == ["bytes=1000-"]


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_between_the_pieces_is_never_mixed(
    web: Web, tmp_path: Path, heeds: bool
) -> None:
    new = Page(CONTENT[::-1], etag='"2"', heeds_if_range=heeds)
    download(serve(web, Page(CONTENT, cuts=[1000], next=new)), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT[::-1]
    assert list_leftovers(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_a_strong_etag_the_date_serves(web: Web, tmp_path: Path, etag: str | None) -> None:
    page = Page(CONTENT, etag=etag, last_modified=MONDAY, cuts=[1000])
    download(serve(web, page), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == ["bytes=1000-"]


def test_without_a_version_it_is_never_resumed(web: Web, tmp_path: Path) -> None:
    download(serve(web, Page(CONTENT, etag=None, cuts=[1000])), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert web.ranges == []


@settings(max_examples=repeats(25, 8), deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(CONTENT)), max_size=6),
    ranges=st.booleans(),
    etag=st.sampled_from(['"1"', 'W/"1"', None]),
    date=st.sampled_from([MONDAY, None]),
)
def test_wherever_it_is_cut_the_bytes_are_the_same(
    server: Web, cuts: list[int], ranges: bool, etag: str | None, date: str | None
) -> None:
    page = Page(CONTENT, ranges=ranges, etag=etag, last_modified=date, cuts=cuts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "PAUSE", 0)
        patch.setattr(module, "ATTEMPTS", 10)
        patch.setenv("no_proxy", "*")
        download(serve(server, page), Path(folder, "a.zip"))
        assert Path(folder, "a.zip").read_bytes() == CONTENT
        assert list_leftovers(Path(folder)) == ["a.zip"]


def test_a_file_that_is_not_there_is_asked_for_once(
    web: Web, tmp_path: Path, waits: list[float]
) -> None:
    with pytest.raises(DownloadError, match=r"there is no http://127.*/nowhere.zip \(404"):
        download(web.url("/nowhere.zip"), tmp_path / "a.zip")
    assert len(web.requests) == 1
    assert waits == []
    assert list_leftovers(tmp_path) == []


def test_the_signature_of_an_address_is_not_shown(web: Web, tmp_path: Path) -> None:
    page = Page(CONTENT, statuses=[403])
    with pytest.raises(DownloadError, match="sign the address again") as error:
        download(serve(web, page) + "?X-Amz-Signature=secret", tmp_path / "a.zip")
    assert "secret" not in str(error.value)
    assert "/ratings.zip" in str(error.value)


def test_a_busy_server_is_asked_again_when_it_says(
    web: Web, tmp_path: Path, waits: list[float]
) -> None:
    page = Page(CONTENT, statuses=[503, 429, 500], headers={"Retry-After": "3"})
    download(serve(web, page), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT
    assert waits == [3, 3, 3]


@pytest.mark.parametrize("value", ["soon", "99999999"])
def test_a_server_does_not_make_it_wait_forever(
    web: Web, tmp_path: Path, waits: list[float], value: str
) -> None:
    page = Page(CONTENT, statuses=[503, 503], headers={"Retry-After": value})
    download(serve(web, page), tmp_path / "a.zip")
    assert waits == ([2] if value == "soon" else [60, 60])


def test_a_query_is_never_logged(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture, waits: list[float]
) -> None:
    with socket.socket() as mute, caplog.at_level(logging.INFO):
        mute.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{mute.getsockname()[1]}/ratings.zip"
        for url in (nobody, serve(web, Page(CONTENT, statuses=[500] * 9)), "data:,x", "ftp://x/a"):
            with pytest.raises(DownloadError) as error:
                download(url + "?X-Amz-Signature=secret", tmp_path / "a.zip")
            assert "secret" not in str(error.value)
    assert "trying again" in caplog.text
    assert "secret" not in caplog.text


def test_a_server_that_stays_broken_is_given_up(
    web: Web, tmp_path: Path, waits: list[float]
) -> None:
    with pytest.raises(DownloadError, match=r"500 Internal Server Error \(4 attempts\)"):
        download(serve(web, Page(CONTENT, statuses=[500] * 9)), tmp_path / "a.zip")
    assert waits == [2, 4]
    assert len(web.requests) == ATTEMPTS


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


def test_no_server_at_all_is_said_so(tmp_path: Path, waits: list[float]) -> None:
    # Nobody listens on this port, and no other test can take it while it is bound.
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        port = mute.getsockname()[1]
        with pytest.raises(DownloadError, match=r"no connection.*look at the network"):
            download(f"http://127.0.0.1:{port}/a.zip", tmp_path / "a.zip")
    assert waits == [2, 4]


def test_redirects_lead_to_the_file(web: Web, tmp_path: Path) -> None:
    web.pages["/old.zip"] = Page(b"", statuses=[302], headers={"Location": "/ratings.zip"})
    serve(web, Page(CONTENT))
    download(web.url("/old.zip"), tmp_path / "a.zip")
    assert (tmp_path / "a.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("location", ["file:///etc/hostname", "ftp://127.0.0.1/a.zip", "data:,x"])
def test_redirects_lead_nowhere_but_to_the_web(web: Web, tmp_path: Path, location: str) -> None:
    page = Page(CONTENT, statuses=[302], headers={"Location": location})
    with pytest.raises(DownloadError):
        download(serve(web, page), tmp_path / "a.zip")
    assert list_leftovers(tmp_path) == []
    assert len(web.requests) == 1


@pytest.mark.parametrize("url", ["file:///etc/hostname", "data:,x"])
def test_only_the_web_is_opened(tmp_path: Path, url: str, waits: list[float]) -> None:
    with pytest.raises(DownloadError):
        download(url, tmp_path / "a.zip")
    assert list_leftovers(tmp_path) == []


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254",
        "127.0.0.1:1",
        "localhost",
        "[::1]",
        "10.0.0.1",
        "[::ffff:10.0.0.1]",
        "2130706433",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:7f00:1::]",
        "168.63.129.16",
        "192.0.0.192",
    ],
)
def test_redirects_lead_to_no_address_within_the_network(
    web: Web, tmp_path: Path, host: str
) -> None:
    location = f"http://me:secret@{host}/latest/meta-data?secret=1"
    page = Page(CONTENT, statuses=[302], headers={"Location": location})
    with pytest.raises(DownloadError, match="an address within this network") as error:
        download(serve(web, page), tmp_path / "a.zip")
    assert "secret" not in str(error.value)
    assert list_leftovers(tmp_path) == []
    assert len(web.requests) == 1


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


@pytest.mark.attack
def test_a_name_that_changes_between_look_up_and_connection_leads_nowhere(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second look-up of the name gives this machine."""
    real = socket.getaddrinfo
    answers = iter(["93.184.215.14"])

    def resolve_rebound_name(host: Any, *positional: Any, **options: Any) -> Any:
        address = next(answers, "127.0.0.1") if host == "rebound.example" else host
        return real(address, *positional, **options)

    monkeypatch.setattr(socket, "getaddrinfo", resolve_rebound_name)
    port = web.address.rpartition(":")[2]
    location = f"http://rebound.example:{port}/secret.zip"
    web.pages["/secret.zip"] = Page(b"secret")
    page = Page(CONTENT, statuses=[302], headers={"Location": location})
    with pytest.raises(DownloadError, match=r"redirects to 127\.0\.0\.1, an address within"):
        download(serve(web, page), tmp_path / "a.zip")
    assert list_leftovers(tmp_path) == []
    assert len(web.requests) == 1


def test_a_redirect_to_a_public_address_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = requests.Response()
    answer.status_code = 302
    answer.url = "https://93.184.215.14/a"
    answer.headers["Location"] = "https://1.1.1.1/a"
    web_request._check_redirect(answer)


@pytest.mark.parametrize("sends_length", [True, False])
def test_a_file_that_is_too_large_is_refused_and_the_setting_named(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends_length: bool
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.000005")
    with pytest.raises(DownloadError, match="larger than the 5000 bytes that BATCHREC_MAX_FILE_GB"):
        download(serve(web, Page(CONTENT, sends_length=sends_length)), tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


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


def test_what_comes_compressed_unasked_is_refused(web: Web, tmp_path: Path) -> None:
    page = Page(CONTENT, headers={"Content-Encoding": "gzip"})
    with pytest.raises(DownloadError, match=r"compressed \(gzip\)"):
        download(serve(web, page), tmp_path / "a.zip")


def test_a_folder_that_cannot_be_written_is_named(web: Web, tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(b"a file")
    with pytest.raises(DownloadError, match=r"cannot write .*ratings.zip to .*cache"):
        download(serve(web, Page(CONTENT)), tmp_path / "cache" / "a.zip")


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


def test_a_look_tells_version_and_size(web: Web) -> None:
    assert describe_remote_file(serve(web, Page(CONTENT))) == RemoteFile('"1"', len(CONTENT))
    assert (
        describe_remote_file(serve(web, Page(CONTENT, etag=None, last_modified=MONDAY))).version
        == MONDAY
    )
    assert describe_remote_file(
        serve(web, Page(CONTENT, etag=None, sends_length=False))
    ) == RemoteFile(None, None)
