"""Declares a pipeline's asset with what all of them have in common: key, group, resources."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, wraps
from typing import Any, get_origin

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.run_step import specs
from batchrec_dagster.reporting.markdown import escaped
from batchrec_dagster.storage.extras import ExtraMissingError
from batchrec_dagster.storage.io_managers import STORAGE_KEY

# The values of an asset's tag `stage`, from ratings to results.
RAW, PREPARED, MODEL, RESULT = "raw", "prepared", "model", "result"
# The metadata of every asset that names its pipeline.
PIPELINE = "batchrec/pipeline"
# Parameters of an asset's function that are resources.
RESOURCES = ("storage", "personalize")

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
    metadata: Mapping[str, Any] | None = None,
) -> Callable[[Function], dg.AssetsDefinition]:
    """Decorate a function as `@dg.asset` does.

    Its parameters `storage` and `personalize` are the pipeline's resources; others but `context`
    and `config` are assets of the pipeline. `storage_key` and `io_manager`: where the value is
    stored, and how; neither for an asset outside the storage. `checks`: what each check checks.

    `code_version` must change whenever the same input would give another output, so that Dagster
    marks the asset as stale: include a fingerprint of the settings that the asset reads.
    """

    def decorate(function: Function) -> dg.AssetsDefinition:
        key = pipeline.asset_key(name or function.__name__)
        parameters = inspect.signature(function).parameters
        inputs = set(parameters) - {"context", "config", *RESOURCES}
        decorated = dg.asset(
            key=key,
            ins={one: dg.AssetIn(key=pipeline.asset_key(one)) for one in inputs},
            deps=[*deps],
            group_name=pipeline.assets.group or pipeline.name,
            owners=pipeline.owners,
            description=escaped(description),
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
            check_specs=specs(key, **(checks or {})),
            required_resource_keys={
                pipeline.resource_key(one) for one in RESOURCES if one in parameters
            },
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
    """The function without its config and its parameters of RESOURCES, which it gets under the
    pipeline's keys: Dagster itself finds a resource only under the name of the parameter."""
    signature = inspect.signature(function)
    wanted = [one for one in RESOURCES if one in signature.parameters]
    own_context, config = "context" in signature.parameters, _config_class(function)

    def arguments(context: dg.AssetExecutionContext, inputs: Mapping[str, Any]) -> dict[str, Any]:
        _check_unpartitioned(pipeline, context)
        resources = {one: getattr(context.resources, pipeline.resource_key(one)) for one in wanted}
        return {
            **({"context": context} if own_context else {}),
            **({"config": config(**context.op_execution_context.op_config)} if config else {}),
            **inputs,
            **resources,
        }

    @wraps(function)
    def returning(context: dg.AssetExecutionContext, **inputs: Any) -> Any:
        started = time.monotonic()
        with _extras_named():
            return _for_people(function(**arguments(context, inputs)), started)

    @wraps(function)
    def yielding(context: dg.AssetExecutionContext, **inputs: Any) -> Iterator[Any]:
        started = time.monotonic()
        with _extras_named():
            for result in function(**arguments(context, inputs)):
                yield _for_people(result, started)

    made: Any = yielding if inspect.isgeneratorfunction(function) else returning
    context = inspect.Parameter(
        "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=dg.AssetExecutionContext
    )
    # Plain types: Dagster builds one of its own for each `dict[str, Any]` that it sees.
    others = [
        one.replace(annotation=get_origin(one.annotation) or one.annotation)
        for one in signature.parameters.values()
        if one.name not in ("context", "config", *wanted)
    ]
    made.__signature__ = signature.replace(
        parameters=[context, *others], return_annotation=inspect.Signature.empty
    )
    return made  # type: ignore[no-any-return]


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


@contextmanager
def _extras_named() -> Iterator[None]:
    try:
        yield
    except ExtraMissingError as error:
        raise dg.Failure(str(error), allow_retries=False) from None


def _check_unpartitioned(pipeline: Pipeline, context: dg.AssetExecutionContext) -> None:
    """Raise dg.Failure for a partition: every one would be the same lists of all ratings."""
    if context.assets_def.partitions_def is not None:
        raise dg.Failure(
            f"{pipeline.name} has no partitions: each run makes the lists of all ratings. Remove"
            " partitions_def from its post_processing; to use part of the ratings, set"
            " interactions.window",
            allow_retries=False,
        )
