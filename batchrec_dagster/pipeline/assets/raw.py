"""raw_ratings and raw_items: the files of the sources, copied to the storage or read in place."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.items import ItemSettings
from batchrec_dagster.pipeline.declare_asset import RAW, asset, preview, raw_files
from batchrec_dagster.pipeline.run_step import MadeOf, published
from batchrec_dagster.pipeline.upstream import find_upstream
from batchrec_dagster.preparation.items import ItemsLayout
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.sources.source import RatingsSource
from batchrec_dagster.reporting.markdown import escape, format_code_block
from batchrec_dagster.steps.checks import CheckResult
from batchrec_dagster.steps.interactions import RatingsFormat, RatingsInspection, inspect_ratings
from batchrec_dagster.steps.items import check_items
from batchrec_dagster.steps.raw_files import (
    RawRecord,
    bring_raw_files,
    unchanged_version,
)
from batchrec_dagster.steps.work import Work

RATINGS_VERSION = "2"
ITEMS_VERSION = "1"
# Delimiters that cannot be seen.
SHOWN = {"\t": "tab", " ": "space"}


@dataclass(frozen=True)
class InspectedFiles:
    """Files that were brought: their record, with what was recognised, the verdict, metadata."""

    record: RawRecord
    check: CheckResult
    metadata: dict[str, Any]


def _bring(
    context: dg.AssetExecutionContext,
    work: Work,
    source: RatingsSource,
    place: Callable[[str], str] | None,
    inspect: Callable[[RawRecord], InspectedFiles],
    read_as: Callable[[RawRecord], tuple[str, ...]] = lambda record: (),
) -> Iterator[Any]:
    """The results of the asset: the files are brought, and inspected unless they, and what they
    are `read_as`, are as in an earlier run. place: as of `bring_raw_files`."""
    storage, key = work.storage, work.pipeline.places.record(context.asset_key.path[-1])
    found = find_upstream(source, context)
    with bring_raw_files(found, storage, work.pipeline.project, record=key, place=place) as raw:
        context.log.info(f"{source.shown}: {raw.outcome}")
        shown, record = raw_files(raw, storage), raw.record
        if same := MadeOf(context, read_as(record)).earlier(
            lambda: unchanged_version(raw, storage), record.to_json(), raw.outcome, shown
        ):
            yield same
            return
        inspected = inspect(record)
        record = inspected.record
        made_of = MadeOf(context, read_as(record)).metadata(record.version, [inspected.check])
        yield from published(
            [inspected.check],
            dg.MaterializeResult(
                value=record.to_json(),
                data_version=dg.DataVersion(record.version),
                metadata={**shown, **inspected.metadata, **made_of},
            ),
        )


def raw_ratings(pipeline: Pipeline) -> dg.AssetsDefinition:
    ratings, places = pipeline.ratings, pipeline.places
    copied = "copied to the storage unchanged" if ratings.copy_to_storage else "read in place"
    if ratings.query is not None:
        copied = f"the rows of ratings.query on {ratings.shown_source}, in one Parquet file"

    def read_as(record: RawRecord) -> tuple[str, ...]:
        # The rules name columns too.
        return (fingerprint(pipeline.rules, pipeline.preparation, record.columns),)

    @asset(
        pipeline,
        description="Who rated, bought or watched what, and when: the files that everything"
        f" else is made of, {copied}. Unchanged files are not copied again.",
        kinds={"file"},
        stage=RAW,
        storage_key=places.record("raw_ratings"),
        code_version=f"{RATINGS_VERSION}-{fingerprint(ratings)}",
        io_manager="record_io",
        deps=ratings.upstream,
        checks={"rows_readable": "The declared columns are there, and their values can be read."},
    )
    def raw_ratings(context: dg.AssetExecutionContext, work: Work) -> Iterator[Any]:
        def inspect(record: RawRecord) -> InspectedFiles:
            seen = inspect_ratings(work, record)
            for warning in seen.format.found.warnings if seen.format else ():
                context.log.warning(warning)
            record = replace(record, columns=seen.format.columns if seen.format else {})
            return InspectedFiles(record, seen.check, _ratings_metadata(record, seen))

        place = places.raw if ratings.copy_to_storage else None
        yield from _bring(context, work, ratings.rows, place, inspect, read_as)

    return raw_ratings


def _ratings_metadata(record: RawRecord, seen: RatingsInspection) -> dict[str, Any]:
    counts = (
        {"bytes": seen.bytes, "dagster/row_count": seen.rows}
        if seen.whole
        else {"rows_looked_at": seen.rows}
    )
    if seen.format is None:
        return {"preview": preview("The files cannot be read."), **counts}
    found, layout = seen.format.found, seen.format.found.layout
    rows = f"{seen.rows:,} rows" if seen.whole else f"{seen.rows:,} rows looked at"
    count = len(record.files)
    files = f"{count:,} files" if count > 1 else "one file"
    encodings = ", ".join(seen.format.encodings)
    delimiter = SHOWN.get(layout.delimiter, layout.delimiter)
    return {
        "preview": preview(
            f"**{rows}**, {files} of {layout.format} in {escape(encodings)}:",
            format_code_block(seen.format.first_lines),
            *map(escape, found.warnings),
        ),
        **counts,
        "dagster/column_schema": _column_schema(seen.format),
        "format": layout.format,
        "delimiter": delimiter if layout.format == "csv" else "",
        "encoding": encodings,
        "recognised_columns": dict(found.recognised),
        "empty_files": list(seen.format.empty_files),
        "timestamp_unit": seen.format.timestamp_unit,
        "bad_rows": seen.check.numbers["bad_rows"],
    }


def _column_schema(read: RatingsFormat) -> dg.TableSchema:
    roles = {column: f"The {role.replace('_', ' ')}." for role, column in read.columns.items()}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=roles.get(name))
            for name, kind in read.found.types.items()
        ]
    )


def raw_items(
    pipeline: Pipeline, declared: ItemSettings, layout: ItemsLayout
) -> dg.AssetsDefinition:
    places, source = pipeline.places, declared.rows
    copied = "the file, copied to the storage unchanged"
    if declared.query is not None:
        copied = f"the rows of items.query on {declared.shown_source}, in one Parquet file"

    @asset(
        pipeline,
        description=f"What is known about the items, such as titles and genres: {copied}.",
        kinds={"file"},
        stage=RAW,
        storage_key=places.record("raw_items"),
        deps=declared.upstream,
        code_version=f"{ITEMS_VERSION}-{fingerprint(declared, layout)}",
        io_manager="record_io",
        checks={"items_readable": "The declared columns are there, and their values can be read."},
    )
    def raw_items(context: dg.AssetExecutionContext, work: Work) -> Iterator[Any]:
        def inspect(record: RawRecord) -> InspectedFiles:
            check = check_items(record, work.storage, layout, declared.on_bad_rows)
            metadata = {
                "preview": preview(f"{escape(source.shown)}: {escape(check.found)}."),
                "bytes": record.files[0].size,
                "dagster/row_count": check.numbers.get("rows", 0),
                "dagster/column_schema": _file_schema(layout),
                "bad_rows": check.numbers.get("bad_rows", 0),
            }
            return InspectedFiles(record, check, metadata)

        yield from _bring(context, work, source, places.raw_items, inspect)

    return raw_items


def _file_schema(layout: ItemsLayout) -> dg.TableSchema:
    return dg.TableSchema(
        columns=[
            dg.TableColumn(column_name(column), description=_meaning(role))
            for role, column in layout.roles.items()
        ]
    )


MEANINGS = {
    "item": "The item's id.",
    "title": "Its title, for people.",
    "image": "The address of its picture.",
    "link": "The address of its page.",
    "created": "When it came out.",
}


def _meaning(role: str) -> str:
    kind, _, name = role.partition(".")
    of = {"categories": "Text", "numbers": "A number"}.get(kind, "")
    return MEANINGS.get(role) or f"{of} that Personalize knows as {escape(name)}."


def column_name(column: Column) -> str:
    """What people call the column."""
    return column if isinstance(column, str) else f"column {column}"
