"""Prepared data are reused while nothing has changed, and made again when anything has."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.support import (
    Project,
    declaration,
    metadata,
    refresh,
    why,
    write_ratings,
)

pytestmark = pytest.mark.slow

RAW = ("raw_ratings", "raw_items")
PREPARED = ("interactions", "items", "item_titles", "batch_users")
AGAIN = "unchanged: not prepared again"
FILES = {
    "interactions": "transformed/interactions/interactions.csv",
    "items": "transformed/items/items.csv",
    "item_titles": "transformed/item_titles/item_titles.parquet",
    "batch_users": "transformed/batch_users_input/users.json",
}


def write_items(path: Path, title: str = "Film") -> Path:
    rows = [f"{item},{title} {item},Drama,{1950 + item}" for item in range(1, 81)]
    path.write_text("\n".join(["movieId,title,genres,year", *rows]) + "\n")
    return path


def declared(project: Project, **attributes: Any) -> dict[str, Any]:
    return declaration(
        "shop",
        project.root / "ratings.csv",
        **{
            "items": {
                "source": str(project.root / "items.csv"),
                "columns": {
                    "item": "movieId",
                    "title": "title",
                    "categories": {"GENRES": "genres"},
                    "numbers": {"YEAR": "year"},
                },
            },
            **attributes,
        },
    )


@pytest.fixture
def first(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    """The first run, in which everything is prepared."""
    write_ratings(project.root / "ratings.csv")
    write_items(project.root / "items.csv")
    project.declare(declared(project))
    result = prepare(project, instance)
    assert reused(result) == set()
    return result


def prepare(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    result = refresh(project, "shop", instance, assets=[*RAW, *PREPARED])
    assert result.success, why(result)
    return result


def reused(result: dg.ExecuteInProcessResult) -> set[str]:
    return {asset for asset in PREPARED if metadata(result, asset).get("outcome") == AGAIN}


def content(project: Project) -> dict[str, bytes]:
    return {asset: stored(project, asset).read_bytes() for asset in FILES}


def stored(project: Project, asset: str) -> Path:
    return project.storage / "shop" / FILES[asset]


def verdicts(result: dg.ExecuteInProcessResult) -> dict[tuple[str, str], tuple[Any, ...]]:
    return {
        (check.asset_key.to_user_string(), check.check_name): (
            check.passed,
            check.severity,
            check.description,
            check.metadata,
        )
        for check in result.get_asset_check_evaluations()
    }


def test_a_run_on_unchanged_data_says_the_same_of_what_it_reuses(
    project: Project, instance: dg.DagsterInstance, first: dg.ExecuteInProcessResult
) -> None:
    before = content(project)
    moments = {one: stored(project, one).stat().st_mtime_ns for one in FILES}
    for _ in range(2):
        again = prepare(project, instance)
        assert reused(again) == {*PREPARED}
        assert content(project) == before
        assert {one: stored(project, one).stat().st_mtime_ns for one in FILES} == moments
        assert verdicts(again) == verdicts(first)
        for asset in (*RAW, *PREPARED):
            old, new = metadata(first, asset), metadata(again, asset)
            assert old.keys() == new.keys() - ({"outcome"} - old.keys())
            differ = {key for key in old if old[key] != new[key]}
            assert differ <= {"seconds", "outcome"}, asset


def test_files_are_not_inspected_again_while_their_copies_are_the_same(
    project: Project,
    instance: dg.DagsterInstance,
    first: dg.ExecuteInProcessResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("inspected")

    with monkeypatch.context() as patched:
        patched.setattr("batchrec_dagster.pipeline.assets.raw.inspect_ratings", refuse)
        patched.setattr("batchrec_dagster.pipeline.assets.raw.check_items", refuse)
        prepare(project, instance)
    # As long as before, and written at the same moment.
    copy = project.storage / "shop/raw/ratings.csv"
    moment = copy.stat().st_mtime_ns
    copy.write_text(copy.read_text().replace("userId", "nobody"))
    os.utime(copy, ns=(moment, moment))
    result = refresh(project, "shop", instance, assets=["raw_ratings"])
    assert "userId" in why(result)


@pytest.mark.parametrize("asset", FILES)
@pytest.mark.parametrize("how", ["missing", "damaged", "empty"])
def test_a_stored_file_that_is_not_what_was_stored_is_made_again(
    project: Project,
    instance: dg.DagsterInstance,
    first: dg.ExecuteInProcessResult,
    asset: str,
    how: str,
) -> None:
    before, file = content(project), stored(project, asset)
    moment = file.stat().st_mtime_ns
    if how == "missing":
        file.unlink()
    else:
        whole = file.read_bytes()
        middle = len(whole) // 2
        damaged = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        file.write_bytes(damaged if how == "damaged" else b"")
        os.utime(file, ns=(moment, moment))
    again = prepare(project, instance)
    assert reused(again) == {*PREPARED} - {asset}
    assert content(project) == before


def test_changed_ratings_are_prepared_again_and_unchanged_items_are_not(
    project: Project, instance: dg.DagsterInstance, first: dg.ExecuteInProcessResult
) -> None:
    write_ratings(project.root / "ratings.csv", users=61)
    again = prepare(project, instance)
    assert reused(again) == {"items", "item_titles"}
    assert metadata(again, "interactions")["users"] == 61
    assert metadata(again, "batch_users")["users"] == 61


def test_changed_items_are_prepared_again_and_unchanged_ratings_are_not(
    project: Project, instance: dg.DagsterInstance, first: dg.ExecuteInProcessResult
) -> None:
    write_items(project.root / "items.csv", title="Movie")
    again = prepare(project, instance)
    assert reused(again) == {"interactions", "batch_users"}
    assert b"Movie 1" in content(project)["item_titles"]


@pytest.mark.parametrize(
    ("changed", "remade", "different"),
    [
        (
            {"interactions": {"min_rating": 2}},
            {"interactions", "batch_users"},
            {"interactions"},
        ),
        ({"batch_users": {"active_since": "2017-11-05"}}, {"batch_users"}, {"batch_users"}),
        # What could have become something else, but did not.
        ({"ratings": {"null_values": ["-"]}}, {"interactions", "items", "item_titles"}, set()),
    ],
)
def test_what_other_settings_would_make_is_made_again(
    project: Project,
    instance: dg.DagsterInstance,
    first: dg.ExecuteInProcessResult,
    changed: dict[str, Any],
    remade: set[str],
    different: set[str],
) -> None:
    before = content(project)
    attributes = declared(project)
    project.declare(
        attributes | {key: {**attributes.get(key, {}), **new} for key, new in changed.items()}
    )
    again = prepare(project, instance)
    assert reused(again) == {*PREPARED} - remade
    after = content(project)
    assert {asset for asset in FILES if after[asset] != before[asset]} == different


def test_a_column_that_a_new_filter_names_is_looked_for(
    project: Project, instance: dg.DagsterInstance, first: dg.ExecuteInProcessResult
) -> None:
    project.declare(declared(project, interactions={"filter": "quantity > 0"}))
    result = refresh(project, "shop", instance, assets=["raw_ratings"])
    assert "quantity" in why(result)


def test_without_dagsters_history_all_is_prepared_again(
    project: Project, first: dg.ExecuteInProcessResult
) -> None:
    with dg.DagsterInstance.ephemeral() as other:
        assert reused(prepare(project, other)) == set()
