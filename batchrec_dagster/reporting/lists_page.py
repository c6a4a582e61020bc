"""The page about all lists of a pipeline, which leads to the page of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from markupsafe import Markup

from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.reporting.list_links import PageLink
from batchrec_dagster.reporting.page import build_policy, make_environment, read_script, read_style
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.verdict import Verdict


@dataclass(frozen=True)
class ListSummary:
    """What the page says of a list."""

    link: PageLink
    """The link to the list's own page."""
    description: str | None
    edition: int | None = None
    """The number of the published edition; None if nothing is published."""
    publication_time: datetime | None = None
    """When the edition was made."""
    users: int | None = None
    """Users with a list."""
    verdict: Verdict | None = None
    """Whether the lists are safe to send; None if the list has no page yet."""


def summarize_list(
    published: PublishedResults, link: PageLink, description: str | None
) -> ListSummary:
    """What the storage knows of a list's published edition. Raises StorageError."""
    edition = published.edition
    if edition is None:
        return ListSummary(link, description)
    return ListSummary(
        link,
        description,
        edition=edition.number,
        publication_time=published.publication_time,
        users=edition.users,
        verdict=EditionHistory(published.files).read_verdict(edition),
    )


@dataclass(frozen=True)
class SimilarItemsSummary:
    """What the page says of the published lists of similar items."""

    edition: int
    publication_time: datetime
    rows: int
    items: int
    """Items with a list."""


def summarize_similar_items(published: PublishedResults) -> SimilarItemsSummary | None:
    """What the storage knows of the published lists of similar items; None if there are none.

    Raises StorageError.
    """
    edition = published.edition
    if edition is None:
        return None
    about = edition.about
    return SimilarItemsSummary(
        edition.number, published.publication_time, about.get("rows", 0), about.get("items", 0)
    )


def render_lists_page(
    pipeline: str,
    description: str | None,
    lists: Sequence[ListSummary],
    report_time: datetime,
    similar_items: SimilarItemsSummary | None = None,
) -> str:
    """The HTML of the page. It loads nothing from elsewhere."""
    style = read_style()
    script = read_script("page.js")
    return (
        make_environment()
        .get_template("lists.html")
        .render(
            pipeline=pipeline,
            description=description,
            lists=lists,
            similar_items=similar_items,
            report_time=report_time,
            policy=build_policy(style, script, pictures="data:"),
            style=Markup(style),  # noqa: S704
            script=Markup(script),  # noqa: S704
        )
    )
