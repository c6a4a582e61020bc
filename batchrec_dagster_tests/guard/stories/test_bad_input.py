"""Tests of bad input.

The message is a line that names the file, the line or setting, and the fix. Nothing is half-written
or lost.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    Project,
    declaration,
    interactions,
    refresh,
    table,
    why,
    write_ratings,
)

pytestmark = pytest.mark.slow


def edit_lines(change: Callable[[list[str]], list[str]]) -> Callable[[Path], None]:
    def edit(path: Path) -> None:
        path.write_text("".join(change(path.read_text().splitlines(keepends=True))))

    return edit


write_milliseconds = edit_lines(
    lambda lines: [lines[0], *(line.rstrip("\n") + "000\n" for line in lines[1:])]
)


@pytest.mark.parametrize(
    ("break_file", "settings", "parts"),
    [
        (lambda path: path.unlink(), {}, ["ratings.csv"]),
        (
            edit_lines(lambda lines: [line.replace(",", ";") for line in lines]),
            {"delimiter": ","},
            ["ratings.csv", "ratings.columns.user", "is ratings.delimiter ';'?"],
        ),
        (
            lambda path: None,
            {"columns": {**COLUMNS, "rating": "stars"}},
            ["ratings.csv has no column 'stars' (ratings.columns.rating)", "userId, movieId"],
        ),
        (
            edit_lines(lambda lines: [*lines[:7], "1,2,great,1500000000\n", *lines[8:]]),
            {},
            ["ratings.csv, line 8: the rating is not a number", "ratings.on_bad_rows: skip"],
        ),
        (
            edit_lines(lambda lines: [line.replace(",", ";").replace(".", ",") for line in lines]),
            {},
            ['the rating is not a number (ratings.decimal: ",")'],
        ),
        (lambda path: path.write_text(""), {}, ["ratings.csv", "empty"]),
        (
            edit_lines(
                lambda lines: [line.rstrip("\n") + ",x" * 300_000 + "\n" for line in lines[:9]]
            ),
            {},
            ["ratings.csv, line 1 has 300,004 columns, and at most 2,000 are read"],
        ),
        (
            write_milliseconds,
            {"timestamp_unit": "s"},
            ["the timestamp is 0 or after 2099", "ratings.timestamp_unit is another"],
        ),
        (
            edit_lines(lambda lines: lines[:900]),
            {},
            ["enough_interactions: ", "Personalize needs 1,000 interactions", "min_rating"],
        ),
    ],
    ids=[
        "missing file",
        "wrong delimiter",
        "missing column",
        "text in a number",
        "decimal commas",
        "empty file",
        "hundreds of thousands of columns",
        "milliseconds as seconds",
        "too few interactions",
    ],
)
def test_bad_input_is_reported_in_one_line_and_loses_nothing(
    project: Project,
    instance: dg.DagsterInstance,
    break_file: Callable[[Path], Any],
    settings: dict[str, Any],
    parts: list[str],
) -> None:
    source = write_ratings(project.root / "ratings.csv")
    break_file(source)
    project.declare(
        declaration("shop", source, ratings={"source": str(source), "columns": COLUMNS, **settings})
    )
    result = refresh(project, "shop", instance)
    assert not result.success
    message = why(result)
    assert "\n" not in message
    for part in parts:
        assert part in message
    # Nothing is prepared or published.
    files = {path.suffix for path in project.storage.rglob("*") if path.is_file()}
    assert files <= {".csv", ".json"}
    assert not [*project.storage.rglob("interactions.csv")]


@pytest.mark.usefixtures("first_run_of_shop")
def test_the_last_good_table_outlives_bad_input(
    project: Project, instance: dg.DagsterInstance
) -> None:
    source = project.root / "ratings.csv"
    lists, prepared_rows = table(project, "shop"), interactions(project, "shop")
    write_milliseconds(source)
    project.declare(
        declaration(
            "shop",
            source,
            ratings={"source": str(source), "columns": COLUMNS, "timestamp_unit": "s"},
        )
    )
    assert not refresh(project, "shop", instance).success
    assert table(project, "shop").equals(lists)
    assert interactions(project, "shop").equals(prepared_rows)


def test_skip_keeps_the_good_rows(project: Project, instance: dg.DagsterInstance) -> None:
    source = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", source))
    assert refresh(project, "shop", instance, assets=["raw_ratings", "interactions"]).success
    good = interactions(project, "shop")
    with source.open("a") as file:
        file.write("1,2,great,1500000000\n1,2\n1,2,3,4,5\n")
    ratings = {"source": str(source), "columns": COLUMNS, "on_bad_rows": "skip"}
    project.declare(declaration("shop", source, ratings=ratings))
    assert refresh(project, "shop", instance, assets=["raw_ratings", "interactions"]).success
    assert interactions(project, "shop").equals(good)
