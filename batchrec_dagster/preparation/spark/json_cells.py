"""JSON Lines -> cells: by Python's own parser, which leaves numbers as they are written."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.json_lines import cell, parse


def cells(text: Column, names: Sequence[str]) -> Column:
    """The values of these names as an array of text; null where the line is no object."""

    def read(line: str) -> list[str | None] | None:
        found = parse(line)
        return None if found is None else [cell(found.get(name)) for name in names]

    return F.udf(read, "array<string>")(text)
