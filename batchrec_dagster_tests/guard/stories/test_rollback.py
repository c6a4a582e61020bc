"""Tests of going back to earlier lists, and of the withdrawn lists afterwards."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner, Result

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    definitions,
    metadata,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.crashes import kill_when
from batchrec_dagster_tests.guard.first_run import DECLARATION, FirstRun
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.seams.publishing import (
    Editions,
    NightsWork,
    NoEditionError,
    Refused,
)
from batchrec_dagster_tests.guard.seams.store import StorageError, Store

TIME = datetime(2026, 1, 5, 3, tzinfo=UTC)
HISTORY = "shop/curated/history/recommendations/"
LISTS = "shop/curated/recommendations/recommendations.parquet"


@pytest.fixture
def editions(tmp_path: Path) -> Editions:
    return Editions(Store.open(tmp_path / "storage"), kept=9)


def make(letter: str, items: str = "") -> NightsWork:
    """Return the work of the night with this letter, with its own model and data."""
    lists = pl.DataFrame({"user_id": ["1"], "rank": [1], "item_id": [items or f"item {letter}"]})
    night = NightsWork(f"arn:m/{letter}", f"data {letter}", lists, TIME)
    return replace(night, time=TIME + timedelta(days=ord(letter)))


def publish(editions: Editions, letters: str) -> None:
    for letter in letters:
        editions.publish(make(letter))


def roll_back(editions: Editions, to: int | None = None, run: str = "run") -> int:
    return editions.roll_back(to, run=run, time=TIME + timedelta(days=200))


def read_item(editions: Editions) -> str:
    live = editions.live()
    assert live is not None
    (item,) = live.lists.get_column("item_id")
    return str(item)


def test_each_time_it_goes_one_further_back_and_to_any_by_its_number(editions: Editions) -> None:
    publish(editions, "ABCD")
    assert roll_back(editions, run="run 1") == 3
    assert roll_back(editions, run="run 2") == 2
    assert read_item(editions) == "item B"
    # An edition that somebody goes forward to is good again. Withdrawn editions are skipped.
    assert roll_back(editions, 4, run="run 3") == 4
    assert editions.publish(replace(make("D"), time=TIME)) == 4
    assert roll_back(editions, run="run 4") == 1
    assert read_item(editions) == "item A"
    for to, run in ((None, "run 5"), (7, "run 6")):
        with pytest.raises(NoEditionError):
            roll_back(editions, to, run=run)
    assert read_item(editions) == "item A"


def test_before_anything_is_published_there_is_nothing_to_go_back_to(editions: Editions) -> None:
    with pytest.raises(NoEditionError):
        roll_back(editions)


def test_a_damaged_edition_is_passed_over_and_nothing_is_taken_back(editions: Editions) -> None:
    publish(editions, "AB")
    (older,) = editions.store.list(HISTORY)
    content = editions.store.get(older)
    editions.store.put(older, content[: len(content) // 2])
    with pytest.raises(NoEditionError):
        roll_back(editions)
    assert read_item(editions) == "item B"
    assert editions.publish(make("B")) == 2


def test_lists_that_were_rolled_back_do_not_come_back_from_another_model(
    editions: Editions,
) -> None:
    publish(editions, "AB")
    assert roll_back(editions) == 1
    retrained = replace(make("B", "other items"), model="arn:m/retrained")
    for night in (make("B"), retrained):
        with pytest.raises(Refused, match="rolled back"):
            editions.publish(night)
    assert read_item(editions) == "item A"
    # A person publishes them anyway. Then they may also be published again.
    assert editions.publish(retrained, anyway=True) == 3
    assert read_item(editions) == "other items"
    publish(editions, "C")
    assert editions.publish(retrained) == 5


def test_the_same_model_may_make_lists_for_other_users_after_a_rollback(
    editions: Editions,
) -> None:
    for_all, for_nobody, for_some = (
        replace(make("A", users), users_version=users) for users in ("all", "nobody", "some")
    )
    editions.publish(for_all)
    editions.publish(for_nobody)
    assert roll_back(editions) == 1
    with pytest.raises(Refused):
        editions.publish(for_nobody)
    assert editions.publish(for_some) == 3


def test_mostly_missing_data_do_not_empty_restored_lists(
    editions: Editions,
) -> None:
    users = [str(number) for number in range(10)]
    lists = pl.DataFrame({"user_id": users, "rank": [1] * 10, "item_id": ["a"] * 10})
    for letter in "ABC":
        editions.publish(replace(make(letter), lists=lists))
    editions.erase(["3"])
    editions.set_users(users[1:3] + users[4:])
    assert roll_back(editions, run="one is absent") == 2
    live = editions.live()
    assert live is not None
    assert live.users == {*users} - {"0", "3"}
    editions.set_users(users[:5])
    assert roll_back(editions, run="a half is absent") == 1
    live = editions.live()
    assert live is not None
    assert live.users == {*users} - {"3"}


def test_items_blocked_today_are_on_no_restored_list(tmp_path: Path) -> None:
    (tmp_path / "blocked.csv").write_text("item\nb\n")
    rules = {"block": {"source": str(tmp_path / "blocked.csv")}, "only": "ITEMS.STOCK > 0"}
    items = {"source": "items.csv", "columns": {"item": "id", "numbers": {"STOCK": "stock"}}}
    settings = {"recommendations": {"rules": rules}, "items": items}
    editions = Editions(Store.open(tmp_path / "storage"), kept=9, settings=settings)
    stock = "ITEM_ID,STOCK\na,1\nb,1\nc,0\nd,5\n"
    editions.store.put("shop/transformed/items/items.csv", stock.encode())
    lists = pl.DataFrame(
        {
            "user_id": ["1", "1", "1", "2", "3", "3"],
            "rank": [1, 2, 3, 1, 1, 2],
            "item_id": ["b", "c", "a", "b", "d", "b"],
        }
    )
    editions.publish(replace(make("A"), lists=lists))
    editions.publish(make("B"))
    assert roll_back(editions) == 1
    live = editions.live()
    assert live is not None
    assert live.lists.rows() == [("1", 1, "c"), ("1", 2, "a"), ("3", 1, "d")]
    assert editions.count_against_only() == 1
    # The kept edition is whole, and items that are no longer blocked come back.
    (tmp_path / "blocked.csv").write_text("item\nx\n")
    editions.publish(make("C"))
    assert roll_back(editions, 1, run="later") == 1
    live = editions.live()
    assert live is not None
    assert live.lists.height == 6


@pytest.mark.parametrize("is_record_lost", [False, True])
def test_following_the_advice_for_a_damaged_file_brings_nothing_back(
    editions: Editions, is_record_lost: bool
) -> None:
    publish(editions, "ABC")
    assert roll_back(editions) == 2
    if is_record_lost:
        editions.lose_record()
    else:
        editions.damage_live()
        with pytest.raises(StorageError, match="delete it"):
            editions.publish(make("C"))
        editions.delete_live()
    with pytest.raises(Refused, match="rolled back"):
        editions.publish(make("C"))
    assert editions.publish(make("D")) == 4
    with pytest.raises(Refused, match="rolled back"):
        editions.publish(make("C"))


def test_an_unchanged_edition_is_judged_again_and_never_refused(editions: Editions) -> None:
    publish(editions, "AB")
    strict = replace(editions, settings={"gate": {"min_ndcg_at_25": 0.9}})
    with pytest.raises(Refused, match="min_ndcg_at_25"):
        strict.publish(make("C"))
    assert strict.publish(make("B")) == 2
    assert [number for number, _, _ in editions.nights()] == [1, 2]


def test_an_edition_that_somebody_copied_back_is_live_again(editions: Editions) -> None:
    publish(editions, "AB")
    (first,) = editions.store.list(HISTORY)
    editions.store.put(LISTS, editions.store.get(first))
    assert read_item(editions) == "item A"
    # The next edition is compared with the live lists.
    publish(editions, "C")
    assert editions.before() == 1


def test_a_record_that_is_lost_is_made_from_the_editions_that_are_kept(editions: Editions) -> None:
    publish(editions, "ABC")
    nights = editions.nights()
    editions.lose_record()
    assert editions.nights() == nights
    assert editions.before() == 2
    publish(editions, "D")
    assert [number for number, _, _ in editions.nights()] == [1, 2, 3, 4]


@pytest.fixture
def shop(first_run: FirstRun, project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return the project of the session's first run, in the working folder."""
    first_run.copy_to(project)
    project.declare({**DECLARATION, "gate": {"max_drop": 1}})
    project.environment["BATCHREC_HOME"] = str(project.root / ".batchrec")
    shutil.copy(REPOSITORY / "batchrec_dagster/definitions.py", project.package)
    for name, value in project.process_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(project.root)
    return project


def type_command(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(main, words, input=answer)


@pytest.mark.slow
@nightly("three runs and a process")
def test_a_rollback_and_the_nights_after_it(shop: Project) -> None:
    """Rollbacks are made by the job, by the command, and by a process that is killed."""
    editions = Editions(Store.open(shop.storage))
    first = table(shop, "shop")
    page = shop.storage / "shop/curated/report/index.html"

    def run_night() -> dg.ExecuteInProcessResult:
        with dg.DagsterInstance.ephemeral() as instance:
            return refresh(shop, "shop", instance)

    write_ratings(shop.root / "ratings.csv", users=61, seed=1)
    assert run_night().success
    second = table(shop, "shop")
    assert second.get_column("user_id").n_unique() == 61
    with definitions(shop) as defs, dg.DagsterInstance.ephemeral() as instance:
        back = defs.resolve_job_def("shop_rollback").execute_in_process(instance=instance)
    assert metadata(back, "recommendations")["dagster/row_count"] == first.height
    assert table(shop, "shop").equals(first)
    assert page.exists()

    # Without new data, a run does not publish the withdrawn lists again.
    assert not run_night().success
    assert table(shop, "shop").equals(first)
    # New lists are published, after a comparison with the live lists.
    write_ratings(shop.root / "ratings.csv", users=62, seed=2)
    assert run_night().success
    assert editions.before() == 1
    assert "edition 3 compared with edition 1" in type_command("diff").output

    # A person wants the second edition after all, and is asked first.
    assert type_command("rollback", "shop", "--to", "2", answer="n\n").exit_code == 1
    third = table(shop, "shop")
    assert third.get_column("user_id").n_unique() == 62
    # The process dies at the publication. The same command continues it, and goes no further back.
    page.unlink()

    def is_published() -> bool:
        live = editions.live()
        return live is not None and live.number == 2

    kill_when(is_published, shop, ["batchrec", "rollback", "shop", "--to", "2", "--yes"])
    assert table(shop, "shop").equals(second)
    assert not page.exists()
    finished = type_command("rollback", "shop", "--yes")
    assert finished.exit_code == 0, finished.output
    assert is_published()
    assert page.exists()
    assert type_command("rollback", "shop", "--to", "9", "--yes").exit_code == 3
    assert type_command("rollback", "club", "--yes").exit_code == 3
    assert is_published()
