"""Loads the declared pipelines of a project, with or without those that are broken."""

import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import dagster as dg

from batchrec_dagster.config.declaration_errors import (
    DeclarationError,
    Problem,
    explain_error,
    find_unreadable_files,
    format_problems,
    group_by_file,
)
from batchrec_dagster.dagster_internals.components import is_component_loader
from batchrec_dagster.pipeline.built_pipelines import building_in_parts
from batchrec_dagster.pipeline.declare_asset import WRITES_TO
from batchrec_dagster.pipeline.run_endings import LIST, read_address
from batchrec_dagster.reporting.markdown import format_code_block
from batchrec_dagster.storage.durable import temporary_folder

C = TypeVar("C", bound=dg.Component)

# The components of each tree by type. The keys are the trees' trackers, because two trees of the
# same folder are equal, even if they have loaded different things.
_components_of_tree: WeakKeyDictionary[object, dict[type, list[Any]]] = WeakKeyDictionary()

# The trees of a project that is loaded in parts, because one of its files is broken.
_trees_of_project: ContextVar[Sequence[dg.ComponentTree]] = ContextVar("trees", default=())


def find_components(context: dg.ComponentLoadContext, of_type: type[C]) -> list[C]:
    """The project's components of a type.

    They are remembered, because Dagster would walk through the whole project for each pipeline.
    """
    components: list[C] = []
    for tree in _trees_of_project.get() or (context.component_tree,):
        by_type = _components_of_tree.setdefault(tree.state_tracker, {})
        if of_type not in by_type:
            by_type[of_type] = tree.get_all_components(of_type=of_type)
        components += by_type[of_type]
    return components


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


def load_valid_pipelines(package: Path) -> dg.Definitions:
    """The definitions that `load_pipelines` returns, also if some defs.yaml files are broken.

    A broken pipeline has an asset named `broken` instead of its own, and a sensor fails with the
    errors of all broken files. Raises DeclarationError for errors that are not in a single file.
    """
    defs = package / "defs"
    lines_of_file: dict[Path, list[str]] = {}
    while True:
        try:
            if not lines_of_file:
                return load_pipelines(package)
            valid = _load_parts(package, lines_of_file)
        except DeclarationError as error:
            newly_broken = group_by_file(defs, error)
            if not newly_broken.keys() - lines_of_file.keys():
                raise
            lines_of_file |= newly_broken
        else:
            return dg.Definitions.merge(valid, _build_stand_ins(defs, lines_of_file))


def load_components(defs: Path, folder: Path, of_type: type[C]) -> list[C]:
    """The components of a type in one folder below defs/, without those of other folders.

    Raises DeclarationError if the folder's file is broken.
    """
    with _raise_declaration_errors(defs):
        tree = dg.ComponentTree.for_project(defs.parent)
        component: Any = tree.load_component(folder.relative_to(defs))
    components = getattr(component, "components", [component])
    return [component for component in components if isinstance(component, of_type)]


def _load_parts(package: Path, broken: Collection[Path]) -> dg.Definitions:
    """The definitions of the project without its broken files.

    Dagster reads all files of a folder before it loads one of them, so a single file that is not
    YAML keeps it from loading the folder. Parts of the folder without a broken file do load, each
    by a tree of its own. Raises DeclarationError if more files are broken.
    """
    defs = package / "defs"
    project = dg.ComponentTree.for_project(package)
    with _raise_declaration_errors(defs, without=broken):
        parts = [*_list_parts_without(defs, broken)]
        trees = [_make_tree_of_folder(project, part) for part in parts if part.is_dir()]
        token = _trees_of_project.set(trees)
        try:
            with building_in_parts():
                folders = [tree.build_defs(tree.defs_module_path) for tree in trees]
                context = _make_context_of_files(project)
                files = [_load_file(project, part, context) for part in parts if part.is_file()]
        finally:
            _trees_of_project.reset(token)
        definitions = dg.Definitions.merge(*folders, *files)
    _require_own_places(definitions)
    return definitions


def _list_parts_without(folder: Path, broken: Collection[Path]) -> Iterator[Path]:
    """The folders and Python files below the folder that hold none of the broken files.

    The folders are as large as possible, because files in a folder may refer to each other.
    """
    if folder / "defs.yaml" in broken:
        return
    for path in sorted(folder.iterdir()):
        if path.name == "__pycache__" or path.name.startswith("."):
            continue  # Dagster does not look there either.
        if path.is_file():
            if path.suffix == ".py":
                yield path
        elif any(file.is_relative_to(path) for file in broken):
            yield from _list_parts_without(path, broken)
        elif _has_definitions(path):
            yield path


def _has_definitions(folder: Path) -> bool:
    """Whether there is anything below the folder that Dagster would load."""
    return any(any(folder.rglob(name)) for name in ("defs.y*ml", "component.y*ml", "*.py"))


def _make_tree_of_folder(project: dg.ComponentTree, folder: Path) -> dg.ComponentTree:
    """A tree that loads a folder of the project as if it were the whole of defs/."""
    module = module_from_spec(ModuleSpec(_make_module_name(project, folder), None, is_package=True))
    module.__path__ = [str(folder)]
    return dg.ComponentTree.from_module(module, project.project_root)


def _make_module_name(project: dg.ComponentTree, path: Path) -> str:
    return ".".join([project.defs_module_name, *path.relative_to(project.defs_module_path).parts])


def _make_context_of_files(project: dg.ComponentTree) -> dg.ComponentLoadContext:
    """A context for components that are not loaded by a tree of their folder.

    Its own tree is of an empty folder, because that of the project would read the broken files.
    """
    with temporary_folder() as folder:
        (folder / "defs.yaml").write_text("type: dagster.DefsFolderComponent")
        module = module_from_spec(ModuleSpec(project.defs_module_name, None, is_package=True))
        module.__path__ = [str(folder)]
        return dg.ComponentTree.from_module(module, project.project_root).load_context


def _load_file(
    project: dg.ComponentTree, file: Path, context: dg.ComponentLoadContext
) -> dg.Definitions:
    """The definitions of a Python file: its dg.Definitions if it has any, else its components and
    objects."""
    name = _make_module_name(project, file.with_suffix("")).removesuffix(".__init__")
    module = import_module(name)
    of_file = context.for_path(file)
    declared, built = [], []
    for value in vars(module).values():
        if isinstance(value, dg.Definitions):
            declared.append(value)
        elif hasattr(value, "load_fn"):  # A function with @dg.definitions.
            declared.append(value(of_file))
        elif is_component_loader(value):
            built.append(value(of_file).build_defs(of_file))
    if declared:
        return dg.Definitions.merge(*declared)
    return dg.Definitions.merge(*built, dg.load_definitions_from_module(module))


@contextmanager
def _raise_declaration_errors(defs: Path, without: Collection[Path] = ()) -> Iterator[None]:
    """A block in which Dagster's errors about files below the folder become DeclarationErrors.

    without: files that are known to be broken, and not loaded.
    """
    try:
        with warnings.catch_warnings():
            # Dagster would warn for each file that a few of its classes are new.
            for notice in (dg.BetaWarning, dg.PreviewWarning):
                warnings.simplefilter("ignore", notice)
            yield
    except Exception as error:
        lines = explain_error(error) or find_unreadable_files(defs, without)
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


def _build_stand_ins(defs: Path, lines_of_file: Mapping[Path, Sequence[str]]) -> dg.Definitions:
    """Assets in place of broken files, and a sensor that fails with their errors."""
    errors = "\n".join(line for lines in lines_of_file.values() for line in lines)
    logging.getLogger("batchrec").error("These pipelines are off until they are fixed:\n%s", errors)

    @dg.sensor(
        name="broken_pipelines",
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Fails while a defs.yaml is broken. Its jobs, schedule, sensors and alerts are"
        f" off until it is fixed and the code location reloaded.\n\n{format_code_block(errors)}",
    )
    def sensor() -> dg.SkipReason:
        raise dg.Failure(f"pipelines are broken, and their schedules are off:\n{errors}")

    assets = [
        _build_broken_asset(file.parent.relative_to(defs), lines)
        for file, lines in lines_of_file.items()
    ]
    return dg.Definitions(assets=assets, sensors=[sensor])


def _build_broken_asset(folder: Path, lines: Sequence[str]) -> dg.AssetsDefinition:
    """An asset that fails with the errors of a broken file.

    folder: the file's folder, relative to defs/.
    lines: a line for each error.
    """
    errors = "\n".join(lines)

    # No pipeline's name starts with _, so no refresh selects this group.
    @dg.asset(
        key=[*folder.parts, "broken"],
        group_name="_broken",
        description="This pipeline does not load. Its jobs, schedule, sensors and alerts are off;"
        " what it has published stays. Fix the file and reload the code location:\n\n"
        f"{format_code_block(errors)}",
    )
    def broken() -> None:
        raise dg.Failure(errors, allow_retries=False)

    return broken
