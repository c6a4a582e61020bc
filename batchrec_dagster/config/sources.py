"""Sources of rows for ratings, items, users and ids: files, databases or upstream assets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from batchrec_dagster.config.problems import Keys, raise_problems
from batchrec_dagster.config.settings import Matching, Settings, accepted_by
from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.file_form import (
    NO_HEADER,
    Column,
    Decimal,
    Encoding,
    FileForm,
    Format,
    Header,
    TableFormat,
)
from batchrec_dagster.preparation.sources.computed import ASSET, AssetRows
from batchrec_dagster.preparation.sources.databases import SCHEME, Database, require_variable
from batchrec_dagster.preparation.sources.parsing import parse_file, parse_source
from batchrec_dagster.preparation.sources.query import SOURCE, FileQuery, parse_select
from batchrec_dagster.preparation.sources.source import RowSource, hide_query

AssetKeyText = Annotated[
    str,
    Matching(r"[\w.-]+(/[\w.-]+)*", "write an asset's key, its parts separated by /: sales/orders"),
]


HeaderLine = Annotated[int, Field(ge=1)] | Literal["none"]
"""The number of the line that names the columns, or none if there is no such line."""


def require_delimiter(delimiter: str) -> None:
    """Raise ValueError unless the text can be a field separator."""
    if delimiter != "::" and (
        len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n'
    ):
        raise ValueError('write one ASCII character, such as "," or "\\t", or "::"')


def require_encoding(encoding: Encoding) -> None:
    """Raise ValueError unless the text is auto, or an encoding of Python that contains ASCII."""
    ascii_letters = bytes(range(128))
    try:
        if encoding == "auto" or ascii_letters.decode(encoding).encode(encoding) == ascii_letters:
            return
    except (LookupError, UnicodeError):
        pass
    raise ValueError(
        "write auto, utf-8, cp1252, latin-1 or another encoding that Python knows, but not"
        " utf-16 or utf-32"
    )


def require_names_or_positions(columns: Sequence[Column]) -> None:
    """Raise ValueError unless all columns are names, or all are positions from 1."""
    if len({type(column) for column in columns}) > 1:
        raise ValueError(
            "give either names for all columns (the file has a header) or positions for all"
            " of them (it has none)"
        )
    if any(isinstance(column, int) and column < 1 for column in columns):
        raise ValueError("positions count from 1")


def require_positions(columns: Sequence[Column]) -> None:
    """Raise ValueError unless all columns are positions, which files without a header need."""
    if not columns or any(isinstance(column, str) for column in columns):
        raise ValueError("with header: none, give columns by position, such as 1")


class Source(Settings):
    """A source of rows: files, or a query of files or of a database. Every run reads the rows."""

    # The name of the block in messages.
    block: ClassVar[str]
    # Whether rows without a query may come from a folder or a pattern.
    many: ClassVar[bool] = True

    source: str | dict[str, str] | None = Field(
        description="A file, a folder, a pattern or a database as in ratings.source.",
        examples=["s3://shop/subscribers.csv"],
    )
    query: str | None = Field(
        default=None,
        description="SQL whose rows are read in place of the files': one SELECT in DuckDB's"
        " dialect, on the table `source`, or on the names that source gives to several. Columns of"
        " CSV and strings of JSON are text in it. It sees no other file and no network. For a"
        " database, in its own dialect.",
        examples=["SELECT user_id, unnest(items).id AS item_id, ts FROM source"],
    )
    deps: list[AssetKeyText] = Field(
        default=[],
        description="Assets of the project that write what the source names, by their keys: a run"
        " of both waits for them, the lineage shows them, and automation follows them. An"
        " asset:// source needs none.",
        examples=[["orders"], ["sales/orders"]],
    )
    format: Format | TableFormat | dict[str, TableFormat] | None = Field(
        default=None,
        description="delta: the source is the folder of a Delta table; of several sources, the name"
        " of each that is one.",
        examples=["delta", {"orders": "delta"}],
    )
    header: HeaderLine | dict[str, HeaderLine] | None = Field(
        default=None,
        description="csv: the number of the line that names the columns, from 1; what is before it,"
        " such as sep=; or the text of a report, is left out. none: there is no such line. With"
        " columns by position, the last line before the rows. Default: line 1, or none if columns"
        " are given by position or, for a query, line 1 of any file looks like a row. Of several"
        " sources: that of each, by its name.",
        examples=[4, "none", {"orders": 2}],
    )

    # The path of the YAML file, for messages.
    _file: str | None = PrivateAttr(default=None)

    @property
    def rows(self) -> RowSource:
        """The source as a reader of rows. Raises UserError."""
        return self.rows_of(FileForm())

    def rows_of(self, form: FileForm) -> RowSource:
        """Return the source as a reader of rows.

        form: the form of text files.
        Raises UserError.
        """
        setting = f"{self.block}.query" + (f" in {self._file}" if self._file else "")
        if self.database is not None:
            assert self.query is not None
            return Database(self.database, self.query, self._version_query, setting)
        delta_tables = self.delta_tables
        tables = {
            name: parse_source(source, is_delta=name in delta_tables)
            for name, source in self.sources.items()
        }
        for name, table in tables.items():
            if isinstance(table, AssetRows):
                of_asset = replace(form, header=self.headers.get(name))
                tables[name] = replace(table, form=of_asset, has_names=self._has_names)
        if self.query is None:
            return tables[SOURCE]
        return FileQuery(
            self.shown_source, parse_select(self.query), tables, form, setting, self.headers
        )

    def name_file(self, file: str) -> None:
        """Let messages name the file that declares this source.

        file: the path of that file relative to the project's folder.
        """
        self._file = file

    @property
    def sources(self) -> dict[str, str]:
        """The declared sources by the names of their tables; empty without a source."""
        return {SOURCE: self.source} if isinstance(self.source, str) else self.source or {}

    @property
    def shown_source(self) -> str:
        """The sources as messages show them, without the secrets in URLs."""
        return ", ".join(map(hide_query, self.sources.values()))

    @property
    def database(self) -> str | None:
        """The source, such as sql+env://VARIABLE, if it is a database; else None."""
        source = self.source if isinstance(self.source, str) else ""
        return source if source.startswith(SCHEME) else None

    @property
    def headers(self) -> dict[str, Header]:
        """The declared headers by the names of their sources."""
        if isinstance(self.header, dict):
            return dict(self.header)
        return {} if self.header is None else dict.fromkeys(self.sources, self.header)

    @property
    def file_header(self) -> Header | None:
        """The header of the files; None if it is not declared, or if a query reads the files."""
        return self.headers.get(SOURCE) if self.query is None else None

    @property
    def _has_names(self) -> bool:
        """Whether the files' columns have names: false if they are declared by position."""
        return True

    @property
    def delta_tables(self) -> set[str]:
        """The names of the sources that are declared to be Delta tables."""
        if isinstance(self.format, dict):
            return {*self.format}
        return {*self.sources} if self.format == "delta" else set()

    @property
    def asset_sources(self) -> list[tuple[str, ...]]:
        """The key paths of the assets that the rows are read from."""
        files = [
            parse_source(source) for source in self.sources.values() if source.startswith(ASSET)
        ]
        return [tuple(file.key) for file in files if isinstance(file, AssetRows)]

    @property
    def upstream(self) -> list[tuple[str, ...]]:
        """The key paths of all assets that a run waits for.

        They are the assets that the rows are read from, and the assets in `deps`.
        """
        declared = [tuple(key.split("/")) for key in self.deps]
        return [*dict.fromkeys([*self.asset_sources, *declared])]

    @property
    def has_visible_files(self) -> bool:
        """Whether new files can be noticed cheaply by listing: local paths or s3://."""
        sources = self.sources.values()
        return all("://" not in source or source.startswith("s3://") for source in sources)

    @property
    def _version_query(self) -> str | None:
        """The query that shows whether a database's rows changed; None if there is none."""
        return None

    @model_validator(mode="after")
    def _source_is_known(self) -> Self:
        problems: dict[Keys, str] = {}
        if isinstance(self.source, dict):
            if self.query is None:
                problems["source",] = "several sources need a query, which makes one table of them"
            for name in self.source:
                if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                    problems["source", name] = "write a name for a table: letters, digits and _"
        for name, source in self.sources.items():
            keys = ("source",) if isinstance(self.source, str) else ("source", name)
            try:
                self._parse(name, source)
            except (ValueError, UserError) as error:
                problems[keys] = str(error)
        problems |= {
            **self._find_format_problems(),
            **self._find_header_problems(),
            **self._find_query_problems(),
        }
        raise_problems(problems.items())
        return self

    def _parse(self, name: str, source: str) -> None:
        """Raise UserError or ValueError unless the text is a possible source."""
        is_delta = name in self.delta_tables
        if self.database is not None:
            require_variable(source)
        elif self.many or self.query is not None or is_delta:
            parse_source(source, is_delta=is_delta)
        else:
            parse_file(source)

    def _find_format_problems(self) -> dict[Keys, str]:
        if not self.delta_tables and not isinstance(self.format, dict):
            return {}
        if self.database is not None:
            return {("format",): "it is for a folder, not for a database: omit it"}
        if isinstance(self.format, dict):
            unknown = sorted(set(self.format) - set(self.sources))
            if unknown or isinstance(self.source, str):
                return {("format",): "name the tables that source names, and the format of each"}
        elif isinstance(self.source, dict):
            names = [*self.source]
            problem = f"say which of {', '.join(names)} are tables: {{{names[0]}: delta}}"
            return {("format",): problem}
        return {}

    def _find_header_problems(self) -> dict[Keys, str]:
        if self.header is not None and self.database is not None:
            return {("header",): "it is of files, not of a database: omit it"}
        if isinstance(self.header, dict) and (
            isinstance(self.source, str) or not self.header.keys() <= self.sources.keys()
        ):
            return {("header",): "name the tables that source names, and the header of each"}
        return {}

    def _find_query_problems(self) -> dict[Keys, str]:
        if self.database is not None:
            has_query = self.query is not None
            return {} if has_query else {("source",): "a database needs a query: its rows are read"}
        if self._version_query is not None:
            return {("version_query",): f"it is for a database ({SCHEME}VARIABLE): omit it"}
        try:
            if self.query is not None:
                parse_select(self.query)
        except ValueError as error:
            return {("query",): str(error)}
        return {}


class TableSource(Source):
    """A source of rows with several columns. Its files are kept from one run to the next."""

    source: str | dict[str, str]
    version_query: str | None = Field(
        default=None,
        description="SQL for a database whose answer changes when the rows of query may have"
        " changed: the rows are read again only then. Default: they are read by every run.",
        examples=["SELECT max(updated_at), count(*) FROM orders"],
    )
    delimiter: Annotated[str, accepted_by(require_delimiter)] | None = Field(
        default=None,
        description="The field separator: one character, or `::`. Default: the"
        " one that the declared columns and the first lines show. With a comma or a semicolon,"
        " fields may be in double quotes.",
        examples=[",", "\t", "::"],
    )
    decimal: Decimal = Field(
        default=".", description="The decimal separator in csv: `,` for 4,5 and 1.234,56."
    )
    encoding: Annotated[Encoding, accepted_by(require_encoding)] = Field(
        default="auto",
        description="The encoding, as Python calls it. auto: UTF-8, or cp1252 if the bytes are not"
        " UTF-8; the run reports which.",
        examples=["latin-1", "cp1251", "shift_jis"],
    )
    on_bad_rows: Literal["fail", "skip"] = Field(
        default="fail",
        description="What to do with unreadable rows: fail names the first one, skip drops and"
        " counts them.",
    )

    @model_validator(mode="after")
    def _columns_fit_the_header(self) -> Self:
        if self.file_header == NO_HEADER:
            require_positions(self.declared_columns)
        return self

    @property
    def declared_columns(self) -> Sequence[Column]:
        """The declared columns."""
        raise NotImplementedError

    @property
    def file_form(self) -> FileForm:
        """The declared form of the files."""
        return FileForm(delimiter=self.delimiter, header=self.file_header, encoding=self.encoding)

    @property
    def rows(self) -> RowSource:
        return self.rows_of(self.file_form)

    @property
    def _has_names(self) -> bool:
        # With a query, the declared columns are columns of its result. The query itself reads the
        # files' columns by name.
        by_position = any(isinstance(column, int) for column in self.declared_columns)
        return self.query is not None or not by_position

    @property
    def _version_query(self) -> str | None:
        return self.version_query
