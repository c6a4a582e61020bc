"""The components that the files of a project declare, as they are written there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from batchrec_dagster.cli.project import Project
from batchrec_dagster.pipeline.component_files import list_component_files


class TextDates(yaml.SafeLoader):
    """Leaves dates as text, as Dagster does: 2026-02-30 would stop the reading of all files."""


TextDates.yaml_implicit_resolvers = {
    first: [resolver for resolver in resolvers if resolver[0] != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class DeclaredComponent(NamedTuple):
    """A component in a readable file."""

    kind: str
    """Its `type`."""
    attributes: dict[str, Any]
    file: Path


def read_components(project: Project) -> Iterator[DeclaredComponent]:
    """Each readable component of the project."""
    for file in list_component_files(project.defs):
        try:
            documents = list(yaml.load_all(file.read_text(encoding="utf-8"), TextDates))
        except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError):
            continue
        for document in documents:
            if isinstance(document, dict):
                attributes = document.get("attributes") or {}
                if isinstance(attributes, dict):
                    yield DeclaredComponent(str(document.get("type")), attributes, file)
