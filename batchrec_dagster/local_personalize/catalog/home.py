"""The folder that one local Personalize lives in; everything in it is private to the user."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Home:
    """Paths under the folder. What the catalog does not name does not exist for a reader."""

    root: Path

    def __post_init__(self) -> None:
        for folder in (self.root, self.datasets, self.models, self.batches, self.owners):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    @property
    def catalog(self) -> Path:
        return self.root / "catalog.sqlite"

    @property
    def datasets(self) -> Path:
        return self.root / "datasets"

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def batches(self) -> Path:
        return self.root / "batches"

    @property
    def owners(self) -> Path:
        return self.root / "owners"

    def new_path(self, folder: Path, arn: str) -> Path:
        """A path that nothing has used: an attempt that dies leaves nothing that another reads."""
        return folder / f"{self.attempts_prefix(arn)}{uuid.uuid4().hex}"

    def attempts_prefix(self, arn: str) -> str:
        """How the names begin of all that attempts at this resource write."""
        _, _, _, region, _, resource = arn.split(":", 5)
        return f"{region}.{resource.replace('/', '.')}."

    def discard_attempts(self, folder: Path, arn: str, *, keep: Path | None = None) -> None:
        """Remove what attempts at this resource have left, except what is kept."""
        for path in folder.glob(f"{self.attempts_prefix(arn)}*"):
            if path != keep:
                remove(path)

    def relative(self, path: Path) -> str:
        """How the catalog names the path, so that the folder can be moved."""
        return path.relative_to(self.root).as_posix()


def remove(path: Path) -> None:
    """Remove a file or folder, or nothing when it is gone."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
