"""The files' rows as cells of text, whatever their format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812
from pyspark.sql import types as T  # noqa: N812

from batchrec_dagster.preparation.layout import (
    CUT_OFF,
    DATETIME,
    JSON_LINES_SAMPLED,
    NOT_AN_OBJECT,
    Layout,
    PreparationError,
    is_cut_off,
    locate,
    parse_json,
    setting,
    split_line,
)
from batchrec_dagster.preparation.layout import Column as LayoutColumn
from batchrec_dagster.preparation.sources.limits import BYTES_OF_A_ROW
from batchrec_dagster.preparation.spark.files import Files, Input, naming
from batchrec_dagster.preparation.spark.lines import (
    BEYOND,
    CELLS,
    FILE,
    LINE,
    MISQUOTED,
    ROW,
    TEXT,
    Lines,
    Splitting,
    json_cells,
    read_lines,
)

FLAW = " flaw"
BROKEN_QUOTES = "broken quotes"


@dataclass(frozen=True)
class Table:
    """All rows of all files, and the place of each."""

    frame: DataFrame
    files: Sequence[Input]
    starts: Sequence[int]
    unit: str = "line"

    def place(self, row: int) -> str:
        file = max(number for number, start in enumerate(self.starts) if start <= row)
        return f"{self.files[file].name}, {self.unit} {row - self.starts[file] + 1}"


def read_table(
    spark: SparkSession, files: Files, inputs: Sequence[Input], layout: Layout, roles: Roles
) -> Table:
    """The rows of the files; `roles` goes from role to column. Raises PreparationError."""
    if layout.format == "parquet":
        return _parquet(spark, files, inputs, layout, roles)
    if layout.format == "json":
        return _json(read_lines(spark, inputs, layout.encoding, files.limits), inputs, roles)
    return _csv(spark, files, inputs, layout, roles)


Roles = Mapping[str, LayoutColumn]


def _csv(
    spark: SparkSession, files: Files, inputs: Sequence[Input], layout: Layout, roles: Roles
) -> Table:
    splitting = Splitting(layout.delimiter, layout.quoted)
    mark = splitting.opens(F.col("value")) if splitting.understands_quotes else None
    lines = read_lines(spark, inputs, layout.encoding, files.limits, mark)
    headers = [_first_line(files, file, layout, lines) for file in inputs]
    read = f" (read with the delimiter {layout.delimiter!r})"
    places = [
        locate(roles, names, file.name, read) for names, file in zip(headers, inputs, strict=True)
    ]
    width = _by_file([len(names) for names in headers])
    frame = lines.frame.filter(F.col(LINE) > 0) if layout.has_header else lines.frame
    if lines.marked:
        frame = splitting.joined(frame)
    frame = splitting.cells(frame, width)
    inside = F.filter(F.slice(CELLS, F.lit(1), width), lambda cell: F.length(cell) > 0)
    shown = F.array_join(F.transform(inside, splitting.text), layout.delimiter)
    flaw = F.when(F.col(MISQUOTED), BROKEN_QUOTES).when(
        F.col(BEYOND), F.concat(F.lit("more than the "), width.cast("string"), F.lit(" fields"))
    )
    cut = [
        is_cut_off(
            files.end(file).decode(lines.encodings[file.name], "replace"),
            len(names),
            layout.delimiter,
            layout.quoted,
        )
        for file, names in zip(inputs, headers, strict=True)
    ]
    last = [count - 1 if is_cut else -1 for count, is_cut in zip(lines.counts, cut, strict=True)]
    flaw = flaw.when(F.col(LINE) == _by_file(last), CUT_OFF)

    def cell(role: str) -> Column:
        found = F.get(CELLS, _by_file([place[role] for place in places]))
        text = splitting.text(found)
        if role in layout.with_comma:
            # What had a point is no number then.
            text = F.translate(text, ",.", ".,")
        return text.alias(f" {role}")

    return Table(
        frame.select(
            FILE, LINE, ROW, shown.alias(TEXT), flaw.alias(FLAW), *(cell(role) for role in roles)
        ),
        inputs,
        lines.starts,
    )


def _first_line(files: Files, file: Input, layout: Layout, lines: Lines) -> list[str]:
    """The fields of the first line: the header, where there is one."""
    encoding = lines.encodings[file.name]
    text = files.first_line(file).decode(encoding, "replace").removeprefix("\ufeff")
    if not text.strip():
        raise PreparationError(f"{file.name} is empty or starts with an empty line")
    fields = split_line(text, layout.delimiter, quoted=layout.quoted)
    if layout.has_header:
        return [field.strip() for field in fields]
    return [f"column_{number}" for number in range(1, len(fields) + 1)]


def _json(lines: Lines, inputs: Sequence[Input], roles: Roles) -> Table:
    text = F.regexp_replace(TEXT, r"^[\ufeff \t\r]+|[\ufeff \t\r]+\z", "")
    frame = lines.frame.select(FILE, LINE, ROW, text.alias(TEXT)).filter(F.length(TEXT) > 0)
    for number, file in enumerate(inputs):
        looked_at = frame.filter((F.col(FILE) == number) & (F.col(LINE) < JSON_LINES_SAMPLED))
        names = dict.fromkeys(
            name for row in looked_at.select(TEXT).collect() for name in parse_json(row[0]) or ()
        )
        if not names:
            raise PreparationError(
                f"{file.name}, line 1: {NOT_AN_OBJECT}; ratings.format json wants one a line"
            )
        locate(roles, list(names), file.name)
    cells = json_cells(F.col(TEXT), [str(name) for name in roles.values()])
    read = frame.withColumn(CELLS, cells)
    return Table(
        read.select(
            FILE,
            LINE,
            ROW,
            TEXT,
            F.when(F.col(CELLS).isNull(), NOT_AN_OBJECT).alias(FLAW),
            *(F.get(CELLS, F.lit(n)).alias(f" {role}") for n, role in enumerate(roles)),
        ),
        inputs,
        lines.starts,
    )


def _parquet(
    spark: SparkSession, files: Files, inputs: Sequence[Input], layout: Layout, roles: Roles
) -> Table:
    # Spark has no times of nanoseconds; as whole numbers they can be read.
    spark.conf.set("spark.sql.legacy.parquet.nanosAsLong", "true")
    read = {n: spark.read.parquet(file.pattern) for n, file in enumerate(inputs)}
    counts = [frame.count() for frame in read.values()]  # Of the footers.
    for count, file in zip(counts, inputs, strict=True):
        with naming(file.name):
            files.limits.check(count * BYTES_OF_A_ROW, file.packed)
    starts = [0, *accumulate(counts)][:-1]
    parts = []
    for number, frame in read.items():
        file = inputs[number]
        locate(roles, frame.columns, file.name)
        cells = {
            role: _text(frame.schema[str(name)], role, file, layout) for role, name in roles.items()
        }
        index = F.col("_metadata.row_index")
        parts.append(
            frame.select(
                F.lit(number).alias(FILE),
                index.alias(LINE),
                (index + starts[number]).alias(ROW),
                F.concat_ws(",", *cells.values()).alias(TEXT),
                F.lit(None).cast("string").alias(FLAW),
                *(text.alias(f" {role}") for role, text in cells.items()),
            )
        )
    frame, *others = parts
    for other in others:
        frame = frame.union(other)
    return Table(frame, inputs, starts, "row")


def _text(field: T.StructField, role: str, file: Input, layout: Layout) -> Column:
    kind, column = field.dataType, F.col(f"`{field.name.replace('`', '``')}`")
    wanted = None
    if isinstance(kind, (T.ArrayType, T.MapType, T.StructType, T.BinaryType)):
        wanted = "a column of text or numbers"
    elif role in ("user", "item") and isinstance(kind, (T.FloatType, T.DoubleType)):
        wanted = "ids as text or whole numbers, or convert them in ratings.query"
    if wanted is not None:
        raise PreparationError(
            f"{file.name}: {field.name!r} ({setting(role)}) is of type {kind.simpleString()}; write"
            f" the file with {wanted}"
        )
    if role == "timestamp" and isinstance(kind, T.DateType):
        return F.date_format(column, "yyyy-MM-dd")
    if role == "timestamp" and isinstance(kind, T.TimestampNTZType):
        return F.date_format(column, "yyyy-MM-dd'T'HH:mm:ss")
    if role == "timestamp" and isinstance(kind, T.TimestampType):
        return F.date_format(column, "yyyy-MM-dd'T'HH:mm:ssX")
    if role == "timestamp" and layout.timestamp_unit == DATETIME:
        if layout.timezone is not None:
            raise PreparationError(
                f"{file.name}: Spark cannot tell whether the times of {field.name!r}, in"
                " nanoseconds, have a zone: write microseconds, or omit ratings.timezone"
            )
        second = F.lit(1_000_000_000)
        whole = F.call_function("div", column - F.pmod(column, second), second)
        return F.date_format(F.timestamp_seconds(whole), "yyyy-MM-dd'T'HH:mm:ss")
    return column.cast("string")


def _by_file(values: Sequence[int]) -> Column:
    if len(set(values)) == 1:
        return F.lit(values[0])
    return F.element_at(F.array(*(F.lit(value) for value in values)), F.col(FILE) + 1)
