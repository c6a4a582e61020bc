"""A file of the lists for a mailing tool: CSV or JSON Lines, put in place once it is complete.

Spreadsheets run a cell that begins with =, +, -, @, a tab or a line break as a formula, so a title
such as =HYPERLINK(…) would run on the reader's computer. In CSV, an apostrophe before such a cell
tells a spreadsheet that the cell is text. Ids stay as they are, because programs find people and
items by their ids. JSON Lines stay as they are, too.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import polars as pl
from polars import selectors as cs
from pydantic import Field, field_validator

from batchrec_dagster.editions.subjects import ITEMS, USERS, find_subject
from batchrec_dagster.errors import UserError
from batchrec_dagster.sinks import sink
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.layout import ListKeys
from batchrec_dagster.storage.objects import ObjectStore, split_uri

# The last four characters are full-width forms of =, +, - and @, which spreadsheets in East Asian
# settings treat in the same way.
FORMULA = "^[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]"
# The columns of ids. In a user's row they have numbers: item_1, item_2 …
ID_COLUMNS = (
    f"^({USERS.column}|{ITEMS.column}|{ITEMS.member_column}|item_\\d+|reason_item(_\\d+)?)$"
)


class ExportSink(sink.Sink):
    """A file, for example for a mailing tool."""

    asset: ClassVar[str] = "recommendations_export"

    format: Literal["csv", "jsonl"] = Field(
        default="csv", description="csv, or jsonl (JSON Lines: an object a line)."
    )
    rows: Literal["per_user", "per_item"] = Field(
        default="per_user",
        description="per_user: a row for each user, with item_1, title_1, item_2 … (csv) or a list"
        " of items (jsonl), which have all columns of the table; per_item: a row for each user and"
        " item, as in the table.",
    )
    path: str | None = Field(
        default=None,
        description="A path or s3://bucket/key; a relative path starts at the project's folder."
        " Default: NAME/curated/exports/recommendations.csv (or .jsonl) in the storage.",
        examples=["s3://mailing/lists.csv"],
    )

    @field_validator("path")
    @classmethod
    def _path_is_possible(cls, path: str | None) -> str | None:
        if path is None or "{{" in path:
            return path
        if path.startswith("s3://"):
            try:
                _, key = split_uri(path)
            except UserError as error:
                raise ValueError(str(error)) from error
        elif "://" in path:
            raise ValueError(f"{path}: write a path or s3://bucket/key")
        else:
            key = path
        if not key or key.endswith("/"):
            raise ValueError(f"{path} is a folder: add the file's name")
        return path

    def describe(self, project: Path) -> sink.SinkDescription:
        path = self._resolve_path(project)
        return sink.SinkDescription(
            text=f"The lists in one file ({self.format}, {self.rows.replace('_', ' ')}), for"
            " example for a mailing tool.",
            kind="csv" if self.format == "csv" else "json",
            place=path and f"sinks.export.path: {path}",
            removal=path and f"the export {self.path}: delete the file",
        )

    def check(self, context: sink.SinkContext) -> sink.SinkCheck:
        path = self._resolve_path(context.project)
        if path is None:
            return sink.SinkCheck("it is written into the pipeline's storage")
        store, uri = _open_store(_find_existing_folder(path), context.storage)
        probe = f"{uri}.check-{uuid.uuid4().hex}"
        store.put(probe, b"x")
        store.delete(probe)
        return sink.SinkCheck(f"{path} can be written")

    def has_lists(self, context: sink.SinkContext) -> bool:
        store, uri = self._locate(context)
        return store.head(uri) is not None

    def write(self, lists: pl.LazyFrame, context: sink.SinkContext) -> sink.SinkResult:
        store, uri = self._locate(context)
        expected = sink.count_lists(lists)
        with temporary_folder() as folder:
            path = folder / f"lists.{self.format}"
            lines, cells_escaped = self._write_file(path, lists, expected.longest)
            unit = "users" if self.rows == "per_user" else "rows"
            sink.require_written(getattr(expected, unit), lines, unit, path.name)
            size = path.stat().st_size
            store.put(uri, path)
        facts = {
            "file": str(store.local_path(uri) or uri),
            "lines": lines,
            "bytes": size,
            "formulas_escaped": cells_escaped,
        }
        return sink.SinkResult(expected, facts)

    def _resolve_path(self, project: Path) -> str | None:
        """Return the absolute path or URI; None if the file goes into the pipeline's storage."""
        if self.path is None or self.path.startswith("s3://"):
            return self.path
        return str((project / Path(self.path).expanduser()).resolve())

    def _locate(self, context: sink.SinkContext) -> tuple[ObjectStore, str]:
        """Return the store of the file, and the file's URI there."""
        path = self._resolve_path(context.project)
        if path is None:
            keys = ListKeys(context.address)
            path = context.storage.uri(keys.export(self.format))
        return _open_store(path, context.storage)

    def _write_file(self, path: Path, lists: pl.LazyFrame, longest: int) -> tuple[int, int]:
        """Write the file, and return the numbers of its lines and of its escaped cells.

        The header does not count as a line.

        longest: the number of items in the longest list.
        """
        lines = cells_escaped = 0
        with path.open("wb") as file:
            for number, rows in enumerate(self._make_lines(lists, longest)):
                lines += rows.height
                if self.format == "jsonl":
                    rows.write_ndjson(file)
                    continue
                texts = cs.string() - cs.matches(ID_COLUMNS)
                formulas = rows.select(texts.str.contains(FORMULA).sum())
                cells_escaped += sum(formulas.row(0)) if formulas.width else 0
                escaped = rows.with_columns(texts.str.replace(FORMULA, "'$0"))
                escaped.write_csv(file, include_header=number == 0, quote_style="non_numeric")
        return lines, cells_escaped

    def _make_lines(self, lists: pl.LazyFrame, longest: int) -> Iterator[pl.DataFrame]:
        """Yield tables of the file's lines.

        At least one table is yielded, because the header needs its columns.
        """
        if self.rows == "per_item":
            yield lists.head(0).collect()
            yield from sink.iterate_batches(lists)
        elif self.format == "jsonl":
            yield from sink.group_by_user(lists)
        else:
            # A user's row needs no score, and the rank is in the columns' names.
            names = lists.collect_schema().names()
            not_of_items = (find_subject(names).column, "arm", "rank", "score")
            fields = [name for name in names if name not in not_of_items]
            for users in sink.group_by_user(lists):
                yield _spread_items(users, longest, fields)


def _spread_items(users: pl.DataFrame, longest: int, fields: Sequence[str]) -> pl.DataFrame:
    """Return a row for each user, with columns for each rank.

    The columns are user_id, arm (in an experiment), item_1, title_1, price_1, item_2 and so on.
    They are null where a list is shorter than the longest.
    """
    return users.select(
        pl.exclude("items"),
        *(
            pl.col("items")
            .list.get(rank - 1, null_on_oob=True)
            .struct.field(field)
            .alias(f"{_name_field(field)}_{rank}")
            for rank in range(1, longest + 1)
            for field in fields
        ),
    )


def _name_field(column: str) -> str:
    """Return the first part of a numbered column's name, such as `item` in `item_1`.

    column: the name of the column in the table of lists.
    """
    return "item" if column in (USERS.member_column, ITEMS.member_column) else column


def _open_store(path: str, storage: Storage) -> tuple[ObjectStore, str]:
    """Return the store of an absolute path or URI, and the file's URI there."""
    if path.startswith("s3://"):
        return storage.store, path
    # Another program reads the file, so the umask alone says who may open the folder.
    store = ObjectStore({"local": Path(path).parent}, folder_mode=0o777)
    return store, f"s3://local/{Path(path).name}"


def _find_existing_folder(path: str) -> str:
    """Return a path with the same file name in the innermost parent folder that exists.

    A check writes into that folder, because a check must not make folders. A URI is returned as it
    is.
    """
    if path.startswith("s3://"):
        return path
    folder = Path(path).parent
    while not folder.exists():
        folder = folder.parent
    return str(folder / Path(path).name)
