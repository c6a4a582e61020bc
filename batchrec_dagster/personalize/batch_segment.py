"""The lines that a batch segment job writes: JSON Lines, one segment of users a line.

Source: the outputs printed in the aws-samples/amazon-personalize-samples notebooks. The developer
guide, "Batch segment job output format examples", calls the list `recommendedUsers` instead:
`usersList` is written here, and both are read.
"""

import json
from collections.abc import Mapping, Sequence

import polars as pl

from batchrec_dagster.personalize.batch_inference import read_lines

MAX_RESULTS = 5_000_000  # users in a segment

OUTPUT_SCHEMA: dict[str, pl.DataType] = {
    "input": pl.Struct({"itemId": pl.String, "itemAttributes": pl.String}),
    "output": pl.Struct({"usersList": pl.List(pl.String), "recommendedUsers": pl.List(pl.String)}),
    "error": pl.String(),
}


def output_line(
    request: Mapping[str, object], users: Sequence[str], error: str | None = None
) -> str:
    """One line of a `.out` file, without its newline: JSON with spaces."""
    line = {"input": request, "output": {"usersList": list(users)}, "error": error}
    return json.dumps(line, ensure_ascii=False)


def read_output(data: bytes) -> pl.DataFrame:
    """A `.out` file as a frame: item_id, item_attributes, users (list of str, best first), error.

    A line that failed has an error and no users. Raises ValueError for what is not JSON Lines.
    """
    lines = read_lines(data, OUTPUT_SCHEMA, "batch segment")
    output = pl.col("output").struct
    return lines.select(
        item_id=pl.col("input").struct.field("itemId"),
        item_attributes=pl.col("input").struct.field("itemAttributes"),
        users=pl.coalesce(output.field("usersList"), output.field("recommendedUsers")),
        error=pl.col("error"),
    )
