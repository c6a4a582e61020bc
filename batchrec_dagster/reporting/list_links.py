"""Links between the pages of a pipeline's lists, which are one report together."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from batchrec_dagster.storage.paths import StorageKeys


@dataclass(frozen=True)
class PageLink:
    """A link to another page of the report."""

    name: str
    address: str
    """The other page's file, relative to the folder of the page that has the link."""


def link_pages(page: str, addresses: dict[str, str]) -> list[PageLink]:
    """The links from a page to the others.

    page: the address of the page's pipeline or list, such as `shop/newsletter`.
    addresses: that of each page to link to, by the name of the link.
    """
    folder = posixpath.dirname(StorageKeys(page).report)
    return [
        PageLink(name, posixpath.relpath(StorageKeys(address).report, folder))
        for name, address in addresses.items()
        if address != page
    ]
