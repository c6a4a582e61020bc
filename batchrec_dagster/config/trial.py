"""A trial of a pipeline: other settings, or the data of an earlier day, whose lists nobody reads.

A trial is the declared pipeline with changes: all steps run on it as on any pipeline, and its files
are in a folder of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any, Self

import yaml

from batchrec_dagster.config.fingerprints import fingerprint

# The longest name of a trial, which is a folder in the storage.
MOST_LETTERS = 40
# The most days of a backtest.
MOST_DAYS = 400
# Settings that say nothing of what is in the lists, or where a trial would no longer be one.
FIXED_SETTINGS = {
    "name": "a trial keeps the pipeline's name, by which it finds what is trained already",
    "sinks": "a trial writes to no sinks",
    "segments": "a trial makes no segments",
    "similar_items": "a trial makes no similar items",
    **dict.fromkeys(
        ("assets", "owners", "alerts", "schedule", "on_new_files", "automation", "retention"),
        "it changes nothing in the lists",
    ),
}


class TrialError(ValueError):
    """A trial cannot be made. The message says what to write instead."""


@dataclass(frozen=True)
class Trial:
    """What a trial changes of its pipeline."""

    name: str
    """Its name, which is that of its folder. The same changes have the same name, so that a trial
    that was stopped goes on."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The changed settings by their path, such as solution.recipe. None removes a setting."""
    as_of: date | None = None
    """The day at whose end its data end, in UTC; None for all data."""
    days_measured: int | None = None
    """For how many days after the data its lists are compared with what people did; None for all
    days until now."""
    list_name: str | None = None
    """The only one of the pipeline's lists that it makes; None for all."""

    @classmethod
    def parse(
        cls, settings: Mapping[str, Any], as_of: str = "", list_name: str | None = None
    ) -> Self:
        """The trial with these settings.

        as_of: the day, or the range of days, that it is named after; empty without one.
        list_name: the only list that it makes; None for all.
        """
        return cls(_make_name(settings, as_of, list_name or ""), settings, list_name=list_name)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The trial that `to_json` wrote."""
        values = json.loads(text)
        as_of = values.pop("as_of")
        return cls(**values, as_of=date.fromisoformat(as_of) if as_of else None)

    def to_json(self) -> str:
        as_of = None if self.as_of is None else self.as_of.isoformat()
        return json.dumps({**asdict(self), "as_of": as_of})

    @property
    def until(self) -> int | None:
        """The last second of the data, in epoch seconds; None for all data."""
        if self.as_of is None:
            return None
        return int(datetime.combine(self.as_of, time.max, UTC).timestamp())

    @property
    def description(self) -> str:
        """What it changes, in words."""
        parts = [f"{path}={format_value(value)}" for path, value in self.settings.items()]
        if self.as_of is not None:
            parts.append(f"data until {self.as_of}")
        return ", ".join(parts) or "nothing changed"


def parse_settings(texts: tuple[str, ...]) -> dict[str, Any]:
    """The settings by their path, from texts such as `solution.recipe=aws-popularity-count`.

    Values are YAML. Raises TrialError.
    """
    settings: dict[str, Any] = {}
    for text in texts:
        path, separator, value = text.partition("=")
        path = path.strip()
        if not separator or not re.fullmatch(r"\w[\w-]*(\.\w[\w-]*)*", path):
            raise TrialError(
                f"{text!r} is not a setting: write its path and value, such as"
                " solution.recipe=aws-user-personalization"
            )
        block = path.partition(".")[0]
        if block in FIXED_SETTINGS:
            raise TrialError(f"{path} cannot be tried: {FIXED_SETTINGS[block]}")
        try:
            # As JSON has it: a day of a rule is text in a declaration, too.
            settings[path] = json.loads(json.dumps(yaml.safe_load(value), default=str))
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or error
            raise TrialError(f"{path}: {value!r} is not YAML: {problem}") from error
    return settings


def apply_settings(attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of a declaration with these settings changed.

    Raises TrialError if a path leads through a value that is not a block.
    """
    changed: dict[str, Any] = json.loads(json.dumps(attributes, default=str))
    for path, value in settings.items():
        *blocks, last = path.split(".")
        block = changed
        for place, name in enumerate(blocks):
            inner = block.get(name)
            if inner is None:
                inner = block[name] = {}
            if not isinstance(inner, dict):
                outer = ".".join(blocks[: place + 1])
                raise TrialError(
                    f"{path}: {outer} is {format_value(inner)} here. Give the whole of {outer}"
                )
            block = inner
        if value is None:
            block.pop(last, None)
        else:
            block[last] = value
    return changed


def find_lists_about_orders(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the lists of a declaration that are about a person's last order, by name."""
    lists = attributes.get("lists") or {}
    return {
        name: settings
        for name, settings in lists.items()
        if isinstance(settings, Mapping) and settings.get("about") is not None
    }


def require_same_lists_about_orders(
    declared: Mapping[str, Any], changed: Mapping[str, Any], trial: Trial
) -> None:
    """Raise TrialError if the trial names a list about a person's last order, or changes one.

    declared: the attributes of the declaration.
    changed: the same with the trial's settings.
    """
    before, after = find_lists_about_orders(declared), find_lists_about_orders(changed)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if trial.list_name in before:
        names.insert(0, trial.list_name)
    if names:
        raise TrialError(
            f"lists.{names[0]} cannot be tried: it is about the last order, so that similar items"
            " make it, and a trial makes the lists of the model alone"
        )


def format_value(value: Any) -> str:
    """The value in one line of YAML."""
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    )


def _make_name(settings: Mapping[str, Any], as_of: str, list_name: str) -> str:
    words = [list_name] if list_name else []
    words += [
        re.sub(r"[^\w.-]+", "-", f"{path.rpartition('.')[2]}-{format_value(value)}").strip("-")
        for path, value in settings.items()
    ]
    if as_of:
        words.append(f"as-of-{as_of}")
    name = "_".join(words)
    # The path of a setting is not in the name, and long values are cut off.
    ending = f"-{fingerprint(sorted(settings.items(), key=str))[:6]}" if settings else ""
    return f"{name[: MOST_LETTERS - len(ending)].rstrip('-.')}{ending}"
