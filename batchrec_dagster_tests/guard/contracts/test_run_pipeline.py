"""Tests of `run_pipeline`, by which a team's tests run their YAML in a temporary home."""

from __future__ import annotations

import sys

import polars as pl
import pytest
import yaml

from batchrec_dagster.testing import RunFailedError, RunPipeline, run_pipeline
from batchrec_dagster_tests.guard.builders import Project, declaration, write_ratings

__all__ = ["run_pipeline"]
TYPE = "batchrec_dagster.BatchRecommendations"


@pytest.fixture
def team(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a production project with ratings in a warehouse, and lists in S3 and a database."""
    monkeypatch.chdir(project.root)
    monkeypatch.delitem(sys.modules, project.package.name, raising=False)
    write_ratings(project.root / "tests" / "orders.csv")
    write_ratings(project.root / "tests" / "few.csv", users=3)
    attributes = declaration(
        "shop",
        "s3://warehouse/orders.csv",
        sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}},
        alerts={"urls_env": "SHOP_ALERTS"},
    )
    attributes["recommendations"] = {"num_results": 5}
    project.declare(attributes)
    monkeypatch.setenv("BATCHREC_STORAGE", "s3://lists/batchrec")
    monkeypatch.setenv("BATCHREC_PERSONALIZE", "aws")
    return project


@pytest.mark.slow
def test_a_teams_own_yaml_runs_in_a_home_of_its_own(
    team: Project, run_pipeline: RunPipeline
) -> None:
    run = run_pipeline("shop", {"ratings.source": "tests/orders.csv"})
    assert run.lists["user_id"].n_unique() == 60
    assert run.lists.group_by("user_id").len()["len"].unique().to_list() == [5]
    ratings = pl.read_csv(team.root / "tests" / "orders.csv")
    count = ratings.filter(pl.col("rating") >= 3.5).height
    assert run.metadata("interactions")["dagster/row_count"] == count
    assert run.failed_checks == []
    assert not (team.root / ".batchrec").exists()
    assert (run.home / "storage" / "shop").is_dir()


def test_a_run_that_fails_says_why(team: Project, run_pipeline: RunPipeline) -> None:
    settings = {"ratings.source": "tests/few.csv"}
    with pytest.raises(RunFailedError, match=r"shop__interactions: enough_interactions: "):
        run_pipeline("shop", settings)
    run = run_pipeline("shop", settings, may_fail=True)
    assert run.failed_checks == ["enough_interactions"]
    with pytest.raises(KeyError, match="shop/recommendations was not made"):
        run.metadata("recommendations")


@pytest.mark.slow
def test_lists_are_read_by_their_name(team: Project, run_pipeline: RunPipeline) -> None:
    lists = {"newsletter": {"num_results": 3}, "home": {"num_results": 4}}
    source = str(team.root / "tests" / "orders.csv")
    team.declare(declaration("two", source, lists=lists))
    run = run_pipeline("two")
    lengths = {name: run.lists_of(name)["rank"].max() for name in lists}
    assert lengths == {"newsletter": 3, "home": 4}
    with pytest.raises(KeyError, match="mail"):
        run.lists_of("mail")
    with pytest.raises(ValueError, match=r"lists_of.*newsletter, home"):
        _ = run.lists


@pytest.mark.slow
def test_each_pipeline_of_a_file_runs(team: Project, run_pipeline: RunPipeline) -> None:
    file = team.declare(declaration("shop", "tests/orders.csv"))
    second = yaml.safe_dump(
        {"type": TYPE, "attributes": declaration("club", "tests/orders.csv")}, sort_keys=False
    )
    file.with_name("defs.yml").write_text(f"{file.read_text()}---\n{second}")
    file.unlink()
    for name in ("shop", "club"):
        assert run_pipeline(name).lists["user_id"].n_unique() == 60


def test_a_pipeline_that_cannot_run_is_refused(team: Project, run_pipeline: RunPipeline) -> None:
    with pytest.raises(Exception, match="club"):
        run_pipeline("club")
    with pytest.raises(Exception, match=r"ratings\.source"):
        run_pipeline("shop", {"ratings.source": "ftp://x/y"})
