"""The columns that `batchrec new` does not use, and what they may be for.

A shop's files say which items are in stock, and which orders came back. A name can mean anything,
so these are only suggested, as comments in the YAML: a category or a number by the content of the
column, and a condition on it by its name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import polars as pl

from batchrec_dagster.config.new_declaration import format_escaped, quote_condition
from batchrec_dagster.personalize.schemas import make_field_name
from batchrec_dagster.preparation.file_sample import FileSample
from batchrec_dagster.preparation.layout import Column, Decimal
from batchrec_dagster.preparation.polars.cells import swap_comma_and_point
from batchrec_dagster.reporting.terminal import escape_invisible

# A column of text with more distinct values is no category.
MOST_CATEGORIES = 30
# A column in whose first rows every number differs, in as many rows, has ids, such as EANs.
LEAST_IDS = 20
# This many columns are suggested, and this many are named.
MOST_SUGGESTED, MOST_NAMED = 4, 12
# This many values of a category are shown.
MOST_VALUES = 3

# Before the settings in items.columns.
INDENT = " " * 6

# What a part of a column's name says.
_STOCK = re.compile("stock|inventory|availab|bestand|lager", re.IGNORECASE)
_QUANTITY = re.compile("quantity|qty|menge", re.IGNORECASE)
_STATUS = re.compile("status|active|published|visible|enabled", re.IGNORECASE)
_RETURNED = re.compile("return|refund|cancel|retour|storno", re.IGNORECASE)
_CONSENT = re.compile("consent|newsletter|opt_?in|subscri|gdpr|einwillig", re.IGNORECASE)
_ID = re.compile(r"(?:^|[\W_])(?:id|Id|ID)$|[a-z]I[dD]$")
# Values of a status that are wanted, if there are any of them. Else it is the most frequent one.
_WANTED_WORDS = (
    "active yes true y on available published visible enabled live instock paid complete completed"
    " shipped delivered ok aktiv ja"
)
_WANTED = frozenset(_WANTED_WORDS.split())


@dataclass(frozen=True)
class UnusedColumn:
    """A column, and what it may be for."""

    name: str
    kind: Literal["categories", "numbers"] | None
    """The setting in items.columns that would declare it; None if it is neither."""
    content: str
    """Some of its values, or their range, in words."""
    operator: str = ""
    """Together with `values`, a condition that rows should meet. Empty if there is none."""
    values: tuple[str | int, ...] = ()

    @property
    def field(self) -> str:
        """The name that Personalize and the conditions on items would know it by."""
        return make_field_name(self.name)


def find_unused_columns(
    sample: FileSample, used: Collection[Column], decimal: Decimal
) -> list[UnusedColumn]:
    """The columns of a file with a header that are not among the used ones, in order."""
    if not sample.has_header or not all(isinstance(column, str) for column in used):
        return []
    names = dict.fromkeys(name for name in sample.columns if name and name not in used)
    return [_describe_column(name, sample, decimal) for name in names]


def name_columns(columns: Sequence[UnusedColumn]) -> list[str]:
    """A line for people that names the columns; none if there are none."""
    if not columns:
        return []
    names = ", ".join(column.name for column in columns[:MOST_NAMED])
    more = len(columns) - MOST_NAMED
    return [f"not used: {names}{f' and {more} more' if more > 0 else ''}"]


def name_consent(columns: Sequence[UnusedColumn]) -> list[str]:
    """A line for people about a column that may say who agreed to get mail; none without one.

    It belongs to a person and not to a row of the ratings, so a filter of rows would be wrong.
    """
    names = [column.name for column in columns if _CONSENT.search(column.name)]
    if not names:
        return []
    return [f"{names[0]}: to send lists only to those who agreed, give a file of them: --users"]


def name_suggestions(columns: Sequence[UnusedColumn]) -> list[str]:
    """A line for people that says which columns stand in the YAML as comments; none if none do."""
    if not columns:
        return []
    return [f"in defs.yaml as comments: {', '.join(column.name for column in columns)}"]


def suggest_filter(columns: Sequence[UnusedColumn]) -> list[str]:
    """Conditions of interactions.filter on columns of the ratings."""
    return [
        _format_condition(column.name, column, "'")
        for column in columns
        # Other names would need quotes of their own.
        if column.operator and re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", column.name)
    ][:MOST_SUGGESTED]


def _format_condition(name: str, column: UnusedColumn, quote: str) -> str:
    """The condition on the column, such as STATUS = "active".

    name: of the column, as the condition calls it.
    quote: stands around text.
    """
    values = [
        str(value) if isinstance(value, int) else f"{quote}{value}{quote}"
        for value in column.values
    ]
    listed = f"({', '.join(values)})" if column.operator == "IN" else values[0]
    return f"{name} {column.operator} {listed}"


def suggest_item_columns(
    columns: Sequence[UnusedColumn], taken: Collection[str]
) -> list[UnusedColumn]:
    """The columns that may be worth declaring, those with a condition first.

    taken: the names in Personalize that are declared already.
    """
    chosen: dict[str, UnusedColumn] = {}
    for column in sorted(columns, key=lambda column: not column.operator):
        if column.kind and column.field and column.field not in taken:
            chosen.setdefault(column.field, column)
    return list(chosen.values())[:MOST_SUGGESTED]


def comment_item_columns(lines: Sequence[str], columns: Sequence[UnusedColumn]) -> list[str]:
    """The block `items`, with the suggested columns as comments.

    lines: as `format_block` writes them. Without "# ", a comment stands where it belongs.
    """
    commented = [*lines]
    for kind in ("categories", "numbers"):
        entries = [_format_entry(column) for column in columns if column.kind == kind]
        header = f"{INDENT}{kind}:"
        if not entries:
            continue
        if header in commented:
            place = _find_end(commented, header)
            new = [f"{INDENT}  # {entry}" for entry in entries]
        else:
            place = _find_end(commented, f"{INDENT[:-2]}columns:")
            new = [f"{INDENT}# {kind}:", *(f"{INDENT}#   {entry}" for entry in entries)]
        commented[place:place] = new
    return commented


def _format_entry(column: UnusedColumn) -> str:
    entry = f"{format_escaped(column.field)}: {format_escaped(column.name)}"
    return f"{entry}   # {escape_invisible(column.content)}"


def _find_end(lines: Sequence[str], header: str) -> int:
    """The place after the last line of the block that starts with this line."""
    indent = " " * (len(header) - len(header.lstrip()) + 1)
    place = lines.index(header) + 1
    while place < len(lines) and lines[place].startswith(indent):
        place += 1
    return place


def suggest_rules(columns: Sequence[UnusedColumn]) -> list[str]:
    """Lines of the block recommendations, as comments, with what items in the lists should be."""
    conditions = [column for column in columns if column.operator]
    if not conditions:
        return []
    text = " AND ".join(
        _format_condition(f"ITEMS.{column.field}", column, '"') for column in conditions
    )
    fields = " and ".join(column.field for column in conditions)
    return [
        f"# rules:                    # needs {fields} in items.columns",
        f"#   only: {quote_condition(text)}",
    ]


def _describe_column(name: str, sample: FileSample, decimal: Decimal) -> UnusedColumn:
    cells = sample.read_cells(name)
    if sample.is_numeric(name, decimal):
        return _describe_numbers(name, cells, decimal)
    counts = Counter(cells.to_list())
    values = sorted(counts, key=lambda value: (-counts[value], value))
    if not 0 < len(values) <= MOST_CATEGORIES or 2 * len(values) > len(cells):
        return UnusedColumn(name, None, "")
    content = ", ".join(values[:MOST_VALUES])
    if len(values) > MOST_VALUES:
        content += " and more"
    column = UnusedColumn(name, "categories", content)
    if len(values) == 1 or not (_STATUS.search(name) or _STOCK.search(name)):
        return column
    wanted = [value for value in values if re.sub(r"\W", "", value).lower() in _WANTED]
    chosen = tuple(wanted or values[:1])
    # Quotes would have to be escaped, in two grammars.
    if any(re.search(r"""["'\\]""", value) for value in chosen):
        return column
    return replace(column, operator="IN" if len(chosen) > 1 else "=", values=chosen)


def _describe_numbers(name: str, cells: pl.Series, decimal: Decimal) -> UnusedColumn:
    text = pl.lit(cells)
    if decimal == ",":
        text = swap_comma_and_point(text)
    numbers = pl.select(text.cast(pl.Float64, strict=False).alias("number")).to_series()
    is_whole = bool((numbers == numbers.floor()).all())
    if _ID.search(name) or (is_whole and LEAST_IDS <= len(numbers) == numbers.n_unique()):
        return UnusedColumn(name, None, "")
    least, most = min(numbers.to_list()), max(numbers.to_list())
    column = UnusedColumn(name, "numbers", f"{least:g} to {most:g}")
    if least == 0 < most and _RETURNED.search(name):
        return replace(column, operator="=", values=(0,))
    is_flag = (least, most) == (0, 1) and _STATUS.search(name)
    has_none = least <= 0 < most and _QUANTITY.search(name)
    if is_flag or has_none or (most > 0 and _STOCK.search(name)):
        return replace(column, operator=">", values=(0,))
    return column
