"""The files that Personalize reads and writes, and their limits.

Interactions are imported from CSV. Batch jobs read and write JSON Lines, with a request on each
line.

Sources: Amazon Personalize developer guide, "Batch inference job input and output", and the outputs
printed in the aws-samples/amazon-personalize-samples notebooks. For segments, the guide's "Batch
segment job output format examples" calls the list `recommendedUsers` where the notebooks have
`usersList`. This code writes `usersList` and reads either name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import polars as pl

from batchrec_dagster.personalize.schemas import (
    EVENT_TYPE,
    EVENT_VALUE,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)

# The fields of an input line.
USER_FIELD, ITEM_FIELD, ITEM_ATTRIBUTES = "userId", "itemId", "itemAttributes"

OUTPUT_SUFFIX = ".out"

# The documented maximum of a real-time request. No maximum is documented for batch jobs.
MAX_RESULTS = 500
MAX_SEGMENT_USERS = 5_000_000

# The limits of a batch job's input: the bytes and the records. Source: "Amazon Personalize
# endpoints and quotas".
MAX_INPUT_BYTES = 1_000_000_000
MAX_INPUT_RECORDS = 50_000_000

# Ids are text, even if they look like numbers.
_INTERACTIONS: dict[str, pl.DataType] = {
    USER_ID: pl.String(),
    ITEM_ID: pl.String(),
    TIMESTAMP: pl.Int64(),
    EVENT_TYPE: pl.String(),
    EVENT_VALUE: pl.Float64(),
}
# The fields of an output line that may hold the users of a segment: the notebooks' name, and the
# guide's name.
SEGMENT_LISTS = ("usersList", "recommendedUsers")
# The members of the output lines of all kinds of jobs. A line has the members of its own kind of
# job; the rest are null.
_OUTPUT_LINE: dict[str, pl.DataType] = {
    "input": pl.Struct({USER_FIELD: pl.String, ITEM_FIELD: pl.String, ITEM_ATTRIBUTES: pl.String}),
    "output": pl.Struct(
        {
            "recommendedItems": pl.List(pl.String),
            "scores": pl.List(pl.Float64),
            **dict.fromkeys(SEGMENT_LISTS, pl.List(pl.String)),
        }
    ),
    "error": pl.String(),
}


def choose_csv_types(columns: Iterable[str]) -> dict[str, pl.DataType]:
    """Return the types of these columns of the interactions' CSV."""
    return {column: _INTERACTIONS[column] for column in columns}


def scan_interactions(source: Path | BinaryIO) -> pl.LazyFrame:
    """Return the rows of the interactions' CSV, which may have any of the known columns."""
    return pl.scan_csv(source, schema_overrides=_INTERACTIONS, glob=False)


def format_inference_line(
    request: Mapping[str, object],
    items: Sequence[str],
    scores: Sequence[float] | None = None,
    error: str | None = None,
) -> str:
    """Return a line of a `.out` file, without its newline: compact JSON, scores to 7 decimals.

    request: the input line.
    scores: the scores of the items; None for similar items, which have no scores.
    """
    fields = [f'"recommendedItems":{_to_compact_json(list(items))}']
    if scores is not None:
        fields.append(f'"scores":[{",".join(map(_format_score, scores))}]')
    output = ",".join(fields)
    return (
        f'{{"input":{_to_compact_json(request)},"output":{{{output}}},'
        f'"error":{_to_compact_json(error)}}}'
    )


def format_segment_line(
    request: Mapping[str, object], users: Sequence[str], error: str | None = None
) -> str:
    """Return a line of a segment job's `.out` file, without its newline: JSON with spaces."""
    line = {"input": request, "output": {"usersList": list(users)}, "error": error}
    return json.dumps(line, ensure_ascii=False)


def read_output_lines(data: bytes) -> pl.DataFrame:
    """Return the lines of a `.out` file as a table of subject, members, scores and error.

    subject: the user, the item, or the segment (an item or an expression) of the input line.
    members: the recommended items or the users of the segment, as a list of strings, best first.
    scores: a list of floats. It may be shorter than the list of members. With a filter,
        User-Personalization-v2 adds popular items, which have no scores (developer guide, "How
        recommendation scoring works"). The recipes for similar items and segments give no scores.
    error: the error of a request that failed. Such a line has no members.
    Raises ValueError if the data is not JSON Lines.
    """
    if not data.strip():
        lines = pl.DataFrame(schema=_OUTPUT_LINE)
    else:
        try:
            lines = _read_lines(data)
        except (ValueError, pl.exceptions.PolarsError) as error:
            raise ValueError("not a batch inference output file") from error
    request, output = pl.col("input").struct, pl.col("output").struct
    return lines.select(
        subject=pl.coalesce(map(request.field, (USER_FIELD, ITEM_FIELD, ITEM_ATTRIBUTES))),
        members=pl.coalesce(map(output.field, ("recommendedItems", *SEGMENT_LISTS))),
        scores=output.field("scores"),
        error="error",
    )


def _read_lines(data: bytes) -> pl.DataFrame:
    """Return the lines unchanged, except that NaN becomes null. Raises PolarsError, ValueError."""
    try:
        return pl.read_ndjson(data, schema=_OUTPUT_LINE)
    except pl.exceptions.PolarsError:
        if b"NaN" not in data:
            raise
        return pl.read_ndjson(_replace_nan_by_null(data), schema=_OUTPUT_LINE)


def _replace_nan_by_null(data: bytes) -> bytes:
    """Replace each NaN by null. Python writes NaN, but JSON does not allow it."""
    lines = (line for line in data.splitlines() if line.strip())
    return "\n".join(
        json.dumps(json.loads(line, parse_constant=lambda _: None)) for line in lines
    ).encode()


def _to_compact_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _format_score(score: float) -> str:
    """Format the score without trailing zeros, like the guide's examples: 0.0069081, 0.006394."""
    digits = format(score, ".7f").rstrip("0")
    return digits + "0" if digits.endswith(".") else digits
