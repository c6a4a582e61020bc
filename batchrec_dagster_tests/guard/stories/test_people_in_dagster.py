"""Tests that Dagster's databases and logs have no user's id, however a run ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    declaration,
    module_project,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.oracles.marks import MARK, find_marks, read_files
from batchrec_dagster_tests.guard.repeats import nightly, repeats

pytestmark = pytest.mark.slow

USERS = {
    "source": "users.csv",
    "columns": {"user": "id", "categories": {"CONSENT": "consent"}, "numbers": {"AGE": "age"}},
}
# Settings that show people wherever possible.
SHOP: dict[str, Any] = {
    "users": USERS,
    "batch_users": {"source": "recipients.csv", "filter": 'USERS.CONSENT = "yes"'},
    "segments": {"items": ["1", "3"]},
    "similar_items": {"num_results": 5},
    "experiment": {"name": "autumn", "control": "popular", "control_share": 0.3},
    "sinks": {"export": {"format": "csv"}},
}
SWAPPED = {**COLUMNS, "user": "rating", "rating": "userId"}
LATE = {**COLUMNS, "user": "timestamp", "timestamp": "userId"}
POSITIONS = {"user": 1, "item": 2, "rating": 3, "timestamp": 4}
# The file that `batchrec init` writes.
DEFINITIONS = """\
from pathlib import Path

import dagster as dg
from batchrec_dagster.definitions import load


@dg.definitions
def defs() -> dg.Definitions:
    return load(Path(__file__).parent)
"""
GOOD_ROW = f"{MARK}-1,3,5,1500000000"


def write_shop(root: Path) -> None:
    """Write the files of a shop in which every user's id contains the mark."""
    header, *lines = write_ratings(root / "ratings.csv").read_text().splitlines()
    rows = "\n".join([header, *(f"{MARK}-{line}" for line in lines)]) + "\n"
    (root / "ratings.csv").write_text(rows)
    ids = [f"{MARK}-{user}" for user in range(1, 61)]
    (root / "users.csv").write_text(
        "id,consent,age\n" + "".join(f"{user},yes,{len(user)}\n" for user in ids)
    )
    (root / "recipients.csv").write_text("\n".join(["user", *ids]) + "\n")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    write_shop(tmp_path)
    project = module_project(tmp_path)
    (project.package / "definitions.py").write_text(DEFINITIONS)
    return project


def find_marks_of_dagster(project: Project) -> list[str]:
    """Return the places in Dagster's databases and logs that contain the mark."""
    files = [*read_files(project.root / ".batchrec/dagster")]
    assert any(name.endswith(".err") for name, _ in files)
    assert "values of index.db" in [name for name, _ in files]
    return find_marks(files)


def test_no_id_is_left_by_a_night(project: Project) -> None:
    project.declare(declaration("shop", "ratings.csv", **SHOP))
    home = project.root / ".batchrec/dagster"
    home.mkdir(parents=True)
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        assert refresh(project, "shop", instance).success
    assert find_marks(read_files(project.storage)), "the search finds nothing"
    assert find_marks_of_dagster(project) == []


@nightly("a process for each step takes seconds")
def test_no_id_is_left_by_a_command_that_is_refused(project: Project) -> None:
    shop = declaration("shop", "ratings.csv", **SHOP)
    project.declare(shop)
    result = project.run("batchrec", "run", "shop")
    assert result.returncode == 0, result.stdout + result.stderr
    assert find_marks_of_dagster(project) == []

    project.declare({**shop, "gate": {"min_ndcg_at_25": 1.0}})
    with (project.root / "ratings.csv").open("a") as file:
        file.write(f"{GOOD_ROW}\n")
    refused = project.run("batchrec", "run", "shop")
    assert refused.returncode != 0
    assert "Refused" in refused.stdout + refused.stderr
    assert find_marks_of_dagster(project) == []


BAD_ROWS = {
    "rating": f"{MARK}-1,3,{MARK}-2,1500000000",
    "time": f"{MARK}-1,3,5,{MARK}-2",
    "another form of time": f"{MARK}-1,3,5,1500000000000",
    "long id": f"{MARK * 50},3,5,1500000000",
    "no item": f"{MARK}-1,,5,1500000000",
    "more fields": f"{MARK}-1,3,5,1500000000,{MARK}-2",
    "fewer fields": f"{MARK}-1,3",
    "quote": f'"{MARK}-1,3,5,1500000000',
}


def fail(project: Project, instance: dg.DagsterInstance, **attributes: Any) -> str:
    """Return the message of a failing run, and require that Dagster has no id."""
    project.declare(declaration("shop", "ratings.csv", **attributes))
    result = refresh(project, "shop", instance)
    assert not result.success
    message = why(result)
    assert MARK not in message, message
    assert MARK not in repr(instance.all_logs(result.run_id))
    return message


@pytest.mark.parametrize("is_csv", [True, False], ids=["csv", "json"])
def test_no_id_of_a_bad_row(project: Project, instance: dg.DagsterInstance, is_csv: bool) -> None:
    source = project.root / "ratings.csv"
    good = source.read_text()
    for problem, row in BAD_ROWS.items():
        if is_csv:
            source.write_text(f"{good}{row}\n")
        elif problem == "more fields":
            continue  # JSON has no such value
        else:
            rows = [*good.splitlines()[1:], row]
            fields = [dict(zip(COLUMNS.values(), row.split(","), strict=False)) for row in rows]
            source.write_text("".join(f"{json.dumps(row)}\n" for row in fields))
            if problem == "quote":
                source.write_text(source.read_text() + f'{{"userId": "{MARK}-1\n')
        message = fail(project, instance)
        line = 1802 if is_csv else 1801
        assert f"ratings.csv, line {line}" in message or problem == "quote", message


def test_no_id_of_a_bad_user_or_recipient(project: Project, instance: dg.DagsterInstance) -> None:
    users = (project.root / "users.csv").read_text()
    for row in (f"{MARK}-1,yes,5", f"{MARK}-61,yes,{MARK}-2", f"{MARK}-61,yes,5,{MARK}"):
        (project.root / "users.csv").write_text(f"{users}{row}\n")
        assert "users.csv, line 62: " in fail(project, instance, users=USERS)
    with (project.root / "recipients.csv").open("a") as file:
        file.write(f"{MARK * 50}\n")
    message = fail(project, instance, batch_users={"source": "recipients.csv"})
    assert "recipients.csv, line 62: " in message


MISFITS: list[dict[str, Any]] = [
    {"ratings": {"source": "ratings.csv", "columns": SWAPPED}},
    {"ratings": {"source": "ratings.csv", "columns": LATE}},
    {"ratings": {"source": "ratings.csv", "columns": COLUMNS, "timestamp_format": "%Y-%m-%d"}},
    {"ratings": {"source": "ratings.csv", "columns": COLUMNS, "delimiter": "-"}},
    {"ratings": {"source": "no-names.csv", "columns": COLUMNS}},
    {"ratings": {"source": "no-names.csv", "columns": COLUMNS, "delimiter": ";"}},
    {"ratings": {"source": "no-names.csv"}},
    {"ratings": {"source": "no-names.csv", "columns": {**POSITIONS, "user": 3, "rating": 1}}},
    {"interactions": {"filter": "CAST(userId AS INTEGER) > 3"}},
    {"ratings": {"source": "ratings.csv", "query": "SELECT userId::INT AS user FROM source"}},
    {"ratings": {"source": "ratings.parquet", "columns": SWAPPED}},
    {"users": {**USERS, "columns": {"user": "id", "numbers": {"AGE": "id"}}}},
    {"batch_users": {"source": "words.csv"}},
    {"gate": {"min_ndcg_at_25": 1.0}},
]


def test_no_id_where_settings_do_not_fit_the_data(
    project: Project, instance: dg.DagsterInstance
) -> None:
    rows = (project.root / "ratings.csv").read_text().partition("\n")[2]
    (project.root / "no-names.csv").write_text(rows)
    (project.root / "words.csv").write_text(f"{MARK}\n{MARK}x\n")
    pl.read_csv(project.root / "ratings.csv").write_parquet(project.root / "ratings.parquet")
    for attributes in MISFITS[: repeats(len(MISFITS), 3)]:
        assert fail(project, instance, **attributes)
