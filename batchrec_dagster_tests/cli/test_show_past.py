"""`batchrec show USER --edition NUMBER`: what this person got then, and why."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.steps.arms import CONTROL, MODEL, assign_arm
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition, restore
from batchrec_dagster_tests.texts import assert_texts

# Ann has watched a film on each of these days of November 2026, others have the same ones.
WATCHED = {"blade": 10, "comet": 18, "delta": 22}
EXPERIMENTS = [
    Experiment(name=name, control_share=0.5, control="none")
    for name in ("autumn", "winter", "spring", "summer", "snow", "rain", "wind", "sun")
]
# Ann gets lists in it.
EXPERIMENT = next(trial for trial in EXPERIMENTS if assign_arm("ann", trial) == MODEL)


def compute_time(day: int, hour: int = 3) -> datetime:
    return datetime(2026, 11, day, hour, 10, tzinfo=UTC)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ListFiles:
    """A pipeline with interactions, and without editions."""
    monkeypatch.setenv("BATCHREC_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    deployment = Deployment.from_environment({"BATCHREC_HOME": str(tmp_path)})
    files = ListFiles(deployment.open_storage(), ListKeys("shop"))
    rows = [
        (user, item, int(compute_time(day, 0).timestamp()))
        for user in ("ann", "bob", "cat")
        for item, day in WATCHED.items()
    ]
    # Bob and Cat have what Ann is recommended.
    rows += [
        (user, item, int(compute_time(11).timestamp()))
        for user in ("bob", "cat")
        for item in ("egret", "fjord")
    ]
    # Eve has something else, so it is more than chance that the others share their items.
    rows.append(("eve", "aside", int(compute_time(10).timestamp())))
    table = pl.DataFrame(rows, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")
    files.storage.store.put(files.interactions, table.write_csv().encode())
    return files


def publish(files: ListFiles, item: str, time: datetime, keep: int = 7, **about: Any) -> None:
    """Publish an edition in which Ann and Bob get this item."""
    number = files.editions.next_number()
    lists = pl.DataFrame(
        {
            "user_id": ["ann", "bob"],
            "rank": [1, 1],
            "item_id": [item, item],
            "title": [f"The {item}"] * 2,
            "score": [0.5, 0.5],
        }
    )
    if "experiment" in about:
        arms = [assign_arm(user, EXPERIMENT) for user in lists["user_id"]]
        lists = lists.with_columns(arm=pl.Series(arms)).filter(arm=MODEL)
    path = Path("lists.parquet")
    with ListWriter(path) as writer:
        writer.write(lists.to_arrow(compat_level=pl.CompatLevel.oldest()))
        data_until = {"data_until": int(compute_time(time.day - 1, 0).timestamp())}
        writer.finish(
            make_edition(
                {
                    "number": number,
                    "version": f"v{number}",
                    "made_at": time.isoformat(),
                    **data_until,
                    **about,
                }
            )
        )
    files.editions.publish(path, keep, ALONE)


def roll_back(files: ListFiles, number: int, time: datetime) -> None:
    (edition,) = [edition for edition in files.editions.older() if edition.number == number]
    restore(files.editions, edition, time)


def show(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["show", *arguments])
    return result.exit_code, result.output


def show_json(*arguments: str) -> dict[str, Any]:
    code, output = show(*arguments, "--json")
    assert code == 0, output
    (pipeline,) = json.loads(output)["pipelines"]
    assert isinstance(pipeline, dict)
    return pipeline


def test_what_a_person_got_in_an_edition_is_shown(files: ListFiles) -> None:
    publish(files, "egret", compute_time(20))
    publish(files, "fjord", compute_time(22))
    roll_back(files, 1, compute_time(22, 9))
    commands = [
        "ann --edition 1",
        "ann --edition 2",
        "ann --edition 9",
        "dan --edition 1",
        "--edition 1",
    ]
    texts = [(f"batchrec show {command}", show(*command.split())[1]) for command in commands]
    assert_texts("show_past", texts)
    codes = [show(*command.split())[0] for command in commands]
    assert codes == [0, 0, 3, 3, 2]
    second = show_json("ann", "--edition", "2")
    assert second["edition"] == 2
    assert second["periods"] == [
        {"since": "2026-11-22T03:10:00Z", "until": "2026-11-22T09:10:00Z", "is_last": False}
    ]
    # The history of then has nothing of the day on which it was published.
    assert [entry["item"] for entry in second["history"]] == ["comet", "blade"]
    (entry,) = second["recommendations"]
    assert (entry["item"], entry["title"], entry["users_with_both"]) == ("fjord", "The fjord", 2)
    first = show_json("ann", "--edition", "1")
    assert (first["edition"], len(first["periods"])) == (1, 2)
    assert (show_json("ann")["edition"], show_json("ann")["periods"]) == (1, None)


def test_an_edition_that_is_no_longer_kept_says_when_it_was_live(files: ListFiles) -> None:
    for day in (20, 21, 22):
        publish(files, "egret", compute_time(day), keep=1)
    code, output = show("ann", "--edition", "1")
    assert (code, len(output.splitlines())) == (3, 1)
    assert "live from 2026-11-20 03:10 to 2026-11-21 03:10 UTC, and is no longer kept" in output
    assert "one older one are (2, 3), by the setting retention.editions" in output
    assert "edition 1 of shop was live" in output


def test_a_user_of_the_control_is_told_so(files: ListFiles) -> None:
    users = [f"u{number}" for number in range(20)]
    control = next(user for user in users if assign_arm(user, EXPERIMENT) == CONTROL)
    publish(files, "egret", compute_time(20), experiment=EXPERIMENT.model_dump())
    publish(files, "fjord", compute_time(21))
    key = files.keys.users_without_lists("v1")
    files.write_parquet(key, pl.DataFrame({"user_id": [control], "error": [None]}))
    table = pl.read_csv(files.storage.store.get(files.interactions))
    table = table.with_columns(USER_ID=pl.col("USER_ID").replace("cat", control))
    files.storage.store.put(files.interactions, table.write_csv().encode())
    assert show_json(control, "--edition", "1")["arm"] == CONTROL
    assert "arm control of the experiment" in show(control, "--edition", "1")[1]
    assert show_json("ann", "--edition", "1")["arm"] == MODEL
    assert show_json("ann", "--edition", "2")["arm"] is None


def test_why_is_not_known_where_nothing_explains_it_any_more(files: ListFiles) -> None:
    publish(files, "egret", compute_time(20), data_until=None)
    publish(files, "fjord", compute_time(21))
    without = show_json("ann", "--edition", "1")
    assert [entry["because"] for entry in without["recommendations"]] == [None]
    assert "Why is not known: edition 1 does not say" in without["notes"][-1]
    files.storage.store.delete(files.interactions)
    gone = show_json("ann", "--edition", "2")
    assert [entry["item"] for entry in gone["recommendations"]] == ["fjord"]
    assert "no longer there" in gone["notes"][-1]
