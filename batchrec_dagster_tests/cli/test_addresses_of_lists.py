"""Commands on a pipeline with several lists: its name stands for all, shop/home for one."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.cli.pipelines import expand_names
from batchrec_dagster_tests.guard.builders import declaration, module_project
from batchrec_dagster_tests.guard.seams.editions import (
    open_list,
    publish_rows,
    write_interactions,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two lists, which are published with the same rows."""
    project = module_project(tmp_path)
    lists = {"newsletter": {}, "home": {"num_results": 20}}
    project.declare(declaration("shop", "ratings.csv", lists=lists))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BATCHREC_HOME", str(tmp_path))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    for name in lists:
        rows = {"user_id": ["u3"], "rank": [1], "item_id": ["i04"], "score": [0.5]}
        publish_rows(open_list(tmp_path, f"shop/{name}"), pl.DataFrame(rows))
    write_interactions(open_list(tmp_path, "shop/home"), [("u3", "i04", 1_500_000_000)])
    return tmp_path


def invoke(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, arguments)
    return result.exit_code, result.output


def list_addresses(*arguments: str) -> list[str]:
    code, output = invoke("show", *arguments, "--json")
    assert code == 0, output
    return [answer["pipeline"] for answer in json.loads(output)["pipelines"]]


def test_show_answers_for_the_lists_that_a_name_stands_for(home: Path) -> None:
    everywhere = ["shop/home", "shop/newsletter"]
    assert list_addresses() == everywhere
    assert list_addresses("u3", "--pipeline", "shop") == everywhere
    assert list_addresses("u3", "--pipeline", "shop/home") == ["shop/home"]
    assert list_addresses("--item", "i04", "--pipeline", "shop/home") == ["shop/home"]


def test_an_unknown_list_is_named_with_those_that_there_are(home: Path) -> None:
    code, output = invoke("show", "u3", "--pipeline", "shop/hoem")
    assert code == 3
    assert "'shop/hoem'" in output
    assert "shop/home, shop/newsletter" in output


def test_a_rollback_needs_one_list(home: Path) -> None:
    code, output = invoke("rollback", "shop")
    assert code == 3
    assert "name shop/home or shop/newsletter" in output
    code, output = invoke("rollback", "shop/home", "--to", "5")
    assert code == 3
    assert "there is no edition '5'" in output


def test_a_diff_needs_one_list(home: Path) -> None:
    code, output = invoke("diff", "--pipeline", "shop")
    assert code == 2
    assert "shop/home, shop/newsletter" in output


def test_editions_are_listed_by_list(home: Path) -> None:
    code, output = invoke("list", "shop", "--editions", "--json")
    assert code == 0, output
    assert [nights["pipeline"] for nights in json.loads(output)] == ["shop/home", "shop/newsletter"]
    code, output = invoke("list", "shop/hoem", "--editions")
    assert code == 3
    assert "shop/home, shop/newsletter" in output


def test_the_report_of_a_list_opens(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda address: True)
    page = home / "storage/shop/lists/home/curated/report/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("a page")
    # It is the newest of the pipeline's reports, too.
    for name in ("shop/home", "shop"):
        code, output = invoke("open", "--pipeline", name)
        assert (code, output.strip()) == (0, str(page.relative_to(home)))


def test_similar_items_are_listed_by_their_address(home: Path) -> None:
    file = next(home.rglob("defs/shop/defs.yaml"))
    content = yaml.safe_load(file.read_text())
    content["attributes"]["similar_items"] = {"num_results": 8}
    file.write_text(yaml.safe_dump(content))
    code, output = invoke("list", "shop", "--editions", "--json")
    assert code == 0, output
    assert [nights["pipeline"] for nights in json.loads(output)] == [
        "shop/home",
        "shop/newsletter",
        "shop/similar_items",
    ]


def test_a_name_stands_for_its_lists_alone() -> None:
    addresses = ["shop/home", "shop/mail", "shop2", "club"]
    assert expand_names(["shop"], addresses) == ["shop/home", "shop/mail"]
    assert expand_names(["shop2", "shop/mail", "shop"], addresses) == [
        "shop2",
        "shop/mail",
        "shop/home",
    ]
    assert expand_names(["nobody"], addresses) == ["nobody"]
