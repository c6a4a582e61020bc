"""Records in the storage: JSON objects, each with the fields of a pydantic model.

Something else may have damaged a record, so every record is validated when it is read.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from batchrec_dagster.storage.objects import ObjectNotFoundError, ObjectStore

Model = TypeVar("Model", bound=BaseModel)
log = logging.getLogger(__name__)


class Record(BaseModel, frozen=True):
    """A step's record for later runs: the inputs of its output, and the output's version."""

    made_of: dict[str, str]
    """The version of each input, of the settings and of the code, by name."""
    version: str
    """The version of the output. It changes when the output changes."""


def parse(data: bytes, model: type[Model]) -> Model:
    """Return the record in the data.

    Raises ValueError, with a message of one line, if the data does not fit the model.
    """
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = "".join(f"{name}: " for name in first["loc"])
        raise ValueError(f"it is not a {model.__name__}: {field}{first['msg']}") from None


def load(store: ObjectStore, uri: str, model: type[Model]) -> Model | None:
    """Return the record at this URI; None if it is missing or damaged.

    Use this for records that can be made again. The log names a damaged record.
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
