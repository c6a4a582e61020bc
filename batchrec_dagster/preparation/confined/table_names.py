"""The names that a table's metadata have for its files. They may lead out of the table's folder."""

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

    name: a path from the table's folder, or a whole path or URI.
    roots: the paths or URIs of the table's folder, without a slash at their end.

    Raises FileError unless the file is in that folder, both as the name stands and with its percent
    signs decoded. What links on the disk lead to is for the caller to check.
    """
    whole_name = _S3.sub("s3://", _FILE.sub("", name, count=1), count=1)
    path_below = whole_name
    if "://" in whole_name or whole_name.startswith("/"):
        parents = [root for root in roots if whole_name.startswith(f"{root}/")]
        if not parents:
            raise build_outside_error(name)
        path_below = whole_name.removeprefix(f"{parents[0]}/")
    for text in (path_below, unquote(path_below), unquote(unquote(path_below))):
        if {"", ".", ".."} & {*text.split("/")} or "\\" in text or not text.isprintable():
            raise build_outside_error(name)
    return path_below


def resolve_relative_name(name: str) -> str:
    """The path from the table's folder to a file of a Delta table.

    name: that path with percent codes, as Delta Lake writes it.
    Raises FileError for another name, and for one that leads out of the folder.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", name):
        raise build_outside_error(name)
    return find_name_below(unquote(name), ())


def build_outside_error(name: str) -> FileError:
    """The error of a table that names a file out of its folder."""
    return FileError(
        f"the table names a file that is not in its folder, {name[:SHOWN]!r}: only files in the"
        " folder are read. Write the table's current rows to a folder of their own"
    )
