"""What all blocks of a declaration have in common, such as constraints that pydantic lacks."""

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


def accepted_by(require: Callable[[str], object]) -> AfterValidator:
    """The constraint that `require` accepts a text: it raises no ValueError or UserError."""

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
    """The message for other texts, which says what to write."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self.require, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        return {**handler(schema), "pattern": f"^({self.pattern})$"}

    def require(self, text: str) -> str:
        """The text. Raises ValueError if it does not match."""
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
"""The ARN of a role of IAM."""


def fingerprint(*parts: BaseModel | object) -> str:
    """16 hex digits that change when any of the settings does.

    A setting that is written with its default value is as good as one that is not.
    """
    text = "\n".join(
        part.model_dump_json(exclude_defaults=True) if isinstance(part, BaseModel) else repr(part)
        for part in parts
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]
