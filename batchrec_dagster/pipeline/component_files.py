"""The files of components below defs/, as Dagster finds them."""

from __future__ import annotations

from pathlib import Path

# In the order in which Dagster looks for them in a folder.
FILE_NAMES = ("defs.yaml", "defs.yml", "component.yaml")


def find_component_file(folder: Path) -> Path | None:
    """The file of the components in a folder; None without one."""
    return next((folder / name for name in FILE_NAMES if (folder / name).is_file()), None)


def list_component_files(folder: Path) -> list[Path]:
    """The files of components in a folder and those within it, in order."""
    return sorted(file for name in FILE_NAMES for file in folder.rglob(name))
