"""What an asset holds, for people, as Markdown that Dagster's UI shows: data appear as text,
whatever they say."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import dagster as dg

# Markdown's and HTML's own characters, and what makes links of plain text.
SPECIAL = re.compile(r"[\\`*_\[\]<>|&~#$!@:]")
# Longer cells make a table unreadable.
ROOM = 60


def preview(*paragraphs: str) -> dg.MetadataValue[Any]:
    """The paragraphs, which are Markdown, one below the other."""
    return dg.MetadataValue.md("\n\n".join(paragraphs))


def text(value: object) -> str:
    """A value as Markdown that says just this, in one line."""
    if value is None:
        return ""
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    line = " ".join(shown.split())
    cut = line if len(line) <= ROOM else f"{line[: ROOM - 1]}…"
    return SPECIAL.sub(r"\\\g<0>", cut)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table of the rows."""
    lines = [columns, *rows]
    head, *body = (f"| {' | '.join(map(text, line))} |" for line in lines)
    return "\n".join([head, f"|{' --- |' * len(columns)}", *body])


def code(lines: str) -> str:
    """Text as it is, in a block that nothing in it can end."""
    longest = max((len(run) for run in re.findall("`+", lines)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{lines}\n{fence}"
