"""Ratings in JSON whose values lie within objects: the query that `batchrec new` writes."""

from __future__ import annotations

import codecs
import shlex
from collections.abc import Mapping, Sequence

from batchrec_dagster.cli.column_candidates import NO_COLUMN, UnknownColumnsError, open_sample
from batchrec_dagster.cli.rating_columns import REQUIRED_OPTIONS
from batchrec_dagster.cli.recognised_source import ReadingOptions
from batchrec_dagster.preparation.column_names import recognise_columns
from batchrec_dagster.preparation.layout import Column, PreparationError
from batchrec_dagster.preparation.nested_json import (
    NestedForm,
    is_nested,
    recognise_nested_form,
)
from batchrec_dagster.preparation.polars.decoding import RawFile
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.recognition import ReadSettings
from batchrec_dagster.preparation.sources import formats
from batchrec_dagster.preparation.sources.query import check_sql


def find_nested_form(
    files: Sequence[RawFile], given_columns: Mapping[str, Column], options: ReadingOptions
) -> NestedForm | None:
    """The form of the JSON, with the query that makes columns of it; None if it needs no query.

    given_columns: the columns that need not be recognised, by role: of the file, or of the query's
    result.

    Raises UnknownColumnsError if only a reader can say what a column of the result is, and
    PreparationError if the file cannot be read, or a query needs something that is not installed.
    """
    if not any(_may_be_json(file) for file in files):
        return None
    columns_given = {role: name for role, name in given_columns.items() if name != NO_COLUMN}
    roles = [
        role
        for role in REQUIRED_OPTIONS
        if role != "timestamp" or given_columns.get("timestamp") != NO_COLUMN
    ]
    with open_sample(files, ReadSettings(encoding=options.encoding)) as sample:
        table = sample.table
        if not isinstance(table, JsonTable) or _has_columns(table, roles, columns_given):
            return None
        form = recognise_nested_form(table.opened, roles)
        if form is None:
            return None
        try:
            check_sql(form.query)
        except ValueError as error:
            raise PreparationError(f"{sample.name} is {form.words}: {error}") from error
        missing_roles = [role for role in roles if role not in {**form.columns, **columns_given}]
        if missing_roles:
            raise _build_unknown_roles_error(sample.name, form, missing_roles)
        return form


def _build_unknown_roles_error(
    name: str, form: NestedForm, missing_roles: Sequence[str]
) -> UnknownColumnsError:
    """The error for roles that no name of the result's columns shows, with options to give.

    name: what messages call the file.
    """
    columns = [*map(shlex.quote, form.other_columns)]
    # As an example, each role gets one of the other columns, as long as there are any.
    columns += ["COL"] * (len(missing_roles) - len(columns))
    options = " ".join(
        f"{REQUIRED_OPTIONS[role]} {column}"
        for role, column in zip(missing_roles, columns, strict=False)
    )
    no_times = " (or --time none)" if "timestamp" in missing_roles else ""
    names = ", ".join([*form.columns.values(), *form.other_columns])
    return UnknownColumnsError(
        f"{name} is {form.words}, of which a query makes the columns: {names}. Say which is which,"
        f" for example: {options}{no_times}"
    )


def _may_be_json(file: RawFile) -> bool:
    """Whether the file starts like JSON, or is packed. Opening it shows the rest."""
    with file.path.open("rb") as opened:
        start = opened.read(formats.START)
    if start.startswith((*formats.PACKED, *formats.UTF16)):
        return True
    if start.startswith(formats.ZIP):
        return formats.recognise_format(start) != formats.EXCEL
    return start.removeprefix(codecs.BOM_UTF8).lstrip()[:1] in (b"{", b"[")


def _has_columns(
    table: JsonTable, roles: Sequence[str], columns_given: Mapping[str, Column]
) -> bool:
    """Whether the file itself has the columns, and none of them holds objects or lists."""
    if not table.has_objects or not set(columns_given.values()) <= set(table.columns):
        return False
    columns = {**recognise_columns(table.columns), **columns_given}
    return all(
        role in columns and not is_nested(table.opened, str(columns[role])) for role in roles
    )
