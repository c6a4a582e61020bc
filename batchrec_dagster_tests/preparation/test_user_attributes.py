"""Users: their file becomes a Users dataset, which filters and conditions read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.deployment.io_managers import UsersCsvIOManager
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.steps.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.teardown import tear_down
from batchrec_dagster_tests.storage.test_io_managers import pass_downstream

# Whatever the model, users are the same.
QUICK = {"recipe": "aws-user-personalization"}
COLUMNS = {
    "user": "customer",
    "categories": {"COUNTRY": "country", "CONSENT": "newsletter"},
    "numbers": {"AGE": "age"},
}
PREPARED = ("raw_ratings", "interactions", "raw_users", "users", "batch_users")


def write_users(path: Path, *rows: str, users: int = 50) -> Path:
    """Write a CSV of users, of whom odd ones are Austrians and those from 41 on said no, followed
    by the rows."""
    lines = ["customer,country,age,newsletter"]
    for user in range(1, users + 1):
        country = "AT" if user % 2 else "DE"
        lines.append(f"{user},{country},{20 + user},{'yes' if user <= 40 else 'no'}")
    path.write_text("\n".join([*lines, *rows]) + "\n")
    return path


def declare_with_users(project: Project, **attributes: Any) -> dict[str, Any]:
    """A shop of 60 customers in the ratings, of whom the file of users has 50."""
    return declaration(
        "shop",
        write_ratings(project.root / "ratings.csv"),
        **{
            "users": {
                "source": str(write_users(project.root / "users.csv")),
                "columns": COLUMNS,
            },
            "solution": QUICK,
            **attributes,
        },
    )


def read_prepared_users(project: Project) -> pl.DataFrame:
    return pl.read_csv(project.storage / "shop/transformed/users/users.csv")


@pytest.mark.slow
def test_users_are_imported_and_filters_read_them(
    project: Project, instance: dg.DagsterInstance
) -> None:
    items = project.root / "items.csv"
    items.write_text(
        "id,parity\n" + "".join(f"{item},{('even', 'odd')[item % 2]}\n" for item in range(1, 81))
    )
    declared = declare_with_users(
        project,
        items={"source": str(items), "columns": {"item": "id", "categories": {"KIND": "parity"}}},
        recommendations={
            "num_results": 5,
            "exclude_seen": False,
            "filter": 'EXCLUDE ItemID WHERE Items.KIND = "odd" IF CurrentUser.COUNTRY = "AT"',
        },
        segments={
            "items": ["1"],
            "users_per_segment": 20,
            "filter": 'INCLUDE UserID WHERE Users.COUNTRY = "AT" AND Users.AGE < 50',
        },
        budget={"max_usd_per_run": 100},
    )
    project.declare(declared)
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    users = read_prepared_users(project)
    assert users.columns == ["USER_ID", "COUNTRY", "CONSENT", "AGE"]
    assert users.row(0) == (1, "AT", "yes", 21.0)
    imported = metadata(result, "personalize_dataset")
    assert imported["users_outcome"] == "imported"
    client = embedded_client(project.root / ".batchrec" / "personalize", ObjectStore())
    dataset = client.describe_dataset(datasetArn=imported["users_dataset_arn"])["dataset"]
    assert dataset["datasetType"] == "USERS"
    of_austrians = (
        pl.col("user_id").cast(pl.Int64).is_in(users.filter(COUNTRY="AT")["USER_ID"].implode())
    )
    odd = pl.col("item_id").cast(pl.Int64) % 2 == 1
    lists = table(project, "shop")
    assert lists["user_id"].n_unique() == 60
    assert lists.filter(of_austrians & odd).is_empty()
    assert not lists.filter(~of_austrians & odd).is_empty()

    segments = project.storage / "shop/curated/user_segments/user_segments.parquet"
    in_segment = set(pl.read_parquet(segments)["user_id"])
    assert in_segment == set(map(str, range(1, 30, 2)))
    (budget,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == "within_budget" and check.asset_key.path[-1] == "personalize_dataset"
    ]
    assert " of users" in (budget.description or "")

    # No person is shown.
    shown = metadata(result, "users")
    assert "yes (40), no (10)" in shown["preview"]
    assert "sample" not in shown

    second_result = refresh(project, "shop", instance)
    assert metadata(second_result, "raw_users")["outcome"] == "unchanged: not copied again"
    assert metadata(second_result, "users")["outcome"] == "unchanged: not prepared again"
    unchanged = "unchanged: not imported again"
    assert metadata(second_result, "personalize_dataset")["users_outcome"] == unchanged
    assert metadata(second_result, "recommendations")["outcome"] == "unchanged: not inferred again"

    # What a removed block leaves is deleted.
    del declared["users"], declared["segments"], declared["recommendations"]["filter"]
    project.declare(declared)
    removed_result = refresh(project, "shop", instance)
    assert removed_result.success, why(removed_result)
    assert "users_outcome" not in metadata(removed_result, "personalize_dataset")
    left = [file for file in (project.storage / "shop").rglob("*") if "users" in file.parts]
    assert left == []
    assert not (project.storage / "shop/records/raw_users.json").exists()

    # Nor does a teardown leave anything.
    schemas = [schema["name"] for schema in client.list_schemas()["schemas"]]
    assert any(name.endswith("-users") for name in schemas)
    assert tear_down(project, "shop", instance).exit_code == 0
    assert client.list_schemas()["schemas"] == []


@pytest.mark.slow
def test_who_was_erased_is_left_out_of_the_users(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declare_with_users(project))
    write_users(project.root / "users.csv", "gone,AT,bad,no", "gone,DE,33,no")
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    files = PipelineFiles(storage, StorageKeys("shop"))
    SuppressionList(files).add(["gone"])

    result = refresh(project, "shop", instance, assets=PREPARED)
    assert result.success, why(result)
    assert read_prepared_users(project).height == 50
    assert metadata(result, "users")["erased_users_in_source"] == 1
    (check,) = [
        check
        for check in result.get_asset_check_evaluations()
        if check.check_name == SOURCE_WITHOUT_ERASED and not check.passed
    ]
    assert check.asset_key.path[-1] == "users"
    # The copy of the source does not stay, and whoever reads it without copying again is told so.
    assert not [*(project.storage / "shop/raw/users").rglob("*.csv")]
    again = refresh(project, "shop", instance, assets=PREPARED)
    assert metadata(again, "users")["outcome"] == "unchanged: not prepared again"
    assert not [*(project.storage / "shop/raw/users").rglob("*.csv")]
    SuppressionList(files).add(["50"])
    alone = refresh(project, "shop", instance, assets=["users"])
    assert "materialize raw_users too" in why(alone)
    erased = refresh(project, "shop", instance, assets=PREPARED)
    assert erased.success, why(erased)
    assert read_prepared_users(project).height == 49


@pytest.mark.slow
def test_only_users_who_meet_the_condition_get_lists(
    project: Project, instance: dg.DagsterInstance
) -> None:
    condition = 'USERS.CONSENT = "yes" AND (USERS.COUNTRY IN ("AT", "CH") OR Users.age <= 22)'
    declared = declare_with_users(project, batch_users={"filter": condition})
    project.declare(declared)
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    expected = {*map(str, range(1, 41, 2)), "2"}
    assert set(table(project, "shop")["user_id"]) == expected
    shown = metadata(result, "batch_users")
    assert (shown["users"], shown["left_out_by_filter"], shown["not_in_users"]) == (21, 39, 10)
    assert "39 others do not" in shown["preview"]
    again = refresh(project, "shop", instance, assets=PREPARED)
    assert metadata(again, "batch_users")["outcome"] == "unchanged: not prepared again"

    # Who withdraws consent gets no list from the next refresh on.
    source = project.root / "users.csv"
    source.write_text(source.read_text().replace("1,AT,21,yes", "1,AT,21,no"))
    changed = refresh(project, "shop", instance)
    assert changed.success, why(changed)
    assert set(table(project, "shop")["user_id"]) == expected - {"1"}

    # It also holds for a list of users, of which a query takes some.
    (project.root / "list.csv").write_text(
        "id,kind\n" + "".join(f"{user},{'ab'[user % 2]}\n" for user in range(30, 60))
    )
    query = "SELECT id FROM source WHERE kind = 'b'"
    project.declare(
        {
            **declared,
            "batch_users": {
                "source": "list.csv",
                "query": query,
                "column": "id",
                "filter": 'USERS.CONSENT = "yes"',
            },
        }
    )
    listed = refresh(project, "shop", instance, assets=PREPARED)
    assert listed.success, why(listed)
    assert metadata(listed, "batch_users")["users"] == 5
    assert metadata(listed, "batch_users")["not_in_users"] == 5

    prepared = project.storage / "shop/transformed/users/users.csv"
    content = prepared.read_text()
    prepared.write_text(content.replace(",22.0", ",22,0"))
    damaged = why(refresh(project, "shop", instance, assets=["batch_users"]))
    assert "users.csv" in damaged
    assert "run the refresh, which makes it again" in damaged
    prepared.unlink()
    absent = why(refresh(project, "shop", instance, assets=["batch_users"]))
    assert absent.endswith("materialize users first")
    prepared.write_text(content)
    project.declare({**declared, "batch_users": {"filter": 'USERS.CONSENT = "Yes"'}})
    nobody = why(refresh(project, "shop", instance, assets=["batch_users"]))
    assert nobody.startswith("none of the 60 users meets batch_users.filter: USERS.CONSENT")
    assert "10 of them are not in the file of users" in nobody
    assert "\n" not in nobody


def test_an_asset_of_ones_own_gets_the_users_with_numbers_and_ids_as_text(tmp_path: Path) -> None:
    rows = pl.DataFrame({"USER_ID": ["007", "8"], "COUNTRY": ["AT", None], "AGE": [18.5, None]})
    received = pass_downstream(tmp_path, UsersCsvIOManager, rows, pl.DataFrame)
    assert isinstance(received, pl.DataFrame)
    assert received.equals(rows)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (["1,AT,20,yes"], COLUMNS, "users_readable: 1 of 51 rows cannot be read"),
        ([], {**COLUMNS, "numbers": {"AGE": "years"}}, "(users.columns.numbers.AGE); it has: cust"),
    ],
)
def test_bad_users_fail_the_run_in_one_line(
    project: Project,
    instance: dg.DagsterInstance,
    rows: list[str],
    columns: dict[str, Any],
    message: str,
) -> None:
    declared = declare_with_users(project)
    write_users(project.root / "users.csv", *rows)
    project.declare({**declared, "users": {**declared["users"], "columns": columns}})
    result = refresh(project, "shop", instance, assets=["raw_users"])
    assert not result.success
    assert message in why(result)
    assert "\n" not in why(result)
