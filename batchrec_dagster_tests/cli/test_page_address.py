"""Where the web page answers, as other commands find it."""

from __future__ import annotations

import json
from pathlib import Path

from batchrec_dagster.cli.page_address import find_page, recorded_page


def test_links_name_the_port_of_the_page_that_is_served(tmp_path: Path) -> None:
    assert find_page(tmp_path) is None
    with recorded_page(tmp_path, "0.0.0.0", 3001):
        assert find_page(tmp_path) == "http://127.0.0.1:3001"
        with recorded_page(tmp_path, "::1", 3002):
            assert find_page(tmp_path) == "http://[::1]:3002"
    assert [*tmp_path.iterdir()] == []
    # Its process was killed, or something else wrote the file.
    pages: list[object] = [{"pid": 2**40, "recorded_at": 0, "address": "x"}, {}, []]
    for page in pages:
        (tmp_path / "web_page.json").write_text(json.dumps(page))
        assert find_page(tmp_path) is None
