"""Functions that load the declared pipelines of a project."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import dagster as dg

from batchrec_dagster.config import ListTable
from batchrec_dagster.pipeline.component_files import list_component_files
from batchrec_dagster.pipeline.declaration_errors import (
    DeclarationError,
    Origin,
    explain_error,
    find_unreadable_files,
)
from batchrec_dagster.pipeline.declared import DeclaredPipeline, find_declared_pipelines

C = TypeVar("C", bound=dg.Component)


class OwnTree(dg.ComponentTree):
    """The component tree of batchrec's own code location, which uses batchrec's console log."""


def load_pipelines(
    package: Path, tree_class: type[dg.ComponentTree] = dg.ComponentTree
) -> dg.Definitions:
    """Return the definitions of everything under the defs/ folder of a package's folder.

    Raises DeclarationError if a defs.yaml is broken.
    """
    with _raise_declaration_errors(package / "defs"):
        tree = tree_class.for_project(package)
        if not _has_definitions(tree.defs_module_path):
            # Dagster fails if a folder has nothing to load.
            return dg.Definitions()
        # Build only the folder. Building the whole tree would also import every installed package
        # with components, and describe each component class for a page of Dagster's UI.
        in_folder = tree.build_defs(tree.defs_module_path)
        definitions = dg.Definitions.merge(in_folder, dg.Definitions(component_tree=tree))
    pipelines = find_declared_pipelines(definitions.assets)
    _require_own_names(pipelines)
    _require_own_places(pipelines)
    return definitions


def list_asset_keys(definitions: dg.Definitions) -> set[str]:
    """Return the keys of the assets that are defined, such as sales/orders.

    Dagster's own lists also contain assets that are only dependencies of other assets.
    """
    return {
        spec.key.to_user_string()
        for asset in definitions.assets or ()
        for spec in (asset.specs if isinstance(asset, dg.AssetsDefinition) else [asset])
        if isinstance(spec, dg.AssetSpec)
    }


def load_components(defs: Path, folder: Path, of_type: type[C]) -> list[C]:
    """Return the components of a type in a folder below defs/, without loading other folders.

    Raises DeclarationError if the folder's file is broken.
    """
    with _raise_declaration_errors(defs):
        tree = dg.ComponentTree.for_project(defs.parent)
        component: Any = tree.load_component(folder.relative_to(defs))
    components = getattr(component, "components", [component])
    return [component for component in components if isinstance(component, of_type)]


def _has_definitions(folder: Path) -> bool:
    """Return whether Dagster would load anything below the folder."""
    return any(list_component_files(folder)) or any(folder.rglob("*.py"))


@contextmanager
def hide_preview_warnings() -> Iterator[None]:
    """Hide Dagster's warnings that some of its classes are in beta or preview.

    Dagster repeats the warnings for each file, and users of a command can do nothing about them.
    """
    with warnings.catch_warnings():
        for notice in (dg.BetaWarning, dg.PreviewWarning):
            warnings.simplefilter("ignore", notice)
        yield


@contextmanager
def _raise_declaration_errors(defs: Path) -> Iterator[None]:
    """Turn Dagster's errors about files below the folder into DeclarationErrors.

    Other errors are raised unchanged.
    """
    try:
        with hide_preview_warnings():
            yield
    except Exception as error:
        lines = explain_error(error) or find_unreadable_files(defs)
        if not lines:
            raise
        raise DeclarationError("\n".join(lines)) from None


def _require_own_names(pipelines: Sequence[DeclaredPipeline]) -> None:
    """Raise DeclarationError if two pipelines have the same name, with a line for each pipeline.

    Dagster's own error names only an asset key, not the files.
    """
    lines: list[str] = []
    for pipeline, origin in sorted(pipelines, key=lambda declared: declared.origin.file):
        files = [other.origin.file for other in pipelines if other.pipeline.name == pipeline.name]
        if len(files) > 1:
            other_files = [file for file in files if file != origin.file] or files
            message = (
                f"{pipeline.name} is also the name of the pipeline in {other_files[0]}: rename one"
            )
            lines.append(origin.describe_problem(("name",), message))
    if lines:
        raise DeclarationError("\n".join(dict.fromkeys(lines)))


def _require_own_places(pipelines: Sequence[DeclaredPipeline]) -> None:
    """Raise DeclarationError if sinks of two pipelines, or of two lists, write to the same place.

    Such sinks would overwrite each other's rows.
    """
    # The lists that write to each place, with the origins of their declarations.
    writers: dict[str, list[tuple[ListTable, Origin]]] = {}
    for pipeline, origin in pipelines:
        for published in pipeline.published_lists():
            for sink in published.sinks.declared.values():
                place = sink.describe(pipeline.project).place
                if place:
                    writers.setdefault(place, []).append((published, origin))
    lines: list[str] = []
    for place, lists in sorted(writers.items()):
        if len(lists) == 1:
            continue
        addresses = " and ".join(published.address for published, _ in lists)
        message = f"{addresses} write to the same place, {place}: change one of them"
        setting = place.partition(": ")[0].split(".")
        for published, origin in lists:
            lines.append(origin.describe_problem((*published.own_keys, *setting), message))
    if lines:
        raise DeclarationError("\n".join(dict.fromkeys(lines)))
