"""The folder of a local Personalize: catalogue, data, models, locks. It is private to the user."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchrec_dagster.storage import durable


class Home:
    """The paths in the folder of a local Personalize.

    Readers ignore files that the catalogue does not name.
    """

    root: Path
    catalogue: Path
    """The SQLite file."""
    datasets: Path
    """The folder of imported data."""
    models: Path
    """The folder of trained models."""
    batches: Path
    """The folder in which batch jobs write their answers before they upload them."""
    locks: Path
    """The folder of the locks that jobs hold."""

    def __init__(self, root: Path) -> None:
        """Create the missing folders, readable by this user only."""
        self.root = root
        self.catalogue = root / "catalog.sqlite"
        self.datasets = root / "datasets"
        self.models = root / "models"
        self.batches = root / "batches"
        self.locks = root / "locks"
        for folder in (root, self.datasets, self.models, self.batches, self.locks):
            durable.make_folders(folder, 0o700)

    @property
    def has_data(self) -> bool:
        """Whether anything was imported or trained here."""
        return any(path for folder in (self.datasets, self.models) for path in folder.iterdir())

    def make_path(self, folder: Path, arn: str) -> Path:
        """Return a new, unused path, so that no job reads the files that a dead job left behind."""
        return folder / f"{self.make_prefix(arn)}{uuid.uuid4().hex}"

    def make_prefix(self, arn: str) -> str:
        """Return the prefix of the names of all files that jobs on this resource write."""
        _, _, _, region, account, resource = arn.split(":", 5)
        return f"{region}.{account}.{resource.replace('/', '.')}."

    @contextmanager
    def open_workspace(self, folder: Path, arn: str) -> Iterator[Path]:
        """Yield a new folder for a job on this resource, and remove the folder at the end."""
        work = self.make_path(folder, arn)
        work.mkdir(mode=0o700)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def publish(self, work: Path, folder: Path, arn: str) -> str:
        """Move finished work to a new path in `folder`, and return that path.

        The returned path is relative to the home, as the catalogue stores it. So the home can be
        moved.
        """
        published = self.make_path(folder, arn)
        durable.publish(work, published)
        return published.relative_to(self.root).as_posix()


def remove_path(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
