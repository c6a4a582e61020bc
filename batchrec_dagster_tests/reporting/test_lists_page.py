"""The page about all lists of a pipeline, and the links between the pages."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster.reporting.list_links import PageLink, link_pages
from batchrec_dagster.reporting.lists_page import (
    ListSummary,
    SimilarItemsSummary,
    render_lists_page,
)
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.verdict import Verdict
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.support import WCAG

TIME = datetime(2026, 11, 24, 3, 10, tzinfo=UTC)


def test_links_lead_from_any_page_to_the_others() -> None:
    addresses = {"All lists": "shop", "home": "shop/home", "mail": "shop/mail"}
    assert link_pages("shop/home", addresses) == [
        PageLink("All lists", "../../../../curated/report/index.html"),
        PageLink("mail", "../../../mail/curated/report/index.html"),
    ]
    assert link_pages("shop", addresses) == [
        PageLink("home", "../../lists/home/curated/report/index.html"),
        PageLink("mail", "../../lists/mail/curated/report/index.html"),
    ]


def render() -> str:
    link = PageLink("home", "../../lists/home/curated/report/index.html")
    verdict = Verdict("good", "Good to send: the lists beat the popular items <i>")
    home = ListSummary(
        link, "The home page", edition=7, publication_time=TIME, users=1234, verdict=verdict
    )
    return render_lists_page(
        "shop",
        "<b>All</b> lists",
        [home, ListSummary(PageLink("mail", "x"), None)],
        TIME,
        SimilarItemsSummary(3, TIME, rows=2368, items=296),
    )


def test_the_page_says_of_each_list_whether_it_is_safe_to_send() -> None:
    page = render()
    assert '<a href="../../lists/home/curated/report/index.html">home</a>: Good to send' in page
    assert "The lists beat the popular items &lt;i&gt;" in page
    assert "&lt;b&gt;All&lt;/b&gt; lists" in page
    assert 'value="1234">1,234</data> users' in page
    assert "Edition 7" in page
    assert page.count("Nothing is published yet.") == 1
    assert '<a href="x">' not in page
    assert 'value="2368">2,368</data> similar items of <data value="296">' in page


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
def test_the_page_is_accessible_and_nothing_overflows(
    browser: Any, tmp_path: Path, width: int, scheme: str
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    file = tmp_path / "index.html"
    file.write_text(render(), encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(file.as_uri())
    violations = axe.run(page, options={"runOnly": WCAG})
    assert violations.violations_count == 0, violations.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_what_has_published_nothing_says_what_to_run(tmp_path: Path) -> None:
    storage = StorageResource(root=str(tmp_path), s3=S3Connection())
    with pytest.raises(StorageError, match=r"shop/mail has published nothing.*batchrec run shop`"):
        PublishedResults(storage, "shop/mail").require_edition()
