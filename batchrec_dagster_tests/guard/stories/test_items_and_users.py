"""Tests of a shop's files of items and users.

Titles reach the lists, and filters and conditions read attributes. After a change, only the assets
that depend on it are made again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    ITEM_COLUMNS,
    Project,
    checks,
    declaration,
    open_personalize,
    refresh,
    table,
    why,
    write_items,
    write_ratings,
)
from batchrec_dagster_tests.guard.repeats import nightly

pytestmark = pytest.mark.slow

# Items and users do not depend on the model.
QUICK = {"recipe": "aws-user-personalization"}


def write_users(path: Path, users: int = 50) -> Path:
    """Write a CSV file of users. Odd users are Austrians, and users from 41 on declined mails."""
    lines = ["customer,country,age,newsletter"]
    for user in range(1, users + 1):
        country = "AT" if user % 2 else "DE"
        lines.append(f"{user},{country},{20 + user},{'yes' if user <= 40 else 'no'}")
    path.write_text("\n".join(lines) + "\n")
    return path


def declare_shop(project: Project, **attributes: Any) -> dict[str, Any]:
    """Return a shop of 60 customers and 80 films; the files have 50 of the customers."""
    ratings = write_ratings(project.root / "ratings.csv")
    columns = {
        "user": "customer",
        "categories": {"COUNTRY": "country", "CONSENT": "newsletter"},
        "numbers": {"AGE": "age"},
    }
    return declaration(
        "shop",
        ratings,
        items={
            "source": str(write_items(project.root / "items.csv")),
            "columns": ITEM_COLUMNS,
            "separator": ";",
        },
        users={"source": str(write_users(project.root / "users.csv")), "columns": columns},
        solution=QUICK,
        **attributes,
    )


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def find_model(project: Project) -> str:
    """Return the ARN of the latest solution version."""
    client = open_personalize(project)
    (solution,) = client.list_solutions()["solutions"]
    described = client.describe_solution(solutionArn=solution["solutionArn"])
    return described["solution"]["latestSolutionVersion"]["solutionVersionArn"]


def list_datasets(project: Project) -> set[str]:
    """Return the types of the datasets in Personalize."""
    datasets = open_personalize(project).list_datasets()["datasets"]
    return {dataset["datasetType"] for dataset in datasets}


def test_a_change_of_items_or_users_reaches_the_lists_of_the_next_night(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes = declare_shop(
        project,
        batch_users={"filter": 'USERS.CONSENT = "yes" AND Users.age < 55'},
        recommendations={
            "num_results": 5,
            "exclude_seen": False,
            "filter": 'EXCLUDE ItemID WHERE Items.GENRES IN ("Comedy")'
            ' IF CurrentUser.COUNTRY = "AT"',
        },
    )
    project.declare(attributes)

    def run() -> pl.DataFrame:
        result = refresh(project, "shop", instance)
        assert result.success, why(result)
        lists = table(project, "shop")
        return lists.with_columns(pl.col("user_id", "item_id").cast(pl.Int64))

    lists = run()
    assert list_datasets(project) == {"INTERACTIONS", "ITEMS", "USERS"}
    assert lists.columns == ["user_id", "rank", "item_id", "title", "score"]
    assert (lists["title"] == "Film, no. " + lists["item_id"].cast(pl.String)).all()
    # The conditions on consent and age hold, also for users who are not in the file.
    assert set(lists["user_id"]) == set(range(1, 35))
    is_austrian, is_comedy = pl.col("user_id") % 2 == 1, pl.col("item_id") % 2 == 1
    # Austrians rate comedies, and the filter leaves no comedies.
    assert lists.filter(is_austrian & is_comedy).is_empty()

    # Titles change the table, but no model.
    model = find_model(project)
    replace(project.root / "items.csv", "Film,", "Movie,")
    assert run()["title"].str.starts_with("Movie").all()
    assert find_model(project) == model

    # A change of Personalize's columns changes the model and the lists.
    replace(project.root / "items.csv", "Comedy", "Fun")
    replace(project.root / "users.csv", "\n1,AT,21,yes", "\n1,AT,21,no")
    lists = run()
    assert find_model(project) != model
    assert set(lists["user_id"]) == set(range(2, 35))
    assert not lists.filter(is_austrian & is_comedy).is_empty()


def test_titles_alone_are_no_data_set_and_bad_rows_stop_the_night(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes = declare_shop(project)
    del attributes["users"]
    attributes["items"]["columns"] = {"item": "movieId", "title": "title"}
    write_items(project.root / "items.csv", "41", items=40)
    project.declare(attributes)
    failed = refresh(project, "shop", instance)
    assert not failed.success
    assert why(failed).startswith("items_readable: 1 of 41 rows cannot be read")
    assert "items.on_bad_rows: skip" in why(failed)
    assert "\n" not in why(failed)

    attributes["items"]["on_bad_rows"] = "skip"
    project.declare(attributes)
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    assert list_datasets(project) == {"INTERACTIONS"}
    lists = table(project, "shop").with_columns(pl.col("item_id").cast(pl.Int64))
    without_title = lists.filter(pl.col("title").is_null())
    assert set(without_title["item_id"]) == {n for n in lists["item_id"] if n > 40}

    # If ids are written differently, no id matches. That is a warning, not a failure.
    lines = (project.root / "items.csv").read_text().splitlines()
    zeros = [lines[0], *(f"0{line}" for line in lines[1:])]
    (project.root / "items.csv").write_text("\n".join(zeros) + "\n")
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    known = checks(result)["items_known"]
    assert not known.passed
    assert f"{known.description}".startswith("0 of the ")


@nightly("three runs")
def test_blocks_can_be_added_and_removed_once_a_pipeline_has_run(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes = declare_shop(project)
    without = {key: value for key, value in attributes.items() if key not in ("items", "users")}
    for declared in (without, attributes, without):
        project.declare(declared)
        result = refresh(project, "shop", instance)
        assert result.success, why(result)
        assert ("title" in table(project, "shop").columns) == ("items" in declared)
    # The stored rows of users are deleted with their block.
    left = [file for file in (project.storage / "shop").rglob("*") if "users" in file.parts]
    assert left == []


def test_a_condition_that_nobody_meets_or_a_wrong_column_fails_in_a_line(
    project: Project, instance: dg.DagsterInstance
) -> None:
    attributes = declare_shop(project, batch_users={"filter": 'USERS.CONSENT = "Yes"'})
    project.declare(attributes)
    prepared = ["raw_ratings", "interactions", "raw_users", "users", "batch_users"]
    message = why(refresh(project, "shop", instance, assets=prepared))
    assert message.startswith("none of the 60 users meets batch_users.filter: USERS.CONSENT")
    assert "10 of them are not in the file of users" in message
    assert "\n" not in message
    attributes["users"]["columns"]["numbers"] = {"AGE": "years"}
    project.declare(attributes)
    message = why(refresh(project, "shop", instance, assets=["raw_users"]))
    assert "(users.columns.numbers.AGE); it has: cust" in message
    assert "\n" not in message


def test_copies_of_ratings_and_of_items_with_one_name_are_kept_apart(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "exports" / "items" / "items.csv")
    items = {
        "source": str(write_items(project.root / "items.csv")),
        "columns": ITEM_COLUMNS,
        "separator": ";",
    }
    project.declare(declaration("shop", project.root / "exports", items=items))
    prepared = ["raw_ratings", "raw_items", "interactions", "items"]
    for _ in range(2):
        result = refresh(project, "shop", instance, assets=prepared)
        assert result.success, why(result)
    folder = project.storage / "shop" / "transformed"
    assert pl.read_csv(folder / "interactions" / "interactions.csv").height == 1598
    assert pl.read_csv(folder / "items" / "items.csv").height == 80
