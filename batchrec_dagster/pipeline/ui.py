"""Arguments and metadata that assets share: previews, links, column schemas, samples."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment.resources import AWS, PersonalizeResource
from batchrec_dagster.reporting.markdown import escaped
from batchrec_dagster.steps.raw_files import RawFiles
from batchrec_dagster.storage.resource import StorageResource


def preview(*paragraphs: str) -> dg.MetadataValue[Any]:
    """Paragraphs of Markdown; what comes from data must be escaped."""
    return dg.MetadataValue.md("\n\n".join(paragraphs))


Links = dict[str, dg.MetadataValue[Any]]


def stored(name: str, storage: StorageResource, uri: str) -> Links:
    """A link to the object, and to its page in the S3 console."""
    links: Links = {name: dg.MetadataValue.path(storage.where(uri))}
    if storage.in_s3 and storage.s3.endpoint_url is None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        links[f"{name}_in_console"] = dg.MetadataValue.url(
            f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
        )
    return links


def dataset_group(personalize: PersonalizeResource, arn: str) -> Links:
    """A link to the dataset group in the Personalize console."""
    if personalize.endpoint != AWS:
        return {}
    region = arn.split(":")[3]
    place = arn.replace("dataset-group/", "dataset-group$", 1)
    return {
        "console": dg.MetadataValue.url(
            f"https://console.aws.amazon.com/personalize/home?region={region}#{place}/setup"
        )
    }


def raw_files(raw: RawFiles, storage: StorageResource) -> dict[str, Any]:
    """The metadata of files that were brought from a source."""
    uris = [file.uri for file in raw.record.files if file.uri]
    count = len(raw.record.files)
    return {
        "outcome": raw.outcome,
        "source": raw.record.source,
        "file": (
            dg.MetadataValue.path(storage.where(uris[0])) if len(uris) == 1 else f"{count:,} files"
        ),
        "files": count,
    }


# A sink's metadata: where it writes, and the setting that says so.
WRITES_TO = "batchrec/writes_to"


def table_facts(
    pipeline: Pipeline,
    rows: int,
    columns: Mapping[str, tuple[str, str]],
    made_of: Mapping[str, Sequence[tuple[str, str]]],
    present: Sequence[str] | None = None,
) -> dict[str, Any]:
    """A table's rows, and Dagster's schema and lineage of the columns present, or of all.

    columns: type and description of each; made_of: the assets and their columns that it comes from.
    """
    names = [*columns] if present is None else present
    sources = {
        name: [
            dg.TableColumnDep(pipeline.asset_key(asset), column) for asset, column in made_of[name]
        ]
        for name in names
    }
    described = [
        dg.TableColumn(name=name, type=columns[name][0], description=escaped(columns[name][1]))
        for name in names
    ]
    return {
        "dagster/row_count": rows,
        "dagster/column_schema": dg.TableSchema(columns=described),
        "dagster/column_lineage": dg.TableColumnLineage(deps_by_column=sources),
    }


def sample(frame: pl.DataFrame) -> dg.MetadataValue[Any]:
    """A few rows as a table in the UI."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in frame.iter_rows(named=True)],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(name=name, type=str(dtype).lower())
                for name, dtype in frame.schema.items()
            ]
        ),
    )
