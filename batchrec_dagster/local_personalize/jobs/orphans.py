"""Removes the files that jobs of dead processes left in a home."""

from __future__ import annotations

from ..catalog.catalog import Catalog
from ..catalog.home import Home, remove_path
from ..catalog.owners import remove_dead_owners


def remove_orphans(catalog: Catalog, home: Home) -> None:
    """Remove files that belong to no resource and to no unfinished job."""
    remove_dead_owners(home.owners)
    # Listed before the catalog is read, so that the catalog names every file that a job finishes
    # in between.
    paths = [
        path for folder in (home.datasets, home.models, home.batches) for path in folder.iterdir()
    ]
    if not paths:
        return
    with catalog.open_for_reading() as transaction:
        owned_paths = {
            home.root / path for resource in transaction.list_all() for path in resource.files
        }
        attempt_prefixes = tuple(
            home.make_attempt_prefix(resource.arn) for resource in transaction.list_unfinished()
        )
    for path in paths:
        if path not in owned_paths and not path.name.startswith(attempt_prefixes):
            remove_path(path)


def remove_attempts(catalog: Catalog, home: Home, arn: str) -> None:
    """Remove the files of earlier attempts at this resource that the catalog does not name.

    Only the worker that owns the resource's job may call it.
    """
    with catalog.open_for_reading() as transaction:
        owned_paths = {
            home.root / path for resource in transaction.list_all() for path in resource.files
        }
    for folder in (home.datasets, home.models):
        for path in folder.glob(f"{home.make_attempt_prefix(arn)}*"):
            if path not in owned_paths:
                remove_path(path)
