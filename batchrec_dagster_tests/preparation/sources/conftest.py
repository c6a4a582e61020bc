"""Fixtures for tests of sources."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from batchrec_dagster.preparation.sources import download as downloads
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.servers.web import Web, serving
from batchrec_dagster_tests.preparation.sources.support import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    base = tmp_path / "project"
    base.mkdir()
    return Place(base, tmp_path / "cache", ObjectStore({"lake": tmp_path / "lake"}))


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloads, "PAUSE", 0)
    with serving() as server:
        yield server
