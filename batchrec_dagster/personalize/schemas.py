"""The datasets' schemas: the Avro schemas that CreateSchema accepts, and batchrec's own schemas.

Source: Amazon Personalize developer guide, "Datasets and schemas" and "Schema formatting
requirements".
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

NAMESPACE = "com.amazonaws.personalize.schema"
INTERACTIONS, ITEMS, USERS = "INTERACTIONS", "ITEMS", "USERS"
DATASET_TYPES = (INTERACTIONS, ITEMS, USERS)

USER_ID = "USER_ID"
ITEM_ID = "ITEM_ID"
TIMESTAMP = "TIMESTAMP"
EVENT_TYPE = "EVENT_TYPE"
EVENT_VALUE = "EVENT_VALUE"
IMPRESSION = "IMPRESSION"
CREATION_TIMESTAMP = "CREATION_TIMESTAMP"
# Times are in seconds, and periods are declared in days.
SECONDS_A_DAY = 86_400

TYPES = ("float", "double", "int", "long", "string", "boolean")
MAX_CATEGORICAL_LENGTH = 1000
# The limit on distinct event types and optional columns of interactions together. Source: developer
# guide, "Endpoints and quotas" and "Item interactions dataset requirements".
MAX_EVENT_TYPES = 10
# The minimum data for training. Source: "Amazon Personalize endpoints and quotas", after May 2024.
MIN_INTERACTIONS = 1000
MIN_USERS_WITH_TWO_INTERACTIONS = 25
MIN_SHARE_OF_USERS_WITH_TWO_INTERACTIONS = 0.01
MAX_ID_LENGTH = 256
# The number of the latest interactions, per user and event type, that a filter considers.
FILTER_HISTORY = 100
# The separator between several values in a categorical cell.
VALUE_SEPARATOR = "|"

_REQUIRED: dict[str, dict[str, str]] = {
    INTERACTIONS: {USER_ID: "string", ITEM_ID: "string", TIMESTAMP: "long"},
    ITEMS: {ITEM_ID: "string"},
    USERS: {USER_ID: "string"},
}
# Reserved words and the types they may have.
_RESERVED: dict[str, dict[str, tuple[str, ...]]] = {
    INTERACTIONS: {
        EVENT_TYPE: ("string",),
        EVENT_VALUE: ("float", "double"),
        IMPRESSION: ("string",),
        "RECOMMENDATION_ID": ("string",),
        "EVENT_ATTRIBUTION_SOURCE": ("string",),
    },
    ITEMS: {CREATION_TIMESTAMP: ("long",)},
    USERS: {},
}
_MAX_METADATA = {INTERACTIONS: 5, ITEMS: 100, USERS: 25}
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class SchemaError(ValueError):
    """A schema that Personalize does not accept. The message says why."""


@dataclass(frozen=True)
class Field:
    """A column of a dataset."""

    name: str
    type: str
    """The type of the values, an element of TYPES."""
    nullable: bool = False
    """Whether a cell may be empty."""
    categorical: bool = False
    textual: bool = False

    def to_avro(self) -> dict[str, Any]:
        """Return the field's entry in an Avro schema."""
        entry = {"name": self.name, "type": ["null", self.type] if self.nullable else self.type}
        flags = {"categorical": self.categorical, "textual": self.textual}
        return {**entry, **{name: flag for name, flag in flags.items() if flag}}


@dataclass(frozen=True)
class Schema:
    """The columns of a dataset."""

    dataset_type: str
    """The type of the dataset, an element of DATASET_TYPES."""
    fields: tuple[Field, ...]
    """The columns in order."""

    @property
    def columns(self) -> list[str]:
        """The header of the CSV file, in the order that Personalize requires."""
        return [field.name for field in self.fields]

    @property
    def avro(self) -> str:
        """The Avro schema, as the JSON text that CreateSchema takes."""
        record = {"type": "record", "name": self.dataset_type.title(), "namespace": NAMESPACE}
        fields = [field.to_avro() for field in self.fields]
        return json.dumps({**record, "fields": fields, "version": "1.0"})

    def field(self, name: str) -> Field | None:
        """Return the column of this name, in any case; None if there is none."""
        return next((field for field in self.fields if field.name.upper() == name.upper()), None)

    def find_exactly(self, name: str) -> Field | None:
        """Return the column of exactly this name, in the same case; None if there is none."""
        return next((field for field in self.fields if field.name == name), None)


def parse_schema(text: str) -> Schema:
    """Parse and check the JSON text of a schema. Raises SchemaError."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SchemaError(f"The schema is not valid JSON: {error}") from None
    if not isinstance(record, dict) or record.get("type") != "record":
        raise SchemaError('The schema must be a JSON object of "type": "record".')
    dataset_type = str(record.get("name")).upper()
    if dataset_type not in DATASET_TYPES:
        raise SchemaError('The schema\'s "name" must be Interactions, Items or Users.')
    if record.get("namespace") != NAMESPACE:
        raise SchemaError(f'The schema\'s "namespace" must be {NAMESPACE}.')
    entries = record.get("fields")
    if not isinstance(entries, list) or not entries:
        raise SchemaError('The schema must have "fields": a list of at least one field.')
    schema = Schema(dataset_type, tuple(_parse_field(entry) for entry in entries))
    _check_names(schema)
    _check_required(schema)
    _check_reserved(schema)
    return schema


def list_optional_columns(schema: Schema) -> list[str]:
    """Return the columns of interactions that count towards MAX_EVENT_TYPES."""
    reserved = set(_RESERVED[INTERACTIONS]) - {EVENT_TYPE, EVENT_VALUE}
    not_counted = reserved | set(_REQUIRED[INTERACTIONS])
    return [name for name in schema.columns if name not in not_counted]


def _parse_field(entry: Any) -> Field:
    """Return the field of an entry in "fields". Raises SchemaError."""
    name = entry.get("name") if isinstance(entry, dict) else None
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise SchemaError(
            f"A field needs a name of letters, digits and underscores, not {name or entry!r}"
        )
    union = entry.get("type")
    types = union if isinstance(union, list) else [union]
    types_of_values = [kind for kind in types if kind != "null"]
    if len(types_of_values) != 1 or types_of_values[0] not in TYPES or len(types) > 2:
        raise SchemaError(
            f"Field {name} has type {union!r}: it must be one of {', '.join(TYPES)}, or a list of"
            ' one of them and "null".'
        )
    categorical, textual = (_parse_flag(entry, name, flag) for flag in ("categorical", "textual"))
    if (categorical or textual) and types_of_values[0] != "string":
        raise SchemaError(
            f"Field {name} is {types_of_values[0]}: only a string is categorical or textual."
        )
    if categorical and textual:
        raise SchemaError(f"Field {name} cannot be both categorical and textual.")
    return Field(name, types_of_values[0], "null" in types, categorical, textual)


def _parse_flag(entry: dict[str, Any], name: str, flag: str) -> bool:
    """Return a flag of a schema field. Raises SchemaError."""
    value = entry.get(flag, False)
    if not isinstance(value, bool):
        raise SchemaError(f"Field {name}: {flag} must be true or false.")
    return value


def _check_names(schema: Schema) -> None:
    """Raise SchemaError if two fields have nearly the same name."""
    names: dict[str, str] = {}
    for name in schema.columns:
        plain = name.replace("_", "").upper()
        if plain in names:
            raise SchemaError(
                f"Fields {names[plain]} and {name} differ only in case or underscores."
            )
        names[plain] = name


def _check_required(schema: Schema) -> None:
    """Raise SchemaError if a required field is missing or has another type."""
    required = _REQUIRED[schema.dataset_type]
    for name, kind in required.items():
        field = schema.find_exactly(name)
        if field is None:
            raise SchemaError(f"The {schema.dataset_type} schema lacks the required field {name}.")
        if field.type != kind or field.nullable or field.categorical or field.textual:
            raise SchemaError(f"The required field {name} must be of type {kind}, and only that.")
    if schema.dataset_type != INTERACTIONS and len(schema.fields) == len(required):
        raise SchemaError(f"The {schema.dataset_type} schema needs at least one metadata field.")


def _check_reserved(schema: Schema) -> None:
    """Raise SchemaError if a reserved field has another type, or if there is too much metadata."""
    reserved = _RESERVED[schema.dataset_type]
    for name, kinds in reserved.items():
        field = schema.find_exactly(name)
        if field and field.type not in kinds:
            raise SchemaError(f"The reserved field {name} must be of type {kinds[0]}.")
        if field and field.categorical and name == EVENT_TYPE:
            raise SchemaError("The reserved field EVENT_TYPE cannot be categorical.")
    metadata = set(schema.columns) - set(reserved) - set(_REQUIRED[schema.dataset_type])
    most = _MAX_METADATA[schema.dataset_type]
    if len(metadata) > most:
        raise SchemaError(
            f"The {schema.dataset_type} schema has {len(metadata)} metadata fields; {most} at most."
        )
    textual = [field.name for field in schema.fields if field.textual]
    if len(textual) > 1:
        raise SchemaError(f"Only one field may be textual, but these are: {', '.join(textual)}.")


def make_field_name(column: str) -> str:
    """Return a column's name in the form that Personalize takes: A to Z, digits and _."""
    return re.sub(r"\W+", "_", column, flags=re.ASCII).strip("_").upper()


def make_interactions_schema(*, event_type: bool, event_value: bool = False) -> Schema:
    """Return the schema of interactions.

    TIMESTAMP is in epoch seconds, and EVENT_VALUE may be missing.
    """
    fields = [Field(USER_ID, "string"), Field(ITEM_ID, "string"), Field(TIMESTAMP, "long")]
    if event_type:
        fields.append(Field(EVENT_TYPE, "string"))
    if event_value:
        fields.append(Field(EVENT_VALUE, "float", nullable=True))
    return Schema(INTERACTIONS, tuple(fields))


def make_items_schema(
    *, created: bool, categories: Sequence[str], numbers: Sequence[str]
) -> Schema:
    """Return the schema of items.

    Categories are categorical strings, and numbers are doubles. Their cells may be empty.
    CREATION_TIMESTAMP is in epoch seconds, and its cells may not be empty.
    """
    times = [Field(CREATION_TIMESTAMP, "long")] if created else []
    metadata = _make_metadata_fields(categories, numbers)
    return Schema(ITEMS, (Field(ITEM_ID, "string"), *times, *metadata))


def make_users_schema(*, categories: Sequence[str], numbers: Sequence[str]) -> Schema:
    """Return the schema of users.

    Categories are categorical strings, and numbers are doubles. Their cells may be empty.
    """
    metadata = _make_metadata_fields(categories, numbers)
    return Schema(USERS, (Field(USER_ID, "string"), *metadata))


def _make_metadata_fields(categories: Sequence[str], numbers: Sequence[str]) -> list[Field]:
    return [
        *(Field(name, "string", nullable=True, categorical=True) for name in categories),
        *(Field(name, "double", nullable=True) for name in numbers),
    ]
