"""raw_ratings: the files of ratings, copied into the storage as they are, or found in place."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.pipeline.assets.spark_interactions import first_at_hand
from batchrec_dagster.pipeline.checks import published, specs
from batchrec_dagster.pipeline.ui import RAW, asset_args, code, preview, text
from batchrec_dagster.preparation.layout import Layout, PreparationError
from batchrec_dagster.preparation.polars.prepare import BadRows, opened
from batchrec_dagster.preparation.polars.prepare import Ratings as OpenedRatings
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.steps.checks import Checked
from batchrec_dagster.steps.raw_files import RawFiles, bring_raw_files, open_raw_files
from batchrec_dagster.steps.spark_jobs import spark_engine
from batchrec_dagster.storage.resource import StorageResource

CODE_VERSION = "2"


def raw_ratings(pipeline: Pipeline, project: Path) -> dg.AssetsDefinition:
    """The asset; a relative path of the source starts at the project's folder."""
    ratings, places, spark = pipeline.ratings, pipeline.places, spark_engine(pipeline.preparation)
    source = parse_source(ratings.source)
    copied = "copied once into the storage as they are" if ratings.copy_to_storage else "in place"

    @dg.asset(
        **asset_args(
            pipeline,
            description="Who rated, bought or watched what, and when: the files that everything"
            f" else is made of, {copied}, so that a run can be repeated. Files that have not"
            " changed are not copied again.",
            kinds={"file"},
            stage=RAW,
            storage_key=places.record("raw_ratings"),
            code_version=f"{CODE_VERSION}-{fingerprint(ratings)}",
            io_manager="record_io",
        ),
        check_specs=specs(
            "raw_ratings",
            pipeline.name,
            rows_readable="The declared columns are there, and their values can be read.",
        ),
    )
    def raw_ratings(context: dg.AssetExecutionContext, storage: StorageResource) -> Iterator[Any]:
        started = time.monotonic()
        with bring_raw_files(
            source,
            storage,
            project,
            record=places.record("raw_ratings"),
            place=places.raw if ratings.copy_to_storage else None,
        ) as raw:
            context.log.info(f"{source.shown}: {raw.outcome}")
            record = raw.record
            remote = spark is not None and spark.on_aws
            with (
                # What Spark reads on AWS is not read here; the first rows tell how to.
                first_at_hand(record, storage)
                if remote
                else open_raw_files(record, source, storage, project)
            ) as files:
                size = sum(file.path.stat().st_size for file in files)
                try:
                    with opened(files, ratings.reading, pipeline.rules) as read:
                        rows, bad, unit = read.look()
                        check = _rows_readable(rows, bad, ratings.on_bad_rows, read.layout)
                        found = {
                            **_told(read),
                            "timestamp_unit": unit,
                            "bad_rows": bad.total,
                        }
                        counted = f"{rows:,} rows{' looked at' if remote else ''}"
                        shown = preview(
                            f"**{counted}**, {_in_words(raw, read)}:", code(read.first_lines())
                        )
                        record = replace(record, columns=_columns(read))
                except PreparationError as error:
                    rows, found, shown = 0, {}, preview("The files cannot be read.")
                    check = Checked("rows_readable", passed=False, found=str(error))
            where = [storage.where(file.uri) for file in record.files if file.uri]
            yield from published(
                [check],
                dg.MaterializeResult(
                    value=record.to_json(),
                    data_version=dg.DataVersion(record.version),
                    metadata={
                        "preview": shown,
                        "outcome": raw.outcome,
                        "source": source.shown,
                        "file": dg.MetadataValue.path(where[0])
                        if len(where) == 1
                        else f"{len(record.files):,} files",
                        "files": len(record.files),
                        **(
                            {"rows_looked_at": rows}
                            if remote
                            else {"bytes": size, "dagster/row_count": rows}
                        ),
                        **found,
                        "seconds": time.monotonic() - started,
                    },
                ),
            )

    return raw_ratings


def _told(read: OpenedRatings) -> dict[str, Any]:
    """How the files are read, for the metadata: found out or declared."""
    layout = read.layout
    roles = {column: role for role, column in _columns(read).items()}
    return {
        "dagster/column_schema": dg.TableSchema(
            columns=[
                dg.TableColumn(
                    name=name,
                    type=kind,
                    description=(
                        f"The {roles[name].replace('_', ' ')}." if name in roles else None
                    ),
                )
                for name, kind in read.found.types.items()
            ]
        ),
        "format": layout.format,
        "delimiter": layout.delimiter if layout.format == "csv" else "",
        "encoding": ", ".join(read.encodings),
        "recognised_columns": dict(read.found.recognised),
        "empty_files": list(read.empty),
    }


def _columns(read: OpenedRatings) -> dict[str, str]:
    """The name of the column of each role that the files have."""
    layout, names = read.layout, list(read.found.types)
    roles = {
        "user": layout.user,
        "item": layout.item,
        "rating": layout.rating,
        "timestamp": layout.timestamp,
        "event_type": layout.event_type,
        "event_value": layout.event_value,
    }
    return {
        role: names[column - 1] if isinstance(column, int) else column
        for role, column in roles.items()
        if column is not None
    }


def _in_words(raw: RawFiles, read: OpenedRatings) -> str:
    files = len(raw.record.files)
    return (
        f"{f'{files:,} files' if files > 1 else 'one file'} of {read.layout.format} in"
        f" {text(', '.join(read.encodings))}"
    )


def _rows_readable(rows: int, bad: BadRows, on_bad_rows: str, layout: Layout) -> Checked:
    found = f"{bad.total:,} of {rows:,} rows cannot be read"
    if bad.total:
        reasons = ", ".join(f"{reason}: {count:,}" for reason, count in bad.counts.items())
        found += f" ({reasons}); the first: {bad.examples[0]}"
        found += (
            "; they are left out (ratings.on_bad_rows: skip)"
            if on_bad_rows == "skip"
            else "; mend the file, or leave such rows out with ratings.on_bad_rows: skip"
        )
        if _may_have_commas(bad, layout):
            found += "; or is ratings.decimal ','?"
    passed = bad.total < rows and (not bad.total or on_bad_rows == "skip")
    return Checked("rows_readable", passed, found, {"rows": rows, "bad_rows": bad.total})


def _may_have_commas(bad: BadRows, layout: Layout) -> bool:
    """Whether numbers may have one in place of the point; between fields it says nothing."""
    return (
        layout.format == "csv"
        and "," not in (layout.delimiter, layout.decimal)
        and any(re.search(r"is not a number.*[0-9],[0-9]", row) for row in bad.examples)
    )
