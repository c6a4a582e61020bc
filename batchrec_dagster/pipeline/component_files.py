"""The component files below defs/, found by Dagster's rules."""

from __future__ import annotations

from pathlib import Path

# Dagster looks for these files in this order.
FILE_NAMES = ("defs.yaml", "defs.yml", "component.yaml")


def find_component_file(folder: Path) -> Path | None:
    """Return the component file in a folder; None if there is none."""
    return next((folder / name for name in FILE_NAMES if (folder / name).is_file()), None)


def list_component_files(folder: Path) -> list[Path]:
    """Return the component files in a folder and its subfolders, in order."""
    return sorted(file for name in FILE_NAMES for file in folder.rglob(name))
