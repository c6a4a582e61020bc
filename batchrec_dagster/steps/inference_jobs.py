"""Runs the batch inference job that lists are made from, and asks it for enough results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.config import PublishedList
from batchrec_dagster.personalize.ensure import ReadyResource, StartedResource
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.resource_kinds import BATCH_INFERENCE_JOB
from batchrec_dagster.steps.batch_jobs import (
    FilterDeclaration,
    JobOutput,
    JobRequest,
    describe_outcome,
    ensure_filter,
    measure_job_seconds,
    prepare_batch_job,
)
from batchrec_dagster.steps.batches import DividedUsers, ModelUsers
from batchrec_dagster.steps.edition_interactions import EditionInteractions, read_interactions
from batchrec_dagster.steps.list_rules import RuleInputs
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.shared_jobs import (
    count_results,
    count_results_of_group,
    find_group,
    name_sharing_lists,
)
from batchrec_dagster.steps.work import PersonalizeWork

# The name of the lock on the jobs that several lists share.
SHARED_JOBS = "batch_inference"


@dataclass(frozen=True)
class InferenceResult:
    """The finished job, and what the lists are made from."""

    users: DividedUsers
    job: ReadyResource
    interactions: EditionInteractions
    num_results: int
    job_cost: Cost
    """What the job costs if this run created it."""

    @property
    def cost(self) -> list[Cost]:
        """What this run pays for."""
        return [self.job_cost] if self.job.created else []

    def output(self, work: PersonalizeWork) -> JobOutput:
        """The job's output."""
        return JobOutput(work.storage, self.job.description)


@dataclass(frozen=True)
class Inference:
    """Runs the batch inference job of a list."""

    work: PersonalizeWork
    published: PublishedList
    run: str
    """The id of the first of a run and its retries."""
    filter: FilterDeclaration | None
    model: ModelRecord
    rule_inputs: RuleInputs | None = None
    """What the rules of lists read; None without rules."""

    def infer(self, divided: DividedUsers) -> InferenceResult:
        """The finished job: a new one, or that of an earlier run."""
        work, published, users = self.work, self.published, divided.ids
        interactions = read_interactions(work, published, divided, self.rule_inputs)
        group = find_group(published)
        if len(group) > 1:
            num_results = count_results_of_group(work, group, divided.of_model.ids)
        else:
            num_results = count_results(
                work,
                published,
                len(users),
                interactions.history_length,
                leaves_out_untitled=interactions.leaves_out_untitled,
            )
        request = _prepare_job(
            work, published, self.filter, self.model, divided.of_model, num_results
        )

        def start() -> list[StartedResource]:
            with _hold_shared_jobs(work, published, self.run):
                return [request.start()]

        [job] = work.ensure.start_and_wait(BATCH_INFERENCE_JOB, start)
        work.ensure.log.debug(describe_job(job, len(divided.of_model.ids)))
        return InferenceResult(divided, job, interactions, num_results, request.cost)


def describe_job(job: ReadyResource, users: int) -> str:
    """What the job did for the users, and how fast; or that an earlier run did it."""
    if not job.created:
        return f"{users:,} users: {describe_outcome(job, 'inferred')}"
    seconds = measure_job_seconds(job)
    rate = f", {users / seconds:,.0f} a second" if seconds else ""
    return f"{users:,} users inferred in {seconds:.1f} s{rate}"


@contextmanager
def _hold_shared_jobs(work: PersonalizeWork, published: PublishedList, run: str) -> Iterator[None]:
    """A block in which no other list looks for the job that they share, or creates it."""
    names = name_sharing_lists(published)
    if names is None:
        yield
        return
    work.ensure.log.debug(f"{names} share one batch inference job")
    with work.lock(SHARED_JOBS, run):
        yield


def _prepare_job(
    work: PersonalizeWork,
    published: PublishedList,
    lists_filter: FilterDeclaration | None,
    model: ModelRecord,
    users: ModelUsers,
    num_results: int,
) -> JobRequest:
    """The job that infers the lists of these users, to be found or created."""
    recipe = work.pipeline.solution.recipe
    request: dict[str, Any] = {
        "solutionVersionArn": model.solution_version_arn,
        "numResults": num_results,
        "jobInput": {"s3DataSource": {"path": users.input}},
        "roleArn": work.ensure.role_arn,
    }
    if recipe == USER_PERSONALIZATION:
        # Left to itself it explores with 0.3, and no two runs give the same lists (developer guide,
        # "User-Personalization recipe"). Recipes of version 2 have no such setting.
        weight = {"explorationWeight": f"{published.settings.exploration_weight:g}"}
        request["batchInferenceJobConfig"] = {"itemExplorationConfig": weight}
    if lists_filter is not None:
        request["filterArn"] = ensure_filter(work.ensure, model, lists_filter)
    return prepare_batch_job(
        work,
        BATCH_INFERENCE_JOB,
        request,
        "batch_inference",
        work.prices.price_recommendations(recipe, len(users.ids)),
        users.version,
        model.data_version,
    )
