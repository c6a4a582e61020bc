"""Tests that the documentation builds and its links work; test_examples.py has its examples."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster_tests.guard.builders import REPOSITORY, WCAG

PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built documentation."""
    folder = tmp_path_factory.mktemp("site")
    mkdocs = Path(sys.executable).parent / "mkdocs"
    if not mkdocs.exists():
        pytest.skip("there is no mkdocs: pip install mkdocs-material")
    result = subprocess.run(
        [str(mkdocs), "build", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    # The build is strict: a broken link or anchor ends it with an error.
    assert result.returncode == 0, result.stdout + result.stderr
    return folder


def test_the_site_asks_nothing_of_others(site: Path) -> None:
    pages = [*site.glob("*.html")]
    assert len(pages) > 10
    for page in pages:
        resource_urls = re.findall(r"<(?:script|img|iframe)[^>]+src=\"(.+?)\"", page.read_text())
        resource_urls += re.findall(r"<link[^>]+href=\"(.+?)\"", page.read_text())
        assert not [url for url in resource_urls if "//" in url], page.name
    reference = (site / "reference.html").read_text()
    for setting in Pipeline.model_fields:
        assert f"<code>{setting}</code>" in reference


@pytest.mark.slow
def test_nothing_bars_anyone_from_the_site_on_a_phone(site: Path, browser: Any) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for name, scheme in (("lists", "dark"), ("reference", "dark"), ("aws", "light")):
        page = browser.new_page(viewport={"width": 360, "height": 800}, color_scheme=scheme)
        page.goto((site / f"{name}.html").as_uri())
        violations = axe.run(page, options={"runOnly": WCAG})
        assert violations.violations_count == 0, violations.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        page.close()


@pytest.mark.parametrize("page", PAGES[:3], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    for link in links:
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            heads = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_row_of_a_table_belongs_to_one(page: Path) -> None:
    """Markdown shows rows after an empty line, and rows broken into two lines, as text."""
    tables = re.findall(r"(?:^\|.*\n)+", page.read_text(), re.MULTILINE)
    for table in tables:
        head, rule, *rows = table.splitlines()
        assert re.fullmatch(r"\|(?: ?-+ ?\|)+", rule), f"no head: {head}"
        assert all(row.endswith("|") for row in (head, *rows)), f"a row is not closed: {head}"
