"""Records in the storage: JSON objects whose content is checked when they are read.

Something else may have damaged a record. So what is read is compared with a shape, a dataclass
whose fields are the keys. Other keys are allowed.
"""

from __future__ import annotations

import json
import logging
from functools import cache
from typing import Any, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from batchrec_dagster.storage.objects import ObjectNotFoundError, ObjectStore

Model = TypeVar("Model", bound=BaseModel)
log = logging.getLogger(__name__)

ANY_RECORD = dict[str, Any]


def parse_record(data: bytes, shape: Any = ANY_RECORD) -> dict[str, Any]:
    """The JSON object in the data, as it is.

    shape: the type that it must fit.

    Raises ValueError, with a message of one line, if it does not, or is not a JSON object.
    """
    try:
        record = json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    try:
        _make_adapter(shape).validate_json(data, strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {first['msg']}" if place else first["msg"]) from None
    return record


@cache
def _make_adapter(shape: Any) -> TypeAdapter[Any]:
    return TypeAdapter(shape)


class Record(BaseModel, frozen=True):
    """What a step leaves for later runs: what it was made of, and the version of what it made."""

    made_of: dict[str, str]
    """The version of each input, of the settings and of the code, by name."""
    version: str
    """It changes when what was made does."""


def parse(data: bytes, model: type[Model]) -> Model:
    """The record in the data. Raises ValueError, with a message of one line, if it is another."""
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"{name}: " for name in first["loc"])
        raise ValueError(f"it is not a {model.__name__}: {place}{first['msg']}") from None


def load(store: ObjectStore, uri: str, model: type[Model]) -> Model | None:
    """The record at this URI; None if there is none, or if it is damaged.

    It is for records that can be made again. A damaged one is named in the log.
    Raises UserError.
    """
    try:
        return parse(store.get(uri), model)
    except ObjectNotFoundError:
        return None
    except ValueError as error:
        log.warning(f"{store.local_path(uri) or uri} is damaged, and is made again: {error}")
        return None


def save(store: ObjectStore, uri: str, record: BaseModel) -> None:
    """Write the record at this URI, atomically. Raises UserError."""
    store.put(uri, (record.model_dump_json(indent=2) + "\n").encode())
