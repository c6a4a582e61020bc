"""The assets raw_ratings, raw_items and raw_users, which copy the sources' files to the storage."""

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.items_and_users import AttributesSource
from batchrec_dagster.pipeline.declare_asset import RAW, PipelineAsset, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import result_to_dagster
from batchrec_dagster.pipeline.upstream import find_upstream
from batchrec_dagster.preparation.attributes import AttributesLayout
from batchrec_dagster.preparation.file_form import Column
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.attributes import inspect_attributes
from batchrec_dagster.steps.data.data_sizes import (
    NOT_SHRUNK,
    Part,
    RawAttributes,
    SizeComparison,
    copy_attributes,
)
from batchrec_dagster.steps.data.ratings import CODE_VERSION as RATINGS_VERSION
from batchrec_dagster.steps.data.ratings import (
    RatingsFormat,
    RawRatings,
    fingerprint_inspection,
    inspect_ratings,
)
from batchrec_dagster.steps.data.raw_files import CopyResult, RawSource, copy_raw
from batchrec_dagster.steps.records import Result
from batchrec_dagster.storage.erased import NOBODY, read_erased_users

ATTRIBUTES_VERSION = "1"


class DataConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    publish_anyway: bool = Field(
        default=False,
        description="Go on although much of the data is missing that the published lists were made"
        " from.",
    )


def build_size_check(part: Part) -> dict[str, str]:
    """Return the description of the check that this part of the data has not shrunk, by name."""
    return {
        NOT_SHRUNK: f"There are nearly as many {part} as the published lists were made from:"
        " gate.max_shrink."
    }


def describe_attribute_columns(layout: AttributesLayout) -> dict[str, tuple[str, str]]:
    """Return the type and the description of each category and number of items or users."""
    return {
        **dict.fromkeys(layout.categories, ("string", "Its values. Several are separated by |.")),
        **dict.fromkeys(layout.numbers, ("double", "A number.")),
    }


def raw_ratings(pipeline: Pipeline) -> PipelineAsset:
    """Declare the asset of the files of ratings."""
    ratings, keys = pipeline.ratings, pipeline.keys
    file_note = "copied to the storage unchanged"
    if ratings.query is not None:
        file_note = f"the rows of ratings.query on {ratings.shown_source}, in one Parquet file"

    @asset_of(
        pipeline,
        "raw_ratings",
        description="Who rated, bought or watched what, and when: the files that everything"
        f" else is made of, {file_note}. Unchanged files are not copied again.",
        kinds={"source", "file"},
        deps=[*map(dg.AssetKey, ratings.upstream)],
        stage=RAW,
        storage_key=keys.record("raw_ratings"),
        # The version does not depend on the rules of interactions, because they do not change the
        # copies.
        code_version=f"{RATINGS_VERSION}-{fingerprint(ratings)}",
        io_manager="record_io",
        checks={"rows_readable": "The declared columns are there, and their values can be read."},
    )
    def raw_ratings(context: dg.AssetExecutionContext) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        erased_users = read_erased_users(step.files)
        source = RawSource(
            "raw_ratings",
            find_upstream(ratings.rows, context),
            partial(keys.raw, "ratings"),
            in_place=pipeline.preparation.on_aws,
        )
        inspected_with = {
            "settings": fingerprint_inspection(pipeline),
            "erased": erased_users.version or "",
        }
        result, copy_result = copy_raw(
            step,
            source,
            RawRatings,
            inspected_with,
            lambda copies: inspect_ratings(step, copies, erased_users),
        )
        seen = result.record.seen
        if not result.is_unchanged:
            for warning in seen.format.warnings:
                context.log.warning(warning)
        return _materialize_raw(
            step, "raw_ratings", result, copy_result, _build_ratings_metadata(result.record)
        )

    return raw_ratings


def _materialize_raw(
    step: StepContext,
    asset: str,
    result: Result[Any],
    copy_result: CopyResult,
    metadata: Mapping[str, Any],
) -> dg.MaterializeResult[Any]:
    """Return the result for a source's copied files, in Dagster's type.

    metadata: the metadata about the content of the files.
    """
    record = result.record
    uris = [file.stored.uri for file in record.files]
    where = step.storage.where(uris[0])
    one_file = len(uris) == 1
    of_files = {
        "outcome": copy_result.outcome,
        "source": record.source,
        "file": dg.MetadataValue.path(where) if one_file else f"{len(uris):,} files",
        "files": len(uris),
    }
    return result_to_dagster(result, step.files.record_uri(asset), {**metadata, **of_files})


def _build_ratings_metadata(record: RawRatings) -> dict[str, Any]:
    seen, read_format = record.seen, record.seen.format
    rows = "dagster/row_count" if seen.is_whole else "rows_looked_at"
    return {
        rows: seen.rows,
        "bytes": seen.bytes if seen.is_whole else 0,
        "bad_rows": seen.bad_rows,
        "dagster/column_schema": _build_ratings_schema(read_format),
        "format": read_format.format,
        "delimiter": read_format.delimiter if read_format.format == "csv" else "",
        "encoding": ", ".join(read_format.encodings),
        "recognised_columns": read_format.recognised,
        "timestamp_unit": read_format.timestamp_unit,
        "empty_files": list(read_format.empty_files),
        "warnings": list(read_format.warnings),
    }


def _build_ratings_schema(read_format: RatingsFormat) -> dg.TableSchema:
    roles = {column: f"The {role.replace('_', ' ')}." for column, role in read_format.roles.items()}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=roles.get(name))
            for name, kind in read_format.types.items()
        ]
    )


def raw_attributes(
    pipeline: Pipeline, settings: AttributesSource, layout: AttributesLayout, description: str
) -> PipelineAsset:
    """Declare the asset of a file of items or of users."""
    source = settings.rows
    part: Literal["items", "users"] = "items" if layout.subject == "item" else "users"
    asset = f"raw_{part}"
    code_version = f"{ATTRIBUTES_VERSION}-{fingerprint(settings, layout)}"
    file_note = "the file, copied to the storage unchanged"
    if settings.query is not None:
        file_note = f"the rows of {part}.query on {settings.shown_source}, in one Parquet file"

    @asset_of(
        pipeline,
        asset,
        description=f"{description}: {file_note}.",
        kinds={"source", "file"},
        deps=[*map(dg.AssetKey, settings.upstream)],
        stage=RAW,
        storage_key=pipeline.keys.record(asset),
        code_version=code_version,
        io_manager="record_io",
        checks={
            f"{part}_readable": "The declared columns are there, and their values can be read.",
            **build_size_check(part),
        },
    )
    def raw_attributes(
        context: dg.AssetExecutionContext, config: DataConfig
    ) -> dg.MaterializeResult[Any]:
        step = open_step(pipeline, context)
        inspected_with, erased_users = {"settings": code_version}, NOBODY
        if layout.subject == "user":
            erased_users = read_erased_users(step.files)
            inspected_with["erased"] = erased_users.version or ""
        result, copy_result = copy_attributes(
            step,
            RawSource(asset, find_upstream(source, context), partial(pipeline.keys.raw, part)),
            inspected_with,
            lambda copies: inspect_attributes(
                copies, step.storage, layout, settings.on_bad_rows, erased_users
            ),
            SizeComparison(step, part, publish_anyway=config.publish_anyway),
        )
        return _materialize_raw(
            step, asset, result, copy_result, _build_attributes_metadata(result.record, layout)
        )

    return raw_attributes


def _build_attributes_metadata(record: RawAttributes, layout: AttributesLayout) -> dict[str, Any]:
    (check,) = record.findings
    return {
        "bytes": record.files[0].stored.size,
        "dagster/row_count": check.numbers.get("rows", 0),
        "dagster/column_schema": _build_attributes_schema(layout.roles),
        "bad_rows": check.numbers.get("bad_rows", 0),
    }


def _build_attributes_schema(roles: Mapping[str, Column]) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(get_column_name(column), description=_describe_role(role))
            for role, column in roles.items()
        ]
    )


# The descriptions of columns, by the names of the columns' settings.
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
    """Return the column's name in messages."""
    return column if isinstance(column, str) else f"column {column}"
