"""Where rows come from, for ratings, items and users alike: files, or a query of them."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, field_validator, model_validator

from batchrec_dagster.config.settings import Settings
from batchrec_dagster.config.validation import build_field_errors
from batchrec_dagster.errors import UserError
from batchrec_dagster.preparation.layout import Header
from batchrec_dagster.preparation.sources.computed import ASSET, AssetRows
from batchrec_dagster.preparation.sources.databases import SCHEME, Database, parse_database
from batchrec_dagster.preparation.sources.parsing import parse_file, parse_source
from batchrec_dagster.preparation.sources.query import SOURCE, FileQuery, check_sql
from batchrec_dagster.preparation.sources.source import RatingsSource, hide_query
from batchrec_dagster.preparation.sources.tables import TextForm


class QueriedSource(Settings):
    """What has a `source`, and perhaps a `query` of it, and is read by every run."""

    # Whether rows without a query may come from a folder or a pattern.
    many: ClassVar[bool] = True

    source: str | dict[str, str] | None
    query: str | None = Field(
        default=None,
        description="SQL whose rows are read in place of the files': one SELECT in DuckDB's"
        " dialect, on the table `source`, or on the names that source gives to several. Columns of"
        " CSV and strings of JSON are text in it. It sees no other file and no network. For a"
        " database, in its own dialect.",
        examples=["SELECT user_id, unnest(items).id AS item_id, ts FROM source"],
    )

    deps: list[str] = Field(
        default=[],
        description="Assets of the project that write what the source names, by their keys: a run"
        " of both waits for them, the lineage shows them, and automation follows them. An"
        " asset:// source needs none.",
        examples=[["orders"], ["sales/orders"]],
    )

    header: int | Literal["none"] | dict[str, int | Literal["none"]] | None = Field(
        default=None,
        description="csv: the number of the line that names the columns, from 1; what is before it,"
        " such as sep=; or the text of a report, is left out. none: there is no such line. With"
        " columns by position, the last line before the rows. Default: line 1, or none if columns"
        " are given by position or, for a query, line 1 of any file looks like a row. Of several"
        " sources: that of each, by its name.",
        examples=[4, "none", {"orders": 2}],
    )

    @property
    def headers(self) -> dict[str, Header]:
        """The header that is declared of a source, by its name."""
        if isinstance(self.header, dict):
            return dict(self.header)
        return {} if self.header is None else dict.fromkeys(self.sources, self.header)

    @property
    def file_header(self) -> Header | None:
        """The header of the files, if these are read themselves, and not by a query."""
        return self.headers.get(SOURCE) if self.query is None else None

    @field_validator("header")
    @classmethod
    def _header_counts_from_1(
        cls, header: Header | dict[str, Header] | None
    ) -> Header | dict[str, Header] | None:
        numbers = [*header.values()] if isinstance(header, dict) else [header]
        if any(isinstance(number, int) and number < 1 for number in numbers):
            raise ValueError("lines count from 1; write none if no line names the columns")
        return header

    @property
    def delta_tables(self) -> set[str]:
        """The names of the sources that are declared to be Delta tables."""
        # Each kind of source has a field of its own for it, with what else it may be.
        setting: Any = getattr(self, "format", None)
        if isinstance(setting, dict):
            return {*setting}
        return {*self.sources} if setting == "delta" else set()

    @field_validator("deps")
    @classmethod
    def _deps_are_keys(cls, deps: list[str]) -> list[str]:
        for key in deps:
            if "{{" not in key and not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", key):
                raise ValueError(
                    f"{key!r} is not an asset's key: write its parts separated by /, such as"
                    " sales/orders"
                )
        return deps

    # Of the YAML, for messages.
    _file: str | None = PrivateAttr(default=None)

    @property
    def sources(self) -> dict[str, str]:
        """Each source, by the name of its table; empty without a source."""
        return {SOURCE: self.source} if isinstance(self.source, str) else self.source or {}

    @property
    def shown_source(self) -> str:
        """The sources as people see them, without secrets of URLs."""
        return ", ".join(map(hide_query, self.sources.values()))

    @property
    def database(self) -> str | None:
        """The source, if it is a database."""
        source = self.source if isinstance(self.source, str) else ""
        return source if source.startswith(SCHEME) else None

    @property
    def asset_sources(self) -> list[tuple[str, ...]]:
        """The paths of the keys of the assets whose rows are read."""
        files = [
            parse_source(source) for source in self.sources.values() if source.startswith(ASSET)
        ]
        return [tuple(file.key) for file in files if isinstance(file, AssetRows)]

    @property
    def upstream(self) -> list[tuple[str, ...]]:
        """The paths of the keys of the assets that a run waits for: those whose rows are read, and
        those of `deps`."""
        declared = [tuple(key.split("/")) for key in self.deps]
        return [*dict.fromkeys([*self.asset_sources, *declared])]

    @property
    def has_visible_files(self) -> bool:
        """Whether the sources may change and listing them is cheap: local paths or s3://."""
        sources = self.sources.values()
        return all("://" not in source or source.startswith("s3://") for source in sources)

    def rows_of(self, setting: str, form: TextForm) -> RatingsSource:
        """Where the rows are.

        setting: what messages call the query.
        form: how text files are written.
        Raises UserError.
        """
        setting += f" in {self._file}" if self._file else ""
        if self.database is not None:
            assert self.query is not None
            return Database(self.database, self.query, self._version_query, setting)
        delta_tables = self.delta_tables
        tables = {
            name: parse_source(source, is_delta=name in delta_tables)
            for name, source in self.sources.items()
        }
        if self.query is None:
            return tables[SOURCE]
        return FileQuery(check_sql(self.query), tables, form, setting, self.headers)

    @property
    def _version_query(self) -> str | None:
        """The query whose answer changes with the rows of a database, for kinds that have one."""
        return None

    @model_validator(mode="after")
    def _source_is_known(self) -> Self:
        problems: dict[tuple[str, ...], str] = {}
        if isinstance(self.source, dict):
            if self.query is None:
                problems["source",] = "several sources need a query, which makes one table of them"
            for name in self.source:
                if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                    problems["source", name] = "write a name for a table: letters, digits and _"
        for name, source in self.sources.items():
            keys = ("source",) if isinstance(self.source, str) else ("source", name)
            try:
                if self.database is not None:
                    parse_database(source)
                elif "{{" not in source:
                    self._parse(name, source)
            except (ValueError, UserError) as error:
                problems[keys] = str(error)
        problems |= {
            **self._format_problems(),
            **self._header_problems(),
            **self._query_problems(),
        }
        if problems:
            raise build_field_errors(problems)
        return self

    def _parse(self, name: str, source: str) -> None:
        """Raise UserError unless the source may be one."""
        is_delta = name in self.delta_tables
        if self.many or self.query is not None or is_delta:
            parse_source(source, is_delta=is_delta)
        else:
            parse_file(source)

    def _format_problems(self) -> dict[tuple[str, ...], str]:
        declared = getattr(self, "format", None)
        if not self.delta_tables and not isinstance(declared, dict):
            return {}
        if self.database is not None:
            return {("format",): "it is for a folder, not for a database: omit it"}
        if isinstance(declared, dict):
            unknown = sorted(set(declared) - set(self.sources))
            if unknown or isinstance(self.source, str):
                return {("format",): "name the tables that source names, and the format of each"}
        elif isinstance(self.source, dict):
            names = ", ".join(self.source)
            return {
                ("format",): f"say which of {names} are tables: {{{names.split(', ')[0]}: delta}}"
            }
        return {}

    def _header_problems(self) -> dict[tuple[str, ...], str]:
        if self.header is not None and self.database is not None:
            return {("header",): "it is of files, not of a database: omit it"}
        if isinstance(self.header, dict) and (
            isinstance(self.source, str) or not self.header.keys() <= self.sources.keys()
        ):
            return {("header",): "name the tables that source names, and the header of each"}
        return {}

    def _query_problems(self) -> dict[tuple[str, ...], str]:
        if self.database is not None:
            return (
                {} if self.query else {("source",): "a database needs a query: its rows are read"}
            )
        if self._version_query is not None:
            return {("version_query",): f"it is for a database ({SCHEME}VARIABLE): omit it"}
        if self.query is not None and "{{" not in self.query:
            try:
                check_sql(self.query)
            except ValueError as error:
                return {("query",): str(error)}
        return {}


class SourceSettings(QueriedSource):
    """What has a source whose files are kept from one run to the next."""

    source: str | dict[str, str]
    version_query: str | None = Field(
        default=None,
        description="SQL for a database whose answer changes when the rows of query may have"
        " changed: the rows are read again only then. Default: they are read by every run.",
        examples=["SELECT max(updated_at), count(*) FROM orders"],
    )

    @property
    def _version_query(self) -> str | None:
        return self.version_query
