"""The folder of one local Personalize: its catalog, data, models and locks. Private to the user."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.storage import durable


class Home:
    """The paths under the folder. Readers ignore files that the catalog does not name."""

    root: Path
    catalog: Path
    """The SQLite file."""
    datasets: Path
    """The folder of imported data."""
    models: Path
    """The folder of trained models."""
    batches: Path
    """The folder in which batch jobs write their answers before they upload them."""
    owners: Path
    """The folder of the locks of the processes that work in this home."""

    def __init__(self, root: Path) -> None:
        """Create the folders that are missing, readable by this user only."""
        self.root = root
        self.catalog = root / "catalog.sqlite"
        self.datasets = root / "datasets"
        self.models = root / "models"
        self.batches = root / "batches"
        self.owners = root / "owners"
        for folder in (root, self.datasets, self.models, self.batches, self.owners):
            durable.make_folders(folder, 0o700)

    @property
    def has_data(self) -> bool:
        """Whether anything was imported or trained here."""
        return any(path for folder in (self.datasets, self.models) for path in folder.iterdir())

    def make_path(self, folder: Path, arn: str) -> Path:
        """Return a path that was never used, so that nobody reads what a dead attempt left."""
        return folder / f"{self.make_attempt_prefix(arn)}{uuid.uuid4().hex}"

    def make_attempt_prefix(self, arn: str) -> str:
        """Return what the name of every file starts with that jobs on this resource write."""
        _, _, _, region, account, resource = arn.split(":", 5)
        return f"{region}.{account}.{resource.replace('/', '.')}."

    @contextmanager
    def open_workspace(self, folder: Path, arn: str) -> Iterator[Path]:
        """Hold a new folder for one attempt at this resource, and remove it at the end.

        What earlier attempts left is removed first.
        """
        for path in folder.glob(f"{self.make_attempt_prefix(arn)}*"):
            remove_path(path)
        with self.open_new_folder(folder, arn) as work:
            yield work

    @contextmanager
    def open_new_folder(self, folder: Path, arn: str) -> Iterator[Path]:
        """Hold a new folder for one attempt at this resource, and remove it at the end."""
        work = self.make_path(folder, arn)
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def publish(self, work: Path, folder: Path, arn: str) -> str:
        """Move finished work to a path of its own in `folder`, and return that path.

        The path is relative to the home, as the catalog stores it, so that the home can be moved.
        """
        published = self.make_path(folder, arn)
        durable.publish(work, published)
        return published.relative_to(self.root).as_posix()


def remove_path(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
