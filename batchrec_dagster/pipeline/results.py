"""Conversion of a step's results to Dagster's types: the version, the checks and the metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl

from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.steps.records import Result
from batchrec_dagster.storage.connection import Storage

# The results that an asset's step gives to Dagster.
AssetResult = dg.MaterializeResult[Any] | dg.AssetCheckResult
# The outcome of an asset's step that found, by the asset's record, that nothing has changed.
NOT_PREPARED_AGAIN = "unchanged: not prepared again"
# The significant digits of numbers in metadata. The records keep the exact numbers.
DIGITS = 4


def to_dagster(
    metadata: Mapping[str, Any], version: str | None = None, findings: Sequence[Finding] = ()
) -> dg.MaterializeResult[Any]:
    """Return the result of a step in Dagster's type, with its checks.

    metadata: the metadata. Numbers are rounded, and values that are empty or None are left out.
    version: the version of the content; None if no other asset is made from the content.
    Raises Refused if a finding blocks, so that the checks are reported and the asset fails.
    """
    require_passed(findings)
    return dg.MaterializeResult(
        data_version=None if version is None else dg.DataVersion(version),
        metadata={
            key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
            for key, value in metadata.items()
            if value is not None and value not in ("", [], {})
        },
        check_results=build_check_results(findings),
    )


def result_to_dagster(
    result: Result[Any], uri: str, metadata: Mapping[str, Any]
) -> dg.MaterializeResult[Any]:
    """Return the result of a step that may find that nothing has changed, in Dagster's type.

    uri: the URI of the stored content.
    """
    outcome = {"outcome": NOT_PREPARED_AGAIN} if result.is_unchanged else {}
    described = {"dagster/uri": uri, **outcome, **metadata}
    return to_dagster(described, result.record.version, result.findings)


def build_check_results(findings: Sequence[Finding]) -> list[dg.AssetCheckResult]:
    """Return the findings as Dagster's check results."""
    return [
        dg.AssetCheckResult(
            check_name=finding.name,
            passed=finding.passed,
            severity=dg.AssetCheckSeverity.WARN
            if finding.level == "watch"
            else dg.AssetCheckSeverity.ERROR,
            description=escape(finding.text),
            metadata=finding.numbers,
        )
        for finding in findings
    ]


def build_preview(*paragraphs: str) -> dg.MetadataValue[Any]:
    """Return paragraphs of Markdown as metadata. Escape text from the data before the call."""
    return dg.MetadataValue.md("\n\n".join(paragraphs))


Links = dict[str, dg.MetadataValue[Any]]


def build_storage_links(name: str, storage: Storage, uri: str) -> Links:
    """Return a link to an object in the storage, and a link to its page in the S3 console.

    name: the name of the link.
    """
    links: Links = {name: dg.MetadataValue.path(storage.where(uri))}
    if storage.in_s3 and storage.s3.endpoint_url is None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        links[f"{name}_in_console"] = dg.MetadataValue.url(
            f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
        )
    return links


def build_dataset_group_link(arn: str, *, on_aws: bool) -> Links:
    """Return a link to the dataset group in Personalize's console; none for a local Personalize."""
    if not on_aws:
        return {}
    region = arn.split(":")[3]
    path = arn.replace("dataset-group/", "dataset-group$", 1)
    return {
        "console": dg.MetadataValue.url(
            f"https://console.aws.amazon.com/personalize/home?region={region}#{path}/setup"
        )
    }


def build_table_metadata(
    rows: int, columns: Mapping[str, tuple[str, str]], present: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return a table's number of rows, and Dagster's schema of its columns.

    columns: the type and the description of each column that the table can have.
    present: the columns that the table has; by default all.
    """
    names = [*columns] if present is None else present
    described = [
        dg.TableColumn(name=name, type=columns[name][0], description=escape(columns[name][1]))
        for name in names
    ]
    return {
        "dagster/row_count": rows,
        "dagster/column_schema": dg.TableSchema(columns=described),
    }


def build_sample(frame: pl.DataFrame) -> dg.MetadataValue[Any]:
    """Return a few rows as a table for the UI."""
    return dg.MetadataValue.table(
        records=[dg.TableRecord(row) for row in frame.iter_rows(named=True)],
        schema=dg.TableSchema(
            columns=[
                dg.TableColumn(name=name, type=str(dtype).lower())
                for name, dtype in frame.schema.items()
            ]
        ),
    )


def build_cost_metadata(key: str, costs: Sequence[Cost], *, on_aws: bool) -> dict[str, float]:
    """Return the metadata of a cost, in USD.

    `KEY` is the cost paid; `KEY_on_aws` is the cost that is paid, or would be paid, on AWS.
    """
    usd = sum(cost.usd for cost in costs)
    return {key: usd if on_aws else 0.0, f"{key}_on_aws": usd}
