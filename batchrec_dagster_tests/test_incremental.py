"""Only what is new is imported and learnt from, and everything anew when that is not enough."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.pipeline.assets import new_rows
from batchrec_dagster.pipeline.assets.new_rows import compare
from batchrec_dagster.pipeline.loading import DeclarationError
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    metadata,
    module_project,
    write_ratings,
)

pytestmark = pytest.mark.slow

RECIPE = "aws-user-personalization"
ASSETS = ("raw_ratings", "interactions", "personalize_dataset", "solution_version")
IMPORTED_ALL = ("FULL", "imported", "FULL", "trained")
IMPORTED_NEW = ("INCREMENTAL", "imported", "UPDATE", "trained")
UNCHANGED = "unchanged: not imported again", "unchanged: not trained again"


@dataclass
class Shop:
    """A pipeline over a folder of ratings, refreshed night by night as far as its model."""

    project: Project
    defs: dg.Definitions
    instance: dg.DagsterInstance

    @property
    def folder(self) -> Path:
        return self.project.root / "orders"

    def put(self, name: str, *rows: tuple[int, int, int]) -> None:
        """User, item and time, each rated 5."""
        lines = [f"{user},{item},5,{time}\n" for user, item, time in rows]
        (self.folder / name).write_text("userId,movieId,rating,timestamp\n" + "".join(lines))

    def night(self) -> tuple[str, ...]:
        """Import mode and outcome, training mode and outcome."""
        result = self.result = self.defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(["shop", asset]) for asset in ASSETS],
        )
        told, trained = (metadata(result, asset) for asset in ASSETS[2:])
        return (
            told["import_mode"],
            told["outcome"],
            trained["training_mode"],
            trained["outcome"],
        )

    @property
    def why(self) -> str:
        return str(metadata(self.result, "personalize_dataset")["why"])

    @property
    def record(self) -> Path:
        return self.project.storage / "shop/records/personalize_dataset.json"

    def jobs(self) -> list[dict[str, Any]]:
        """The import jobs, oldest first."""
        client = embedded_client(self.project.root / ".batchrec" / "personalize", ObjectStore())
        jobs = client.list_dataset_import_jobs()["datasetImportJobs"]
        return [
            {**client.describe_dataset_import_job(datasetImportJobArn=arn)["datasetImportJob"]}
            for arn in (
                job["datasetImportJobArn"]
                for job in sorted(jobs, key=lambda job: job["creationDateTime"])
            )
        ]


@pytest.fixture
def shop(project: Project, instance: dg.DagsterInstance) -> Iterator[Shop]:
    write_ratings(project.root / "orders" / "1.csv")
    project.declare(
        declaration(
            "shop",
            "orders/",
            solution={"recipe": RECIPE},
            incremental={"enabled": True, "full_every_days": 7},
        )
    )
    with definitions(project) as defs:
        yield Shop(project, defs, instance)


def some(start: int, count: int = 1000) -> list[tuple[int, int, int]]:
    """Rows of many users that are in no other file."""
    return [(number % 70, 1000 + number % 9, start + number) for number in range(count)]


NEW = some(1_600_000_000)
MORE = some(1_600_100_000)


def test_new_rows_alone_are_imported_and_learnt_from(shop: Shop) -> None:
    assert shop.night() == IMPORTED_ALL
    shop.put("2.csv", *NEW)
    assert shop.night() == IMPORTED_NEW
    assert shop.why == "1,000 rows are new"
    full, part = shop.jobs()
    assert (full["importMode"], part["importMode"]) == ("FULL", "INCREMENTAL")
    location = part["dataSource"]["dataLocation"]
    assert "/shop/transformed/interactions_new/" in location
    # And the same again does nothing.
    assert shop.night() == ("UNCHANGED", UNCHANGED[0], "UPDATE", UNCHANGED[1])
    # What was sent late, and what is sent twice.
    shop.put("0.csv", *some(1_400_000_000, 1007), NEW[0])
    shop.put("3.csv", *NEW)
    assert shop.night() == IMPORTED_NEW
    assert shop.why == "1,007 rows are new"
    shop.put("4.csv", *NEW)
    assert shop.night() == ("UNCHANGED", UNCHANGED[0], "UPDATE", UNCHANGED[1])
    assert len(shop.jobs()) == 3
    kept = [*(shop.project.storage / "shop/transformed").glob("interactions_*/*.csv")]
    assert len(kept) <= 2


def test_after_so_many_days_everything_is_imported_and_trained_on(shop: Shop) -> None:
    def later(days: int) -> None:
        record = json.loads(shop.record.read_text())
        record["full_at"] = (datetime.now(UTC) - timedelta(days)).isoformat()
        shop.record.write_text(json.dumps(record))

    shop.night()
    later(8)
    # Everything that is there was in the full import.
    assert shop.night() == ("UNCHANGED", UNCHANGED[0], "FULL", UNCHANGED[1])
    shop.put("2.csv", *NEW)
    assert shop.night() == IMPORTED_ALL
    assert shop.why == "the last full import is 8 days old"
    shop.put("3.csv", *MORE)
    later(6)
    assert shop.night() == IMPORTED_NEW
    later(7)
    assert shop.night() == IMPORTED_ALL
    assert shop.night() == ("UNCHANGED", UNCHANGED[0], "FULL", UNCHANGED[1])


def test_what_a_part_cannot_bring_is_imported_in_full(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.put("2.csv", *NEW)
    shop.night()
    shop.put("2.csv", *NEW[1:])
    assert shop.night() == IMPORTED_ALL
    assert shop.why == "1 rows are gone or changed"
    shop.put("2.csv", *NEW)
    assert shop.night() == IMPORTED_ALL
    assert shop.why == "1 new rows are fewer than an import takes"
    shop.put("3.csv", *MORE)
    monkeypatch.setattr(new_rows, "MAX_BYTES", 10)
    assert shop.night() == IMPORTED_ALL
    assert shop.why.endswith("GB are more than an incremental import takes")


def test_a_run_killed_after_its_import_imports_nothing_twice(shop: Shop) -> None:
    shop.night()
    before = shop.record.read_text()
    shop.put("2.csv", *NEW)
    shop.night()
    # As if it had been killed before the record was written.
    shop.record.write_text(before)
    assert shop.night() == ("INCREMENTAL", UNCHANGED[0], "UPDATE", UNCHANGED[1])
    assert len(shop.jobs()) == 2
    # The same, and then there are other data: nobody knows what was imported.
    shop.record.write_text(before)
    shop.put("3.csv", *MORE)
    assert shop.night() == IMPORTED_ALL
    assert [job["importMode"] for job in shop.jobs()] == ["FULL", "INCREMENTAL", "FULL"]


@pytest.mark.parametrize("recipe", ["aws-user-personalization-v2", "aws-popularity-count"])
def test_a_recipe_that_cannot_be_updated_is_refused(tmp_path: Path, recipe: str) -> None:
    project = module_project(tmp_path)
    settings: dict[str, Any] = {"solution": {"recipe": recipe}, "incremental": {"enabled": True}}
    project.declare(declaration("shop", "ratings.csv", **settings))
    with (
        pytest.raises(DeclarationError, match=f"needs solution.recipe: {RECIPE}; .* {recipe}"),
        definitions(project),
    ):
        pass


COLUMNS = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_VALUE"]
rows = st.lists(
    st.tuples(
        st.sampled_from(["1", "01", "é", "a b"]),
        st.sampled_from(["x", "y"]),
        st.integers(0, 2),
        st.sampled_from(["", "1.5", "2.0"]),
    ),
    max_size=20,
)


@given(before=rows, after=rows, at_once=st.sampled_from([1, 3, 1000]))
def test_what_is_new_and_what_is_gone_is_found(
    before: list[tuple[Any, ...]], after: list[tuple[Any, ...]], at_once: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(new_rows, "ROWS_AT_ONCE", at_once)
        paths = [Path(folder) / name for name in ("before", "after", "new")]
        for path, content in zip(paths, (before, after), strict=False):
            lines = [",".join(map(str, row)) for row in content]
            path.write_text("\n".join([",".join(COLUMNS), *lines, ""]))
        found = compare(paths[0], paths[1], paths[2], COLUMNS)
        assert found == (len({*after} - {*before}), len({*before} - {*after}))
        if before or after:
            header, *lines = paths[2].read_text().splitlines()
            assert header == ",".join(COLUMNS)
            new = {",".join(map(str, row)) for row in {*after} - {*before}}
            assert sorted(lines) == sorted(new)
