"""Users: their file becomes a Users dataset, which filters and conditions read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.pipeline.io_managers import AttributesIOManager
from batchrec_dagster.steps.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.erased import add_erased_users
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.pipeline.test_io_managers import load_input

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
def test_who_was_erased_is_left_out_of_the_users(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declare_with_users(project))
    write_users(project.root / "users.csv", "gone,AT,bad,no", "gone,DE,33,no")
    storage = Storage(root=str(project.storage), s3=S3Connection())
    files = ListFiles(storage, ListKeys("shop"))
    add_erased_users(files, ["gone"])

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
    add_erased_users(files, ["50"])
    alone = refresh(project, "shop", instance, assets=["users"])
    assert "materialize raw_users too" in why(alone)
    erased = refresh(project, "shop", instance, assets=PREPARED)
    assert erased.success, why(erased)
    assert read_prepared_users(project).height == 49


def test_an_asset_of_ones_own_gets_the_users_with_numbers_and_ids_as_text(tmp_path: Path) -> None:
    rows = pl.DataFrame({"USER_ID": ["007", "8"], "COUNTRY": ["AT", None], "AGE": [18.5, None]})
    rows.write_csv(tmp_path / "users.csv")
    received = load_input(tmp_path / "users.csv", AttributesIOManager, pl.DataFrame)
    assert isinstance(received, pl.DataFrame)
    assert received.equals(rows)
