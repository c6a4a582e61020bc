"""Loads the declared pipelines; each error is one line with file, line and key."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pydoc import locate

import dagster as dg
import yaml
from pydantic import ValidationError

from batchrec_dagster.config import COMPONENT_TYPE, OLD_COMPONENT_TYPE, Pipeline
from batchrec_dagster.pipeline.ui import WRITES_TO

# How Dagster gives an error's place: in a validation error, and in a failed template.
AT = re.compile(r"(?P<path>attributes\S*.*) at (?P<file>.+):\d+$")
MESSAGE = re.compile(r"\s+(?:Value error, )?(.+) \[type=\w+, input_value=")
RESOLVING = re.compile(r"(?P<file>.+):\d+ - (?P<path>attributes\S*)$")

# pydantic's names for the alternatives of a setting of several types. Those of blocks are class
# names, which start with a capital letter.
TYPES = ("str", "int", "float", "bool")


class DeclarationError(dg.DagsterInvalidDefinitionError):
    """Invalid settings in a defs.yaml; one line each, with file, line, key and fix."""


def load_pipelines(folder: Path) -> dg.Definitions:
    """The definitions of every defs.yaml under the defs/ folder of this package folder.

    Raises DeclarationError.
    """
    try:
        loaded = dg.load_from_defs_folder(path_within_project=folder)
    except Exception as error:
        lines = [line for cause in _causes(error) for line in _explain(cause)]
        if not (lines := lines or _of_no_type(folder / "defs")):
            raise
        raise DeclarationError("\n".join(lines)) from None
    if lines := _written_twice(loaded):
        raise DeclarationError("\n".join(lines))
    return loaded


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
    """A line for each place that sinks of several pipelines write to: they would overwrite each
    other."""
    places: dict[str, list[str]] = {}
    for asset in loaded.assets or []:
        for spec in asset.specs if isinstance(asset, dg.AssetsDefinition) else []:
            if place := spec.metadata.get(WRITES_TO):
                places.setdefault(place, []).append(spec.key.path[0])
    return [
        f"{' and '.join(pipelines)} write to the same place, {place}: change one of them"
        for place, pipelines in sorted(places.items())
        if len(pipelines) > 1
    ]


def same_name_error(name: str, files: Sequence[Path]) -> DeclarationError:
    """The error for a name declared twice; Dagster's own names only an asset key."""
    *others, last = sorted(files)
    there = " and ".join(map(str, others))
    message = f"{name} is also the name of the pipeline in {there}: rename one"
    return DeclarationError("\n".join(_lines([(last, ["attributes", "name"], message)])))


def _of_no_type(folder: Path) -> list[str]:
    """A line for each defs.yaml that is empty or has an unknown type; Dagster's own error does not
    name the file."""
    lines = []
    for file in sorted(folder.rglob("defs.yaml")):
        documents = list(yaml.compose_all(file.read_text(encoding="utf-8")))
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
            _no_such(keys[-1]) if plain == "Extra inputs are not permitted" else plain
        )
    return [place + ", or: ".join(messages) for place, messages in places.items()]


def _no_such(setting: str) -> str:
    """The message for an unknown setting, with the nearest name."""
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
            return line, [*known[1:], *([last] if missing else [])]
    return 1, list(keys)
