"""Infers every user's list with a batch inference job, and publishes the lists as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import dagster as dg
import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.batch_files import MAX_RESULTS, UsersFiles
from batchrec_dagster.personalize.ensure import (
    ACTIVE,
    BATCH_INFERENCE_JOB,
    Ensure,
    Ensured,
    Started,
)
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.teardown import prune
from batchrec_dagster.steps.batch_jobs import (
    filter_arn,
    has_output,
    job_seconds,
    outcome,
    output_version,
    require_output,
    solution_name,
)
from batchrec_dagster.steps.batches import (
    Batch,
    find_batches,
    forget_users_without_lists,
    keep_users_without_lists,
)
from batchrec_dagster.steps.checks import Checked, require
from batchrec_dagster.steps.cost import Cost, recommendations_cost
from batchrec_dagster.steps.items import titles_versions
from batchrec_dagster.steps.publishing import Publishing, published_table
from batchrec_dagster.steps.recommendation_table import (
    SAMPLE,
    KnownInteractions,
    RecommendationTable,
    SeenItems,
    build_locally,
    read_interactions,
)
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.training import trained_by
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.published_table import Edition, TableWriter
from batchrec_dagster.storage.resource import StorageResource, storage_errors

# Part of the table's version: raise it when the same output would become another table.
TABLE_VERSION = "1"

# More results for the longest histories make every user's answer longer; this many rows in all
# are read in seconds.
MAX_ROWS = 10_000_000


@dataclass(frozen=True)
class Recommendations:
    """The published edition, what is in it, and the job that inferred the model's lists."""

    edition: Edition
    table: RecommendationTable
    job: Ensured
    num_results: int
    cost: list[Cost]
    checks: list[Checked]


def infer_and_publish(
    pipeline: Pipeline,
    storage: StorageResource,
    ensure: Ensure,
    model: ModelRecord,
    batch_users: pl.LazyFrame,
    *,
    run: str,
    skip_quality_gate: bool,
) -> Recommendations:
    """Infer lists for the users with the model and publish them, if all checks pass.

    batch_users: the users' file. run: the run's id, for the metadata. Raises FailedChecksError,
    dg.Failure.
    """
    files = UsersFiles(storage.store, storage.uri(pipeline.places.batch_users))
    publishing = Publishing(pipeline, storage, model, files.version())
    gate = publishing.gate(skip=skip_quality_gate)
    require([gate])
    if unchanged := _unchanged(publishing, ensure, batch_users, gate):
        _prune(pipeline, storage, ensure, model.dataset_group_name)
        return unchanged
    batches = find_batches(pipeline, storage, model, batch_users)
    users = pl.concat([batch.users for batch in batches])
    ensure = ensure.for_data(model.data_version)
    known = read_interactions(pipeline, storage, users)
    num_results = pipeline.recommendations.num_results
    if known.seen is not None:
        num_results = _num_results(pipeline, ensure, known.seen, len(users))
    started = [_start_job(pipeline, storage, ensure, model, each, num_results) for each in batches]
    jobs = ensure.all_ready(BATCH_INFERENCE_JOB, started)
    for job, batch in zip(jobs, batches, strict=True):
        ensure.log.info(_done(job, len(batch.users)))
    edition, table = _publish(
        publishing, ensure, batch_users, batches, jobs, known, num_results, [gate], run
    )
    _prune(pipeline, storage, ensure, model.dataset_group_name)
    cost = [
        recommendations_cost(batch.recipe, len(batch.users))
        for job, batch in zip(jobs, batches, strict=True)
        if job.created
    ]
    return Recommendations(edition, table, jobs[0], num_results, cost, [gate, *table.checks])


def _publish(
    publishing: Publishing,
    ensure: Ensure,
    batch_users: pl.LazyFrame,
    batches: Sequence[Batch],
    jobs: Sequence[Ensured],
    known: KnownInteractions,
    num_results: int,
    gate: Sequence[Checked],
    run: str,
) -> tuple[Edition, RecommendationTable]:
    """Publish the lists that the jobs made for the batches, if all checks pass."""
    pipeline, storage = publishing.pipeline, publishing.storage
    outputs = [job.description for job in jobs]
    users = pl.concat([batch.users for batch in batches])
    experiment = [pipeline.experiment] if pipeline.experiment else []
    with (
        temporary_folder() as folder,
        TableWriter(folder / "recommendations.parquet") as writer,
    ):
        table = build_locally(pipeline, storage, outputs, users, known.seen, ensure.log, writer)
        checks = [*gate, *table.checks]
        version = _version(publishing, [job.arn for job in jobs])
        facts = {
            "batch_inference_job_arn": jobs[0].arn,
            "rows": table.rows,
            "users": table.users,
            "items": table.items,
            "seen_items_dropped": table.dropped,
            "items_without_score": table.padding,
            "results_asked_for": num_results,
            "outputs": output_version(storage, outputs),
            "data_until": known.until,
            "exclude_seen": pipeline.recommendations.exclude_seen,
            **({"experiment": experiment[0].model_dump()} if experiment else {}),
        }
        about = publishing.about(version, run, checks, facts)
        for output in outputs:
            require_output(storage, output, checks)
        writer.finish(about)
        if experiment:
            keep_users_without_lists(pipeline, storage, version, batch_users, writer.path)
        edition = publishing.publish(writer.path)
        forget_users_without_lists(pipeline, storage)
    return edition, table


def _version(publishing: Publishing, jobs: Sequence[str]) -> str:
    """The version of the table that these jobs' lists make."""
    pipeline = publishing.pipeline
    return fingerprint(
        *jobs,
        publishing.users_version,
        pipeline.recommendations,
        TABLE_VERSION,
        *titles_versions(pipeline, publishing.storage),
        *([pipeline.experiment] if pipeline.experiment else []),
    )


def _unchanged(
    publishing: Publishing, ensure: Ensure, batch_users: pl.LazyFrame, gate: Checked
) -> Recommendations | None:
    """What is published, with its checks, if the same model, data, users, titles and settings made
    it of a job that is still there: to read it all again would find the same. None otherwise, for
    an experiment, and for an edition that an older batchrec published."""
    pipeline, storage = publishing.pipeline, publishing.storage
    with storage_errors():
        table = published_table(storage, pipeline.places)
        edition = table.current()
        if edition is None or pipeline.experiment or "outputs" not in edition.about:
            return None
        about, arn = edition.about, str(edition.about["batch_inference_job_arn"])
        same = about["made_by"] == publishing.made_by
        if not same or edition.version != _version(publishing, [arn]):
            return None
        try:
            description = ensure.describe(BATCH_INFERENCE_JOB, arn)
        except ClientError:
            return None  # It was deleted, for example; another job says what else is wrong.
        if (
            description["status"] != ACTIVE
            or not has_output(storage, description)
            or output_version(storage, [description]) != about["outputs"]
        ):
            return None
        sample = table.read_edition(edition).head(SAMPLE).collect(engine="streaming")
    job = Ensured(arn, description, created=False, seconds=0.0)
    users = batch_users.select(pl.len()).collect(engine="streaming").item()
    ensure.log.info(_done(job, users))
    note = f"as checked {about['made_at'][:10]}, when edition {edition.number} was published"
    checks = [
        replace(check, found=f"{check.found}; {note}")
        for check in (Checked(**stored) for stored in about["checks"])
        if check.name != gate.name
    ]
    counted = RecommendationTable(
        about["rows"],
        about["users"],
        about["items"],
        about["seen_items_dropped"],
        about["items_without_score"],
        sample,
        checks,
    )
    return Recommendations(edition, counted, job, about["results_asked_for"], [], [gate, *checks])


def _prune(pipeline: Pipeline, storage: StorageResource, ensure: Ensure, group: str) -> None:
    """Delete what earlier settings left in Personalize, but for the dataset group that an edition
    was last made from. It fails no run: the lists are out."""
    solutions = {
        solution_name(group, *each)
        for recipes in trained_by(pipeline).values()
        for each in recipes.items()
    }
    expressions = [
        pipeline.recommendations.filter_expression,
        pipeline.segments.filter if pipeline.segments else None,
    ]
    filters = {f"{group}-{fingerprint(each)[:8]}" for each in expressions if each}
    in_use = {*solutions, *filters, f"{group}-exclude-seen"}
    try:
        # An edition's solution is named after its dataset group.
        older = published_table(storage, pipeline.places).older()
        versions = (str(edition.about.get("solution_version_arn")) for edition in older)
        groups = [
            version.split("/")[1].rpartition("-")[0] for version in versions if "/" in version
        ]
        kept = [each for each in groups if each != group][:1]
        for piece in prune(ensure, pipeline.name, group, in_use, kept):
            ensure.log.info(f"deleted {piece}, which earlier settings left")
    except (StorageError, dg.Failure, ClientError) as error:
        reason = getattr(error, "description", None) or error
        ensure.log.warning(f"what earlier settings left in Personalize is still there: {reason}")


def _done(job: Ensured, users: int) -> str:
    """What the job did for the users, and how fast; or that an earlier run did it."""
    if not job.created:
        return f"{users:,} users: {outcome(job, 'inferred')}"
    seconds = job_seconds(job)
    rate = f", {users / seconds:,.0f} a second" if seconds else ""
    return f"{users:,} users inferred in {seconds:.1f} s{rate}"


def _request(
    pipeline: Pipeline, ensure: Ensure, model: ModelRecord, batch: Batch, num_results: int
) -> dict[str, Any]:
    """The batch's request, without a name and an output."""
    wanted = pipeline.recommendations
    request: dict[str, Any] = {
        "solutionVersionArn": batch.solution_version_arn,
        "numResults": num_results,
        "jobInput": {"s3DataSource": {"path": batch.input}},
        "roleArn": ensure.role_arn,
    }
    if batch.recipe == USER_PERSONALIZATION:
        # Left to itself it explores with 0.3, and no two runs give the same lists (developer guide,
        # "User-Personalization recipe"). Recipes of version 2 have no such setting.
        weight = {"explorationWeight": f"{wanted.exploration_weight:g}"}
        request["batchInferenceJobConfig"] = {"itemExplorationConfig": weight}
    if wanted.filter_expression:
        # A filter cannot be changed: another expression needs another filter.
        own = fingerprint(wanted.filter_expression)[:8] if wanted.filter else None
        request["filterArn"] = filter_arn(
            ensure,
            model,
            own or "exclude-seen",
            wanted.filter_expression,
            f"recommendations.{'filter' if own else 'exclude_seen'}",
        )
    return request


def _num_results(pipeline: Pipeline, ensure: Ensure, seen: SeenItems, users: int) -> int:
    """Results per user, enough to drop the seen items: Personalize's filter considers only the
    latest interactions."""
    return min(
        ensure.max_results,
        max(MAX_RESULTS, MAX_ROWS // max(1, users)),
        pipeline.recommendations.num_results + max(0, seen.longest - ensure.filter_interactions),
    )


def _start_job(
    pipeline: Pipeline,
    storage: StorageResource,
    ensure: Ensure,
    model: ModelRecord,
    batch: Batch,
    num_results: int,
) -> Started:
    """The job for the batch: a new one, or that of an earlier run."""
    request = _request(pipeline, ensure, model, batch, num_results)

    def create(name: str) -> dict[str, Any]:
        output = storage.uri(pipeline.places.batch_inference(name))
        return {**request, "jobOutput": {"s3DataDestination": {"path": output}}}

    return ensure.start_numbered(
        BATCH_INFERENCE_JOB,
        f"{pipeline.name}-{fingerprint(request, batch.version, model.data_version)[:12]}",
        create,
        usable=partial(has_output, storage),
        solutionVersionArn=batch.solution_version_arn,
    )
