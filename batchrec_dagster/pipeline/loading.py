"""Loads the declared pipelines of a project."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from batchrec_dagster.config.declaration_errors import (
    DeclarationError,
    Problem,
    explain_error,
    find_unreadable_files,
    format_problems,
)
from batchrec_dagster.pipeline.declare_asset import WRITES_TO
from batchrec_dagster.pipeline.run_endings import LIST, read_address

C = TypeVar("C", bound=dg.Component)


def load_pipelines(package: Path) -> dg.Definitions:
    """The definitions of everything under the defs/ folder of a package's folder.

    Raises DeclarationError if a defs.yaml is broken.
    """
    with _raise_declaration_errors(package / "defs"):
        tree = dg.ComponentTree.for_project(package)
        if not _has_definitions(tree.defs_module_path):
            # Dagster fails at a folder in which there is nothing to load.
            return dg.Definitions()
        # Only the folder is built. The whole tree would also import every installed package with
        # components, and describe each of their classes for a page of Dagster's UI.
        in_folder = tree.build_defs(tree.defs_module_path)
        definitions = dg.Definitions.merge(in_folder, dg.Definitions(component_tree=tree))
    _require_own_places(definitions)
    return definitions


def load_components(defs: Path, folder: Path, of_type: type[C]) -> list[C]:
    """The components of a type in one folder below defs/, without those of other folders.

    Raises DeclarationError if the folder's file is broken.
    """
    with _raise_declaration_errors(defs):
        tree = dg.ComponentTree.for_project(defs.parent)
        component: Any = tree.load_component(folder.relative_to(defs))
    components = getattr(component, "components", [component])
    return [component for component in components if isinstance(component, of_type)]


def _has_definitions(folder: Path) -> bool:
    """Whether there is anything below the folder that Dagster would load."""
    return any(any(folder.rglob(name)) for name in ("defs.y*ml", "component.y*ml", "*.py"))


@contextmanager
def _raise_declaration_errors(defs: Path) -> Iterator[None]:
    """A block in which Dagster's errors about files below the folder become DeclarationErrors."""
    try:
        with warnings.catch_warnings():
            # Dagster would warn for each file that a few of its classes are new.
            for notice in (dg.BetaWarning, dg.PreviewWarning):
                warnings.simplefilter("ignore", notice)
            yield
    except Exception as error:
        lines = explain_error(error) or find_unreadable_files(defs)
        if not lines:
            raise
        raise DeclarationError("\n".join(lines)) from None


def _require_own_places(definitions: dg.Definitions) -> None:
    """Raise DeclarationError if sinks of two pipelines, or two lists, write to the same place.

    They would overwrite each other.
    """
    # The declaring file, which is None for pipelines that Python makes, and the key of the list's
    # settings, by the place and the list's address.
    settings_of_place: dict[str, dict[str, tuple[Path | None, list[str]]]] = {}
    for spec in _list_specs(definitions):
        place = spec.metadata.get(WRITES_TO)
        if place:
            references = spec.metadata.get("dagster/code_references")
            file = Path(references.code_references[-1].file_path) if references else None
            of_list = ["lists", spec.metadata[LIST]] if LIST in spec.metadata else []
            settings_of_place.setdefault(place, {})[read_address(spec.metadata)] = (file, of_list)
    problems = []
    lines = []
    for place, settings in sorted(settings_of_place.items()):
        addresses = " and ".join(settings)
        keys = place.partition(": ")[0].split(".")
        message = f"{addresses} write to the same place, {place}: change one of them"
        if len(settings) > 1:
            problems += [
                Problem(file, ["attributes", *of_list, *keys], message)
                for file, of_list in settings.values()
                if file
            ]
            lines += [message] if any(file is None for file, _ in settings.values()) else []
    if problems or lines:
        raise DeclarationError("\n".join([*format_problems(problems), *lines]))


def _list_specs(definitions: dg.Definitions) -> Iterator[dg.AssetSpec]:
    """The specs of all assets."""
    for asset in definitions.assets or []:
        if isinstance(asset, dg.AssetsDefinition):
            yield from asset.specs
