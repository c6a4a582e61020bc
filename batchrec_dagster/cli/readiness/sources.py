"""Checks of a pipeline's sources: they can be opened, and have the declared columns.

Only the first lines of a long text file are read, and a large file that is not text is not opened.
The rows of an asset are known only to a run, and the built-in sample needs no check.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.items_and_users import IdSource, ItemSettings, UserSettings
from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.attributes import open_declared_table
from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.confined.reader import ConfinedReader
from batchrec_dagster.preparation.file_form import Encoding, PreparationError
from batchrec_dagster.preparation.id_lists import choose_id_column, open_id_tables
from batchrec_dagster.preparation.polars.decoding import OpenedFile, RawFile, open_file
from batchrec_dagster.preparation.recognition import open_table, recognise
from batchrec_dagster.preparation.sources import file_start
from batchrec_dagster.preparation.sources.archives import Member
from batchrec_dagster.preparation.sources.computed import AssetRows
from batchrec_dagster.preparation.sources.databases import Database
from batchrec_dagster.preparation.sources.delta_table import DeltaTable
from batchrec_dagster.preparation.sources.file_start import MOST_BYTES, open_start
from batchrec_dagster.preparation.sources.files import Folder, LocalFile, S3File
from batchrec_dagster.preparation.sources.query import FileQuery
from batchrec_dagster.preparation.sources.sample import GeneratedFile
from batchrec_dagster.preparation.sources.source import ListedFile, RowSource, SourceContext
from batchrec_dagster.preparation.sources.web import WebFile
from batchrec_dagster.reporting.insight.numbers import format_count
from batchrec_dagster.reporting.insight.readiness import Readiness, failed, ok
from batchrec_dagster.steps.data.raw_files import make_source_context
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import temporary_folder

FIX = "fix the file or the declaration, then check again"


@dataclass(frozen=True)
class _Block:
    """A block of the declaration that has a source."""

    rows: RowSource
    encoding: Encoding
    require_columns: Callable[[OpenedFile], object]
    """A function that raises PreparationError unless the file has the declared columns."""


def check_sources(pipeline: Pipeline, storage: Storage, project: Path) -> Iterator[Readiness]:
    """Yield a finding for each source of the pipeline.

    Assets and the built-in sample have no finding.

    project: the folder from which relative paths start.
    """
    context = make_source_context(storage, project)
    for check, make_block in _list_blocks(pipeline):
        try:
            message = _open_block(make_block(), context)
        except UserError as error:
            yield failed(check, str(error), FIX)
        else:
            if message is not None:
                yield ok(check, message)


def _list_blocks(pipeline: Pipeline) -> Iterator[tuple[str, Callable[[], _Block]]]:
    """Yield the name of each block with a source, and a function that makes the block.

    The function may raise UserError.
    """
    items, users, similar_items = pipeline.items, pipeline.users, pipeline.similar_items
    yield f"{pipeline.name} ratings", partial(_make_ratings_block, pipeline)
    if items is not None:
        yield f"{pipeline.name} items", partial(_make_attributes_block, items)
    if users is not None:
        yield f"{pipeline.name} users", partial(_make_attributes_block, users)
    for user_lists in pipeline.user_lists:
        if user_lists.batch_users.source is not None:
            yield (
                f"{user_lists.address} batch_users",
                partial(_make_ids_block, user_lists.batch_users, "user"),
            )
    for published in pipeline.published_lists():
        rules = published.settings.rules
        if rules is not None and rules.block is not None:
            make_block = partial(_make_ids_block, rules.block, "item")
            yield f"{published.address} rules.block", make_block
    if similar_items is not None and similar_items.items is not None:
        make_block = partial(_make_ids_block, similar_items.items, "item")
        yield f"{pipeline.name} similar_items.items", make_block


def _make_ratings_block(pipeline: Pipeline) -> _Block:
    ratings = pipeline.ratings

    def require_columns(opened: OpenedFile) -> None:
        recognised = recognise(opened, ratings.file_form, ratings.file_columns, pipeline.rules)
        table = open_table(opened, recognised.form, recognised.columns)
        locate_columns(recognised.columns.roles, table.columns, opened.name)

    return _Block(ratings.rows, ratings.encoding, require_columns)


def _make_attributes_block(settings: ItemSettings | UserSettings) -> _Block:
    layout = settings.layout

    def require_columns(opened: OpenedFile) -> None:
        open_declared_table(opened, layout)

    return _Block(settings.rows, layout.form.encoding, require_columns)


def _make_ids_block(ids: IdSource, role: Literal["user", "item"]) -> _Block:
    setting = f"{ids.block}.column"

    def require_columns(opened: OpenedFile) -> None:
        (table,) = open_id_tables([opened], role, ids.column, setting, ids.file_header)
        chosen = choose_id_column(table, role, ids.column, setting)
        locate_columns({setting: chosen}, table.columns, opened.name)

    return _Block(ids.rows, "auto", require_columns)


def _open_block(block: _Block, context: SourceContext) -> str | None:
    """Return a message about the source; None for a source that is not checked.

    Raises UserError if the source cannot be opened, or lacks a declared column.
    """
    rows = block.rows
    if isinstance(rows, FileQuery):
        return _open_query(block, rows, context)
    if isinstance(rows, Database):
        # A query without rows is enough: the database still says which columns there are.
        query = rows.sql.rstrip().rstrip(";")
        sql = f"SELECT * FROM ({query}\n) batchrec_checked WHERE 1 = 0"  # noqa: S608
        return _open_result(block, replace(rows, sql=sql, version_sql=None), context)
    if isinstance(rows, DeltaTable):
        rows.files(context)
        return f"{rows.display_name} can be opened"
    if isinstance(rows, AssetRows | GeneratedFile):
        # Only a run knows the rows of an asset; the sample is always there.
        return None
    if isinstance(rows, Member):
        return _open_member(block, rows, context)
    # Listing a file on the web may download all of it, so only its start is read.
    files = (
        [rows.start(file_start.START_BYTES)] if isinstance(rows, WebFile) else rows.files(context)
    )
    count = format_count(len(files), "file")
    if _match_first_file(block, files):
        return f"{rows.display_name}: {count}, with the declared columns"
    return f"{rows.display_name}: {count}; a run opens it"


def _open_member(block: _Block, member: Member, context: SourceContext) -> str:
    """Return a message about a file in an archive, which is opened if it is small and local."""
    size = _find_local_size(member, context)
    if size is None or size > MOST_BYTES:
        return f"{member.display_name}: 1 file; a run opens it"
    (file,) = member.files(context)
    with file.open_locally() as path:
        _require_columns(block, RawFile(path, file.display_name))
    return f"{member.display_name}: 1 file, with the declared columns"


def _match_first_file(block: _Block, files: Sequence[ListedFile]) -> bool:
    """Return whether the first file that is not empty was opened, and has the declared columns.

    A large file may not be opened. Raises PreparationError if a declared column is missing, or if
    all files are empty.
    """
    for file in files:
        with open_start(file) as path:
            if path is None:
                return False
            if path.stat().st_size:
                _require_columns(block, RawFile(path, file.display_name))
                return True
    raise PreparationError(f"{files[0].display_name} is empty")


def _require_columns(block: _Block, file: RawFile) -> None:
    with temporary_folder() as folder:
        with ConfinedReader() as reader:
            opened = open_file(file, block.encoding, folder, reader)
        block.require_columns(opened)


def _open_query(block: _Block, query: FileQuery, context: SourceContext) -> str | None:
    """Return a message about a query of files; None if it reads only assets or the sample.

    The query runs, without returning rows, if the files are small.
    """
    tables = [*query.tables.values()]
    if all(isinstance(rows, AssetRows | GeneratedFile) for rows in tables):
        return None
    sizes = [_find_local_size(rows, context) for rows in tables]
    if None in sizes or sum(size or 0 for size in sizes) > MOST_BYTES:
        return f"{query.display_name}: a run makes the query"
    sql = f"SELECT * FROM ({query.sql}\n) LIMIT 0"  # noqa: S608
    return _open_result(block, replace(query, sql=sql), context)


def _find_local_size(rows: RowSource, context: SourceContext) -> int | None:
    """Return the size of the files, or of their archive, in bytes; None if they are not local."""
    container = rows.archive if isinstance(rows, Member) else rows
    if not isinstance(container, LocalFile | S3File | Folder):
        return None
    sizes = [
        file.find().stat().st_size for file in container.files(context) if file.find is not None
    ]
    return sum(sizes) if sizes else None


def _open_result(block: _Block, rows: Database | FileQuery, context: SourceContext) -> str:
    """Return a message about a query that returns no rows, only columns."""
    (file,) = rows.files(context)
    with file.open_locally() as path:
        _require_columns(block, RawFile(path, rows.setting))
    return f"{rows.display_name}: the query has the declared columns"
