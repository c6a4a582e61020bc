"""JSON Lines -> cells: by Python's own parser, which leaves numbers as they are written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F  # noqa: N812

from batchrec_dagster.preparation.json_lines import cell, parse
from batchrec_dagster.preparation.spark.lines import FILE, LINE, ROW, TEXT

CELLS, BEYOND, MISQUOTED, WIDTH = " cells", " beyond", " misquoted", "width"


@dataclass(frozen=True)
class Splitting:
    """How a line falls apart at the delimiter, and whether quotes mean anything."""

    delimiter: str
    quoted: bool

    @property
    def understands_quotes(self) -> bool:
        return self.quoted and self.delimiter != "::"

    def opens(self, line: Column) -> Column:
        """Whether the line ends within a quoted field."""
        return line.contains('"') & line.rlike(self._opener)

    def cells(self, lines: DataFrame, width: Column) -> DataFrame:
        """The lines that are not blank, with CELLS (as they are written, quotes included), BEYOND
        (whether there is more than `width` fields) and MISQUOTED."""
        line = F.col(TEXT)
        text = F.when(line.endswith("\r"), line.substr(F.lit(1), F.length(line) - 1)).otherwise(
            line
        )
        plain = F.split(text, self._split, -1)
        empty = (F.length(text) == 0) | (
            text.startswith(self.delimiter) & text.rlike(rf"^(?:{self._hex})*\z")
        )
        if self.delimiter == "::":
            empty &= F.length(text) < 2 * F.col(WIDTH)
        else:
            # The local engine, too, looks no further than one field after the last.
            empty |= text.startswith(F.expr(f"repeat('{self._literal}', {WIDTH} + 1)"))
        lines = lines.withColumn(WIDTH, width).filter(~empty)
        if not self.understands_quotes:
            framed = lines.select("*", plain.alias(CELLS), F.lit(False).alias(MISQUOTED))
        else:
            quotes = text.contains('"')
            # A quote too many within a field: no reader knows where that row ends.
            odd = (F.length(text) - F.length(F.replace(text, F.lit('"'), F.lit("")))) % 2 == 1
            ended = F.concat(text, F.lit(self.delimiter))
            fields = F.regexp_extract_all(ended, F.lit(f"({self._field}){self._hex}"), 1)
            framed = lines.select(
                "*",
                F.when(quotes, fields).otherwise(plain).alias(CELLS),
                (quotes & (odd | ~ended.rlike(self._closed))).alias(MISQUOTED),
            )
        # A delimiter at the end of a line is common in CSV, and nothing to complain of.
        beyond = (
            F.size(CELLS) > width
            if self.delimiter == "::"
            else F.coalesce(F.length(F.get(CELLS, width)) > 0, F.lit(False))
        )
        return framed.withColumn(BEYOND, beyond)

    def text(self, cell: Column) -> Column:
        """What the cell says; null where it is empty and not quoted."""
        said = F.when(F.length(cell) > 0, cell)
        if not self.understands_quotes:
            return said
        inner = cell.substr(F.lit(2), F.length(cell) - 2)
        return F.when(cell.startswith('"'), F.regexp_replace(inner, '""', '"')).otherwise(said)

    def joined(self, lines: DataFrame) -> DataFrame:
        """FILE, LINE, ROW, TEXT with the lines of one quoted field in one, under the first's
        number."""
        # Python has no \\z before 3.14; its \\Z is the same.
        opener = re.compile(self._opener.replace(r"\z", r"\Z"))

        def join(rows: Iterable[Any]) -> Iterator[tuple[int, int, int, str]]:
            first: Any = None
            texts: list[str] = []
            for row in rows:
                if first is not None and row[FILE] != first[FILE]:
                    yield (first[FILE], first[LINE], first[ROW], "\n".join(texts))
                    first, texts = None, []
                text = row[TEXT]
                if first is None:
                    if '"' in text and opener.match(text):
                        first, texts = row, [text]
                    else:
                        yield (row[FILE], row[LINE], row[ROW], text)
                    continue
                texts.append(text)
                # What goes on within quotes reads as if it had just begun.
                if opener.match(f'"{text}'):
                    continue
                yield (first[FILE], first[LINE], first[ROW], "\n".join(texts))
                first, texts = None, []
            if first is not None:
                yield (first[FILE], first[LINE], first[ROW], "\n".join(texts))

        ordered = lines.repartition(FILE).sortWithinPartitions(ROW)
        return ordered.rdd.mapPartitions(join).toDF(
            f"{FILE} int, {LINE} long, {ROW} long, {TEXT} string"
        )

    @property
    def _split(self) -> str:
        """For String.split, which is quick about one character and one that is escaped."""
        if len(self.delimiter) > 1 or self.delimiter.isalnum() or not self.delimiter.isprintable():
            return self.delimiter
        return f"\\{self.delimiter}"

    @property
    def _literal(self) -> str:
        """Within quotes in SQL."""
        return {"'": "\\'", "\\": "\\\\"}.get(self.delimiter, self.delimiter)

    @property
    def _hex(self) -> str:
        return "".join(f"\\x{ord(letter):02x}" for letter in self.delimiter)

    @property
    def _field(self) -> str:
        return f'"[^"]*+(?:""[^"]*+)*+"|(?!")[^{self._hex}]*+'

    @property
    def _closed(self) -> str:
        return rf"^(?:(?:{self._field}){self._hex})*+\z"

    @property
    def _opener(self) -> str:
        return rf'^(?:(?:{self._field}){self._hex})*+"[^"]*+(?:""[^"]*+)*+\z'


def cells(text: Column, names: Sequence[str]) -> Column:
    """The values of these names as an array of text; null where the line is no object."""

    def read(line: str) -> list[str | None] | None:
        found = parse(line)
        return None if found is None else [cell(found.get(name)) for name in names]

    return F.udf(read, "array<string>")(text)
