"""The base class of all settings, and constraints that pydantic lacks."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
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
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from batchrec_dagster.errors import UserError


def _read_day(day: object) -> date:
    try:
        return date.fromisoformat(str(day))
    except ValueError:
        raise ValueError("write a day such as 2026-12-24") from None


Day = Annotated[date, BeforeValidator(_read_day)]
"""A day such as 2026-12-24. pydantic alone would take a number for the seconds since 1970."""


class SettingsSchema(GenerateJsonSchema):
    """The generator of the JSON schema, with which editors complete and check settings.

    It leaves out titles, which would repeat names. It also leaves out null, so that editors name
    the mistake within an optional block. The description of a block is at the setting that has the
    block.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def handle_ref_overrides(self, json_schema: JsonSchemaValue) -> JsonSchemaValue:
        return json_schema


class Settings(BaseModel):
    """A block of settings. It cannot be changed, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def model_json_schema(cls, *arguments: Any, **options: Any) -> dict[str, Any]:
        """Return the JSON schema of the settings, as `SettingsSchema` generates it."""
        return super().model_json_schema(
            *arguments, **{"schema_generator": SettingsSchema, **options}
        )


def block(kind: type[BaseModel], **options: Any) -> Any:
    """Return a field for a block of settings, with the docstring of its model as the description.

    options: further options of pydantic's Field, such as a default.
    """
    return Field(description=" ".join((kind.__doc__ or "").split()), **options)


def accepted_by(require: Callable[[str], object]) -> AfterValidator:
    """Return the constraint that `require` accepts a text.

    A text is accepted if `require` raises no ValueError or UserError.
    """

    def validate(text: str) -> str:
        try:
            require(text)
        except UserError as error:
            raise ValueError(str(error)) from None
        return text

    return AfterValidator(validate)


@dataclass(frozen=True)
class Matching:
    """The constraint that a text matches the whole pattern."""

    pattern: str
    otherwise: str
    """The message for texts that do not match. It says what to write."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.require, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^({self.pattern})$"}

    def require(self, text: str) -> str:
        """Return the text. Raises ValueError if it does not match."""
        if not re.fullmatch(self.pattern, text, re.ASCII):
            raise ValueError(self.otherwise)
        return text


RoleArn = Annotated[
    str,
    Matching(
        r"arn:[a-z\d-]+:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-/]+",
        "write an ARN such as arn:aws:iam::123456789012:role/NAME",
    ),
]
"""The ARN of an IAM role."""


def fingerprint(*parts: BaseModel | object) -> str:
    """Return 16 hex digits that change when a setting changes.

    A setting with its default value counts like a setting that is left out.
    """
    text = "\n".join(
        part.model_dump_json(exclude_defaults=True) if isinstance(part, BaseModel) else repr(part)
        for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
