"""Homes and storages that earlier versions wrote go on with this one.

`homes/` has them as archives: projects whose pipeline `shop` published three editions, of which the
second was rolled back. They are as `batchrec` left them, but for the logs of its runs.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import polars as pl
import pytest

pytestmark = pytest.mark.slow

HOMES = sorted((Path(__file__).parent / "homes").glob("*.tar.xz"))
# What each asset does again at most: the report, and what it shows.
UNCHANGED = {
    "raw_ratings": "unchanged: not copied again",
    "interactions": "unchanged: not prepared again",
    "batch_users": "unchanged: not prepared again",
    "personalize_dataset": "unchanged: not imported again",
    "solution_version": "unchanged: not trained again",
    "recommendations": "unchanged: not inferred again",
}


def run(project: Path, *command: str) -> str:
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "BATCHREC_", "DAGSTER_"))
    }
    result = subprocess.run(
        [str(Path(sys.executable).parent / "batchrec"), *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.parametrize("archive", HOMES, ids=lambda archive: archive.name)
def test_a_home_of_an_earlier_version_goes_on(archive: Path, tmp_path: Path) -> None:
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    storage = tmp_path / ".batchrec/storage/shop"
    table = storage / "curated/recommendations/recommendations.parquet"
    published, models = table.read_bytes(), list_models(tmp_path)
    record = json.loads((storage / "records/publications.json").read_text())

    run(tmp_path, "check")
    output = run(tmp_path, "run", "shop")
    lines = dict(re.findall(r"^(\w+) +done +[\d.]+ s +(.*)$", output, re.MULTILINE))
    assert {name: lines[name] for name in UNCHANGED} == UNCHANGED
    assert "shop: the lists are unchanged" in output
    assert table.read_bytes() == published
    # Those of older versions may go, as `retention.models` says; none is trained again.
    assert list_models(tmp_path) <= models
    # What was live when is known as before, and what was rolled back is so still.
    live = [(entry["edition"], entry["since"], entry["why"]) for entry in record["publications"]]
    assert [edition for edition, _, _ in live] == [1, 2, 1, 3]
    new_record = json.loads((storage / "records/publications.json").read_text())
    assert [
        (entry["edition"], entry["since"], entry["why"]) for entry in new_record["publications"]
    ] == live
    assert "edition 3 compared with edition 1" in run(tmp_path, "diff")
    (overview,) = json.loads(run(tmp_path, "list", "--editions", "--json"))
    nights = [(night["edition"], night["status"]) for night in overview["nights"]]
    assert [night for night in nights if night[0]] == [
        *((3, "published"), (1, "restored"), (2, "rolled back"), (1, "published"))
    ]

    # And the next night publishes, which what was kept until then survives.
    ratings = tmp_path / "ratings.csv"
    ratings.write_text(ratings.read_text() + "1,2,5,1530000000\n")
    assert "shop: published edition 4" in run(tmp_path, "run", "shop")
    assert len(pl.read_parquet(table).filter(pl.col("rank") == 1)) == 40
    run(tmp_path, "rollback", "shop", "--to", "1", "--yes")
    first = next((storage / "curated/history/recommendations").glob("000001-*.parquet"))
    assert pl.read_parquet(table).equals(pl.read_parquet(first))


def list_models(project: Path) -> set[str]:
    """The files of the models in the local Personalize."""
    folder = project / ".batchrec/personalize/models"
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}
