"""Changes settings in the text of a defs.yaml, and leaves all else as people wrote it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from batchrec_dagster.config.declaration_errors import build_validation_error
from batchrec_dagster.config.trial import Trial, TrialError, apply_settings, format_value
from batchrec_dagster.storage.durable import temporary_folder


def change_declaration(text: str, pipeline: str, settings: Mapping[str, Any]) -> str:
    """The text of a defs.yaml with these settings of the pipeline.

    Comments, order and all other settings stay.

    settings: by their path, such as solution.recipe. None removes a setting.
    Raises TrialError if a setting cannot be written there.
    """
    declared = _read_attributes(text, pipeline)
    changed = text
    for path, value in settings.items():
        keys = path.split(".")
        changed = (
            _remove(changed, pipeline, keys)
            if value is None
            else _write(changed, pipeline, keys, value)
        )
    # What is written must mean what was tried.
    try:
        has_settings = _read_attributes(changed, pipeline) == apply_settings(declared, settings)
    except yaml.YAMLError:
        has_settings = False
    if not has_settings:
        lines = ", ".join(f"{path}: {format_value(value)}" for path, value in settings.items())
        raise TrialError(f"these settings cannot be written there: write them yourself: {lines}")
    return changed


def explain_trial_error(file: Path, pipeline: str, trial: Trial, error: ValidationError) -> str:
    """What is wrong with the settings of a trial, in lines that name the settings.

    file: the defs.yaml, whose lines are not those of the changed settings.
    """
    with temporary_folder() as folder:
        changed = folder / file.name
        try:
            changed.write_text(
                change_declaration(file.read_text("utf-8"), pipeline, trial.settings)
            )
        except TrialError:
            # As far as the file has these settings.
            changed = file
        text = str(build_validation_error(changed, error))
    return re.sub(rf"^{re.escape(str(changed))}, line \d+: ", "", text, flags=re.MULTILINE)


def _read_attributes(text: str, pipeline: str) -> dict[str, Any]:
    """The attributes of the pipeline, as plain data."""
    for document in yaml.safe_load_all(text):
        attributes = document.get("attributes") if isinstance(document, dict) else None
        if isinstance(attributes, dict) and attributes.get("name") == pipeline:
            return apply_settings(attributes, {})
    raise TrialError(f"no pipeline has the name {pipeline} there")


def _find_attributes(text: str, pipeline: str) -> MappingNode:
    """The node of the pipeline's attributes."""
    for document in yaml.compose_all(text, yaml.SafeLoader):
        attributes = _get(document, "attributes")
        name = _get(attributes, "name")
        if isinstance(attributes, MappingNode) and getattr(name, "value", None) == pipeline:
            return attributes
    raise TrialError(f"no pipeline has the name {pipeline} there")


def _get(node: Node | None, key: str) -> Node | None:
    """The value of the key in a mapping; None if there is none."""
    if not isinstance(node, MappingNode):
        return None
    return next((value for name, value in node.value if name.value == key), None)


def _write(text: str, pipeline: str, keys: list[str], value: Any) -> str:
    """The text with the value at the path of these keys."""
    block = _find_attributes(text, pipeline)
    for place, key in enumerate(keys[:-1]):
        inner = _get(block, key)
        if not isinstance(inner, MappingNode) or not _has_keys(inner):
            # There is no such block, or one without a setting, such as `solution:`.
            for inner_key in reversed(keys[place + 1 :]):
                value = {inner_key: value}
            return _write_entry(text, block, key, value)
        block = inner
    return _write_entry(text, block, keys[-1], value)


def _write_entry(text: str, block: MappingNode, key: str, value: Any) -> str:
    """The text with the value of this key in the block, which may have one already."""
    node = _get(block, key)
    if node is not None:
        return _replace(text, node, value)
    entry = f"{key}: {format_value(value)}"
    end = _find_end(text, block)
    if block.flow_style:
        separator = ", " if block.value else ""
        return f"{text[: end - 1].rstrip()}{separator}{entry}{text[end - 1 :]}"
    indent = " " * block.value[0][0].start_mark.column
    # Behind a comment in the last line of the block.
    line_end = text.find("\n", end)
    line_end = len(text) if line_end < 0 else line_end
    return f"{text[:line_end]}\n{indent}{entry}{text[line_end:]}"


def _replace(text: str, node: Node, value: Any) -> str:
    """The text with this value in the place of the node."""
    start, end = node.start_mark.index, _find_end(text, node)
    # Behind the colon, if there is no value yet.
    space = "" if text[start - 1 : start].isspace() else " "
    return text[:start] + space + format_value(value) + text[end:]


def _remove(text: str, pipeline: str, keys: list[str]) -> str:
    """The text without the setting at the path of these keys, and without blocks that it leaves
    empty."""
    blocks: list[MappingNode] = [_find_attributes(text, pipeline)]
    for key in keys[:-1]:
        inner = _get(blocks[-1], key)
        if not isinstance(inner, MappingNode):
            return text
        blocks.append(inner)
    if _get(blocks[-1], keys[-1]) is None:
        return text
    block = blocks[-1]
    names = [name.value for name, _ in block.value]
    place = names.index(keys[-1])
    name, value = block.value[place]
    start, end = name.start_mark.index, _find_end(text, value)
    if block.flow_style:
        # The comma behind the entry goes too, or the one before the last entry.
        if place + 1 < len(block.value):
            end = block.value[place + 1][0].start_mark.index
        elif place:
            start = _find_end(text, block.value[place - 1][1])
        return text[:start] + text[end:]
    if len(block.value) == 1:
        return text[:start] + "{}" + text[end:]
    line_start = text.rfind("\n", 0, start) + 1
    line_end = text.find("\n", end)
    return text[:line_start] + ("" if line_end < 0 else text[line_end + 1 :])


def _has_keys(block: MappingNode) -> bool:
    """Whether an entry can be written into the block: it has others, or braces."""
    return bool(block.value) or bool(block.flow_style)


def _find_end(text: str, node: Node) -> int:
    """Where the node ends. YAML's own mark of a block may be behind the comments after it."""
    if isinstance(node, CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _find_end(text, last[1] if isinstance(node, MappingNode) else last)
    end: int = node.end_mark.index
    if isinstance(node, ScalarNode) and node.style in ("|", ">"):
        return len(re.sub(r"\s+\Z", "", text[:end]))
    return end
