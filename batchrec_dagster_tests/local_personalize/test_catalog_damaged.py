"""A damaged catalogue is refused by name, with what to do, and nothing is deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchrec_dagster.local_personalize.api.client import CatalogError, LocalPersonalize
from batchrec_dagster.storage.object_store import ObjectStore


@pytest.mark.parametrize("content", [b"", b"no database" * 1000])
def test_a_damaged_catalogue_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    home, store = tmp_path / "home", ObjectStore({})
    LocalPersonalize(home, store).close()
    model = home / "models" / "us-east-1.solution.shop.1"
    model.mkdir()
    for left in home.glob("catalog.sqlite-*"):
        left.unlink()
    (home / "catalog.sqlite").write_bytes(content)
    with pytest.raises(CatalogError, match=r"catalog\.sqlite is damaged .*: restore it .* move"):
        LocalPersonalize(home, store)
    assert model.is_dir()
