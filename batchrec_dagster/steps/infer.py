"""Infers every user's list with a batch inference job, and publishes the lists as one table."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import PublishedList
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.ensure import ACTIVE, ReadyResource
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.resource_kinds import BATCH_INFERENCE_JOB
from batchrec_dagster.personalize.teardown import prune
from batchrec_dagster.steps.batch_jobs import (
    SAMPLE,
    JobOutput,
    describe_outcome,
    fingerprint_output,
    require_usable,
)
from batchrec_dagster.steps.batches import (
    divide_users,
    keep_users_without_lists,
)
from batchrec_dagster.steps.checks import (
    require_passed,
)
from batchrec_dagster.steps.cost import measure_run_cost
from batchrec_dagster.steps.inference_jobs import Inference, InferenceResult, describe_job
from batchrec_dagster.steps.list_builder import RecommendationTable
from batchrec_dagster.steps.list_filters import declare_list_filter, list_endings
from batchrec_dagster.steps.list_rules import read_rule_inputs
from batchrec_dagster.steps.popular_items import read_popularity_versions
from batchrec_dagster.steps.publish import Publishing, repeat_checks
from batchrec_dagster.steps.recommendation_table import LIST_FACTS, build_table
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.retention import delete_unneeded
from batchrec_dagster.steps.runs import RunFacts
from batchrec_dagster.steps.shared_jobs import name_sharing_lists
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Edition, Finding
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.lock import Lock


@dataclass(frozen=True)
class PublishedLists:
    """The published edition and what is known of it."""

    edition: Edition
    table: RecommendationTable
    job: ReadyResource
    """The job that inferred the model's lists."""
    num_results: int
    """How many results the job was asked for, for each user."""
    cost: list[Cost]
    """What this run pays for."""
    checks: list[Finding]
    outcome: str
    """Whether the job is new, in words."""


def infer_and_publish(
    work: PersonalizeWork,
    published: PublishedList,
    model: ModelRecord,
    batch_users: pl.LazyFrame,
    run: RunFacts,
    lock: Lock,
) -> PublishedLists:
    """Infer lists for the users with the model and publish them, if all checks pass.

    batch_users: the lines of the users' file.
    lock: that of the list, which the caller holds.
    Raises Refused, UserError, PersonalizeError, UserError.
    """
    users_version = work.storage.version(work.files.uri(published.users_key))
    rule_inputs = read_rule_inputs(work, published)
    publishing = Publishing(
        work,
        published,
        model,
        users_version,
        [
            *(rule_inputs.versions if rule_inputs is not None else ()),
            *read_popularity_versions(work, published),
        ],
    )
    gate = publishing.gate(skip=run.skip_quality_gate)
    if gate.blocks:
        # Models are trained every night, however many of them the gate refuses.
        delete_unneeded(work)
    require_passed([gate])
    lists = _read_unchanged(work, publishing, batch_users, gate)
    if lists is None:
        users = divide_users(work, published, batch_users, users_version)
        inference = Inference(
            work.for_data(model.data_version),
            published,
            run.root_run,
            declare_list_filter(published),
            model,
            rule_inputs,
        )
        inferred = inference.infer(users)
        edition, table = _publish(work, publishing, batch_users, inferred, gate, run, lock)
        job, num_results = inferred.job, inferred.num_results
        lists = PublishedLists(
            edition,
            table,
            job,
            num_results,
            inferred.cost,
            [gate, *table.checks],
            _describe_new_edition(published, job),
        )
    _prune(work, model.dataset_group_name)
    delete_unneeded(work, lists.job.arn)
    return lists


def _publish(
    work: PersonalizeWork,
    publishing: Publishing,
    batch_users: pl.LazyFrame,
    inferred: InferenceResult,
    gate: Finding,
    run: RunFacts,
    lock: Lock,
) -> tuple[Edition, RecommendationTable]:
    """Publish the lists. Raises UserError, Refused."""
    published, interactions = publishing.published, inferred.interactions
    output = inferred.output(work)
    with temporary_folder() as folder, ListWriter(folder / "recommendations.parquet") as writer:
        table = build_table(
            work,
            published,
            output,
            inferred.users,
            interactions,
            writer,
            num_results=inferred.num_results,
        )
        checks = [gate, *table.checks]
        version = publishing.compute_version(inferred.job.arn)
        made = publishing.describe(
            version,
            run,
            checks,
            cost_usd=measure_run_cost(work, run.root_run, inferred.cost),
            counts=table.counts,
            **table.facts,
            job_arn=inferred.job.arn,
            job_output=fingerprint_output(output),
            results_asked_for=inferred.num_results,
            inference_cost_usd=round(inferred.job_cost.usd, 4),
            data_until=interactions.until,
            exclude_seen=published.settings.excludes_all_seen,
            experiment=published.experiment.model_dump() if published.experiment else None,
        )
        require_usable(output, checks)
        writer.finish(made)
        without_lists = published.experiment or published.settings.newcomers == "leave_out"
        if without_lists or table.counts.failed:
            keep_users_without_lists(
                publishing.files, version, batch_users, writer.path, table.failed
            )
        edition = publishing.publish(writer.path, lock)
    return edition, table


def _describe_new_edition(published: PublishedList, job: ReadyResource) -> str:
    """Whether the job of a new edition is new, in words."""
    names = name_sharing_lists(published)
    if job.created or names is None:
        return describe_outcome(job, "inferred")
    return f"not inferred again: one job is for {names}"


def _read_unchanged(
    work: PersonalizeWork, publishing: Publishing, batch_users: pl.LazyFrame, gate: Finding
) -> PublishedLists | None:
    """The published lists with their checks, if making them again would give the same.

    They would be the same if the same model, data, users, titles and settings made them from a job
    whose output is still there. None otherwise, and for an experiment.
    """
    table = publishing.files.editions
    edition = publishing.live
    if edition is None or publishing.published.experiment:
        return None
    if edition.users_dropped:
        # They are among the users again, if all else is the same.
        return None
    arn = str(edition.job_arn)
    if edition.made_of != publishing.made_of:
        return None
    try:
        description = work.ensure.describe(BATCH_INFERENCE_JOB, arn)
    except ClientError:
        # It was deleted, for example. Another job says what else is wrong.
        return None
    output = JobOutput(work.storage, description)
    is_finished = description["status"] == ACTIVE and output.is_usable()
    if not is_finished or fingerprint_output(output) != edition.job_output:
        return None
    sample = table.read_rows(edition).head(SAMPLE).collect(engine="streaming")
    job = ReadyResource(arn, description, created=False, seconds=0.0)
    users = batch_users.select(pl.len()).collect(engine="streaming").item()
    work.ensure.log.debug(describe_job(job, users))
    checks = repeat_checks(edition, gate)
    facts = {name: getattr(edition, name) for name in LIST_FACTS}
    recommendations = RecommendationTable(edition.counts, sample, checks, facts=facts)
    return PublishedLists(
        edition,
        recommendations,
        job,
        edition.results_asked_for or 0,
        [],
        [gate, *checks],
        describe_outcome(job, "inferred"),
    )


def _prune(work: PersonalizeWork, group: str) -> None:
    """Delete what earlier settings left in Personalize.

    The dataset group that an older edition was last made from stays. An error is only logged,
    because the lists are already published.
    """
    log = work.ensure.log
    in_use = {f"{group}-{ending}" for ending in list_endings(work.pipeline)}
    try:
        other_groups = {
            name
            for published in work.pipeline.user_lists
            for name in _find_last_group(work.files_of(published), group)
        }
        for resource in prune(work.ensure, work.pipeline.name, group, in_use, other_groups):
            log.info(f"deleted {resource}, which earlier settings left")
    except (UserError, ClientError) as error:
        log.warning(f"what earlier settings left in Personalize is still there: {error}")


def _find_last_group(files: ListFiles, group: str) -> list[str]:
    """The dataset group that an edition of the list was last made from, other than this one; empty
    if there is none. Raises UserError."""
    # An edition's solution is named after its dataset group.
    editions = files.editions.kept()
    versions = (str(edition.solution_version_arn) for edition in editions)
    groups = [version.split("/")[1].rpartition("-")[0] for version in versions if "/" in version]
    return [name for name in groups if name != group][:1]
