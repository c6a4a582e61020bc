"""README and the tutorial show what a reader gets.

Their commands run in a fresh clone, and the committed pictures are up to date.
"""

from __future__ import annotations

import base64
import os
import re
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster_tests.guard.builders import REPOSITORY, Project
from batchrec_dagster_tests.guard.repeats import IS_LONG
from batchrec_dagster_tests.guard.servers.dagster_ui import LOCATION, UPRIGHT, ui_of
from batchrec_dagster_tests.repository.typed_pages import (
    EXAMPLE_SHOP,
    README,
    TUTORIAL,
    clone_project,
    list_code_blocks,
    list_commands,
    type_commands,
)

pytestmark = pytest.mark.slow

DEMO = "movielens"
COMMITTED = REPOSITORY / "docs/images"
NAMES = ["report.png", "report-people.png"]
# Dagster's page is looked at at night: its picture takes a web server.
LOOKS_AT_DAGSTER = IS_LONG or "BATCHREC_PICTURES" in os.environ
if LOOKS_AT_DAGSTER:
    NAMES += ["lineage.png"]
MOST_BYTES = 250_000
# In pixels, in a window of 1280 x 900.
MOST_SECTION_HEIGHT, MOST_PAGE_HEIGHT = 900, 6_000

# Pictures are compared as so many grey cells. A time or a number that has changed makes a cell
# differ by a few of 255; what comes, goes or moves makes many differ by far more.
CELLS = 64
DIFFERENT = 20
MOST_DIFFERENT = 0.04
GREYS = """([url, cells]) => new Promise((done) => {
  const image = new Image();
  image.onload = () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: cells, height: cells });
    const pen = canvas.getContext('2d');
    pen.imageSmoothingQuality = 'high';
    pen.drawImage(image, 0, 0, cells, cells);
    const colours = pen.getImageData(0, 0, cells, cells).data;
    const greys = [];
    for (let i = 0; i < colours.length; i += 4)
      greys.push((colours[i] + colours[i + 1] + colours[i + 2]) / 3);
    done([image.naturalWidth, image.naturalHeight, greys]);
  };
  image.src = url;
})"""

# Whether pages are written in that font here.
WRITTEN_IN = """(font) => {
  const pen = document.createElement('canvas').getContext('2d');
  const width = (family) => {
    pen.font = `40px ${family}`;
    return pen.measureText('Recommendations of 2,113 users').width;
  };
  return width('system-ui, sans-serif') === width(`"${font}", monospace`);
}"""
FONT = "DejaVu Sans"


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project in a fresh clone."""
    return clone_project(tmp_path_factory.mktemp("clone") / "batchrec")


@pytest.fixture(scope="module")
def demo(clone: Path) -> str:
    """What the demo says, which README starts with."""
    return type_commands(list_commands(README)[:1], clone)


@pytest.fixture(scope="module")
def new_pictures(
    demo: str, clone: Path, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of the new pictures; `make pictures` sets it to docs/images."""
    project = Project(clone)
    folder = Path(os.environ.get("BATCHREC_PICTURES") or tmp_path_factory.mktemp("pictures"))
    if LOOKS_AT_DAGSTER:
        home = project.process_environment()["DAGSTER_HOME"]
        with dg.DagsterInstance.from_config(home) as instance:
            assets = [key.path[-1] for key in instance.all_asset_keys() if key.path[0] == DEMO]
        _take_lineage(browser, project, assets, folder / "lineage.png")
    report = (project.storage / DEMO / "curated/report/index.html").as_uri()
    _take_report(browser, report, "light", folder / "report.png")
    _take_report(browser, f"{report}#people", "dark", folder / "report-people.png")
    return folder


def _take_lineage(browser: Any, project: Project, assets: list[str], file: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = browser.new_page(viewport={"width": 1400, "height": 1760})
    page.add_init_script(UPRIGHT)
    with ui_of(project, project.root) as address:
        page.goto(f"{address}/locations/{LOCATION}/asset-groups/{DEMO}/lineage")
        expect(page.get_by_text("Materialized")).to_have_count(len(assets))
        expect(page.get_by_text("Loading")).to_have_count(0)
        # Each asset's name stands at the upper left of its box.
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


def test_the_report_of_the_demo_takes_a_screen_for_a_section(
    demo: str, clone: Path, browser: Any
) -> None:
    report = (Project(clone).storage / DEMO / "curated/report/index.html").as_uri()
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(report)
    sections = page.locator("main > section")
    heights = {
        section.get_attribute("id"): section.bounding_box()["height"] for section in sections.all()
    }
    assert {name: height for name, height in heights.items() if height > MOST_SECTION_HEIGHT} == {}
    assert page.evaluate("document.documentElement.scrollHeight") <= MOST_PAGE_HEIGHT
    page.set_viewport_size({"width": 360, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_picture_shows_what_there_is(
    browser: Any, new_pictures: Path, name: str
) -> None:
    new, old = new_pictures / name, COMMITTED / name
    assert new.stat().st_size <= MOST_BYTES
    page = browser.new_page()
    assert _are_alike(page, new, new)
    if not page.evaluate(WRITTEN_IN, FONT):
        pytest.skip(
            f"the pictures were taken in {FONT}: install fonts-dejavu, and no other default"
        )
    assert _are_alike(page, new, old), f"docs/images/{name} is out of date: make pictures renews it"
    page.close()


def test_another_picture_is_not_taken_for_the_same(
    browser: Any, new_pictures: Path, tmp_path: Path
) -> None:
    report = new_pictures / "report.png"
    people = new_pictures / "report-people.png"
    shifted_picture = tmp_path / "m.png"
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_content(f"<body style='margin: 40px 0 0'><img src='{_encode_url(report)}'>")
    page.locator("img").evaluate("image => image.decode()")
    page.screenshot(path=shifted_picture)
    assert not _are_alike(page, report, people)
    assert not _are_alike(page, report, shifted_picture)
    page.close()


def _are_alike(page: Any, picture: Path, other: Path) -> bool:
    (width, height, greys), (old_width, old_height, old_greys) = (
        page.evaluate(GREYS, [_encode_url(file), CELLS]) for file in (picture, other)
    )
    pairs = zip(greys, old_greys, strict=True)
    different = sum(abs(new - old) > DIFFERENT for new, old in pairs) / CELLS**2
    return (width, height) == (old_width, old_height) and different <= MOST_DIFFERENT


def _encode_url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"


def test_the_demo_says_little_and_fits_a_terminal(demo: str) -> None:
    assert "2,113 users" in demo
    lines = demo.replace(f"{Path(sys.executable).parent}/", ".venv/bin/").splitlines()
    assert len(lines) <= 25
    assert max(map(len, lines)) <= 80, demo


def test_readme_shows_what_the_demo_says(demo: str) -> None:
    (shown,) = (text for name, text in list_code_blocks(REPOSITORY / README) if name == "text")

    def without_time(text: str) -> str:
        return re.sub(r" in (?:\d+ min )?[\d.]+ s$", "", text, flags=re.MULTILINE)

    assert without_time(shown) in without_time(demo)


def test_the_commands_of_readme_are_the_demo_and_those_of_the_tutorial() -> None:
    demo, own_lists = list_commands(README)
    assert demo.startswith("make demo ")
    typed_in_tutorial = iter("\n".join(list_commands(TUTORIAL)).splitlines())
    for line in own_lists.splitlines():
        assert line in typed_in_tutorial, f"the tutorial does not have: {line}"


def test_the_tutorial_leads_to_lists(clone: Path, demo: str) -> None:
    files = list_files(clone)
    later = list_commands(TUTORIAL, EXAMPLE_SHOP)
    output = type_commands(
        [block for block in list_commands(TUTORIAL) if block not in later], clone
    )
    assert "All pipelines in lists/defs load: orders, shop" in output
    assert "Look before you send" in output
    assert "on 66 users" in " ".join(output.split())
    shown_list = output.rpartition("published edition 1")[2].partition("User C-0001 in orders")[2]
    # The tutorial says that the shop called it back.
    assert "Alpine cold brew" in shown_list.partition("Recommended: ")[2]
    assert list_files(clone) == files
    table = ".batchrec/storage/orders/curated/recommendations/recommendations.parquet"
    users = pl.read_parquet(clone.parent / "lists" / table).get_column("user_id")
    assert users.n_unique() == 702


def list_files(clone: Path) -> set[str]:
    """The files in the clone, without what Python compiled, and the log of what was typed."""
    return {
        path.relative_to(clone).as_posix()
        for path in clone.rglob("*")
        if "__pycache__" not in path.parts and path.name != ".batchrec.log"
    }
