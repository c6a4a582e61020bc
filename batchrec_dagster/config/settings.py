"""What all blocks of a declaration have in common, such as constraints that pydantic lacks."""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, InitErrorDetails, core_schema

from batchrec_dagster.errors import UserError


def _read_day(day: object) -> date:
    try:
        return date.fromisoformat(str(day))
    except ValueError:
        raise ValueError("write a day such as 2026-12-24") from None


Day = Annotated[date, BeforeValidator(_read_day)]
"""A day such as 2026-12-24. pydantic alone would take a number for the seconds since 1970."""


class SettingsSchema(GenerateJsonSchema):
    """What editors complete and check settings by.

    It leaves out titles, which would repeat names, and null, so that a mistake within a block that
    may be left out is named. Each block is described where it is named.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def handle_ref_overrides(self, json_schema: JsonSchemaValue) -> JsonSchemaValue:
        return json_schema


class Settings(BaseModel):
    """A block of settings. It does not change, and takes no other keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_lines(cls, settings: object) -> object:
        if isinstance(settings, Mapping | BaseModel):
            return settings
        raise ValueError("write its settings on separate lines below it")

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """The JSON schema of the settings, as `SettingsSchema` makes it."""
        return super().model_json_schema(
            *arguments, **{"schema_generator": SettingsSchema, **options}
        )


def block(kind: type[BaseModel], **options: Any) -> Any:
    """The field of a block, which the docstring of its model describes.

    options: those of pydantic's Field, such as its default.
    """
    return Field(description=" ".join((kind.__doc__ or "").split()), **options)


Keys = tuple[str | int, ...]
"""The keys of a setting, such as ("solution", "event_weights"), and its place in a list, from 0."""

# What errors show in place of the value, which may be a secret.
NOT_SHOWN = "not shown"


def raise_field_errors(problems: Iterable[tuple[Keys, str]]) -> None:
    """Raise ValidationError if there are problems, with the keys of their settings."""
    messages = dict(problems)
    if messages:
        raise build_field_errors(messages)


def build_field_errors(messages: Mapping[Keys, str]) -> ValidationError:
    """The error for a validator to raise.

    messages: each by its keys within the validated model.
    """
    problems = [_build_problem(keys, message) for keys, message in messages.items()]
    return ValidationError.from_exception_data("declaration", problems)


def _build_problem(keys: Keys, message: str) -> InitErrorDetails:
    # A type of pydantic's own, as Dagster rebuilds each error from its details.
    return InitErrorDetails(
        type="value_error", loc=keys, input=NOT_SHOWN, ctx={"error": ValueError(message)}
    )


def checked_by(check: Callable[[str], object]) -> AfterValidator:
    """The constraint that `check` does not refuse a text, by a ValueError or UserError."""

    def require(text: str) -> str:
        try:
            check(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(require)


@dataclass(frozen=True)
class Matching:
    """The constraint that a text matches the whole pattern."""

    pattern: str
    otherwise: str
    """The message for other texts, which says what to write."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._require, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^({self.pattern})$"}

    def _require(self, text: str) -> str:
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise ValueError(self.otherwise)
        return text


def locate_problems(error: ValidationError, settings: Any, names: Iterable[str]) -> ValidationError:
    """The same problems by the keys that the YAML has, one for each setting, without its value.

    pydantic tells the problems with each type that a setting may have, by the name of the type.

    settings: what was validated.
    names: of all settings, to suggest one for an unknown name.
    """
    problems: dict[Keys, list[InitErrorDetails]] = {}
    alternatives = set()
    for detail in error.errors():
        keys = _find_keys(detail["loc"], settings)
        if detail["type"] == "missing":
            keys = (*keys, detail["loc"][-1])
        elif len(keys) < len(detail["loc"]):
            alternatives.add(keys)
        if detail["type"] == "extra_forbidden":
            problem = _build_problem(keys, _describe_unknown_setting(str(keys[-1]), names))
        else:
            problem = InitErrorDetails(
                type=detail["type"], loc=keys, input=NOT_SHOWN, ctx=detail.get("ctx", {})
            )
        problems.setdefault(keys, []).append(problem)
    for keys in alternatives:
        # The block is the type that was meant, if there are problems with the settings in it.
        if any(other[: len(keys)] == keys and len(other) > len(keys) for other in problems):
            del problems[keys]
    return ValidationError.from_exception_data(
        error.title, [_join(keys, found) for keys, found in problems.items()]
    )


def get_message(error: Mapping[str, Any]) -> str:
    """What is wrong with the setting.

    error: one of those that pydantic tells.
    """
    return str(error["msg"]).removeprefix("Value error, ")


def _find_keys(place: Keys, settings: Any) -> Keys:
    """The keys of a problem's place that lead through the settings."""
    keys: Keys = ()
    for key in place:
        is_key = isinstance(settings, Mapping) and key in settings
        is_index = isinstance(settings, list) and isinstance(key, int) and key < len(settings)
        if is_key or is_index:
            settings = settings[key]
            keys = (*keys, key)
    return keys


def _join(keys: Keys, problems: list[InitErrorDetails]) -> InitErrorDetails:
    """One problem of those with each type that the setting may have."""
    if len(problems) == 1:
        return problems[0]
    errors = ValidationError.from_exception_data("setting", problems).errors()
    return _build_problem(keys, ", or: ".join(dict.fromkeys(map(get_message, errors))))


def _describe_unknown_setting(name: str, names: Iterable[str]) -> str:
    others = sorted({*names} - {name})
    similar_names = difflib.get_close_matches(name, others, n=1, cutoff=0.8)
    suggestion = f"; did you mean {similar_names[0]}?" if similar_names else ""
    return f"there is no such setting{suggestion}"


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does.

    A setting that is written with its default value is as good as one that is not.
    """
    text = "\n".join(
        part.model_dump_json(exclude_defaults=True) if isinstance(part, BaseModel) else repr(part)
        for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
