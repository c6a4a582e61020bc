"""Tests of files from the web.

A file arrives whole despite faults. A URL leads only to public addresses, and no message shows its
secrets.
"""

from __future__ import annotations

import logging
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams import preparation
from batchrec_dagster_tests.guard.servers.web import Page, Web, serving

CONTENT = bytes(range(256)) * 40
MONDAY = "Mon, 05 Jan 2009 10:00:00 GMT"


@pytest.fixture(scope="module")
def server() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that records the pauses between attempts, instead of sleeping."""
    seconds_slept: list[float] = []
    monkeypatch.setattr("urllib3.util.retry.time.sleep", seconds_slept.append)
    monkeypatch.setenv("no_proxy", "*")
    return seconds_slept


@pytest.fixture
def web(server: Web, waits: list[float]) -> Web:
    server.pages.clear()
    server.requests.clear()
    return server


def serve(web: Web, page: Page) -> str:
    web.pages["/ratings.bin"] = page
    return web.url("/ratings.bin")


def fetch(folder: Path, url: str) -> bytes:
    """Return the copy of the file, and require that no other file is left."""
    (copied,) = preparation.copy_raw(folder, {"source": url})
    assert not [*folder.rglob("*.part")]
    return copied.path.read_bytes()


def read_refusal(folder: Path, url: str) -> str:
    """Return the one-line message that refuses the file, without its signature."""
    with pytest.raises(preparation.UserError) as error:
        preparation.copy_raw(folder, {"source": f"{url}?X-Amz-Signature=secret"})
    message = str(error.value)
    assert "\n" not in message
    assert "secret" not in message
    assert not [path for path in folder.glob("raw/**/*") if path.is_file()]
    return message


@settings(max_examples=repeats(100, 20), deadline=None)
@given(
    cuts=st.lists(st.integers(0, len(CONTENT)), max_size=2),
    ranges=st.booleans(),
    etag=st.sampled_from(['"1"', 'W/"1"', None]),
    date=st.sampled_from([MONDAY, None]),
)
def test_wherever_a_download_is_cut_the_bytes_are_the_same(
    server: Web,
    cuts: list[int],
    ranges: bool,
    etag: str | None,
    date: str | None,
) -> None:
    page = Page(CONTENT, ranges=ranges, etag=etag, last_modified=date, cuts=cuts)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("urllib3.util.retry.time.sleep", lambda _: None)
        patch.setenv("no_proxy", "*")
        assert fetch(Path(folder), serve(server, page)) == CONTENT


@pytest.mark.parametrize("heeds", [True, False])
def test_a_file_that_changed_between_the_pieces_is_never_mixed(
    web: Web, tmp_path: Path, heeds: bool
) -> None:
    new = Page(CONTENT[::-1], etag='"2"', heeds_if_range=heeds)
    page = Page(CONTENT, cuts=[len(CONTENT), 1000], next=new)
    assert fetch(tmp_path, serve(web, page)) in (CONTENT, CONTENT[::-1])


def test_a_download_that_never_completes_leaves_the_earlier_copy(
    web: Web, tmp_path: Path, waits: list[float]
) -> None:
    assert fetch(tmp_path, serve(web, Page(CONTENT))) == CONTENT
    page = Page(CONTENT[::-1], etag='"2"', cuts=[0, 9], statuses=[200, 200, *[500] * 20])
    with pytest.raises(preparation.UserError, match="the server says 500"):
        preparation.copy_raw(tmp_path, {"source": serve(web, page)})
    assert [path.read_bytes() for path in tmp_path.glob("raw/*")] == [CONTENT]
    # The request is repeated, but not forever.
    assert 2 < len(web.requests) < 12


@pytest.mark.parametrize(
    ("page", "message"),
    [
        (None, "there is no http://127.0.0.1"),
        (Page(b""), "it is empty"),
        (Page(CONTENT, statuses=[403] * 9), "sign the address again"),
        (Page(CONTENT, headers={"Content-Encoding": "gzip"}), "compressed (gzip)"),
    ],
    ids=["not there", "empty", "not signed", "compressed unasked"],
)
def test_an_unavailable_file_is_reported_without_a_second_try(
    web: Web, tmp_path: Path, waits: list[float], page: Page | None, message: str
) -> None:
    url = web.url("/ratings.bin") if page is None else serve(web, page)
    assert message in read_refusal(tmp_path, url)
    assert waits == []


@pytest.mark.parametrize(("retry_after", "longest"), [("3", 3), ("soon", 60), ("99999999", 60)])
def test_a_busy_server_is_asked_again_and_does_not_make_it_wait_forever(
    web: Web, tmp_path: Path, waits: list[float], retry_after: str, longest: float
) -> None:
    page = Page(CONTENT, statuses=[503, 429], headers={"Retry-After": retry_after})
    assert fetch(tmp_path, serve(web, page)) == CONTENT
    assert waits
    assert max(waits) <= longest


@pytest.mark.parametrize("scheme", ["file:///etc/hostname", "ftp://127.0.0.1/a.zip", "data:,x"])
def test_redirects_lead_nowhere_but_to_the_web(web: Web, tmp_path: Path, scheme: str) -> None:
    page = Page(CONTENT, statuses=[302], headers={"Location": scheme})
    read_refusal(tmp_path, serve(web, page))
    assert len(web.requests) == 1


def test_redirects_lead_to_the_file(web: Web, tmp_path: Path) -> None:
    moved = {"Location": "/ratings.bin"}
    web.pages["/old.bin"] = Page(b"", statuses=[302] * 9, headers=moved)
    serve(web, Page(CONTENT))
    assert fetch(tmp_path, web.url("/old.bin")) == CONTENT


@pytest.mark.attack
@pytest.mark.parametrize(
    "host",
    [
        *("169.254.169.254", "127.0.0.1:1", "localhost", "[::1]", "10.0.0.1", "2130706433"),
        *("168.63.129.16", "192.0.0.192", "100.100.100.200"),
        # IPv4 addresses within IPv6: 10.0.0.1, 127.0.0.1 and 169.254.169.254.
        *("[::ffff:10.0.0.1]", "[::7f00:1]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"),
        *("[64:ff9b:1::a00:1]", "[2002:7f00:1::]", "[2001:0:a00:1::1]"),
        # Addresses behind a gateway of this network.
        *("[64:ff9b::5db8:d70e]", "[fd00:ec2::254]", "[fec0::1]"),
    ],
)
def test_redirects_lead_to_no_address_within_the_network(
    web: Web, tmp_path: Path, host: str
) -> None:
    location = f"http://me:secret@{host}/latest/meta-data?secret=1"
    page = Page(CONTENT, statuses=[302], headers={"Location": location})
    assert "an address within this network" in read_refusal(tmp_path, serve(web, page))
    assert len(web.requests) == 1


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
    location = f"http://rebound.example:{port}/hidden.bin"
    web.pages["/hidden.bin"] = Page(b"hidden")
    page = Page(CONTENT, statuses=[302], headers={"Location": location})
    message = read_refusal(tmp_path, serve(web, page))
    assert "redirects to 127.0.0.1, an address within this network" in message
    assert len(web.requests) == 1


@pytest.mark.parametrize("sends_length", [True, False])
def test_a_file_that_is_too_large_is_refused_and_the_setting_named(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends_length: bool
) -> None:
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "0.000005")
    url = serve(web, Page(CONTENT, sends_length=sends_length))
    assert "larger than the 5000 bytes that BATCHREC_MAX_FILE_GB" in read_refusal(tmp_path, url)


def test_a_missing_server_is_reported(tmp_path: Path, waits: list[float]) -> None:
    # No server listens on this port, and no other test can take the port while it is bound.
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        port = mute.getsockname()[1]
        message = read_refusal(tmp_path, f"http://127.0.0.1:{port}/a.zip")
    assert "no connection" in message


def test_an_unchanged_file_keeps_its_version_by_its_etag_or_its_date(
    web: Web, tmp_path: Path
) -> None:
    pages = [
        Page(CONTENT, etag='"1"'),
        Page(CONTENT, etag='"2"'),
        Page(CONTENT, etag=None, last_modified=MONDAY),
        Page(CONTENT + b"x", etag=None, last_modified=MONDAY),
        Page(CONTENT, etag=None),
        Page(CONTENT[::-1], etag=None),
    ]
    versions = []
    for page in pages:
        url = serve(web, page)
        (version,) = preparation.list_files(tmp_path, {"source": url}).values()
        assert preparation.list_files(tmp_path, {"source": url}) == {"ratings.bin": version}
        versions.append(version)
    assert len({*versions}) == len(pages)


def test_no_secret_of_an_address_is_logged(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="batchrec_dagster"):
        read_refusal(tmp_path, serve(web, Page(CONTENT, statuses=[500] * 9)))
        read_refusal(tmp_path, serve(web, Page(CONTENT, cuts=[0, 9], statuses=[200, 200, 403])))
    assert "secret" not in caplog.text
