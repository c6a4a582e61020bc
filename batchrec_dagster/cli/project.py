"""The project that a command works on: where its pipelines are declared, without loading them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from batchrec_dagster.pipeline import COMPONENT_TYPE


class ProjectError(Exception):
    """There is no project, or it cannot be read; one line that says what to do."""


@dataclass(frozen=True)
class Project:
    """A folder with a pyproject.toml that says [tool.dg.project], as Dagster looks for it."""

    root: Path
    module: str
    defs: Path


def find_project() -> Project:
    """The project around the working folder; else that of this package. Raises ProjectError."""
    for start in (Path.cwd(), Path(__file__).parent):
        for folder in (start, *start.parents):
            file = folder / "pyproject.toml"
            if file.is_file() and (project := _read(file)) is not None:
                return project
    raise ProjectError(
        "there is no project here: work in a clone of batchrec, or in a folder whose pyproject.toml"
        " has [tool.dg.project]"
    )


def declared_pipelines(project: Project) -> dict[str, Path]:
    """The declared names, and the file of each; files that cannot be read have none."""
    found: dict[str, Path] = {}
    for file in sorted(project.defs.rglob("defs.yaml")):
        try:
            documents = list(yaml.safe_load_all(file.read_text(encoding="utf-8")))
        except (OSError, UnicodeDecodeError, yaml.YAMLError):
            continue
        for document in documents:
            if isinstance(document, dict) and document.get("type") == COMPONENT_TYPE:
                attributes = document.get("attributes")
                if isinstance(attributes, dict) and isinstance(attributes.get("name"), str):
                    found[attributes["name"]] = file
    return found


def _read(file: Path) -> Project | None:
    """The project that the file tells of; None where it tells of none."""
    try:
        told: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ProjectError(f"{file} cannot be read: {error}") from error
    project = told.get("tool", {}).get("dg", {}).get("project")
    if not isinstance(project, dict) or "root_module" not in project:
        return None
    module = str(project["root_module"])
    code = next(
        (path for path in (file.parent, file.parent / "src") if (path / module).is_dir()),
        file.parent,
    )
    defs = str(project.get("defs_module", f"{module}.defs"))
    return Project(file.parent, module, code.joinpath(*defs.split(".")))
