"""Infers every user's list with a batch inference job, and publishes the lists as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import fingerprint
from batchrec_dagster.personalize.batch_files import MAX_RESULTS
from batchrec_dagster.personalize.ensure import (
    ACTIVE,
    BATCH_INFERENCE_JOB,
    ReadyResource,
    StartedResource,
)
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.teardown import prune
from batchrec_dagster.steps.batch_jobs import (
    SAMPLE,
    JobOutput,
    build_solution_name,
    describe_outcome,
    ensure_filter,
    fingerprint_outputs,
    measure_job_seconds,
    start_batch_job,
)
from batchrec_dagster.steps.batches import (
    Batch,
    find_batches,
    forget_users_without_lists,
    keep_users_without_lists,
)
from batchrec_dagster.steps.checks import CheckResult, items_known, require
from batchrec_dagster.steps.cost import Cost, price_recommendations
from batchrec_dagster.steps.items import read_item_ids, read_titles_versions
from batchrec_dagster.steps.publishing import Publishing
from batchrec_dagster.steps.recommendation_table import (
    KnownInteractions,
    ListCounts,
    RecommendationTable,
    SeenItems,
    build_table,
    read_interactions,
)
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.training import list_recipes_by_asset
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.published_table import Edition, TableWriter

# Part of the table's version: raise it when the same output would become another table.
TABLE_VERSION = "1"

# More results for the longest histories make every user's answer longer; this many rows in all
# are read in seconds.
MAX_ROWS = 10_000_000


@dataclass(frozen=True)
class PublishedLists:
    """The published edition, what is in it, and the job that inferred the model's lists."""

    edition: Edition
    table: RecommendationTable
    job: ReadyResource
    num_results: int
    cost: list[Cost]
    checks: list[CheckResult]


@dataclass(frozen=True)
class InferenceResult:
    """The finished job of each batch, the model's first, and what the lists were made from."""

    batches: list[Batch]
    jobs: list[ReadyResource]
    known: KnownInteractions
    num_results: int

    @property
    def users(self) -> pl.Series:
        return pl.concat([batch.users for batch in self.batches])

    @property
    def cost(self) -> list[Cost]:
        """What this run pays for."""
        return [
            price_recommendations(batch.recipe, len(batch.users))
            for job, batch in zip(self.jobs, self.batches, strict=True)
            if job.created
        ]


def infer_and_publish(
    work: PersonalizeWork,
    model: ModelRecord,
    batch_users: pl.LazyFrame,
    *,
    run: str,
    skip_quality_gate: bool,
) -> PublishedLists:
    """Infer lists for the users with the model and publish them, if all checks pass.

    batch_users: the users' file. run: the run's id, for the metadata. Raises FailedChecksError,
    StorageError, PersonalizeError, StepError.
    """
    publishing = Publishing(work, model, work.files.batch_users.version())
    gate = publishing.gate(skip=skip_quality_gate)
    require([gate])
    done = _read_unchanged(work, publishing, batch_users, gate)
    if done is None:
        inferred = _infer(work.for_data(model.data_version), model, batch_users)
        edition, table = _publish(work, publishing, batch_users, inferred, gate, run)
        job, num_results = inferred.jobs[0], inferred.num_results
        checks = [gate, *table.checks]
        done = PublishedLists(edition, table, job, num_results, inferred.cost, checks)
    _prune(work, model.dataset_group_name)
    return done


def _infer(work: PersonalizeWork, model: ModelRecord, batch_users: pl.LazyFrame) -> InferenceResult:
    batches = find_batches(work, model, batch_users)
    users = pl.concat([batch.users for batch in batches])
    known = read_interactions(work, users)
    num_results = work.pipeline.recommendations.num_results
    if known.seen is not None:
        num_results = _choose_num_results(work, known.seen, len(users))
    started = [_start_job(work, model, batch, num_results) for batch in batches]
    jobs = work.ensure.wait_until_all_ready(BATCH_INFERENCE_JOB, started)
    for job, batch in zip(jobs, batches, strict=True):
        work.ensure.log.info(_describe_job(job, len(batch.users)))
    return InferenceResult(batches, jobs, known, num_results)


def _publish(
    work: PersonalizeWork,
    publishing: Publishing,
    batch_users: pl.LazyFrame,
    inferred: InferenceResult,
    gate: CheckResult,
    run: str,
) -> tuple[Edition, RecommendationTable]:
    pipeline, jobs, known = work.pipeline, inferred.jobs, inferred.known
    outputs = [JobOutput(work.storage, job.description) for job in jobs]
    with temporary_folder() as folder, TableWriter(folder / "recommendations.parquet") as writer:
        table = build_table(work, outputs, inferred.users, known.seen, writer)
        checks = [gate, *table.checks]
        version = _fingerprint_lists(publishing, [job.arn for job in jobs])
        facts = {
            "batch_inference_job_arn": jobs[0].arn,
            **asdict(table.counts),
            "results_asked_for": inferred.num_results,
            "outputs": fingerprint_outputs(outputs),
            "data_until": known.until,
            "exclude_seen": pipeline.recommendations.exclude_seen,
            **({"experiment": pipeline.experiment.model_dump()} if pipeline.experiment else {}),
        }
        about = publishing.about(version, run, checks, facts)
        for output in outputs:
            output.require(checks)
        writer.finish(about)
        if pipeline.experiment:
            keep_users_without_lists(work, version, batch_users, writer.path)
        edition = work.files.table.publish(writer.path, pipeline.publication.history)
        forget_users_without_lists(work)
    return edition, table


def _fingerprint_lists(publishing: Publishing, jobs: Sequence[str]) -> str:
    pipeline = publishing.work.pipeline
    return fingerprint(
        *jobs,
        publishing.users_version,
        pipeline.recommendations,
        TABLE_VERSION,
        *read_titles_versions(publishing.work),
        *([pipeline.experiment] if pipeline.experiment else []),
    )


def _read_unchanged(
    work: PersonalizeWork, publishing: Publishing, batch_users: pl.LazyFrame, gate: CheckResult
) -> PublishedLists | None:
    """What is published, with its checks, if the same model, data, users, titles and settings made
    it of a job that is still there: to read it all again would find the same. None otherwise, for
    an experiment, and for an edition that an older batchrec published."""
    table = work.files.table
    edition = table.current()
    if edition is None or work.pipeline.experiment or "outputs" not in edition.about:
        return None
    about, arn = edition.about, str(edition.about["batch_inference_job_arn"])
    same = about["made_by"] == publishing.made_by
    if not same or edition.version != _fingerprint_lists(publishing, [arn]):
        return None
    try:
        description = work.ensure.describe(BATCH_INFERENCE_JOB, arn)
    except ClientError:
        return None  # It was deleted, for example; another job says what else is wrong.
    output = JobOutput(work.storage, description)
    finished = description["status"] == ACTIVE and output.is_usable()
    if not finished or fingerprint_outputs([output]) != about["outputs"]:
        return None
    rows = table.read_edition(edition)
    sample = rows.head(SAMPLE).collect(engine="streaming")
    # An edition of an earlier version does not have this check.
    checked = "items_known" in {check["name"] for check in about["checks"]}
    items = rows.select(pl.col("item_id").unique())
    known = [
        items_known(items.collect(engine="streaming").to_series(), ids)
        for ids in ([] if checked else read_item_ids(work))
    ]
    job = ReadyResource(arn, description, created=False, seconds=0.0)
    users = batch_users.select(pl.len()).collect(engine="streaming").item()
    work.ensure.log.info(_describe_job(job, users))
    note = f"as checked {about['made_at'][:10]}, when edition {edition.number} was published"
    checks = [
        replace(check, found=f"{check.found}; {note}")
        for check in map(CheckResult.from_json, about["checks"])
        if check.name != gate.name
    ] + known
    counts = ListCounts(**{each.name: about[each.name] for each in fields(ListCounts)})
    counted = RecommendationTable(counts, sample, checks)
    return PublishedLists(edition, counted, job, about["results_asked_for"], [], [gate, *checks])


def _prune(work: PersonalizeWork, group: str) -> None:
    """Delete what earlier settings left in Personalize, but for the dataset group that an edition
    was last made from. It fails no run: the lists are out."""
    pipeline, log = work.pipeline, work.ensure.log
    solutions = {
        build_solution_name(group, *each)
        for recipes in list_recipes_by_asset(pipeline).values()
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
        older = work.files.table.older()
        versions = (str(edition.about.get("solution_version_arn")) for edition in older)
        groups = [
            version.split("/")[1].rpartition("-")[0] for version in versions if "/" in version
        ]
        kept = [each for each in groups if each != group][:1]
        for piece in prune(work.ensure, pipeline.name, group, in_use, kept):
            log.info(f"deleted {piece}, which earlier settings left")
    except (StorageError, PersonalizeError, ClientError) as error:
        log.warning(f"what earlier settings left in Personalize is still there: {error}")


def _describe_job(job: ReadyResource, users: int) -> str:
    """What the job did for the users, and how fast; or that an earlier run did it."""
    if not job.created:
        return f"{users:,} users: {describe_outcome(job, 'inferred')}"
    seconds = measure_job_seconds(job)
    rate = f", {users / seconds:,.0f} a second" if seconds else ""
    return f"{users:,} users inferred in {seconds:.1f} s{rate}"


def _choose_num_results(work: PersonalizeWork, seen: SeenItems, users: int) -> int:
    """Results per user, enough to drop the seen items: Personalize's filter considers only the
    latest interactions."""
    forgotten = max(0, seen.longest - work.ensure.filter_interactions)
    return min(
        work.ensure.max_results,
        max(MAX_RESULTS, MAX_ROWS // max(1, users)),
        work.pipeline.recommendations.num_results + forgotten,
    )


def _start_job(
    work: PersonalizeWork, model: ModelRecord, batch: Batch, num_results: int
) -> StartedResource:
    wanted = work.pipeline.recommendations
    request: dict[str, Any] = {
        "solutionVersionArn": batch.solution_version_arn,
        "numResults": num_results,
        "jobInput": {"s3DataSource": {"path": batch.input}},
        "roleArn": work.ensure.role_arn,
    }
    if batch.recipe == USER_PERSONALIZATION:
        # Left to itself it explores with 0.3, and no two runs give the same lists (developer guide,
        # "User-Personalization recipe"). Recipes of version 2 have no such setting.
        weight = {"explorationWeight": f"{wanted.exploration_weight:g}"}
        request["batchInferenceJobConfig"] = {"itemExplorationConfig": weight}
    if wanted.filter_expression:
        # A filter cannot be changed: another expression needs another filter.
        own = fingerprint(wanted.filter_expression)[:8] if wanted.filter else None
        request["filterArn"] = ensure_filter(
            work.ensure,
            model,
            own or "exclude-seen",
            wanted.filter_expression,
            f"recommendations.{'filter' if own else 'exclude_seen'}",
        )
    folder, versions = work.pipeline.places.batch_inference, (batch.version, model.data_version)
    return start_batch_job(work, BATCH_INFERENCE_JOB, request, folder, *versions)
