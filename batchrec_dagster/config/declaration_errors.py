"""Errors in a defs.yaml: one line each, with the file, the line, the setting and what to do."""

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pydoc import locate
from typing import NamedTuple

import dagster as dg
import yaml
from pydantic import ValidationError

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.declaration import Declaration
from batchrec_dagster.config.validation_messages import (
    UNKNOWN_SETTING,
    describe_error,
    join_alternatives,
)

# How Dagster gives an error's place: in a validation error, and in a failed template.
PLACE_OF_VALIDATION_ERROR = re.compile(r"(?P<path>.*) at (?P<file>.+):\d+$")
PLACE_OF_TEMPLATE_ERROR = re.compile(r"(?P<file>.+):\d+ - (?P<path>attributes\S*)$")
# pydantic's text has the keys in a line, and the message in the indented line below it.
MESSAGE_OF_TEMPLATE_ERROR = re.compile(
    r"^(?P<path>\S+)\n\s+(?P<message>.+)"
    r" \[type=(?P<type>\w+), input_value=(?P<value>.+), input_type",
    re.MULTILINE,
)
# How Python writes an error that is not pydantic's: with the name of its class.
CLASS_OF_ERROR = re.compile(r"^\w+Error: ")

# pydantic's names for the alternatives of a setting of several types. Those of blocks are class
# names, which start with a capital letter.
TYPE_NAMES = ("str", "int", "float", "bool")


class Problem(NamedTuple):
    """What is wrong with a setting."""

    file: Path
    keys: Sequence[str]
    """The keys that lead to the setting in the file."""
    message: str


class Place(NamedTuple):
    """Where a setting is in a defs.yaml."""

    line: int
    setting: Sequence[str]
    """The keys that lead to it, from those of a pipeline on."""
    value: str | None = None
    """What the file has there; None for a block."""


class DeclarationError(dg.DagsterInvalidDefinitionError):
    """Invalid settings in a defs.yaml; one line each, with file, line, key and fix."""


def build_validation_error(file: Path, error: ValidationError) -> DeclarationError:
    """The error of a declaration's own validators, with the line of each key."""
    problems = [
        Problem(
            file,
            ["attributes", *map(str, detail["loc"])],
            describe_error(detail["type"], detail["msg"]),
        )
        for detail in error.errors()
    ]
    return DeclarationError("\n".join(format_problems(problems)))


def build_same_name_error(name: str, places: Sequence[Path]) -> DeclarationError:
    """The error for a name that two pipelines have, a line for each of their places.

    Dagster's own error names only an asset key.

    places: the files that declare them, or those of the Python that makes them.
    """
    lines = []
    for place in sorted(set(places)):
        others = " and ".join(str(other) for other in places if other != place) or place
        message = f"{name} is also the name of the pipeline in {others}: rename one"
        if place.suffix == ".yaml":
            lines += format_problems([Problem(place, ["attributes", "name"], message)])
        else:
            lines.append(f"{place}: {message}")
    return DeclarationError("\n".join(lines))


def find_repeated_settings(file: Path) -> DeclarationError | None:
    """The error for settings that are written twice in a block, of which YAML takes the last.

    None if there are no such settings.
    """
    lines: list[str] = []
    visited: set[int] = set()
    blocks: list[yaml.Node] = [*yaml.compose_all(file.read_text(encoding="utf-8"))]
    while blocks:
        block = blocks.pop(0)
        # An alias is the same node again.
        if id(block) in visited or not isinstance(block, yaml.CollectionNode):
            continue
        visited.add(id(block))
        line_of_key: dict[str, int] = {}
        for entry in block.value:
            key, value = entry if isinstance(entry, tuple) else (None, entry)
            blocks.append(value)
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value not in line_of_key:
                line_of_key[key.value] = line
                continue
            first_line = line_of_key[key.value]
            where = "twice" if first_line == line else f"in line {first_line} too"
            lines.append(f"{file}, line {line}: {key.value} is set {where}: keep one of them")
    return DeclarationError("\n".join(lines)) if lines else None


def explain_error(error: BaseException) -> list[str]:
    """A line for each problem that the error, or one that caused it, names with file and line.

    Empty if none of them names a file.
    """
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += _explain_cause(cause)
        cause = cause.__cause__
    return lines


def _explain_cause(cause: BaseException) -> list[str]:
    if isinstance(cause, DeclarationError):
        return str(cause).splitlines()
    if isinstance(cause, yaml.MarkedYAMLError) and (mark := cause.problem_mark):
        return [f"{mark.name}, line {mark.line + 1}: this is not YAML: {cause.problem}"]
    if isinstance(cause, ValidationError):
        return format_problems(_find_places(cause))
    problem = _parse_template_error(str(cause))
    return format_problems([problem]) if problem else []


def _find_places(error: ValidationError) -> Iterator[Problem]:
    """The problems of a validation error of Dagster, which has file and keys in one text."""
    for detail in error.errors():
        if not detail["loc"]:
            continue
        place = PLACE_OF_VALIDATION_ERROR.match(str(detail["loc"][0]))
        if place:
            message = describe_error(detail["type"], detail["msg"])
            yield Problem(Path(place["file"]), place["path"].split("."), message)


def _parse_template_error(text: str) -> Problem | None:
    """The problem in the text of a failed template; None if it is another error's."""
    first_line, *other_lines = text.strip().splitlines() or [""]
    place = PLACE_OF_TEMPLATE_ERROR.match(first_line)
    if not place or not other_lines:
        return None
    keys = place["path"].split(".")
    error = MESSAGE_OF_TEMPLATE_ERROR.search("\n".join(other_lines))
    if error is None:
        message = CLASS_OF_ERROR.sub("", other_lines[-1])
    elif error["value"] == "None" and error["type"] != "value_error":
        message = "its template has no value: set the environment variable that it names"
    else:
        message = describe_error(error["type"], error["message"])
    if error is not None:
        keys += error["path"].split(".")
    return Problem(Path(place["file"]), keys, message)


def find_unreadable_files(folder: Path) -> list[str]:
    """A line for each defs.yaml that is not text, is empty or has an unknown type.

    Dagster's own errors about these do not name the file.
    """
    lines = []
    for file in sorted(folder.rglob("defs.yaml")):
        content = file.read_bytes()
        try:
            documents = list(yaml.compose_all(content.decode()))
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            lines.append(f"{file}, line {line}: this is not UTF-8: save the file in UTF-8")
        except yaml.reader.ReaderError as error:
            line = content.decode().count("\n", 0, error.position) + 1
            problem = f"the control character U+{error.character:04X}: delete it"
            lines.append(f"{file}, line {line}: this is not YAML, because of {problem}")
        except RecursionError:
            lines.append(f"{file}, line 1: this is nested too deeply for YAML: write it flatter")
        except yaml.YAMLError:
            pass  # Dagster's own error names the file.
        else:
            if not documents:
                lines.append(f"{file}, line 1: the file is empty: declare a pipeline, or delete it")
            lines += _find_unknown_types(file, documents)
    return lines


def _find_unknown_types(file: Path, documents: Iterable[yaml.Node]) -> Iterator[str]:
    for document in documents:
        for key, value in document.value if isinstance(document, yaml.MappingNode) else []:
            if key.value == "type" and locate(value.value) is None:
                line = value.start_mark.line + 1
                yield (
                    f"{file}, line {line}: type: {value.value} does not exist; write"
                    f" {COMPONENT_TYPE}"
                )


def format_problems(problems: Iterable[Problem]) -> list[str]:
    """A line `FILE, line N: KEY: MESSAGE` for each setting.

    The messages about all alternatives of a setting's type become one line.
    """
    places: list[tuple[tuple[Path, int, str], str, str]] = []
    for file, keys, message in problems:
        line, setting, value = _locate(file, keys)
        # The line in the file shows the value.
        message = message.removeprefix(f"{value}: ")
        if message == UNKNOWN_SETTING:
            message = _describe_unknown_setting(keys)
        places.append(((file, line, ".".join(setting) or "attributes"), keys[-1], message))
    messages_of_place: dict[tuple[Path, int, str], list[str]] = {}
    for place, last_key, message in places:
        file, _, name = place
        # Dagster allows a string (a template) for every block. That is of no use where the block
        # itself has a problem, nor is another type where a setting within the block has one.
        in_block = any(
            other_file == file and f"{other_name}.".startswith(f"{name}.")
            for other_file, _, other_name in messages_of_place
        )
        within_block = any(
            other_file == file and other_name.startswith(f"{name}.")
            for (other_file, _, other_name), _, _ in places
        )
        if (last_key == "str" and in_block) or (last_key == "bool" and within_block):
            continue
        messages_of_place.setdefault(place, []).append(message)
    return [
        f"{file}, line {line}: {name}: {join_alternatives(messages)}"
        for (file, line, name), messages in messages_of_place.items()
    ]


def _describe_unknown_setting(keys: Sequence[str]) -> str:
    """The message for an unknown setting, with the nearest name."""
    *blocks, setting = keys
    if not blocks:
        return f"{UNKNOWN_SETTING}; those of a pipeline go under attributes, indented"
    schema = Declaration.model_json_schema()
    names = {
        name
        for block in (schema, *schema["$defs"].values())
        for name in block.get("properties", ())
    }
    nearest = difflib.get_close_matches(setting, sorted(names - {setting}), n=1, cutoff=0.8)
    return UNKNOWN_SETTING + (f"; did you mean {nearest[0]}?" if nearest else "")


def _locate(file: Path, keys: Sequence[str]) -> Place:
    """Where the setting is in the file.

    A validator may add names of its own to the path, such as the types of a setting. These are left
    out. The line of a missing key is that of its block.
    """
    for document in yaml.compose_all(file.read_text(encoding="utf-8")):
        line, path, node = document.start_mark.line + 1, [], document
        for key in keys:
            for name, value in node.value if isinstance(node, yaml.MappingNode) else []:
                if name.value == key:
                    line, node = name.start_mark.line + 1, value
                    path.append(key)
        if path:
            last = keys[-1]
            is_type = "[" in last or last in TYPE_NAMES or last[:1].isupper()
            is_missing = last not in path and not is_type
            if path[0] == "attributes":
                del path[0]
            if is_missing:
                return Place(line, [*path, last])
            return Place(line, path, node.value if isinstance(node, yaml.ScalarNode) else None)
    return Place(1, keys)
