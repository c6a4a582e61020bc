"""Removes what a process that was killed has left in the home, and nobody would look at again."""

from __future__ import annotations

from collections.abc import Mapping

from batchrec_dagster.local_personalize.catalog import Catalog
from batchrec_dagster.local_personalize.home import Home, remove
from batchrec_dagster.local_personalize.kinds import Kind, no_files
from batchrec_dagster.local_personalize.ownership import bury


def tidy(catalog: Catalog, home: Home, kinds: Mapping[str, Kind]) -> None:
    """Keeps the files that a resource has, and those of work that is not finished."""
    bury(home.owners)
    # Listed before the catalog is read: what is finished in between has its name there by then.
    found = [
        path for folder in (home.datasets, home.models, home.batches) for path in folder.iterdir()
    ]
    if not found:
        return
    with catalog.reading() as records:
        named = {
            home.root / path
            for kind in kinds.values()
            if kind.files is not no_files
            for resource in records.everywhere(kind.name)
            for path in kind.files(records, resource)
        }
        at_work = tuple(home.attempts_prefix(resource.arn) for resource in records.unfinished())
    for path in found:
        if path not in named and not path.name.startswith(at_work):
            remove(path)
