"""What a pipeline's assets have in common: key, group, resources; previews, schemas, samples."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, wraps
from typing import Any, get_origin
from urllib.parse import quote

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment.resources import AWS, PersonalizeResource
from batchrec_dagster.pipeline.failures import expected_errors_as_failures
from batchrec_dagster.pipeline.run_step import check_specs, results_of
from batchrec_dagster.reporting.markdown import escape
from batchrec_dagster.steps.raw_files import RawFiles
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.io_managers import STORAGE_KEY
from batchrec_dagster.storage.resource import StorageResource

# The values of an asset's tag `stage`, from ratings to results.
RAW, PREPARED, MODEL, RESULT = "raw", "prepared", "model", "result"
# The metadata of every asset that names its pipeline.
PIPELINE = "batchrec/pipeline"
# Parameters of an asset's function that are not its inputs.
OWN = ("context", "config", "work", "personalize")
# The resource that such a parameter is, or is made from.
RESOURCES = {"work": "storage", "personalize": "personalize"}

Function = Callable[..., Any]


def asset(
    pipeline: Pipeline,
    *,
    description: str,
    kinds: set[str],
    code_version: str,
    stage: str = RESULT,
    name: str | None = None,
    storage_key: str | None = None,
    io_manager: str | None = None,
    deps: Collection[dg.AssetKey] = (),
    checks: Mapping[str, str] | None = None,
    warnings: Mapping[str, str] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Callable[[Function], dg.AssetsDefinition]:
    """Decorate a function as `@dg.asset` does.

    Its parameters `work` and `personalize` are the pipeline with its storage, and its resource of
    Personalize; others but `context` and `config` are assets of the pipeline. `storage_key` and
    `io_manager`: where the value is stored, and how; neither for an asset outside the storage.
    `checks`, `warnings`: what each check checks that blocks, or that only warns.

    `code_version` must change whenever the same input would give another output, so that Dagster
    marks the asset as stale: include a fingerprint of the settings that the asset reads.
    """

    def decorate(function: Function) -> dg.AssetsDefinition:
        key = pipeline.asset_key(name or function.__name__)
        parameters = inspect.signature(function).parameters
        inputs = set(parameters) - {*OWN}
        resources = [resource for name, resource in RESOURCES.items() if name in parameters]
        decorated = dg.asset(
            key=key,
            ins={one: dg.AssetIn(key=pipeline.asset_key(one)) for one in inputs},
            deps=[*deps],
            group_name=pipeline.assets.group or pipeline.name,
            owners=pipeline.owners,
            description=escape(description),
            kinds=kinds,
            tags={**pipeline.assets.tags, "stage": stage},
            op_tags=pipeline.assets.op_tags,
            pool=pipeline.assets.pool,
            retry_policy=pipeline.assets.retries.policy if pipeline.assets.retries else None,
            automation_condition=_automation(pipeline.automation),
            code_version=code_version,
            config_schema=config_field(_config_class(function)),
            io_manager_key=pipeline.resource_key(io_manager) if io_manager else None,
            metadata={
                PIPELINE: pipeline.name,
                **(metadata or {}),
                **({STORAGE_KEY: storage_key} if storage_key else {}),
            },
            check_specs=check_specs(key, checks or {}, warnings or {}),
            required_resource_keys={pipeline.resource_key(one) for one in resources},
        )(_with_resources(pipeline, function))
        assert isinstance(decorated, dg.AssetsDefinition)
        return decorated

    return decorate


def _automation(declared: str) -> dg.AutomationCondition[Any] | None:
    if declared == "none":
        return None
    if declared == "eager":
        return dg.AutomationCondition.eager()
    return dg.AutomationCondition.on_cron(declared)


@cache
def config_field(config: type[dg.Config] | None) -> dg.Field | None:
    """The schema of a run's config: Dagster itself would build it anew for each pipeline."""
    return config.to_config_schema().as_field() if config else None


def _config_class(function: Function) -> type[dg.Config] | None:
    declared = inspect.signature(function).parameters.get("config")
    return declared.annotation if declared else None


def _with_resources(pipeline: Pipeline, function: Function) -> Function:
    """The function without its parameters of OWN but the context: Dagster itself finds a resource
    only under the name of the parameter, and these are under the pipeline's keys."""
    signature = inspect.signature(function)
    config = _config_class(function)

    def arguments(context: dg.AssetExecutionContext, inputs: Mapping[str, Any]) -> dict[str, Any]:
        _check_unpartitioned(pipeline, context)
        own: dict[str, Any] = {"context": context}
        if config:
            own["config"] = config(**context.op_execution_context.op_config)
        for name, resource in RESOURCES.items():
            if name in signature.parameters:
                own[name] = getattr(context.resources, pipeline.resource_key(resource))
        if "work" in own:
            own["work"] = Work(pipeline, own["work"])
        return {**own, **inputs}

    @wraps(function)
    def made(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[Any]:
        started = time.monotonic()
        # Here for all steps: what says what to do fails the asset with that message alone.
        with expected_errors_as_failures():
            for result in results_of(function(**arguments(context, inputs))):
                yield _for_people(result, started)

    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=dg.AssetExecutionContext
    )
    # Plain types: Dagster builds one of its own for each `dict[str, Any]` that it sees.
    others = [
        one.replace(annotation=get_origin(one.annotation) or one.annotation)
        for one in signature.parameters.values()
        if one.name not in OWN
    ]
    made.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[context, *others], return_annotation=inspect.Signature.empty
    )
    return made


# Significant digits of metadata: the records keep what is exact.
DIGITS = 4


def _for_people(result: Any, started: float) -> Any:
    """An asset's result with rounded numbers, the seconds that it took with any wait for another
    run's lease, and without metadata that say nothing."""
    if not isinstance(result, dg.MaterializeResult) or result.metadata is None:
        return result
    shown = {
        key: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value
        for key, value in {**result.metadata, "seconds": time.monotonic() - started}.items()
        if not (isinstance(value, str | list | dict) and not value)
    }
    return result._replace(metadata=shown)


def _check_unpartitioned(pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
    """Raise dg.Failure for a partition: every one would be the same lists of all ratings."""
    if context.assets_def.partitions_def is not None:
        raise dg.Failure(
            f"{pipeline.name} has no partitions: each run makes the lists of all ratings. Remove"
            " partitions_def from its post_processing; to use part of the ratings, set"
            " interactions.window",
            allow_retries=False,
        )


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
        dg.TableColumn(name=name, type=columns[name][0], description=escape(columns[name][1]))
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
