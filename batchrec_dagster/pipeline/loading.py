"""Loads the declared pipelines; each error is one line with file, line and key."""

import difflib
import logging
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import dagster as dg
import yaml
from pydantic import ValidationError

from batchrec_dagster import dagster_internals as internals
from batchrec_dagster.config import COMPONENT_TYPE, OLD_COMPONENT_TYPE, Pipeline
from batchrec_dagster.pipeline.declare_asset import PIPELINE, WRITES_TO
from batchrec_dagster.reporting.markdown import format_code_block

# How Dagster gives an error's place: in a validation error, and in a failed template.
AT = re.compile(r"(?P<path>.*) at (?P<file>.+):\d+$")
MESSAGE = re.compile(r"\s+(?:Value error, )?(.+) \[type=\w+, input_value=")
RESOLVING = re.compile(r"(?P<file>.+):\d+ - (?P<path>attributes\S*)$")

# pydantic's names for the alternatives of a setting of several types. Those of blocks are class
# names, which start with a capital letter.
TYPES = ("str", "int", "float", "bool")


C = TypeVar("C", bound=dg.Component)


class DeclarationError(dg.DagsterInvalidDefinitionError):
    """Invalid settings in a defs.yaml; one line each, with file, line, key and fix."""


_found: WeakKeyDictionary[object, dict[type, list[Any]]] = WeakKeyDictionary()


def components_of(context: dg.ComponentLoadContext, of_type: type[C]) -> list[C]:
    """The project's components of a type. Dagster would walk through the whole project for each
    pipeline that asks."""
    tree = context.component_tree
    known = _found.setdefault(tree.state_tracker, {})
    if of_type not in known:
        known[of_type] = tree.get_all_components(of_type=of_type)
    return known[of_type]


def load_valid_pipelines(folder: Path) -> dg.Definitions:
    """As `load_pipelines`, but a broken defs.yaml stops no other pipeline: an asset named `broken`
    stands in its place, and a sensor fails with the errors of all such files.

    Raises DeclarationError only for errors that are in no single file.
    """
    broken: dict[Path, list[str]] = {}
    while True:
        try:
            loaded = load_pipelines(folder, broken)
        except DeclarationError as error:
            found = _by_file(folder / "defs", error)
            if not found.keys() - broken.keys():
                raise
            broken |= found
        else:
            return dg.Definitions.merge(loaded, _stand_ins(folder / "defs", broken))


def load_pipelines(folder: Path, without: Collection[Path] = ()) -> dg.Definitions:
    """The definitions of every defs.yaml but these, under the defs/ folder of this package folder.
    Raises DeclarationError."""
    try:
        with warnings.catch_warnings():
            # Notices that a few of Dagster's classes are new, for each file of YAML or Python.
            for notice in (dg.BetaWarning, dg.PreviewWarning):
                warnings.simplefilter("ignore", notice)
            tree = dg.ComponentTree.for_project(folder)
            if without:
                # Dagster takes the declarations from this cache instead of reading them itself.
                root = internals.ComponentPath.from_path(tree.defs_module_path)
                context = tree.decl_load_context.for_component_loc(root)
                tree.state_tracker.set_cache_data(root, component_decl=_declared(context, without))
            # Dagster would walk through the whole project again for each file.
            for loc, declared in tree.find_root_decl().iterate_loc_component_decl_pairs():
                tree.state_tracker.set_cache_data(loc, component_decl=declared)
            # What is in the folder alone: the whole tree also imports every installed package with
            # components and describes each of their classes, for a page of Dagster's UI.
            folder_defs = tree.build_defs(tree.defs_module_path)
            loaded = dg.Definitions.merge(folder_defs, dg.Definitions(component_tree=tree))
    except Exception as error:
        lines = [line for cause in _causes(error) for line in _explain(cause)]
        if not (lines := lines or _of_no_type(folder / "defs", without)):
            raise
        raise DeclarationError("\n".join(lines)) from None
    if lines := _written_twice(loaded):
        raise DeclarationError("\n".join(lines))
    return loaded


def _declared(
    context: internals.ComponentDeclLoadContext, without: Collection[Path]
) -> internals.ComponentDecl[Any] | None:
    """What this folder or file declares, as Dagster reads it, without these defs.yaml."""
    path = context.path
    if path / "defs.yaml" in without:
        return None
    if not path.is_dir() or internals.find_defs_or_component_yaml(path) is not None:
        return internals.build_filesystem_component_decl_from_context(context)
    children = {}
    for child in sorted(path.iterdir()):
        name = child.relative_to(path)
        if not any(name.match(pattern) for pattern in internals.EXPLICITLY_IGNORED_GLOB_PATTERNS):
            loc = internals.ComponentPath.from_path(child)
            if (declared := _declared(context.for_component_loc(loc), without)) is not None:
                children[child] = declared
    return internals.DefsFolderDecl(
        context=context,
        loc=internals.ComponentPath.from_path(path),
        children=children,
        source_tree=None,
        component_file_model=None,
    )


def _by_file(defs: Path, error: DeclarationError) -> dict[Path, list[str]]:
    files = list(defs.rglob("defs.yaml"))
    found: dict[Path, list[str]] = {}
    for line in str(error).splitlines():
        for file in files:
            if line.startswith(f"{file}, line "):
                found.setdefault(file, []).append(line)
    return found


def _stand_ins(defs: Path, broken: Mapping[Path, Sequence[str]]) -> dg.Definitions:
    """Assets in place of broken files, and a sensor that fails with their errors."""
    if not broken:
        return dg.Definitions()
    errors = "\n".join(line for lines in broken.values() for line in lines)
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

    assets = [_stand_in(file.parent.relative_to(defs), lines) for file, lines in broken.items()]
    return dg.Definitions(assets=assets, sensors=[sensor])


def _stand_in(folder: Path, lines: Sequence[str]) -> dg.AssetsDefinition:
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


def declaration_error(file: Path, error: ValidationError) -> DeclarationError:
    """The error of a declaration's own validators, with the line of each key."""
    return DeclarationError(
        "\n".join(
            _lines(
                (file, ["attributes", *map(str, detail["loc"])], detail["msg"])
                for detail in error.errors()
            )
        )
    )


def _written_twice(loaded: dg.Definitions) -> list[str]:
    """A line for each pipeline with a sink that writes where another's does: they would overwrite
    each other."""
    places: dict[str, dict[str, Path]] = {}
    for asset in loaded.assets or []:
        for spec in asset.specs if isinstance(asset, dg.AssetsDefinition) else []:
            if place := spec.metadata.get(WRITES_TO):
                *_, declared = spec.metadata["dagster/code_references"].code_references
                places.setdefault(place, {})[spec.metadata[PIPELINE]] = Path(declared.file_path)
    return _lines(
        (file, ["attributes", *place.partition(": ")[0].split(".")], message)
        for place, files in sorted(places.items())
        if len(files) > 1
        for message in [
            f"{' and '.join(files)} write to the same place, {place}: change one of them"
        ]
        for file in files.values()
    )


def repeated_settings_error(file: Path) -> DeclarationError | None:
    """The error for settings that stand twice in a block, of which YAML takes the last."""
    lines, seen = [], set[int]()
    blocks: list[yaml.Node] = [*yaml.compose_all(file.read_text(encoding="utf-8"))]
    while blocks:
        block = blocks.pop(0)
        if id(block) in seen or not isinstance(block, yaml.CollectionNode):
            continue
        seen.add(id(block))  # An alias is the same node again.
        first: dict[str, int] = {}
        for entry in block.value:
            key, value = entry if isinstance(entry, tuple) else (None, entry)
            blocks.append(value)
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in first:
                    before = first[key.value]
                    where = "twice" if before == line else f"in line {before} too"
                    what = f"{key.value} is set {where}: keep one of them"
                    lines.append(f"{file}, line {line}: {what}")
                else:
                    first[key.value] = line
    return DeclarationError("\n".join(lines)) if lines else None


def same_name_error(name: str, files: Sequence[Path]) -> DeclarationError:
    """The error for a name declared twice, a line for each file; Dagster's own names only an asset
    key."""
    lines = []
    for file in sorted(set(files)):
        there = " and ".join(str(other) for other in sorted(files) if other != file) or file
        message = f"{name} is also the name of the pipeline in {there}: rename one"
        lines += _lines([(file, ["attributes", "name"], message)])
    return DeclarationError("\n".join(lines))


def _of_no_type(folder: Path, without: Collection[Path]) -> list[str]:
    """A line for each other defs.yaml that is no text, is empty or has an unknown type; Dagster's
    own error does not name the file."""
    lines = []
    for file in sorted({*folder.rglob("defs.yaml")}.difference(without)):
        raw = file.read_bytes()
        try:
            documents = list(yaml.compose_all(raw.decode()))
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            lines.append(f"{file}, line {line}: this is not UTF-8: save the file in UTF-8")
            continue
        except yaml.reader.ReaderError as error:
            line = raw.decode().count("\n", 0, error.position) + 1
            what = f"the control character U+{error.character:04X}: delete it"
            lines.append(f"{file}, line {line}: this is not YAML, because of {what}")
            continue
        except RecursionError:
            lines.append(f"{file}, line 1: this is nested too deeply for YAML: write it flatter")
            continue
        except yaml.YAMLError:  # Dagster's own error names it.
            continue
        if not documents:
            lines.append(f"{file}, line 1: the file is empty: declare a pipeline, or delete it")
        for document in documents:
            for key, value in document.value if isinstance(document, yaml.MappingNode) else []:
                if key.value == "type" and locate(value.value) is None:
                    why = "was renamed" if value.value == OLD_COMPONENT_TYPE else "does not exist"
                    lines.append(
                        f"{file}, line {value.start_mark.line + 1}: type: {value.value} {why};"
                        f" write {COMPONENT_TYPE}"
                    )
    return lines


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _explain(cause: BaseException) -> list[str]:
    """A line for each error; empty if the exception does not give the place."""
    if isinstance(cause, DeclarationError):
        return str(cause).splitlines()
    if isinstance(cause, yaml.MarkedYAMLError) and (mark := cause.problem_mark):
        return [f"{mark.name}, line {mark.line + 1}: this is not YAML: {cause.problem}"]
    if isinstance(cause, ValidationError):
        places = [AT.match(str(detail["loc"][0])) for detail in cause.errors() if detail["loc"]]
        return _lines(
            (Path(place["file"]), place["path"].split("."), detail["msg"])
            for place, detail in zip(places, cause.errors(), strict=False)
            if place
        )
    first, *rest = str(cause).strip().splitlines() or [""]
    place = RESOLVING.match(first)
    if place and rest:
        messages = [match[1] for line in rest if (match := MESSAGE.match(line))] or rest[-1:]
        return _lines([(Path(place["file"]), place["path"].split("."), messages[0])])
    return []


def _lines(errors: Iterable[tuple[Path, Sequence[str], str]]) -> list[str]:
    """`file, line N: key: message` for each place, with all alternatives of a type in one line."""
    places: dict[str, list[str]] = {}
    for file, keys, message in errors:
        # Dagster allows a string (a template) for every block.
        if keys[-1] == "str" and any(place.startswith(f"{file}, ") for place in places):
            continue
        line, known = _locate(file, keys)
        plain = message.removeprefix("Value error, ")
        places.setdefault(f"{file}, line {line}: {'.'.join(known) or 'attributes'}: ", []).append(
            _no_such(keys) if plain == "Extra inputs are not permitted" else plain
        )
    return [place + ", or: ".join(messages) for place, messages in places.items()]


def _no_such(keys: Sequence[str]) -> str:
    """The message for an unknown setting, with the nearest name."""
    *blocks, setting = keys
    if not blocks:
        return "there is no such setting; those of a pipeline go under attributes, indented"
    schema = Pipeline.model_json_schema()
    parts = (schema, *schema["$defs"].values())
    names = {name for part in parts for name in part.get("properties", ())} - {setting}
    near = difflib.get_close_matches(setting, sorted(names), n=1, cutoff=0.8)
    return "there is no such setting" + (f"; did you mean {near[0]}?" if near else "")


def _locate(file: Path, keys: Sequence[str]) -> tuple[int, list[str]]:
    """The line of the key and its path, without validators' own names."""
    for document in yaml.compose_all(file.read_text(encoding="utf-8")):
        line, known, node = document.start_mark.line + 1, [], document
        for key in keys:
            for name, value in node.value if isinstance(node, yaml.MappingNode) else []:
                if name.value == key:
                    line, node = name.start_mark.line + 1, value
                    known.append(key)
        if known:
            # A missing key has no line.
            last = keys[-1]
            is_type = "[" in last or last in TYPES or last[:1].isupper()
            missing = last not in known and not is_type
            inside = known[known[0] == "attributes" :]
            return line, [*inside, *([last] if missing else [])]
    return 1, list(keys)
