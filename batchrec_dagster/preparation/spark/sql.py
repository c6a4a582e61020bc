"""`filter`: the same condition that Polars' SQL engine parses, in the words of Spark's.

Spark takes double quotes for text, and backslashes in text for escapes; in standard SQL, which the
setting is written in, double quotes name a column and two single quotes are one.
"""

from __future__ import annotations

import re

_QUOTED = re.compile(r"""'((?:[^']|'')*)'|"((?:[^"]|"")*)\"""")


def for_spark(condition: str) -> str:
    """The condition as Spark's parser reads it."""

    def said(match: re.Match[str]) -> str:
        text, name = match.groups()
        if name is not None:
            return "`" + name.replace('""', '"').replace("`", "``") + "`"
        escaped = text.replace("\\", "\\\\").replace("''", "\\'")
        return f"'{escaped}'"

    return _QUOTED.sub(said, condition)
