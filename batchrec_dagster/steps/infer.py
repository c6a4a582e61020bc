"""Infers every user's list with a batch inference job, and publishes the lists as one table."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.batch_files import MAX_RESULTS, USER_FIELD
from batchrec_dagster.personalize.batch_input import UsersFiles
from batchrec_dagster.personalize.datasets import FILTER_HISTORY
from batchrec_dagster.personalize.ensure import BATCH_INFERENCE_JOB, Ensure, Ensured
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.teardown import prune
from batchrec_dagster.steps.batch_jobs import (
    filter_arn,
    has_output,
    job_seconds,
    outcome,
    require_output,
    solution_name,
)
from batchrec_dagster.steps.checks import Checked, require
from batchrec_dagster.steps.cost import Cost, recommendations_cost
from batchrec_dagster.steps.items import titles_versions
from batchrec_dagster.steps.publishing import Publishing
from batchrec_dagster.steps.recommendation_table import (
    RecommendationTable,
    SeenItems,
    build_locally,
    read_interactions,
)
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.training import trained_by
from batchrec_dagster.storage.published_table import Edition, TableWriter
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.scratch import temporary_folder

# Part of the table's version: raise it when the same output would become another table.
TABLE_VERSION = "1"

# More results for the longest histories make every user's answer longer; this many rows in all
# are read in seconds.
MAX_ROWS = 10_000_000


@dataclass(frozen=True)
class Recommendations:
    """The published edition, what is in it, and the job that inferred it."""

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

    batch_users: userId. run: the run's id, for the metadata. Raises FailedChecksError, dg.Failure.
    """
    files = UsersFiles(storage.store, storage.uri(pipeline.places.batch_users))
    publishing = Publishing(pipeline, storage, model, files.version())
    gate = publishing.gate(skip=skip_quality_gate)
    require([gate])
    users = batch_users.select(USER_FIELD).collect(engine="streaming").get_column(USER_FIELD)
    ensure = ensure.for_data(model.data_version)
    request = _request(pipeline, ensure, model, files.input())
    known = read_interactions(pipeline, storage, users)
    seen = known.seen
    if seen is not None:
        request["numResults"] = _num_results(pipeline, ensure, seen, len(users))
    job = _run_job(pipeline, storage, ensure, request, publishing.users_version, model)
    ensure.log.info(_done(job, len(users)))
    cost = [recommendations_cost(pipeline.solution.recipe, len(users))] if job.created else []
    with (
        temporary_folder() as folder,
        TableWriter(folder / "recommendations.parquet") as writer,
    ):
        table = build_locally(pipeline, storage, job.description, users, seen, ensure.log, writer)
        checks = [gate, *table.checks]
        version = fingerprint(
            job.arn,
            publishing.users_version,
            pipeline.recommendations,
            TABLE_VERSION,
            *titles_versions(pipeline, storage),
        )
        facts = {
            "batch_inference_job_arn": job.arn,
            "rows": table.rows,
            "users": table.users,
            "items": table.items,
            "data_until": known.until,
            "exclude_seen": pipeline.recommendations.exclude_seen,
        }
        about = publishing.about(version, run, checks, facts)
        require_output(storage, job.description, checks)
        writer.finish(about)
        edition = publishing.publish(writer.path)
    _prune(pipeline, ensure, model.dataset_group_name)
    return Recommendations(edition, table, job, request["numResults"], cost, checks)


def _prune(pipeline: Pipeline, ensure: Ensure, group: str) -> None:
    """Delete what earlier settings left in Personalize. It fails no run: the lists are out."""
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
        for piece in prune(ensure, pipeline.name, group, in_use):
            ensure.log.info(f"deleting {piece}, which earlier settings left")
    except ClientError as error:
        ensure.log.warning(f"what earlier settings left in Personalize was not deleted: {error}")


def _done(job: Ensured, users: int) -> str:
    """What the job did for the users, and how fast; or that an earlier run did it."""
    if not job.created:
        return f"{users:,} users: {outcome(job, 'inferred')}"
    seconds = job_seconds(job)
    rate = f", {users / seconds:,.0f} a second" if seconds else ""
    return f"{users:,} users inferred in {seconds:.1f} s{rate}"


def _request(pipeline: Pipeline, ensure: Ensure, model: ModelRecord, users: str) -> dict[str, Any]:
    """The job's request, without a name and an output. users: the URI of its input."""
    wanted = pipeline.recommendations
    request: dict[str, Any] = {
        "solutionVersionArn": model.solution_version_arn,
        "numResults": wanted.num_results,
        "jobInput": {"s3DataSource": {"path": users}},
        "roleArn": ensure.role_arn,
    }
    if pipeline.solution.recipe == USER_PERSONALIZATION:
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
    latest FILTER_HISTORY interactions."""
    return min(
        ensure.max_results,
        max(MAX_RESULTS, MAX_ROWS // max(1, users)),
        pipeline.recommendations.num_results + max(0, seen.longest - FILTER_HISTORY),
    )


def _run_job(
    pipeline: Pipeline,
    storage: StorageResource,
    ensure: Ensure,
    request: dict[str, Any],
    users_version: str,
    model: ModelRecord,
) -> Ensured:
    """The finished job for this request: a new one, or that of an earlier run."""

    def create(name: str) -> dict[str, Any]:
        output = storage.uri(pipeline.places.batch_inference(name))
        return {**request, "jobOutput": {"s3DataDestination": {"path": output}}}

    job = ensure.start_numbered(
        BATCH_INFERENCE_JOB,
        f"{pipeline.name}-{fingerprint(request, users_version, model.data_version)[:12]}",
        create,
        usable=partial(has_output, storage),
        solutionVersionArn=model.solution_version_arn,
    )
    return ensure.ready(BATCH_INFERENCE_JOB, job)
