"""The report's numbers, compared with the tables counted another way."""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.reporting.catalogue import MOST_RECOMMENDED
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.summary import summarize
from batchrec_dagster.storage.io_managers import HtmlIOManager
from batchrec_dagster.storage.paths import StorageKeys
from batchrec_dagster.storage.published_table import PublishedTable
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    interactions,
    metadata,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.preparation.test_items import COLUMNS, write_items
from batchrec_dagster_tests.storage.test_io_managers import pass_downstream

NAMES = ("NDCG@25", "Precision@10", "MRR@25", "Coverage")
# Personalize's names, and those of the UI.
SHORT = {
    "normalized_discounted_cumulative_gain_at_25": "ndcg_at_25",
    "precision_at_10": "precision_at_10",
    "mean_reciprocal_rank_at_25": "mrr_at_25",
    "coverage": "coverage",
}


class Reader(HTMLParser):
    """Reads the numbers of the page, as the values that are meant for programs.

    facts: the numbers in the prose, by name.
    tables: the rows of each table, by its id.
    data: the JSON of the users.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.facts: dict[str, float] = {}
        self.tables: dict[str, list[list[str | float]]] = {}
        self.data = ""
        self._fact = self._table = self._script = ""
        self._value: float | None = None
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "span":
            self._fact = attributes.get("data-fact") or ""
        elif tag == "data":
            self._value = float(attributes["value"] or "")
            if self._fact:
                first_value = self.facts.setdefault(self._fact, self._value)
                assert first_value == self._value
            if self._table:
                self.tables[self._table][-1].append(self._value)
        elif tag == "table":
            self._table = attributes["id"] or ""
            self.tables[self._table] = []
        elif tag == "tr":
            self.tables[self._table].append([])
        elif tag == "script":
            self._script = attributes.get("id") or "code"

    def handle_endtag(self, tag: str) -> None:
        if tag == "table":
            self._table = ""
        elif tag == "data":
            self._value = None
        elif tag == "span":
            self._fact = ""
        elif tag == "script":
            self._script = ""

    def handle_data(self, data: str) -> None:
        if self._script == "people-data":
            self.data += data
        elif self._table and self._value is None and data.strip():
            row = self.tables[self._table]
            if row:
                row[-1].append(data.strip())


def report_file(project: Project) -> Path:
    return project.storage / "shop/curated/report/index.html"


def declare_with_items(project: Project, **attributes: Any) -> dict[str, Any]:
    source = write_ratings(project.root / "ratings.csv")
    items = write_items(project.root / "items.csv")
    return declaration(
        "shop",
        source,
        items={"source": str(items), "columns": COLUMNS, "separator": ";"},
        **attributes,
    )


@pytest.mark.slow
def test_each_number_agrees_with_the_tables(project: Project, instance: dg.DagsterInstance) -> None:
    # Three of these users have no history.
    users_file = project.root / "requested.csv"
    users_file.write_text("user_id\n" + "\n".join(str(user) for user in range(21, 64)))
    settings = declare_with_items(
        project,
        recommendations={"num_results": 10},
        segments={"items": ["1", "2"], "users_per_segment": 12},
        batch_users={"source": str(users_file)},
    )
    project.declare(settings)
    result = refresh(project, "shop", instance, report=True)
    assert result.success
    report = Reader(report_file(project).read_text())

    rows = list(interactions(project, "shop").iter_rows(named=True))
    lists = list(table(project, "shop").iter_rows(named=True))
    had = Counter(row["ITEM_ID"] for row in rows)
    list_counts = Counter(row["item_id"] for row in lists)
    history_lengths = Counter(row["USER_ID"] for row in rows)
    histories = sorted(history_lengths[str(user)] for user in range(21, 64))
    order = sorted({str(item) for item in range(1, 81)}, key=lambda item: (-had[item], item))

    def compute_shares(items: list[str]) -> tuple[float, float]:
        return sum(list_counts[i] for i in items) / len(lists), sum(had[i] for i in items) / len(
            rows
        )

    training = metadata(result, "solution_version")
    assert report.facts == pytest.approx(
        {
            "interactions": len(rows),
            "users": len(history_lengths),
            "items": len(had),
            "requested": 43,
            "served": len({row["user_id"] for row in lists}),
            "longest": 10,
            "checks": len(result.get_asset_check_evaluations()),
            "median": histories[21],
            "cold": histories.count(0),
            "few": sum(0 < length < 5 for length in histories),
            "recommended": len(list_counts),
            "catalogue": 80,
            "top_lists": max(list_counts.values()) / len(lists),
            "top_histories": max(had.values()) / len(rows),
            "people": len({row["user_id"] for row in lists}),
            "counted": len(history_lengths),
            **{key: training[short] for key, short in SHORT.items()},
            f"popularity_{next(iter(SHORT))}": pytest.approx(
                training["popularity_ndcg_at_25"], abs=5e-5
            ),
        }
    )
    assert report.facts["cold"] == 3
    times = [datetime.fromtimestamp(row["TIMESTAMP"], UTC) for row in rows]
    days = f"from {min(times):%Y-%m-%d} to {max(times):%Y-%m-%d}"
    assert days in report_file(project).read_text()

    model, *popular = report.tables["popularity-table"][1:]
    assert model[1] == training["ndcg_at_25"]
    assert max(row[1] for row in popular) == pytest.approx(
        training["popularity_ndcg_at_25"], abs=5e-5
    )
    ends = [0, *(math.ceil(80 * share) for share in (0.01, 0.05, 0.2, 0.5, 1))]
    for row, start, end in zip(report.tables["bands-table"][1:], ends, ends[1:], strict=False):
        assert row[1:] == pytest.approx(compute_shares(order[start:end]))
    odd, even = (
        compute_shares([item for item in order if int(item) % 2 == parity]) for parity in (1, 0)
    )
    kinds = {str(row[0]): row[1:] for row in report.tables["category1-table"][1:]}
    assert {kind: pytest.approx(share) for kind, share in kinds.items()} == {
        "Comedy": odd,
        "Romance": odd,
        "Drama": even,
    }
    most_shown = sorted(list_counts, key=lambda item: (-list_counts[item], item))[:MOST_RECOMMENDED]
    assert report.tables["most-table"][1:] == [
        [
            f"Film, no. {item}",
            list_counts[item],
            pytest.approx(list_counts[item] / len({row["user_id"] for row in lists})),
            order.index(item) + 1,
        ]
        for item in most_shown
    ]
    segments = pl.read_parquet(project.storage / "shop/curated/user_segments/user_segments.parquet")
    for item, row in zip(["1", "2"], report.tables["segments-table"][1:], strict=True):
        users = segments.filter(pl.col("segment") == item).sort("rank")["user_id"].to_list()
        assert row[0] == f"Film, no. {item}"
        assert row[1] == len(users) == 12
        assert [cell for cell in row[2:] if cell != ","] == users[:10]

    _check_people(report.data, rows, lists)
    shown_in_ui = metadata(result, "recommendation_report")
    assert (shown_in_ui["users"], shown_in_ui["people_shown"], shown_in_ui["sampled"]) == (
        43,
        43,
        False,
    )
    assert shown_in_ui["bytes"] == report_file(project).stat().st_size


def _check_people(data: str, rows: list[dict[str, Any]], lists: list[dict[str, Any]]) -> None:
    """Compare each user with the tables, and each explanation with all other candidates."""
    payload = json.loads(data)
    users_of: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        users_of[row["ITEM_ID"]].add(row["USER_ID"])
    ids = [item for item, *_ in payload["items"]]

    def compute_overlap(item: str, other: str) -> float:
        common_users = len(users_of[item] & users_of[other])
        return (
            common_users
            / math.sqrt(len(users_of[item]) * len(users_of[other]))
            * common_users
            / (common_users + 10)
        )

    for item, title, users, list_count, near, image, link in payload["items"]:
        assert (title, users) == (f"Film, no. {item}", len(users_of[item]))
        assert list_count == sum(row["item_id"] == item for row in lists)
        assert (image, link) == (None, None)
        overlaps = sorted(compute_overlap(item, other) for other in users_of if other != item)[::-1]
        assert [compute_overlap(item, ids[other]) for other in near[::2]] == pytest.approx(
            [value for value in overlaps[:5] if value and list_count]
        )
        for other, common_users in zip(near[::2], near[1::2], strict=True):
            assert common_users == len(users_of[item] & users_of[ids[other]])

    users_seen = set()
    for user, history_length, history, recommendations in payload["people"]:
        users_seen.add(user)
        own = [row for row in rows if row["USER_ID"] == user]
        assert history_length == len(own)
        latest = sorted(own, key=lambda row: (-row["TIMESTAMP"], row["ITEM_ID"]))[:25]
        assert history == [
            part
            for row in latest
            for part in (ids.index(row["ITEM_ID"]), row["TIMESTAMP"] // 86400)
        ]
        places = sorted((row for row in lists if row["user_id"] == user), key=lambda r: r["rank"])
        assert [ids[item] for item in recommendations[::3]] == [row["item_id"] for row in places]
        for item, because, common_users in zip(
            *(recommendations[part::3] for part in range(3)), strict=True
        ):
            other_items = [row["ITEM_ID"] for row in own if row["ITEM_ID"] != ids[item]]
            if not own:
                assert (because, common_users) == (-1, 0)
                continue
            assert common_users == len(users_of[ids[item]] & users_of[ids[because]])
            best = max(compute_overlap(ids[item], other) for other in other_items)
            assert compute_overlap(ids[item], ids[because]) == pytest.approx(best)
    assert users_seen == {row["user_id"] for row in lists}


def test_a_page_is_passed_on_as_text(tmp_path: Path) -> None:
    assert pass_downstream(tmp_path, HtmlIOManager, "<p>é</p>", str) == "<p>é</p>"
    assert (tmp_path / "upstream.html").read_text(encoding="utf-8") == "<p>é</p>"


@pytest.mark.slow
def test_each_night_says_what_is_true_of_it(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ratings = write_ratings(project.root / "ratings.csv", users=110)

    storage = StorageResource(root=str(project.storage), s3=S3Connection())

    def run_night(**attributes: Any) -> tuple[str, Reader]:
        project.declare({**declaration("shop", ratings), **attributes})
        result = refresh(project, "shop", instance, report=True)
        assert result.success
        verdict = str(metadata(result, "recommendation_report")["verdict"])
        assert summarize(PublishedResults(storage, "shop"), None)["verdict"] == verdict
        return verdict, Reader(report_file(project).read_text())

    strict = {"interactions": {"min_rating": 4.5}}
    first, report = run_night()
    assert "edition" not in first
    assert report.tables.keys().isdisjoint({"changed-data-table", "changed-settings-table"})
    had = interactions(project, "shop")
    lists = table(project, "shop")
    changed_setting, report = run_night(**strict)
    incomparability = (
        "Not comparable with edition 1: interactions.min_rating changed from 3.5 to 4.5."
    )
    assert changed_setting.endswith(incomparability)
    interactions_now = interactions(project, "shop")
    assert report.tables["changed-settings-table"][1:] == [
        ["interactions.min_rating", "3.5", "4.5"]
    ]
    assert "changed-metrics-table" not in report.tables
    data = {row[0]: row[1:] for row in report.tables["changed-data-table"][1:]}
    assert data["interactions"] == [had.height, interactions_now.height]
    new, vanished_items = (
        {*frame["ITEM_ID"]} - {*other["ITEM_ID"]}
        for frame, other in ((interactions_now, had), (had, interactions_now))
    )
    assert (data["new items"], data["vanished items"]) == ([len(new)], [len(vanished_items)])
    rows_kept = table(project, "shop").join(lists, on=["user_id", "item_id"], how="semi").height
    assert report.facts["overlap"] == pytest.approx(rows_kept / lists.height)  # all lists are full

    write_ratings(ratings, users=120)
    changed_data, report = run_night(**strict)
    assert "edition 2" in changed_data
    assert "Not comparable" not in changed_data
    assert report.facts["gained"] == 10
    edition = PublishedTable(
        storage.store, storage.uri(StorageKeys("shop").recommendations)
    ).current()
    assert edition is not None
    evidence = edition.about["evidence"]
    assert report.tables["groups-table"][1][:4] == [
        "All",
        *(pytest.approx(evidence[f"all/{name}"]) for name in ("users", "ndcg", "popular")),
    ]

    second_verdict, _ = run_night(**strict)
    assert "Unchanged: these are the lists of edition 3 of 20" in second_verdict

    def run_diff(*arguments: str) -> str:
        monkeypatch.setenv("BATCHREC_STORAGE", str(project.storage))
        result = CliRunner().invoke(main, ["diff", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    diff_text = run_diff("1", "2")
    assert diff_text.startswith("shop: edition 2 compared with edition 1")
    assert f"{rows_kept / lists.height:.1%} of a list is kept" in diff_text
    assert re.search(r"interactions.min_rating +3.5 +4.5\n", diff_text)
    assert re.search(rf"interactions +{had.height:,} +{interactions_now.height:,}\n", diff_text)
    assert json.loads(run_diff("--json"))["gained"] == 10
    assert CliRunner().invoke(main, ["diff", "7"]).exit_code == 3
