"""What a source and a delimiter may be, wherever a file is declared."""

from __future__ import annotations

from batchrec_dagster.preparation.sources import SourceError, check_source


def known_source(source: str, *, many: bool = False) -> str:
    """The source as it is; `many`: it may stand for many files. Templates are checked later.

    Raises ValueError for what can be no source.
    """
    if "{{" not in source:
        try:
            check_source(source, many=many)
        except SourceError as error:
            raise ValueError(str(error)) from None
    return source


def readable_delimiter(delimiter: str | None) -> str | None:
    """The delimiter as it is. Raises ValueError."""
    if delimiter not in (None, "::") and (
        len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'
    ):
        raise ValueError('write one ASCII character, such as "," or "\\t", or "::"')
    return delimiter
