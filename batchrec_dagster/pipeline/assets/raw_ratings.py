"""raw_ratings: the files of ratings, copied to the storage or read in place."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.pipeline.declare_asset import RAW, asset, preview, raw_files
from batchrec_dagster.pipeline.run_step import MadeOf, published
from batchrec_dagster.reporting.markdown import code, escaped
from batchrec_dagster.steps.interactions import (
    RatingsFormat,
    RatingsInspection,
    inspect_ratings,
)
from batchrec_dagster.steps.raw_files import (
    RawRecord,
    bring_raw_files,
    found_upstream,
    unchanged_version,
)
from batchrec_dagster.steps.work import Work

CODE_VERSION = "2"


def raw_ratings(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    ratings, places = pipeline.ratings, pipeline.places
    source = ratings.rows
    copied = "copied to the storage unchanged" if ratings.copy_to_storage else "read in place"
    if ratings.query is not None:
        copied = f"the rows of ratings.query on {ratings.shown_source}, in one Parquet file"

    def made_of(context: dg.AssetExecutionContext, record: RawRecord) -> MadeOf:
        # The rules name columns too.
        return MadeOf(context, (fingerprint(pipeline.rules, pipeline.preparation, record.columns),))

    @asset(
        pipeline,
        description="Who rated, bought or watched what, and when: the files that everything"
        f" else is made of, {copied}. Unchanged files are not copied again.",
        kinds={"file"},
        stage=RAW,
        storage_key=places.record("raw_ratings"),
        code_version=f"{CODE_VERSION}-{fingerprint(ratings)}",
        io_manager="record_io",
        deps=ratings.upstream,
        checks={
            "rows_readable": "The declared columns are there, and their values can be read.",
        },
    )
    def raw_ratings(context: dg.AssetExecutionContext, work: Work) -> Iterator[Any]:
        record_key, storage = places.record("raw_ratings"), work.storage
        place = places.raw if ratings.copy_to_storage else None
        with bring_raw_files(
            found_upstream(source, context),
            storage,
            pipeline.project,
            record=record_key,
            place=place,
        ) as raw:
            context.log.info(f"{source.shown}: {raw.outcome}")
            shown = raw_files(raw, storage)
            if same := made_of(context, raw.record).earlier(
                lambda: unchanged_version(raw, storage), raw.record.to_json(), raw.outcome, shown
            ):
                yield same
                return
            found = inspect_ratings(work, raw.record)
            columns = found.format.columns if found.format else {}
            for warning in found.format.warnings if found.format else ():
                context.log.warning(warning)
            record = replace(raw.record, columns=columns)
            yield from published(
                [found.check],
                dg.MaterializeResult(
                    value=record.to_json(),
                    data_version=dg.DataVersion(record.version),
                    metadata={
                        **raw_files(raw, storage),
                        **_metadata(record, found),
                        **made_of(context, record).metadata(record.version, [found.check]),
                    },
                ),
            )

    return raw_ratings


def _metadata(record: RawRecord, found: RatingsInspection) -> dict[str, Any]:
    counts = (
        {"bytes": found.bytes, "dagster/row_count": found.rows}
        if found.whole
        else {"rows_looked_at": found.rows}
    )
    if found.format is None:
        return {"preview": preview("The files cannot be read."), **counts}
    layout = found.format.layout
    rows = f"{found.rows:,} rows" if found.whole else f"{found.rows:,} rows looked at"
    count = len(record.files)
    files = f"{count:,} files" if count > 1 else "one file"
    encodings = ", ".join(found.format.encodings)
    return {
        "preview": preview(
            f"**{rows}**, {files} of {layout.format} in {escaped(encodings)}:",
            code(found.format.first_lines),
            *map(escaped, found.format.warnings),
        ),
        **counts,
        "dagster/column_schema": _column_schema(found.format),
        "format": layout.format,
        "delimiter": _shown(layout.delimiter) if layout.format == "csv" else "",
        "encoding": encodings,
        "recognised_columns": dict(found.format.recognised),
        "empty_files": list(found.format.empty_files),
        "timestamp_unit": found.format.timestamp_unit,
        "bad_rows": found.bad_rows,
    }


def _column_schema(found: RatingsFormat) -> dg.TableSchema:
    roles = {column: f"The {role.replace('_', ' ')}." for role, column in found.columns.items()}
    return dg.TableSchema(
        columns=[
            dg.TableColumn(name=name, type=kind, description=roles.get(name))
            for name, kind in found.types.items()
        ]
    )


def _shown(delimiter: str) -> str:
    """A delimiter that can be seen."""
    return {"\t": "tab", " ": "space"}.get(delimiter, delimiter)
