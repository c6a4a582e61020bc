"""The names by which a table's metadata call its files. Whoever wrote them is not trusted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from batchrec_dagster.preparation.sources.errors import FileError

SHOWN = 200
# Hadoop's names for s3://.
_S3 = re.compile(r"s3[an]?://")
_FILE = re.compile(r"file:(?://(?=/))?")


def find_name_below(name: str, roots: Sequence[str]) -> str:
    """The path to a file of a table from the table's folder.

    name: a path from the table's folder, or a whole path or URI. roots: the paths or URIs of the
    table's folder, without a slash at their end.

    Raises FileError unless the file is in that folder, both as the name stands and with its percent
    signs decoded. What links on the disk lead to is for the caller to check.
    """
    plain = _S3.sub("s3://", _FILE.sub("", name, count=1), count=1)
    below = plain
    if "://" in plain or plain.startswith("/"):
        parents = [root for root in roots if plain.startswith(f"{root}/")]
        if not parents:
            raise build_outside_error(name)
        below = plain.removeprefix(f"{parents[0]}/")
    for text in (below, unquote(below), unquote(unquote(below))):
        if {"", ".", ".."} & {*text.split("/")} or "\\" in text or not text.isprintable():
            raise build_outside_error(name)
    return below


def resolve_relative_name(name: str) -> str:
    """The same for a name that must be a path from the table's folder, in which percent signs stand
    for characters, as Delta Lake writes it. Raises FileError."""
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise build_outside_error(name)
    return find_name_below(unquote(name), ())


def build_outside_error(name: str) -> FileError:
    """The error of a table that names a file out of its folder."""
    return FileError(
        f"the table names a file that is not in its folder, {name[:SHOWN]!r}: only files in the"
        " folder are read. Write the table's current rows to a folder of their own"
    )
