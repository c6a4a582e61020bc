"""Helpers to run queries of sources like a pipeline's run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster_tests.guard.seams import preparation


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Return the folder to which relative paths of sources refer."""
    folder = tmp_path / "project"
    folder.mkdir()
    return folder


def query_rows(
    base: Path, query: str, source: str | dict[str, str], **settings: Any
) -> pl.DataFrame:
    """Return the rows of the query that a run copies."""
    (copy,) = preparation.copy_raw(base, {"source": source, "query": query, **settings})
    return pl.read_parquet(copy.path)


def read_refusal(base: Path, query: str, source: str | dict[str, str], **settings: Any) -> str:
    with pytest.raises(preparation.UserError) as error:
        query_rows(base, query, source, **settings)
    assert "\n" not in str(error.value)
    assert not [*base.glob("raw/*")]
    return str(error.value)


def put(base: Path, path: str, content: str | bytes) -> None:
    file = base / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
