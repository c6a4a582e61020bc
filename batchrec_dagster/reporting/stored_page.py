"""The page of a list in the storage: its HTML, and a record of everything that the page says.

The page is made again from the record after a night that published nothing.
"""

from __future__ import annotations

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.reporting.insight.nights import list_nights
from batchrec_dagster.reporting.insight.page import Page
from batchrec_dagster.reporting.views.html import render_html
from batchrec_dagster.storage.layout import ListKeys
from batchrec_dagster.storage.records import load, save


def read_page(files: ListFiles) -> Page | None:
    """Return the content of the list's last page; None if there is no page.

    Raises UserError.
    """
    return load(files.storage.store, files.uri(files.keys.report_facts), Page)


def put_page(files: ListFiles, page: Page) -> bytes:
    """Put the page and its record where readers find the page, and return the page's HTML.

    Raises UserError.
    """
    html = render_html(page).encode()
    files.storage.store.put(files.uri(files.keys.report), html)
    save(files.storage.store, files.uri(files.keys.report_facts), page)
    return html


def show_last_night(files: ListFiles) -> None:
    """Show on the list's page how the last night ended, according to the record of the editions.

    Nothing is counted again: the lists, the numbers and the people on the page stay. If `files`
    belongs to the whole pipeline, the pages of its named lists show the night too. Raises
    UserError.
    """
    for page_files in [files, *_list_named(files)]:
        page = read_page(page_files)
        if page is not None:
            nights = tuple(list_nights(page_files))
            put_page(page_files, page.model_copy(update={"nights": nights}))


def _list_named(files: ListFiles) -> list[ListFiles]:
    """Return the files of the pipeline's named lists; empty if `files` belongs to a named list."""
    if files.keys.name:
        return []
    names = files.storage.store.subfolders(files.uri(files.keys.lists))
    pipeline = files.keys.pipeline
    return [ListFiles(files.storage, ListKeys(f"{pipeline}/{name}")) for name in names]
