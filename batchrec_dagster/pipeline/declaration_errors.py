"""Errors in the files below defs/, one per line, with the file, the line, the setting and a fix."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc import locate
from typing import NamedTuple

import dagster as dg
import yaml
from pydantic import ValidationError

from batchrec_dagster.config import COMPONENT_TYPE
from batchrec_dagster.config.problems import Keys, describe_error
from batchrec_dagster.pipeline.component_files import list_component_files

# Dagster's text about the position of a setting.
POSITION = re.compile(r"(?P<setting>.*) at (?P<file>.+):(?P<line>\d+)$")


class DeclarationError(dg.DagsterInvalidDefinitionError):
    """Invalid settings: one error per line, with file, line, key and fix."""


class Origin(NamedTuple):
    """The origin of a pipeline's declaration."""

    file: Path
    """The file that declares the pipeline, or the file of the component that made it."""
    context: dg.ResolutionContext | None = None
    """The context of the component's YAML; None for a pipeline that Python code builds."""

    def describe_problem(self, keys: Keys, message: str) -> str:
        """Return a one-line error message about a setting, with the setting's position.

        Without a context, the message names the file, but neither the line nor the setting.
        """
        positions = self.context and self.context.source_position_tree
        if not positions:
            return f"{self.file}: {message}"
        position, _ = positions.lookup_closest_and_path(["attributes", *keys], None)
        return _describe(position.filename, position.start.line, ".".join(map(str, keys)), message)


def build_validation_error(origin: Origin, error: ValidationError) -> DeclarationError:
    """Return a DeclarationError with a line for each problem that the validators found."""
    lines = [
        origin.describe_problem(detail["loc"], describe_error(detail)) for detail in error.errors()
    ]
    return DeclarationError("\n".join(lines))


def require_distinct_settings(file: Path) -> None:
    """Raise DeclarationError if a block has a setting twice: YAML would silently use the last."""
    lines: list[str] = []
    visited: set[yaml.Node] = set()
    nodes = [*yaml.compose_all(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop(0)
        # A YAML alias leads to the same node a second time.
        if node in visited:
            continue
        visited.add(node)
        if isinstance(node, yaml.SequenceNode):
            nodes += node.value
        elif isinstance(node, yaml.MappingNode):
            nodes += [value for _, value in node.value]
            lines += _find_repeated_keys(file, [key for key, _ in node.value])
    if lines:
        raise DeclarationError("\n".join(lines))


def _find_repeated_keys(file: Path, keys: Iterable[yaml.Node]) -> Iterator[str]:
    """Yield a line for each key that repeats an earlier key of the block."""
    line_of_key: dict[str, int] = {}
    for key in keys:
        if not isinstance(key, yaml.ScalarNode):
            continue
        line = key.start_mark.line + 1
        if key.value in line_of_key:
            also = f"also in line {line_of_key[key.value]}"
            yield f"{file}, line {line}: {key.value} is set {also}: keep one of them"
        line_of_key.setdefault(key.value, line)


def explain_error(error: BaseException) -> list[str]:
    """Return the problems that the error and its causes locate in a file, one per line.

    The list is empty if neither the error nor its causes locate a problem in a file.
    """
    lines: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        lines += _explain_cause(cause)
        cause = cause.__cause__
    return lines


def _explain_cause(cause: BaseException) -> Iterator[str]:
    """Yield the problems that this single error locates in a file, one per line."""
    if isinstance(cause, DeclarationError):
        yield from str(cause).splitlines()
    elif isinstance(cause, yaml.MarkedYAMLError) and (mark := cause.problem_mark):
        yield (
            f"{mark.name}, line {mark.line + 1}: this is not YAML: check the indentation, the"
            f" quotes and the brackets here and above ({cause.problem})"
        )
    elif isinstance(cause, ValidationError):
        for detail in cause.errors():
            position = POSITION.match(str(detail["loc"][0])) if detail["loc"] else None
            if position:
                message = describe_error(detail)
                if detail["type"] == "extra_forbidden":
                    message = "write the settings of a pipeline under attributes, indented"
                file, line = position["file"], int(position["line"])
                yield _describe(file, line, position["setting"], message)


def _describe(file: str, line: int, setting: str, message: str) -> str:
    name = setting.removeprefix("attributes.") or "attributes"
    return f"{file}, line {line}: {name}: {message}"


def find_unreadable_files(folder: Path) -> list[str]:
    """Return a line for each component file that is not text, is empty or has an unknown type.

    Dagster's own errors about such files do not name the file.
    """
    lines = []
    for file in list_component_files(folder):
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
    """Yield a line for each document with a type that cannot be imported."""
    for document in documents:
        for key, value in document.value if isinstance(document, yaml.MappingNode) else []:
            if key.value == "type" and locate(value.value) is None:
                line = value.start_mark.line + 1
                yield (
                    f"{file}, line {line}: type: {value.value} does not exist; write"
                    f" {COMPONENT_TYPE}"
                )
