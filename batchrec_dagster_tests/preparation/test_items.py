"""Items: their file becomes an Items data set, and titles for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.deployment.io_managers import ItemsCsvIOManager
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    outcomes,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.pipeline.test_pipeline import stale
from batchrec_dagster_tests.storage.test_io_managers import pass_downstream

COLUMNS = {
    "item": "movieId",
    "title": "title",
    "categories": {"GENRES": "genres"},
    "numbers": {"YEAR": "year"},
    "created": "added",
}

# Whatever the model, items are the same.
QUICK = {"recipe": "aws-user-personalization"}


def write_items(path: Path, *rows: str, items: int = 80) -> Path:
    """Writes a CSV of items, odd ones comedies and even ones dramas, followed by the rows."""
    lines = ["movieId,title,genres,year,added"]
    for item in range(1, items + 1):
        genre = "Comedy;Romance" if item % 2 else "Drama"
        lines.append(f'{item},"Film, no. {item}",{genre},{1950 + item},2001-02-{item % 28 + 1:02}')
    path.write_text("\n".join([*lines, *rows]) + "\n")
    return path


def declare_with_items(project: Project, **attributes: Any) -> dict[str, Any]:
    return declaration(
        "shop",
        write_ratings(project.root / "ratings.csv"),
        items={
            "source": str(write_items(project.root / "items.csv")),
            "columns": COLUMNS,
            "separator": ";",
        },
        solution=QUICK,
        **attributes,
    )


def read_items(project: Project) -> pl.DataFrame:
    return pl.read_csv(project.storage / "shop/transformed/items/items.csv")


def find_items_check(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (evaluation,) = (
        evaluation
        for evaluation in result.get_asset_check_evaluations()
        if evaluation.check_name == "items_known"
    )
    return evaluation


@pytest.mark.slow
def test_items_are_imported_and_titles_stand_in_the_table(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declare_with_items(project))
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    items = read_items(project)
    assert items.columns == ["ITEM_ID", "CREATION_TIMESTAMP", "GENRES", "YEAR"]
    assert items.row(0) == (1, 981_072_000, "Comedy|Romance", 1951.0)
    lists = table(project, "shop")
    assert lists.columns == ["user_id", "rank", "item_id", "title", "score"]
    titles = lists.select(pl.format("Film, no. {}", "item_id") == pl.col("title"))
    assert titles.to_series().all()
    dataset_metadata = metadata(result, "personalize_dataset")
    assert dataset_metadata["items_outcome"] == "imported"
    client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
    dataset = client.describe_dataset(datasetArn=dataset_metadata["items_dataset_arn"])["dataset"]
    assert dataset["datasetType"] == "ITEMS"
    job = client.describe_dataset_import_job(
        datasetImportJobArn=dataset_metadata["items_dataset_import_job_arn"]
    )["datasetImportJob"]
    assert job["status"] == "ACTIVE"
    schema = metadata(result, "recommendations")["dagster/column_schema"]
    assert [column.name for column in schema.columns] == lists.columns

    assert stale(project, instance) == {}
    second_result = refresh(project, "shop", instance, report=True)
    assert stale(project, instance) == {}
    assert outcomes(second_result) == [
        f"unchanged: not {step} again" for step in ("copied", "imported", "trained", "inferred")
    ]
    assert metadata(second_result, "raw_items")["outcome"] == "unchanged: not copied again"
    assert (
        metadata(second_result, "personalize_dataset")["items_outcome"]
        == "unchanged: not imported again"
    )

    # Titles change only the table, while other metadata change the model too.
    source = project.root / "items.csv"
    source.write_text(source.read_text().replace("Film,", "Movie,"))
    renamed_result = refresh(project, "shop", instance)
    assert outcomes(renamed_result)[1:] == [
        f"unchanged: not {step} again" for step in ("imported", "trained", "inferred")
    ]
    assert table(project, "shop").get_column("title").str.starts_with("Movie").all()
    source.write_text(source.read_text().replace("Drama", "Crime"))
    changed_result = refresh(project, "shop", instance)
    assert outcomes(changed_result)[1:] == ["unchanged: not imported again", "trained", "inferred"]
    assert metadata(changed_result, "personalize_dataset")["items_outcome"] == "imported"


@pytest.mark.slow
def test_items_can_be_added_changed_and_removed_once_a_pipeline_has_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes_with_items = declare_with_items(project)
    attributes_without_items = {
        key: value for key, value in attributes_with_items.items() if key != "items"
    }
    columns = {"item": "movieId", "categories": {"GENRES": "genres"}}
    changed_attributes = {
        **attributes_with_items,
        "items": {**attributes_with_items["items"], "columns": columns},
    }
    results = []
    for settings in (
        attributes_without_items,
        attributes_with_items,
        attributes_without_items,
        changed_attributes,
        attributes_without_items,
    ):
        project.declare(settings)
        results.append(refresh(project, "shop", instance))
        assert results[-1].success, why(results[-1])
    assert find_items_check(results[3]).passed  # It has no titles.
    groups = [metadata(result, "personalize_dataset")["dataset_group_name"] for result in results]
    assert len({*groups}) == 3
    assert groups[0] == groups[2] == groups[4]
    # If it is changed back, nothing is done again, since the inputs of the edition before are kept.
    for changed_back in (results[2], results[4]):
        assert outcomes(changed_back)[1:] == [
            f"unchanged: not {step} again" for step in ("imported", "trained", "inferred")
        ]


def test_an_asset_of_ones_own_gets_the_items_with_numbers_and_ids_as_text(tmp_path: Path) -> None:
    table = pl.DataFrame(
        {"ITEM_ID": ["007", "ü"], "GENRES": ["War|Crime", None], "YEAR": [1999.0, None]}
    )
    items_received = pass_downstream(tmp_path, ItemsCsvIOManager, table, pl.DataFrame)
    assert isinstance(items_received, pl.DataFrame)
    assert items_received.equals(table)


@pytest.mark.slow
def test_titles_alone_are_no_data_set_of_personalizes(
    project: Project, instance: dg.DagsterInstance
) -> None:
    settings = declare_with_items(project)
    settings["items"]["columns"] = {"item": "movieId", "title": "title"}
    write_items(project.root / "items.csv", "41", items=40)
    project.declare(settings)
    bad = why(refresh(project, "shop", instance))
    assert bad.startswith("items_readable: 1 of 41 rows cannot be read")
    assert bad.endswith("items.on_bad_rows: skip")
    assert "\n" not in bad
    assert not (project.storage / "shop/transformed/item_titles").exists()

    settings["items"]["on_bad_rows"] = "skip"
    project.declare(settings)
    result = refresh(project, "shop", instance)
    assert result.success
    assert "items_dataset_arn" not in metadata(result, "personalize_dataset")
    lists = table(project, "shop")
    assert set(lists.filter(pl.col("title").is_null()).get_column("item_id").cast(int)) == (
        set(range(41, 81)) & set(lists.get_column("item_id").cast(int))
    )
    listed_ids = lists.get_column("item_id").cast(int).unique()
    check = find_items_check(result)
    numbers = check.metadata["items"].value, check.metadata["known"].value
    listed_known = int((listed_ids <= 40).sum())
    assert numbers == (len(listed_ids), listed_known)
    assert check.passed == (2 * listed_known >= len(listed_ids))

    # If ids are written differently, none is known. That is a warning, and nothing fails.
    lines = (project.root / "items.csv").read_text().splitlines()
    zeros = [lines[0], *(f"0{line}" for line in lines[1:])]
    (project.root / "items.csv").write_text("\n".join(zeros) + "\n")
    result = refresh(project, "shop", instance)
    assert result.success
    assert not find_items_check(result).passed
    assert f"{find_items_check(result).description}".startswith(f"0 of the {len(listed_ids)} items")


@pytest.mark.slow  # a whole refresh
@pytest.mark.parametrize("by_position", [False, True])
def test_pictures_and_pages_reach_the_titles_of_a_run(
    project: Project, instance: dg.DagsterInstance, by_position: bool
) -> None:
    rows = [
        f"{item},Film {item},https://a.example/{item}.jpg,https://a.example/{item}"
        for item in range(1, 81)
    ]
    header = [] if by_position else ["movieId,title,picture,page"]
    source = project.root / "items.csv"
    source.write_text("\n".join([*header, *rows]) + "\n")
    columns: dict[str, Any] = {"item": "movieId", "title": "title"}
    columns |= {"image": "picture", "link": "page"}
    if by_position:
        columns = {"item": 1, "title": 2, "image": 3, "link": 4}
    ratings = write_ratings(project.root / "ratings.csv")
    items = {"source": str(source), "columns": columns}
    project.declare(declaration("shop", ratings, items=items, solution=QUICK))
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    titles = pl.read_parquet(project.storage / "shop/transformed/item_titles/item_titles.parquet")
    assert titles.row(by_predicate=pl.col("item_id") == "7", named=True) == {
        "item_id": "7",
        "title": "Film 7",
        "image": "https://a.example/7.jpg",
        "link": "https://a.example/7",
    }
