"""The README's pictures, taken of the demo: the committed ones must still show what there is."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from batchrec_dagster_tests.support import REPOSITORY, Project, module_project, refresh
from batchrec_dagster_tests.web_ui import LOCATION, UPRIGHT, web_ui

DEMO = REPOSITORY / "batchrec_dagster/defs/movielens/defs.yaml"
COMMITTED = REPOSITORY / "docs/images"
NAMES = ("lineage.png", "report.png", "report-people.png")
MOST_BYTES = 250_000

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
def taken(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the new pictures; `make pictures` sets it to docs/images."""
    project = module_project(tmp_path_factory.mktemp("demo"))
    declared = yaml.safe_load(DEMO.read_text())["attributes"]
    project.declare(declared)
    name = declared["name"]
    folder = Path(os.environ.get("BATCHREC_PICTURES") or tmp_path_factory.mktemp("pictures"))
    with dg.DagsterInstance.from_config(project.process_environment()["DAGSTER_HOME"]) as instance:
        result = refresh(project, name, instance, report=True)
        assert result.success
        events = result.get_asset_materialization_events()
        assets = [event.asset_key.path[-1] for event in events if event.asset_key]
    _take_lineage(browser, project, name, assets, folder / "lineage.png")
    report = (project.storage / name / "curated/report/index.html").as_uri()
    _take_report(browser, report, "light", folder / "report.png")
    _take_report(browser, f"{report}#people", "dark", folder / "report-people.png")
    return folder


def _take_lineage(browser: Any, project: Project, name: str, assets: list[str], file: Path) -> None:
    expect = pytest.importorskip("playwright.sync_api").expect
    page = browser.new_page(viewport={"width": 1400, "height": 1760})
    page.add_init_script(UPRIGHT)
    with web_ui(project) as address:
        page.goto(f"{address}/locations/{LOCATION}/asset-groups/{name}/lineage")
        expect(page.get_by_text("Materialized")).to_have_count(len(assets))
        expect(page.get_by_text("Loading")).to_have_count(0)
        # Each asset's name stands at the upper left of its box.
        boxes = [page.get_by_text(asset, exact=True).first.bounding_box() for asset in assets]
        left, top = (min(box[side] for box in boxes) - 50 for side in ("x", "y"))
        right, bottom = (
            max(box[side] for box in boxes) + size for side, size in (("x", 250), ("y", 160))
        )
        clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
        page.screenshot(path=file, clip=clip)
        page.close()


def _take_report(browser: Any, address: str, scheme: str, file: Path) -> None:
    page = browser.new_page(viewport={"width": 1000, "height": 1000}, color_scheme=scheme)
    page.goto(address)
    page.screenshot(path=file)
    page.close()


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_picture_shows_what_there_is(browser: Any, taken: Path, name: str) -> None:
    new, old = taken / name, COMMITTED / name
    assert new.stat().st_size <= MOST_BYTES
    page = browser.new_page()
    assert _alike(page, new, new)
    if not page.evaluate(WRITTEN_IN, FONT):
        pytest.skip(
            f"the pictures were taken in {FONT}: install fonts-dejavu, and no other default"
        )
    assert _alike(page, new, old), f"docs/images/{name} is out of date: make pictures renews it"
    page.close()


def test_another_picture_is_not_taken_for_the_same(
    browser: Any, taken: Path, tmp_path: Path
) -> None:
    report, people, moved = taken / "report.png", taken / "report-people.png", tmp_path / "m.png"
    page = browser.new_page(viewport={"width": 1000, "height": 1000})
    page.set_content(f"<body style='margin: 40px 0 0'><img src='{_url(report)}'>")
    page.locator("img").evaluate("image => image.decode()")
    page.screenshot(path=moved)
    assert not _alike(page, report, people)
    assert not _alike(page, report, moved)
    page.close()


def _alike(page: Any, one: Path, other: Path) -> bool:
    (width, height, greys), (old_width, old_height, old_greys) = (
        page.evaluate(GREYS, [_url(file), CELLS]) for file in (one, other)
    )
    pairs = zip(greys, old_greys, strict=True)
    different = sum(abs(new - old) > DIFFERENT for new, old in pairs) / CELLS**2
    return (width, height) == (old_width, old_height) and different <= MOST_DIFFERENT


def _url(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
