"""The parser that turns the text of the setting `source` into a source."""

from __future__ import annotations

import re
from collections.abc import Callable

from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.sources.archives import Archive, Member
from batchrec_dagster.preparation.sources.computed import ASSET, AssetRows
from batchrec_dagster.preparation.sources.delta_table import DeltaTable
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.files import Folder, LocalFile, S3File
from batchrec_dagster.preparation.sources.sample import GeneratedFile
from batchrec_dagster.preparation.sources.source import RowSource, hide_query, name_errors
from batchrec_dagster.preparation.sources.web import WebFile

SCHEMES: dict[str, Callable[[str], RowSource]] = {
    "asset": AssetRows.parse,
    "http": WebFile.parse,
    "https": WebFile.parse,
    "s3": S3File.parse,
    "sample": GeneratedFile.parse,
}
ALLOWED = (
    "a path, s3://BUCKET/KEY, https://…, asset://KEY, sample://hetrec, or sql+env://VARIABLE"
    " for a database"
)


def parse_source(text: str, *, is_delta: bool = False) -> RowSource:
    """Return the source that the text names, without opening anything.

    The text may name a file, a folder or a pattern of files.

    is_delta: whether the text names the folder of a Delta table, or an asset with its rows in a
        Delta table.

    Raises UserError if the text cannot be a source.
    """
    if is_delta:
        with name_errors(hide_query(text)):
            if text.startswith(ASSET):
                return AssetRows.parse(text, is_delta=True)
            return DeltaTable.parse(text)
    # A folder or a pattern can only be on this machine or in S3, and not in an archive.
    has_other_scheme = re.match(r"(?!s3:)\w+://", text)
    may_be_folder = "!/" not in text and not has_other_scheme
    if may_be_folder and text.isprintable():
        with name_errors(text):
            folder = Folder.parse(text)
        if folder is not None:
            return folder
    return parse_file(text)


def parse_file(text: str) -> RowSource:
    """Return the source of a single file, without opening the file.

    Raises UserError.
    """
    if not text.strip():
        raise UserError(f"the source is empty: write {ALLOWED}")
    if not text.isprintable():
        raise UserError(f"{text!r} has an invisible character in it: leave it out")
    with name_errors(hide_query(text)):
        archive, inside, member = text.partition("!/")
        file = _parse_scheme(archive)
        if not inside:
            if isinstance(file, Archive) and file.display_name.lower().endswith(".zip"):
                return Member(text, file, "")
            return file
        if not member or member.endswith("/"):
            raise FileError("after !/ comes the path of a file in the archive")
        if not isinstance(file, Archive):
            raise FileError("!/ is for a file in an archive: leave out !/ and what follows")
        return Member(text, file, member)


def _parse_scheme(text: str) -> RowSource:
    scheme, separator, _ = text.partition("://")
    if not separator:
        if re.match(r"(s3|https?|sample):", text):
            raise FileError("write two slashes after the colon")
        return LocalFile(text)
    if scheme not in SCHEMES:
        raise FileError(f"{scheme}:// is not supported; write {ALLOWED}")
    return SCHEMES[scheme](text)
