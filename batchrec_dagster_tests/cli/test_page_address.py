"""Where the web page answers, as other commands find it."""

from __future__ import annotations

from pathlib import Path

from batchrec_dagster.cli.page_address import DEFAULT_ADDRESS, answers, read_page, record_page


def test_links_name_the_port_of_the_page_that_is_served(tmp_path: Path) -> None:
    assert read_page(tmp_path) == DEFAULT_ADDRESS
    with record_page(tmp_path, "0.0.0.0", 3001):
        assert read_page(tmp_path) == "http://127.0.0.1:3001"
        with record_page(tmp_path, "::1", 3002):
            assert read_page(tmp_path) == "http://[::1]:3002"
    assert [*tmp_path.iterdir()] == []


def test_what_is_no_address_answers_nothing() -> None:
    assert not answers("http://127.0.0.1:port")
    assert not answers("")
