"""Tests of `batchrec forget` that is interrupted or refused, or finds nobody."""

from __future__ import annotations

import threading
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    module_project,
    refresh,
    table,
    why,
    write_ratings,
    zip_members,
)
from batchrec_dagster_tests.guard.faults.crashes import Crash, crash_at, kill_before_write_when
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.forgetting_shop import Shop
from batchrec_dagster_tests.guard.oracles.marks import read_files
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.preparation import before_unpacking
from batchrec_dagster_tests.guard.servers.web import Page, serving

pytestmark = pytest.mark.slow

LISTS = "shop/curated/recommendations/recommendations.parquet"
# The number of an erasure's writes to interrupt in the tests of a commit.
CRASHES = 3


@pytest.fixture
def first_shop(first_run: FirstRun, project: Project, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Return the pipeline of the session's first run, with its Personalize and storage."""
    first_run.copy_to(project)
    shop = Shop(project, monkeypatch)
    shop.enter()
    return shop


def test_an_erasure_that_ends_at_any_write_is_continued(
    first_run: FirstRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same command continues the erasure, and may name the people in another order."""

    def forget_and_end(write: int) -> tuple[Shop, Crash]:
        """Return a shop, and the crash that ended an erasure before this write."""
        root = tmp_path / f"{write}"
        root.mkdir()
        shop = Shop(module_project(root), monkeypatch)
        first_run.copy_to(shop.project)
        shop.enter()
        with crash_at(write, shop.project.storage) as crash:
            shop.forget("7", "9", "--yes")
        return shop, crash

    lists = pl.read_parquet(first_run.lists)
    other_lists = lists.filter(~pl.col("user_id").is_in(["7", "9"]))
    _, whole = forget_and_end(10_000)
    assert not whole.has_happened
    number = len(whole.writes)
    for write in range(0, number, repeats(1, number // CRASHES)):
        shop, crash = forget_and_end(write)
        assert crash.has_happened
        left = table(shop.project, "shop")
        assert left.equals(lists) or left.equals(other_lists)
        result = shop.forget("9", "7", "--yes")
        assert result.exit_code == 0, result.output
        assert table(shop.project, "shop").equals(other_lists)
        assert not shop.is_found("7", "9")


def test_an_erasure_whose_process_is_killed_is_continued_by_another(first_shop: Shop) -> None:
    project = first_shop.project
    project.environment["BATCHREC_HOME"] = str(project.root / ".batchrec")
    interactions = project.storage / "shop/transformed/interactions/interactions.csv"

    def is_erased() -> bool:
        return not interactions.exists() or b"\n7," not in interactions.read_bytes()

    assert not is_erased()
    kill_before_write_when(is_erased, project, ["forget", "7", "--yes"])
    assert first_shop.is_found("7")
    result = first_shop.forget("7", "--yes")
    assert result.exit_code == 0, result.output
    assert not first_shop.is_found("7")
    assert "7" not in {*table(project, "shop").get_column("user_id")}


def test_nothing_is_erased_while_a_run_is_under_way(first_shop: Shop) -> None:
    with dg.DagsterInstance.local_temp(str(first_shop.home)) as instance:
        run = instance.create_run_for_job(
            dg.JobDefinition(name="shop_refresh", graph_def=dg.GraphDefinition(name="empty"))
        )
        instance.report_run_canceling(run)
        result = first_shop.forget("7", "--yes")
        assert result.exit_code == 1
        assert run.run_id in result.output
        assert "7" in {*table(first_shop.project, "shop").get_column("user_id")}
        instance.report_run_canceled(run)
        assert first_shop.forget("7", "--yes").exit_code == 0
    assert "7" not in {*table(first_shop.project, "shop").get_column("user_id")}


def test_a_download_that_another_pipeline_reads_is_deleted_when_it_was_read(
    first_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipelines of a deployment share the cache of downloads."""
    project = first_shop.project
    cache = project.root / ".batchrec" / "cache"
    content = zip_members({"ratings.csv": (project.root / "ratings.csv").read_bytes()})
    erasures: list[threading.Thread] = []

    def erase() -> None:
        if not erasures:
            erasure = threading.Thread(target=first_shop.forget, args=("7", "9", "--yes"))
            erasures.append(erasure)
            erasure.start()
            # An erasure that does not wait for the reader ends now.
            erasure.join(3)

    monkeypatch.setenv("no_proxy", "*")
    with serving() as web, dg.DagsterInstance.ephemeral() as instance:
        web.pages["/ratings.zip"] = Page(content)
        project.declare(declaration("films", web.url("/ratings.zip!/ratings.csv")))
        with before_unpacking(erase):
            first = refresh(project, "films", instance, assets=["raw_ratings", "interactions"])
        erasures[0].join()
        assert first.success, why(first)
        assert not [path for path in cache.rglob("*") if path.is_file()]
        assert not first_shop.is_found("7", "9")
        web.pages["/ratings.zip"] = Page(content, etag='"2"')
        second = refresh(project, "films", instance)
        assert second.success, why(second)
        assert {"7", "9"}.isdisjoint(table(project, "films")["user_id"])
        assert first_shop.run().success
        assert {"7", "9"}.isdisjoint(table(project, "shop")["user_id"])


def test_until_the_next_refresh_lists_are_shown_and_rolled_back(first_shop: Shop) -> None:
    """The refresh makes the cleaned files again. The lists can be used before it."""
    write_ratings(first_shop.project.root / "ratings.csv", seed=5)
    assert first_shop.run().success
    assert first_shop.forget("7", "--yes").exit_code == 0
    for command in (["show"], ["show", "9"], ["diff"], ["list"]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
    with (
        dg.DagsterInstance.local_temp(str(first_shop.home)) as instance,
        definitions(first_shop.project) as defs,
    ):
        assert defs.resolve_job_def("shop_rollback").execute_in_process(instance=instance).success
    users = {*table(first_shop.project, "shop").get_column("user_id")}
    assert users == {str(user) for user in range(1, 61)} - {"7"}
    assert first_shop.run().success


def test_a_sink_that_cannot_be_reached_is_named_after_all_else_is_erased(
    first_shop: Shop, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_DATABASE_URL", postgres_url)
    first_shop.declare(sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}})
    assert first_shop.run().success
    monkeypatch.delenv("SHOP_DATABASE_URL")
    for _ in range(2):
        result = first_shop.forget("7", "--yes")
        assert result.exit_code == 1
        assert "SHOP_DATABASE_URL is not set" in " ".join(result.output.split())
        assert "7" not in {*table(first_shop.project, "shop").get_column("user_id")}
    # The message says which file to delete if the database is gone for good.
    (record,) = (first_shop.project.storage / "shop/records/sinks").iterdir()
    assert str(record) in "".join(result.output.split())
    record.unlink()
    assert first_shop.forget("7", "--yes").exit_code == 0


def test_a_kept_edition_that_is_damaged_is_deleted_and_a_live_one_is_named(
    first_shop: Shop,
) -> None:
    lists = first_shop.project.storage / LISTS
    history = lists.parents[1] / "history/recommendations"
    history.mkdir(parents=True)
    (history / "000000-v0.parquet").write_bytes(b"7")
    assert first_shop.forget("7", "--yes").exit_code == 0
    assert not [*history.iterdir()]
    lists.write_bytes(lists.read_bytes()[:500])
    result = first_shop.forget("9", "--yes")
    assert result.exit_code == 1
    assert str(lists) in result.output
    assert "delete it, and run the refresh" in " ".join(result.output.split())


@pytest.mark.parametrize(
    ("content", "erased"),
    [
        (b"\xef\xbb\xbfuser_id,mail\n7,a@example.org\n\n9,\n7,\n", {"7", "9"}),
        (b"userId\r\n7\r\n", {"7"}),
        ('"a ""b"", c"\n=7\nü\n'.encode(), set()),
    ],
)
def test_the_ids_of_a_file_are_its_first_column(
    first_shop: Shop, content: bytes, erased: set[str]
) -> None:
    users = {*table(first_shop.project, "shop").get_column("user_id")}
    (first_shop.project.root / "ids.csv").write_bytes(content)
    result = first_shop.forget("--file", "ids.csv", "--yes")
    assert result.exit_code == 0, result.output
    assert {*table(first_shop.project, "shop").get_column("user_id")} == users - erased


BAD_ARGUMENTS: list[tuple[list[str], bytes]] = [
    ([], b""),
    (["--file", "ids.csv"], b""),
    (["--file", "ids.csv"], b"user_id\n\n"),
    (["--file", "ids.csv"], b"\xff\xfe"),
    (["--file", "ids.csv"], b'"7'),
    (["--file", "ids.csv"], b",7\n"),
    ([""], b""),
    (["7", "--pipeline", "films"], b""),
]


def test_people_who_are_not_named_well_are_not_erased(first_shop: Shop) -> None:
    before = [*read_files(first_shop.project.storage)]
    for arguments, content in BAD_ARGUMENTS:
        (first_shop.project.root / "ids.csv").write_bytes(content)
        result = first_shop.forget(*arguments, "--yes")
        assert result.exit_code in (1, 2, 3), arguments
        assert [*read_files(first_shop.project.storage)] == before, arguments
