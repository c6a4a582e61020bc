"""The `.out` files of batch jobs, as frames."""

from collections.abc import Mapping

import polars as pl


def read_lines(data: bytes, schema: Mapping[str, pl.DataType], kind: str) -> pl.DataFrame:
    """The JSON Lines as a frame of that schema; an empty file has no lines.

    Raises ValueError, naming the kind of file, for what is not JSON Lines.
    """
    if not data.strip():
        return pl.DataFrame(schema=schema)
    try:
        return pl.read_ndjson(data, schema=schema)
    except pl.exceptions.PolarsError as error:
        raise ValueError(f"not a {kind} output file: {error}") from error
