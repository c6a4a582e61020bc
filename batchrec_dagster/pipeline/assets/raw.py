"""The assets raw_ratings, raw_items and raw_users: the files of the sources.

They are copied to the storage.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.attribute_files import AttributesFileSettings
from batchrec_dagster.config.items import ItemSettings
from batchrec_dagster.config.users import UserSettings
from batchrec_dagster.pipeline.declare_asset import (
    RAW,
    asset_options,
    preview_metadata,
    raw_files_metadata,
)
from batchrec_dagster.pipeline.run_step import (
    AssetResult,
    add_checks,
    asset_step,
    get_work,
    materialization_with_checks,
    reusable_result,
)
from batchrec_dagster.pipeline.upstream import find_upstream
from batchrec_dagster.preparation.attributes import ITEM_ROWS, USER_ROWS, AttributesLayout, RowKind
from batchrec_dagster.preparation.items import ItemsLayout
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.user_attributes import UsersLayout
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.steps.data_sizes import (
    NOT_SHRUNK,
    FileInspection,
    Part,
    SizeComparison,
    read_size,
    remember_size,
)
from batchrec_dagster.steps.interactions import RatingsFormat, RatingsInspection, inspect_ratings
from batchrec_dagster.steps.items import inspect_items
from batchrec_dagster.steps.raw_files import RawFiles, RawRecord, bring_raw_files
from batchrec_dagster.steps.user_attributes import inspect_users
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.suppressed_users import SuppressionList

RATINGS_VERSION = "2"
ATTRIBUTES_VERSION = "1"
# The names of delimiters that cannot be seen.
DELIMITER_NAMES = {"\t": "tab", " ": "space"}


class DataConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    skip_quality_gate: bool = Field(
        default=False,
        description="Go on although much of the data is missing that the published lists were made"
        " from.",
    )


def size_check(part: Part) -> dict[str, str]:
    """The check of how much there is of a part of the data."""
    return {
        NOT_SHRUNK: f"There are nearly as many {part} as the published lists were made from:"
        " gate.max_shrink."
    }


def raw_ratings(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset of the files of ratings."""
    ratings, keys = pipeline.ratings, pipeline.keys
    # The check needs the columns that the rules name, so it is repeated if the rules change. The
    # files themselves do not depend on the rules.
    inspected_with = fingerprint(pipeline.rules, pipeline.preparation)
    file_note = "copied to the storage unchanged"
    if ratings.query is not None:
        file_note = f"the rows of ratings.query on {ratings.shown_source}, in one Parquet file"

    @dg.asset(
        **asset_options(
            pipeline,
            "raw_ratings",
            description="Who rated, bought or watched what, and when: the files that everything"
            f" else is made of, {file_note}. Unchanged files are not copied again.",
            kinds={"source", "file"},
            deps=ratings.upstream,
            stage=RAW,
            storage_key=keys.record("raw_ratings"),
            code_version=f"{RATINGS_VERSION}-{fingerprint(ratings)}",
            io_manager="record_io",
            checks={
                "rows_readable": "The declared columns are there, and their values can be read."
            },
        )
    )
    @asset_step
    def raw_ratings(context: dg.AssetExecutionContext) -> Iterator[AssetResult]:
        work = get_work(pipeline, context)
        with bring_raw_files(
            find_upstream(ratings.rows, context),
            work.storage,
            pipeline.project,
            record=keys.record("raw_ratings"),
            place=partial(keys.raw, "ratings"),
        ) as files:
            if files.record.inspected_with == inspected_with:
                earlier_result = _reuse_inspection(context, work, files)
                if earlier_result is not None:
                    yield earlier_result
                    return
            suppressed = SuppressionList(work.files).read()
            inspection = inspect_ratings(work, files.record, suppressed)
            read_format = inspection.format
            if read_format is not None:
                for warning in read_format.recognised_layout.warnings:
                    context.log.warning(warning)
            record = replace(files.record, inspected_with=inspected_with)
            yield materialization_with_checks(
                [inspection.check],
                dg.MaterializeResult(
                    value=record,
                    data_version=dg.DataVersion(record.version),
                    metadata={
                        **raw_files_metadata(files, work.storage),
                        **_ratings_metadata(record, inspection),
                    },
                ),
            )

    return raw_ratings


def _reuse_inspection(
    context: dg.AssetExecutionContext,
    work: Work,
    files: RawFiles,
    not_repeated: Sequence[str] = (),
) -> dg.MaterializeResult[Any] | None:
    """The result of an earlier run that inspected the same files; None if there is none.

    not_repeated: as of `reusable_result`.
    """
    earlier_result = reusable_result(
        context, lambda: files.unchanged_version, files.outcome, not_repeated=not_repeated
    )
    if earlier_result is None:
        return None
    metadata = {**(earlier_result.metadata or {}), **raw_files_metadata(files, work.storage)}
    # The record is stored again, as a file's time may differ; the IO manager adds its URI.
    metadata.pop("dagster/uri", None)
    return earlier_result._replace(value=files.record, metadata=metadata)


def _ratings_metadata(record: RawRecord, inspection: RatingsInspection) -> dict[str, Any]:
    row_count, read_format = inspection.rows, inspection.format
    counts = (
        {"bytes": inspection.bytes, "dagster/row_count": row_count}
        if inspection.whole
        else {"rows_looked_at": row_count}
    )
    if read_format is None:
        return {"preview": preview_metadata("The files cannot be read."), **counts}
    recognised, layout = read_format.recognised_layout, read_format.recognised_layout.layout
    rows = f"{row_count:,} rows" if inspection.whole else f"{row_count:,} rows looked at"
    count = len(record.files)
    files = f"{count:,} files" if count > 1 else "one file"
    encodings = ", ".join(read_format.encodings)
    delimiter = DELIMITER_NAMES.get(layout.delimiter, layout.delimiter)
    return {
        "preview": preview_metadata(
            f"**{rows}**, {files} of {layout.format} in {escape(encodings)}.",
            *map(escape, recognised.warnings),
        ),
        **counts,
        "dagster/column_schema": _build_ratings_schema(read_format),
        "format": layout.format,
        "delimiter": delimiter if layout.format == "csv" else "",
        "encoding": encodings,
        "recognised_columns": dict(recognised.recognised),
        "empty_files": list(read_format.empty_files),
        "timestamp_unit": read_format.timestamp_unit,
        "bad_rows": inspection.check.numbers["bad_rows"],
    }


def _build_ratings_schema(read_format: RatingsFormat) -> dg.TableSchema:
    roles = {
        column: f"The {role.replace('_', ' ')}." for role, column in read_format.columns.items()
    }
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=roles.get(name))
            for name, kind in read_format.recognised_layout.types.items()
        ]
    )


def raw_items(
    pipeline: Pipeline, settings: ItemSettings, layout: ItemsLayout
) -> dg.AssetsDefinition:
    """The asset of the items file."""

    def inspect(record: RawRecord, work: Work) -> FileInspection:
        return inspect_items(record, work.storage, layout, settings.on_bad_rows)

    return _raw_attributes(
        pipeline,
        settings,
        layout,
        ITEM_ROWS,
        "What is known about the items, such as titles and genres",
        inspect,
    )


def raw_users(
    pipeline: Pipeline, settings: UserSettings, layout: UsersLayout
) -> dg.AssetsDefinition:
    """The asset of the users file."""

    def inspect(record: RawRecord, work: Work) -> FileInspection:
        suppressed = SuppressionList(work.files).read()
        return inspect_users(record, work.storage, layout, settings.on_bad_rows, suppressed)

    return _raw_attributes(
        pipeline,
        settings,
        layout,
        USER_ROWS,
        "What is known about the users, such as country and consent",
        inspect,
    )


def _raw_attributes(
    pipeline: Pipeline,
    settings: AttributesFileSettings,
    layout: AttributesLayout,
    kind: RowKind,
    description: str,
    inspect_copy: Callable[[RawRecord, Work], FileInspection],
) -> dg.AssetsDefinition:
    """The asset of a file of items or of users.

    inspect_copy: reads the copied file.
    """
    keys, source = pipeline.keys, settings.rows
    parts: dict[RowKind, tuple[Part, str, Callable[[str], str]]] = {
        ITEM_ROWS: ("items", "raw_items", partial(keys.raw, "items")),
        USER_ROWS: ("users", "raw_users", partial(keys.raw, "users")),
    }
    part, asset, place = parts[kind]
    file_note = "the file, copied to the storage unchanged"
    if settings.query is not None:
        file_note = (
            f"the rows of {kind.block}.query on {settings.shown_source}, in one Parquet file"
        )

    @dg.asset(
        **asset_options(
            pipeline,
            asset,
            description=f"{description}: {file_note}.",
            kinds={"source", "file"},
            deps=settings.upstream,
            stage=RAW,
            storage_key=keys.record(asset),
            code_version=f"{ATTRIBUTES_VERSION}-{fingerprint(settings, layout)}",
            io_manager="record_io",
            checks={
                f"{kind.block}_readable": "The declared columns are there, and their values can be"
                " read.",
                **size_check(part),
            },
        )
    )
    @asset_step
    def raw_attributes(
        context: dg.AssetExecutionContext, config: DataConfig
    ) -> Iterator[AssetResult]:
        work = get_work(pipeline, context)
        comparison = SizeComparison(work, part, skip=config.skip_quality_gate)
        with bring_raw_files(
            find_upstream(source, context),
            work.storage,
            pipeline.project,
            record=keys.record(asset),
            place=place,
        ) as files:
            earlier_result = _reuse_inspection(context, work, files, [NOT_SHRUNK])
            if earlier_result is not None:
                size = read_size(work, part, files.record.version)
                if size is None:
                    size = inspect_copy(files.record, work).size
                yield add_checks(earlier_result, [comparison.check(size)])
                remember_size(work, part, files.record.version, size)
                return
            record = files.record
            inspection = inspect_copy(record, work)
            check, size = inspection.check, inspection.size
            require_passed([check])
            yield materialization_with_checks(
                [check, comparison.check(size)],
                dg.MaterializeResult(
                    value=record,
                    data_version=dg.DataVersion(record.version),
                    metadata={
                        **raw_files_metadata(files, work.storage),
                        "preview": preview_metadata(
                            f"{escape(source.display_name)}: {escape(check.text)}."
                        ),
                        "bytes": record.files[0].size,
                        "dagster/row_count": check.numbers.get("rows", 0),
                        "dagster/column_schema": _build_attributes_schema(layout.roles),
                        "bad_rows": check.numbers.get("bad_rows", 0),
                    },
                ),
            )
            remember_size(work, part, record.version, size)

    return raw_attributes


def _build_attributes_schema(roles: Mapping[str, Column]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(get_column_name(column), description=_describe_role(role))
            for role, column in roles.items()
        ]
    )


MEANINGS = {
    "item": "The item's id.",
    "user": "The user's id.",
    "title": "Its title, for people.",
    "image": "The address of its picture.",
    "link": "The address of its page.",
    "created": "When it came out.",
}


def _describe_role(role: str) -> str:
    kind, _, name = role.partition(".")
    value = {"categories": "Text", "numbers": "A number"}.get(kind, "")
    return MEANINGS.get(role) or f"{value} that Personalize knows as {escape(name)}."


def get_column_name(column: Column) -> str:
    """The name by which messages call the column."""
    return column if isinstance(column, str) else f"column {column}"
