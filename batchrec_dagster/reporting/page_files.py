"""The page of a list in the storage, shown again after a night that published nothing."""

from __future__ import annotations

from batchrec_dagster.reporting.insight.nights import list_nights
from batchrec_dagster.reporting.insight.page import read_page, save_page
from batchrec_dagster.reporting.views.html import render_html
from batchrec_dagster.storage.layout import ListFiles, ListKeys


def show_last_night(files: ListFiles) -> None:
    """Show on the page how the last night ended, as the record of the editions has it.

    Nothing is counted again: the lists, the numbers and the people on it stay. A night of what all
    lists of a pipeline need shows on the page of each. Raises UserError.
    """
    for page_files in [files, *_list_named(files)]:
        page = read_page(page_files)
        if page is None:
            continue
        page = page.model_copy(update={"nights": tuple(list_nights(page_files))})
        html = render_html(page).encode()
        files.storage.store.put(page_files.uri(page_files.keys.report), html)
        save_page(page_files, page)


def _list_named(files: ListFiles) -> list[ListFiles]:
    """The lists of a pipeline that have names; empty for one of them."""
    if files.keys.name:
        return []
    names = files.storage.store.subfolders(files.uri(files.keys.lists))
    pipeline = files.keys.pipeline
    return [ListFiles(files.storage, ListKeys(f"{pipeline}/{name}")) for name in names]
