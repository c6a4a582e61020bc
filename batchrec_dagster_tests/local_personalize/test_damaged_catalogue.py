"""Tests that a damaged catalogue is refused with its name and a fix, and not deleted."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from pathlib import Path

import pytest

from batchrec_dagster.local_personalize.api.server import make_application
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.local_personalize.errors import CatalogueError
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.web.server import make_server


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_damaged_catalogue_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    home, store = tmp_path / "home", ObjectStore({})
    LocalPersonalize(home, store).close()
    model = home / "models" / "us-east-1.solution.shop.1"
    model.mkdir()
    for path in home.glob("catalog.sqlite-*"):
        path.unlink()
    (home / "catalog.sqlite").write_bytes(content)
    with pytest.raises(CatalogueError, match=r"catalog\.sqlite is damaged .*: restore it .* move"):
        LocalPersonalize(home, store)
    assert model.is_dir()


def test_the_server_says_that_the_catalogue_is_damaged(tmp_path: Path) -> None:
    service = LocalPersonalize(tmp_path, ObjectStore({}))
    for path in tmp_path.glob("catalog.sqlite-*"):
        path.unlink()
    (tmp_path / "catalog.sqlite").write_bytes(b"no database" * 1000)
    listening = socket.create_server(("127.0.0.1", 0))
    server = make_server(make_application(service), "127.0.0.1", 0, "error")
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        port = listening.getsockname()[1]
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        connection.request("POST", "/", "{}", {"X-Amz-Target": "AmazonPersonalize.ListSchemas"})
        response = connection.getresponse()
        assert response.status == 500
        assert "catalog.sqlite is damaged" in json.load(response)["message"]
    finally:
        server.should_exit = True
        thread.join()
