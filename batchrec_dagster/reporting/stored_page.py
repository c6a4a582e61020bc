"""The page of a list in the storage: its HTML, and a record of all that it says.

From the record it is shown again after a night that published nothing.
"""

from __future__ import annotations

from batchrec_dagster.reporting.insight.nights import list_nights
from batchrec_dagster.reporting.insight.page import Page
from batchrec_dagster.reporting.views.html import render_html
from batchrec_dagster.storage.layout import ListFiles, ListKeys
from batchrec_dagster.storage.records import load, save


def read_page(files: ListFiles) -> Page | None:
    """What the last page of the list says; None without one. Raises UserError."""
    return load(files.storage.store, files.uri(files.keys.report_facts), Page)


def put_page(files: ListFiles, page: Page) -> bytes:
    """Put the page where readers find it, and return its HTML. Raises UserError."""
    html = render_html(page).encode()
    files.storage.store.put(files.uri(files.keys.report), html)
    save(files.storage.store, files.uri(files.keys.report_facts), page)
    return html


def show_last_night(files: ListFiles) -> None:
    """Show on the page how the last night ended, as the record of the editions has it.

    Nothing is counted again: the lists, the numbers and the people on it stay. A night of what all
    lists of a pipeline need shows on the page of each. Raises UserError.
    """
    for page_files in [files, *_list_named(files)]:
        page = read_page(page_files)
        if page is not None:
            nights = tuple(list_nights(page_files))
            put_page(page_files, page.model_copy(update={"nights": nights}))


def _list_named(files: ListFiles) -> list[ListFiles]:
    """The lists of a pipeline that have names; empty for one of them."""
    if files.keys.name:
        return []
    names = files.storage.store.subfolders(files.uri(files.keys.lists))
    pipeline = files.keys.pipeline
    return [ListFiles(files.storage, ListKeys(f"{pipeline}/{name}")) for name in names]
