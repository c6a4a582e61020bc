"""A shop over seven nights, made once a session. A stranger chose all names in its files.

The shop's ids, titles, categories, events, columns and file names try to run as HTML, as Markdown,
in a terminal and in a spreadsheet. People see these names everywhere: in the report, in Dagster, in
a terminal and in an exported file.

| night | what happens |
|---|---|
| first | the lists are published |
| strict | a setting has changed, so there are a new model and other lists |
| grown | there are more people, and new interactions since the night before |
| refused | the quality gate refuses the model |
| failed | the file of ratings is missing |
| last | everything works again, and the lists are shorter |
| restored | somebody rolls back to the lists of the night `grown` |
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.first_run import make_once
from batchrec_dagster_tests.guard.hostile import ADDRESSES, HOSTILE, quote_cells

RATINGS = "![i](http:stranger.invalid) www.stranger.invalid <b>.csv"
ITEMS = f"items {RATINGS}"
USERS = "users.csv"
# The stranger's names for the columns.
USER, ITEM, RATING, EVENT, TIME = HOSTILE[10:15]
TITLE, GENRES, IMAGE, LINK = HOSTILE[0], HOSTILE[15], HOSTILE[5], HOSTILE[6]
VIEW, BUY = HOSTILE[0], HOSTILE[4]
DESCRIPTION = f"{HOSTILE[1]} {ADDRESSES}"
# Nobody has had the last thirty items.
ITEM_COUNT, LIST_LENGTH = 110, 5
# The users who get lists. In the end, the first hundred have a long history, and the users in FEW
# have had three items.
REQUESTED = range(21, 241)
FEW = range(200, 207)
# The users that the report must show: a user with a history, and a user without.
NAMED = (22, 239)
MAIL = "mail.csv"
DAY_SECONDS = 86_400
# An id has no line breaks, because rows with such an id are left out.
IDS = [text for text in HOSTILE if not {"\n", "\r"} & {*text}]
# The nights in which lists are published, oldest first.
PUBLISHED = ("first", "strict", "grown", "last")


def name_user(number: int) -> str:
    """Return the id of a user."""
    return f"{IDS[number % len(IDS)]} {number}"


def name_item(number: int) -> str:
    """Return the id of an item."""
    return f"{IDS[number % len(IDS)]} {number}"


def name_title(number: int) -> str:
    """Return the title of an item, which no other item has."""
    return f"{number} {HOSTILE[number % len(HOSTILE)]}"


def find_genre(number: int) -> str:
    """Return the category of an item besides Drama, which all items have."""
    return HOSTILE[number % 2]


@dataclass(frozen=True)
class ShopNight:
    """The pipeline's storage after a night."""

    folder: Path

    @property
    def page(self) -> Path:
        """The file of the report."""
        return self.folder / "curated/report/index.html"

    @cached_property
    def lists(self) -> pl.DataFrame:
        """The published lists."""
        return pl.read_parquet(self.folder / "curated/recommendations/recommendations.parquet")

    @cached_property
    def interactions(self) -> pl.DataFrame:
        """The interactions that the model was trained on."""
        file = self.folder / "transformed/interactions/interactions.csv"
        return pl.read_csv(file, schema_overrides=dict.fromkeys(("USER_ID", "ITEM_ID"), pl.String))

    @cached_property
    def outcomes(self) -> pl.DataFrame:
        """The table of outcomes of the lists."""
        return pl.read_parquet(
            self.folder / "curated/recommendation_outcomes/recommendation_outcomes.parquet"
        )

    @cached_property
    def run(self) -> dict[str, Any]:
        """The run as Dagster reports it: `success`, `checks`, and the `metadata` of assets."""
        run: dict[str, Any] = json.loads((self.folder / "run.json").read_text())
        return run


@dataclass(frozen=True)
class StrangeShop:
    """The shop after its nights, in a folder that no test writes to."""

    folder: Path

    def night(self, name: str) -> ShopNight:
        """Return the pipeline's storage after this night."""
        return ShopNight(self.folder / "nights" / name)

    @property
    def project(self) -> Project:
        """The project after the last night."""
        return Project(self.folder / "project")

    @property
    def mail(self) -> list[dict[str, str]]:
        """The rows of the exported file, which other programs and spreadsheets open."""
        with (self.project.root / MAIL).open(encoding="utf-8", newline="") as lines:
            return [*csv.DictReader(lines)]

    @property
    def shown_in_dagster(self) -> list[tuple[str, str]]:
        """The texts that Dagster's pages show about the shop's assets, checks and runs.

        Each text comes with its kind: `markdown`, `text` or `url`.
        """
        return [
            (kind, text) for kind, text in json.loads((self.folder / "dagster.json").read_text())
        ]


@pytest.fixture(scope="session")
def strange_shop(tmp_path_factory: pytest.TempPathFactory) -> StrangeShop:
    """Return the shop after its nights, which is made once a session."""
    return StrangeShop(make_once(tmp_path_factory, "strange-shop", _live_through_the_nights))


def _live_through_the_nights(folder: Path) -> None:
    (folder / "project").mkdir()
    project = module_project(folder / "project")
    _write_items(project.root / ITEMS)
    lines = [USER, *map(name_user, REQUESTED)]
    (project.root / USERS).write_text("\n".join(quote_cells(line) for line in lines) + "\n")
    strict = {"interactions": {"min_rating": 4.5}}
    with dg.DagsterInstance.ephemeral() as instance:

        def live(name: str, **settings: Any) -> dg.ExecuteInProcessResult:
            project.declare(_declare(**settings))
            result = refresh(project, "shop", instance, report=True)
            night = folder / "nights" / name
            shutil.copytree(project.storage / "shop", night)
            (night / "run.json").write_text(json.dumps(_describe_run(result)))
            assert result.success == (name in PUBLISHED), name
            return result

        rows = _write_interactions(project, users=110)
        live("first")
        live("strict", **strict)
        _write_interactions(project, users=120, later=_choose_later(folder, rows))
        live("grown", **strict)
        live("refused", interactions={"min_rating": 4.0}, gate={"min_ndcg_at_25": 0.99})
        (project.root / RATINGS).rename(project.root / "gone")
        live("failed", **strict)
        (project.root / "gone").rename(project.root / RATINGS)
        last = live("last", **strict, recommendations={"num_results": LIST_LENGTH - 1})
        with definitions(project) as defs:
            rollback = defs.resolve_job_def("shop_rollback")
            assert rollback.execute_in_process(instance=instance).success
        shutil.copytree(project.storage / "shop", folder / "nights" / "restored")
        texts = [(kind, text) for kind, text in _list_texts(project, last) if text]
    (folder / "dagster.json").write_text(json.dumps(texts))


def _declare(**settings: Any) -> dict[str, Any]:
    columns = {"user": USER, "item": ITEM, "rating": RATING, "event_type": EVENT, "timestamp": TIME}
    return declaration(
        "shop",
        RATINGS,
        **{
            "description": DESCRIPTION,
            "ratings": {"source": RATINGS, "columns": columns, "on_bad_rows": "skip"},
            "items": {
                "source": ITEMS,
                "columns": {
                    "item": ITEM,
                    "title": TITLE,
                    "image": IMAGE,
                    "link": LINK,
                    "categories": {"GENRES": GENRES},
                },
                "on_bad_rows": "skip",
            },
            "batch_users": {"source": USERS, "column": USER},
            "recommendations": {"num_results": LIST_LENGTH},
            "segments": {"items": [name_item(1), name_item(16)], "users_per_segment": 12},
            "gate": {"max_drop": 1},
            "report": {"people": [*map(name_user, NAMED), "nobody"]},
            "retention": {"editions": 20},
            "sinks": {"export": {"path": MAIL}},
            **settings,
        },
    )


def _write_items(path: Path) -> None:
    lines = [quote_cells(ITEM, TITLE, GENRES, IMAGE, LINK), quote_cells("", ADDRESSES, "", "", "")]
    lines += [
        quote_cells(
            name_item(item),
            name_title(item),
            f"Drama|{find_genre(item)}",
            # Some images and links are scripts in place of addresses.
            f"https://pictures.invalid/{item}.png" if item % 7 else "javascript:window.shot = 1",
            f"https://shop.invalid/{item}" if item % 5 else "javascript:window.shot = 1",
        )
        for item in range(1, ITEM_COUNT + 1)
    ]
    path.write_text("\n".join(lines) + "\n")


def _write_interactions(
    project: Project, *, users: int, later: Mapping[int, int] | None = None
) -> pl.DataFrame:
    """Write the file of ratings, and return its rows with numbers in place of names.

    users: the number of users with a history.
    later: the number of the item that each user chose a day after all other ratings, by the user's
        number.
    """
    rows = pl.read_csv(write_ratings(project.root / "numbers.csv", users=users))
    few = [(user, item, 5.0, 1_500_000_000 + user) for user in FEW for item in (1, 2, user % 80)]
    rows = pl.concat([rows, pl.DataFrame(few, rows.schema, orient="row")])
    if later:
        end = rows["timestamp"].max()
        assert isinstance(end, int)
        new = [(user, item, 5.0, end + DAY_SECONDS) for user, item in later.items()]
        rows = pl.concat([rows, pl.DataFrame(new, rows.schema, orient="row")])
    lines = [
        quote_cells(USER, ITEM, RATING, EVENT, TIME),
        quote_cells("", ADDRESSES, 5, VIEW, 1_500_000_000),
        quote_cells(name_user(1), name_item(1), ADDRESSES, VIEW, ADDRESSES),
        *(
            quote_cells(name_user(user), name_item(item), value, VIEW if item % 3 else BUY, time)
            for user, item, value, time in rows.iter_rows()
        ),
    ]
    (project.root / RATINGS).write_text("\n".join(lines) + "\n")
    return rows


def _choose_later(folder: Path, rows: pl.DataFrame) -> dict[int, int]:
    """Return the item that each of the users up to 100 chooses after the second night.

    Half of these users choose the first item of their list. The other users choose an item that
    they did not have and that was not on their list.
    """
    lists = ShopNight(folder / "nights" / "strict").lists
    numbers = {name_item(item): item for item in range(1, ITEM_COUNT + 1)}
    had = {user: set(items) for user, items in rows.group_by("userId").agg("movieId").iter_rows()}
    later = {}
    for user in range(REQUESTED[0], 101):
        shown = lists.filter(pl.col("user_id") == name_user(user)).sort("rank")["item_id"]
        new_items = {*numbers.values()} - had[user] - {numbers[item] for item in shown}
        later[user] = numbers[shown[0]] if user % 2 else min(new_items)
    return later


def _describe_run(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    evaluations = result.get_asset_check_evaluations()
    made = {
        event.asset_key.path[-1]
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }
    return {
        "success": result.success,
        "checks": [[check.check_name, check.passed] for check in evaluations],
        "metadata": {
            name: {
                key: value
                for key, value in metadata(result, name).items()
                if isinstance(value, str | int | float | bool)
            }
            for name in made
        },
    }


def _list_texts(
    project: Project, result: dg.ExecuteInProcessResult
) -> Iterator[tuple[str, str | None]]:
    with definitions(project) as defs:
        for spec in defs.resolve_all_asset_specs():
            yield "markdown", spec.description
        graph = defs.resolve_asset_graph()
        for key in graph.asset_check_keys:
            yield "markdown", graph.get_check_spec(key).description
    values: list[dg.MetadataValue[Any]] = []
    for event in result.get_asset_materialization_events():
        values += event.materialization.metadata.values()
    for evaluation in result.get_asset_check_evaluations():
        yield "markdown", evaluation.description
        values += evaluation.metadata.values()
    for value in values:
        if isinstance(value, dg.MarkdownMetadataValue):
            yield "markdown", value.value
        elif isinstance(value, dg.UrlMetadataValue):
            yield "url", value.value
        elif isinstance(value, dg.TextMetadataValue):
            yield "text", value.value
        elif isinstance(value, dg.TableSchemaMetadataValue | dg.TableMetadataValue):
            for column in value.schema.columns:
                yield "markdown", column.description
