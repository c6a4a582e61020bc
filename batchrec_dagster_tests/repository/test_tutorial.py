"""Tests that README and the tutorial show the actual output of their commands.

The commands run in a fresh clone. `make pictures` takes the pictures of the demo.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import REPOSITORY, Project
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.dagster_ui import LOCATION, UPRIGHT, ui_of
from batchrec_dagster_tests.repository.typed_pages import (
    EXAMPLE_SHOP,
    README,
    TUTORIAL,
    clone_project,
    list_commands,
    read_code_blocks,
    type_commands,
)

pytestmark = pytest.mark.slow

DEMO = "movielens"
PICTURES = ("lineage.png", "report.png", "report-people.png")
MOST_BYTES = 250_000
# The folder for new pictures, which `make pictures` sets.
NEW_PICTURES = os.environ.get("BATCHREC_PICTURES", "")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a fresh clone of the project."""
    return clone_project(tmp_path_factory.mktemp("clone") / "batchrec")


@pytest.fixture(scope="module")
def demo(clone: Path) -> str:
    """Return the demo's output, which README starts with."""
    return type_commands(list_commands(README)[:1], clone)


@pytest.mark.skipif(not NEW_PICTURES, reason="make pictures takes them")
def test_new_pictures_are_taken(demo: str, clone: Path, browser: Any) -> None:
    project, folder = Project(clone), Path(NEW_PICTURES)
    home = project.process_environment()["DAGSTER_HOME"]
    with dg.DagsterInstance.from_config(home) as instance:
        assets = [key.path[-1] for key in instance.all_asset_keys() if key.path[0] == DEMO]
    _take_lineage(browser, project, assets, folder / "lineage.png")
    report = (project.storage / DEMO / "curated/report/index.html").as_uri()
    _take_report(browser, report, "light", folder / "report.png")
    _take_report(browser, f"{report}#person", "dark", folder / "report-people.png")


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_of_the_pages_is_there_and_small(name: str) -> None:
    assert 0 < (REPOSITORY / "docs/images" / name).stat().st_size <= MOST_BYTES


def _take_lineage(browser: Any, project: Project, assets: list[str], file: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = browser.new_page(viewport={"width": 1400, "height": 1760})
    page.add_init_script(UPRIGHT)
    with ui_of(project, project.root) as address:
        page.goto(f"{address}/locations/{LOCATION}/asset-groups/{DEMO}/lineage")
        expect(page.get_by_text("Materialized")).to_have_count(len(assets))
        expect(page.get_by_text("Loading")).to_have_count(0)
        # The name of an asset stands at the upper left of its box.
        boxes = [page.get_by_text(asset, exact=True).first.bounding_box() for asset in assets]
        left_edge, top = (min(box[side] for box in boxes) - 50 for side in ("x", "y"))
        right, bottom = (
            max(box[side] for box in boxes) + size for side, size in (("x", 250), ("y", 160))
        )
        clip = {"x": left_edge, "y": top, "width": right - left_edge, "height": bottom - top}
        page.screenshot(path=file, clip=clip)
        page.close()


def _take_report(browser: Any, address: str, scheme: str, file: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    page.goto(address)
    page.screenshot(path=file)
    page.close()


@nightly("a clone in which commands are typed")
def test_the_demo_says_little_and_fits_a_terminal(demo: str) -> None:
    assert "2,113 users" in demo
    lines = demo.replace(f"{Path(sys.executable).parent}/", ".venv/bin/").splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80, demo


@nightly("a clone in which commands are typed")
def test_readme_shows_what_the_demo_says(demo: str) -> None:
    (shown,) = (block.text for block in read_code_blocks(README) if block.language == "text")

    def without_time(text: str) -> str:
        return re.sub(r" in (?:\d+ min )?[\d.]+ s$", "", text, flags=re.MULTILINE)

    assert without_time(shown) in without_time(demo)


def test_the_commands_of_readme_are_the_demo_and_those_of_the_tutorial() -> None:
    demo, own_lists = list_commands(README)
    assert demo.startswith("make demo ")
    typed_in_tutorial = iter("\n".join(list_commands(TUTORIAL)).splitlines())
    for line in own_lists.splitlines():
        assert line in typed_in_tutorial, f"the tutorial does not have: {line}"


@nightly("a clone in which commands are typed")
def test_the_tutorial_leads_to_lists(clone: Path, demo: str) -> None:
    files = list_files(clone)
    later = list_commands(TUTORIAL, EXAMPLE_SHOP)
    output = type_commands(
        [block for block in list_commands(TUTORIAL) if block not in later], clone
    )
    assert " passed: settings, pipelines, " in output
    assert "Good to send: the model beats the most popular items" in output
    shown_list = output.rpartition("published edition 1")[2].partition("User C-0001 in orders")[2]
    recommended, legend, _ = shown_list.partition("Recommended: ")[2].partition("because of: ")
    assert legend
    products = pl.read_csv(clone.parent / "lists/data/products.csv")
    # The tutorial says "products that are sold out".
    sold_out = products.filter(status="sold out").get_column("sku")
    assert len({*sold_out} & {*recommended.split()}) >= 2
    assert list_files(clone) == files
    table = ".batchrec/storage/orders/curated/recommendations/recommendations.parquet"
    users = pl.read_parquet(clone.parent / "lists" / table).get_column("user_id")
    assert users.n_unique() == 702


def list_files(clone: Path) -> set[str]:
    """Return the files in the clone, without compiled Python files and the log of commands."""
    return {
        path.relative_to(clone).as_posix()
        for path in clone.rglob("*")
        if "__pycache__" not in path.parts and path.name != ".batchrec.log"
    }
