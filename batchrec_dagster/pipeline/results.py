"""What a step has made, as Dagster takes it: its version, its checks and its metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import dagster as dg
import polars as pl

from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.steps.work import Result
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.edition import Finding

# What an asset's step gives to Dagster.
AssetResult = dg.MaterializeResult[Any] | dg.AssetCheckResult
# The outcome of an asset whose record says that nothing has changed.
NOT_PREPARED_AGAIN = "unchanged: not prepared again"
# Significant digits of numbers in metadata. The records keep what is exact.
DIGITS = 4


def to_dagster(
    metadata: Mapping[str, Any], version: str | None = None, findings: Sequence[Finding] = ()
) -> dg.MaterializeResult[Any]:
    """What a step has made and stored as Dagster takes it, with its checks.

    metadata: numbers are rounded, and what is empty or None is left out.
    version: that of the content; None for what nobody makes anything of.
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
    """The same of a step that is not done again if its record says that nothing has changed.

    uri: where what it has made is stored.
    """
    outcome = {"outcome": NOT_PREPARED_AGAIN} if result.is_unchanged else {}
    described = {"dagster/uri": uri, **outcome, **metadata}
    return to_dagster(described, result.record.version, result.findings)


def build_check_results(findings: Sequence[Finding]) -> list[dg.AssetCheckResult]:
    """The findings as Dagster takes them: the result of the check of each."""
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
    """Paragraphs of Markdown; text from the data has to be escaped."""
    return dg.MetadataValue.md("\n\n".join(paragraphs))


Links = dict[str, dg.MetadataValue[Any]]


def build_storage_links(name: str, storage: Storage, uri: str) -> Links:
    """A link of this name to an object in the storage, and to its page in the S3 console."""
    links: Links = {name: dg.MetadataValue.path(storage.where(uri))}
    if storage.in_s3 and storage.s3.endpoint_url is None:
        bucket, _, key = uri.removeprefix("s3://").partition("/")
        links[f"{name}_in_console"] = dg.MetadataValue.url(
            f"https://console.aws.amazon.com/s3/object/{bucket}?prefix={quote(key)}"
        )
    return links


def build_dataset_group_link(arn: str, *, on_aws: bool) -> Links:
    """A link to the dataset group in Personalize's console; none for the local Personalize."""
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
    """A table's number of rows, and Dagster's schema of its columns.

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


def build_cost_metadata(key: str, costs: Sequence[Cost], *, on_aws: bool) -> dict[str, float]:
    """The metadata of a cost, in USD.

    `KEY` is what is paid; `KEY_on_aws` is what is or would be paid on AWS.
    """
    usd = sum(cost.usd for cost in costs)
    return {key: usd if on_aws else 0.0, f"{key}_on_aws": usd}
