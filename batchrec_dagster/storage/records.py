"""Records in the storage: JSON objects whose content is checked when they are read.

Something else may have damaged a record. So what is read is compared with a shape, a dataclass
whose fields are the keys. Other keys are allowed.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

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
