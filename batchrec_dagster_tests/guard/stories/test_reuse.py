"""Tests that prepared data are reused while nothing has changed, and else made again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    module_project,
    refresh,
    why,
    write_ratings,
)

pytestmark = pytest.mark.slow

RATINGS, ITEMS = "ratings.csv", "items.csv"

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


def declare_shop(**attributes: Any) -> dict[str, Any]:
    return declaration(
        "shop",
        RATINGS,
        **{
            "items": {
                "source": ITEMS,
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


@dataclass(frozen=True)
class Prepared:
    """A project with all data prepared once. No test writes to it."""

    folder: Path
    result: dg.ExecuteInProcessResult


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    project = module_project(tmp_path_factory.mktemp("prepared"))
    write_ratings(project.root / RATINGS)
    write_items(project.root / ITEMS)
    project.declare(declare_shop())
    with dg.DagsterInstance.ephemeral() as instance:
        result = prepare(project, instance)
    assert list_reused(result) == set()
    return Prepared(project.root, result)


@pytest.fixture
def project(project: Project, prepared: Prepared) -> Project:
    """Return a copy of the prepared project. Reuse does not depend on Dagster's history."""
    for name in (RATINGS, ITEMS):
        # The copy keeps the file's time, so that the file counts as unchanged.
        shutil.copy2(prepared.folder / name, project.root)
    shutil.copytree(prepared.folder / ".batchrec", project.root / ".batchrec")
    project.declare(declare_shop())
    return project


def prepare(project: Project, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    result = refresh(project, "shop", instance, assets=[*RAW, *PREPARED])
    assert result.success, why(result)
    return result


def list_reused(result: dg.ExecuteInProcessResult) -> set[str]:
    return {asset for asset in PREPARED if metadata(result, asset).get("outcome") == AGAIN}


def record_file(project: Project, asset: str) -> Path:
    return project.storage / "shop/records" / f"{asset}.json"


def content_of_files(project: Project) -> dict[str, bytes]:
    return {asset: stored_file(project, asset).read_bytes() for asset in FILES}


def stored_file(project: Project, asset: str) -> Path:
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
    project: Project, instance: dg.DagsterInstance, prepared: Prepared
) -> None:
    content_before = content_of_files(project)
    moments = {asset: stored_file(project, asset).stat().st_mtime_ns for asset in FILES}
    for _ in range(2):
        second_result = prepare(project, instance)
        assert list_reused(second_result) == {*PREPARED}
        assert content_of_files(project) == content_before
        assert {asset: stored_file(project, asset).stat().st_mtime_ns for asset in FILES} == moments
        assert verdicts(second_result) == verdicts(prepared.result)
        for asset in (*RAW, *PREPARED):
            old, new = metadata(prepared.result, asset), metadata(second_result, asset)
            assert old.keys() == new.keys() - ({"outcome"} - old.keys())
            differ = {key for key in old if old[key] != new[key]}
            # The file is in the folder of the copy.
            assert differ <= {"seconds", "outcome", "file"}, asset


def test_a_copy_of_other_content_is_made_again(
    project: Project,
    instance: dg.DagsterInstance,
) -> None:
    # The file is as long as before, and has the same modification time.
    copy = project.storage / "shop/raw/ratings/ratings.csv"
    moment, text = copy.stat().st_mtime_ns, copy.read_text()
    copy.write_text(text.replace("userId", "nobody"))
    os.utime(copy, ns=(moment, moment))
    result = refresh(project, "shop", instance, assets=["raw_ratings"])
    outcome = metadata(result, "raw_ratings")["outcome"]
    assert outcome == f"copied; {copy} had another content than recorded"
    assert copy.read_text() == text
    # The data are the earlier data.
    second_run = prepare(project, instance)
    assert list_reused(second_run) == {*PREPARED}


@pytest.mark.parametrize(
    ("asset", "how"), [*zip(FILES, cycle(["missing", "damaged", "empty"]), strict=False)]
)
def test_a_stored_file_with_changed_content_is_made_again(
    project: Project,
    instance: dg.DagsterInstance,
    asset: str,
    how: str,
) -> None:
    content_before, file = content_of_files(project), stored_file(project, asset)
    moment = file.stat().st_mtime_ns
    if how == "missing":
        file.unlink()
    else:
        whole = file.read_bytes()
        middle = len(whole) // 2
        damaged_content = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        file.write_bytes(damaged_content if how == "damaged" else b"")
        os.utime(file, ns=(moment, moment))
    second_result = prepare(project, instance)
    assert list_reused(second_result) == {*PREPARED} - {asset}
    assert content_of_files(project) == content_before


def test_changed_ratings_are_prepared_again_and_unchanged_items_are_not(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv", users=61)
    second_result = prepare(project, instance)
    assert list_reused(second_result) == {"items", "item_titles"}
    assert metadata(second_result, "interactions")["users"] == 61
    assert metadata(second_result, "batch_users")["users"] == 61


def test_changed_items_are_prepared_again_and_unchanged_ratings_are_not(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_items(project.root / "items.csv", title="Movie")
    second_result = prepare(project, instance)
    assert list_reused(second_result) == {"interactions", "batch_users"}
    assert b"Movie 1" in content_of_files(project)["item_titles"]


@pytest.mark.parametrize(
    ("changed", "remade", "different"),
    [
        (
            {"interactions": {"min_rating": 2}},
            {"interactions", "batch_users"},
            {"interactions"},
        ),
        ({"batch_users": {"active_since": "2017-11-05"}}, {"batch_users"}, {"batch_users"}),
        # assets that could have changed, but did not
        ({"ratings": {"null_values": ["-"]}}, {"interactions", "items", "item_titles"}, set()),
    ],
)
def test_data_prepared_with_other_settings_are_made_again(
    project: Project,
    instance: dg.DagsterInstance,
    changed: dict[str, Any],
    remade: set[str],
    different: set[str],
) -> None:
    content_before = content_of_files(project)
    attributes = declare_shop()
    project.declare(
        attributes | {key: {**attributes.get(key, {}), **new} for key, new in changed.items()}
    )
    second_result = prepare(project, instance)
    assert list_reused(second_result) == {*PREPARED} - remade
    content_after = content_of_files(project)
    assert {asset for asset in FILES if content_after[asset] != content_before[asset]} == different


def test_a_column_that_a_new_filter_names_is_looked_for(
    project: Project, instance: dg.DagsterInstance
) -> None:
    project.declare(declare_shop(interactions={"filter": "quantity > 0"}))
    result = refresh(project, "shop", instance, assets=["raw_ratings"])
    assert "quantity" in why(result)


def test_with_dagsters_history_nothing_is_prepared_again_either(
    project: Project, instance: dg.DagsterInstance
) -> None:
    for _ in range(2):
        assert list_reused(prepare(project, instance)) == {*PREPARED}


@pytest.mark.parametrize(
    ("name", "content"),
    [*zip([*RAW, *PREPARED], cycle([b"", b"[]", b'{"version": 1}', b"{"]), strict=False)],
)
def test_a_damaged_record_is_made_again_with_a_warning(
    project: Project,
    instance: dg.DagsterInstance,
    caplog: pytest.LogCaptureFixture,
    name: str,
    content: bytes,
) -> None:
    content_before, record = content_of_files(project), record_file(project, name)
    record_before = record.read_bytes()
    record.write_bytes(content)
    result = prepare(project, instance)
    assert list_reused(result) == {*PREPARED} - {name}
    assert content_of_files(project) == content_before
    assert record.read_bytes() == record_before
    assert f"{record} is damaged, and is made again" in caplog.text
