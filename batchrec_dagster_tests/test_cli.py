"""The `batchrec` command."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster_tests.support import declaration, module_project, refresh, write_ratings


def show(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["show", *arguments])
    return result.exit_code, result.output


def test_without_dagsters_home_it_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    code, said = show()
    assert code == 1
    assert "DAGSTER_HOME is not set" in said


def test_show_tells_what_came_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "dagster"
    home.mkdir()
    (home / "dagster.yaml").touch()
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    assert show() == (1, "Error: no recommendations yet: start a refresh job first\n")

    project = module_project(tmp_path)
    project.declare(declaration("shop", write_ratings(tmp_path / "ratings.csv")))
    with dg.DagsterInstance.get() as instance:
        assert refresh(project, "shop", instance).success
    code, said = show()
    assert code == 0
    table = project.storage / "shop/curated/recommendations/recommendations.parquet"
    assert said.startswith("shop\n  ratings       1,800 rows of ")
    assert "lists         1,500 items for 60 users" in said
    assert "for the most popular items" in said
    assert f"table         {table}\n" in said
    assert show("--pipeline", "shop") == (code, said)
    assert show("--pipeline", "club") == (
        1,
        "Error: no recommendations of 'club' yet; there are those of: shop\n",
    )


def test_the_local_personalize_is_one_of_its_commands() -> None:
    result = CliRunner().invoke(main, ["local-personalize", "--help"])
    assert result.exit_code == 0
    assert "--s3-endpoint" in result.output
