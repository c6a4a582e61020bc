"""What all blocks of a declaration have in common."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema


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
