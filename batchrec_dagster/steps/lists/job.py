"""The batch job that makes a list's recommendations, adopted from an earlier run or created.

A job answers all its lines with one filter. So lists of the same users with the same filter share
a job. The job is asked for the most results that any list needs, and each list takes as many
results as it needs. The job's name identifies the job's inputs and not a list, so every list
finds the shared job.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import polars as pl

from batchrec_dagster.config import ListTable, Pipeline, fingerprint
from batchrec_dagster.config.list_table import ItemLists, SegmentLists
from batchrec_dagster.config.rules import ExcludeSeen
from batchrec_dagster.config.shared_jobs import list_sharing_lists
from batchrec_dagster.personalize.api import FILTER, PersonalizeError
from batchrec_dagster.personalize.filters import EXCLUDE_SEEN
from batchrec_dagster.personalize.formats import MAX_RESULTS
from batchrec_dagster.personalize.measurements import join_words
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION
from batchrec_dagster.personalize.resources import ReadyResource, Resources, StartedResource
from batchrec_dagster.preparation.id_lists import require_within_limits
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.interactions_record import read_interactions_record
from batchrec_dagster.steps.data.items import find_titled_items
from batchrec_dagster.steps.lists.audience import Audience
from batchrec_dagster.steps.lists.histories import measure_history
from batchrec_dagster.steps.lists.inputs import ListInputs
from batchrec_dagster.steps.lists.job_output import JobOutput
from batchrec_dagster.steps.model.cost import (
    count_interactions,
    find_restart_obstacle,
    price_item_lists,
    read_estimate,
)
from batchrec_dagster.steps.model.solutions import fingerprint_solution
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.durable import compute_version

# If a list has rules, its job is asked for enough results to leave out the histories of this share
# of the users.
SHARE_SERVED = 0.999
# All lines of a job get the same number of results, so the longest histories make every answer
# longer. A job is asked for more than MAX_RESULTS results per line only if all lines together get
# at most this many rows, which are read in seconds.
MAX_ROWS = 10_000_000
# The suffix of the filter's name if the filter only excludes seen items.
EXCLUDE_SEEN_ENDING = "exclude-seen"


@dataclass(frozen=True)
class FinishedJob:
    """A finished batch job that answered the lines of a list."""

    resource: ReadyResource
    num_results: int
    """The number of results per line that the job was asked for."""
    job_cost: Cost
    """The cost of the job, which this run pays if it created the job."""

    def output(self, storage: Storage) -> JobOutput:
        """Return the job's output."""
        return JobOutput(storage, self.resource.description)

    @property
    def cost(self) -> list[Cost]:
        """The costs that this run pays; none for an adopted job."""
        return [self.job_cost] if self.resource.is_new else []


def run_job(
    step: StepContext,
    published: ListTable,
    model: ModelRecord,
    audience: Audience,
    num_results: int,
) -> FinishedJob:
    """Run the job for the audience to its end, or adopt the job of an earlier run or another list.

    num_results: the number of results per line that the job is asked for.
    Raises UserError.
    """
    step = step.for_data(model.data_version)
    kind, folder = published.job_kind, published.job_folder
    lines_uri, lines_version = _write_lines(step, published, audience)
    request = _build_request(step, published, model, num_results)
    # A filter always reads newer data.
    reads_newer_data = published.job_reads_new_data or "filterArn" in request
    data = [model.data_version] if reads_newer_data else []
    key = fingerprint(request, lines_version, *data)
    request["jobInput"] = {"s3DataSource": {"path": lines_uri}}
    request["roleArn"] = step.resources.role_arn

    def create(name: str) -> dict[str, Any]:
        output = {
            "s3DataDestination": {"path": step.files.uri(step.files.keys.job_output(folder, name))}
        }
        return {**request, "jobOutput": output}

    def start() -> list[StartedResource]:
        with _hold_shared_jobs(step, published):
            started = step.resources.start(
                kind,
                f"{step.pipeline.name}-{key[:12]}",
                create,
                usable=lambda job: JobOutput(step.storage, job).is_usable(),
                among_others=True,
                solutionVersionArn=model.solution_version_arn,
            )
            return [started]

    job_cost = _price_job(step, published, len(audience.of_model))

    def find_obstacle() -> str | None:
        return find_restart_obstacle(step, read_estimate(step, [job_cost]), [job_cost])

    (job,) = step.resources.start_and_wait(kind, start, find_obstacle)
    step.resources.log.debug(
        _describe_job(job, f"{len(audience.of_model):,} {published.subject.name}")
    )
    return FinishedJob(job, num_results, job_cost)


def _write_lines(step: StepContext, published: ListTable, audience: Audience) -> tuple[str, str]:
    """Return the URI and the version of the file of lines for the model.

    The file is written, unless it is the file of users that the asset batch_users wrote.

    Raises UserError.
    """
    if published.is_for_people and audience.is_undivided:
        return step.files.uri(published.users_key), audience.version
    content = audience.of_model.alias(published.line_field).to_frame().write_ndjson().encode()
    require_within_limits(len(audience.of_model), len(content))
    uri = step.files.uri(published.lines_key)
    step.storage.store.put(uri, content)
    return uri, compute_version([content])


def _build_request(
    step: StepContext, published: ListTable, model: ModelRecord, num_results: int
) -> dict[str, Any]:
    """Return the parameters of the job request that decide the answers, besides the lines."""
    request: dict[str, Any] = {
        "solutionVersionArn": model.solution_version_arn,
        "numResults": num_results,
    }
    if published.recipe == USER_PERSONALIZATION:
        # By default this recipe explores with a weight of 0.3, and no two runs give the same lists
        # (developer guide, "User-Personalization recipe"). Recipes of version 2 have no such
        # setting.
        weight = {"explorationWeight": f"{published.settings.exploration_weight:g}"}
        request["batchInferenceJobConfig"] = {"itemExplorationConfig": weight}
    declared_filter = declare_filter(published)
    if declared_filter is not None:
        request["filterArn"] = _ensure_filter(step.resources, model, declared_filter)
    return request


def _price_job(step: StepContext, published: ListTable, lines: int) -> Cost:
    """Return the cost of a new job for this many lines."""
    prices = step.prices
    if isinstance(published, SegmentLists):
        return prices.price_segments(lines, read_interactions_record(step).counts.users)
    recipe = published.recipe or ""
    if isinstance(published, ItemLists):
        return price_item_lists(step, recipe, lines)
    return prices.price_recommendations(recipe, lines)


def _hold_shared_jobs(step: StepContext, published: ListTable) -> AbstractContextManager[object]:
    """Return a lock for finding or creating a shared job.

    If no other list shares the job, return a context without effect.
    """
    if len(list_sharing_lists(published)) == 1:
        return nullcontext()
    return step.lock(published.job_folder)


def _describe_job(job: ReadyResource, lines: str) -> str:
    """Return a text on the job's work and duration, or on the earlier run that did the work."""
    if not job.created:
        return f"{lines}: {job.describe_work('inferred')}"
    return f"{lines} inferred in {job.seconds:.1f} s"


def describe_sharing(published: ListTable, job: ReadyResource) -> str:
    """Describe in words whether the job is new, adopted or shared with other lists."""
    names = [sharing.name for sharing in list_sharing_lists(published)]
    if job.is_new or len(names) == 1:
        return job.describe_work("inferred")
    return f"not inferred again: one job is for {join_words(names)}"


def choose_num_results(
    step: StepContext, published: ListTable, inputs: ListInputs, subjects: pl.Series
) -> int:
    """Return the number of results per line that the list's job is asked for.

    The number is the most that any list sharing the job needs, so all these lists ask for the same
    number. Raises UserError.

    subjects: the ids of the users, items or segments that the job makes lists for.
    """
    if not published.has_items:
        # Nothing is left out of a segment, and it may have more users than a list has items.
        return published.settings.num_results
    needed = []
    for sharing in list_sharing_lists(published):
        titled = inputs.titled
        if sharing.name != published.name:
            titled = find_titled_items(step, sharing, inputs.interactions)
        history = _measure_history(step, sharing, inputs, subjects)
        results = choose_num_results_of_list(
            step.resources,
            sharing,
            len(subjects),
            history,
            leaves_out_untitled=titled is not None,
        )
        needed.append(results)
    return max(needed)


def choose_num_results_of_list(
    resources: Resources,
    published: ListTable,
    users: int,
    history: int,
    *,
    leaves_out_untitled: bool,
) -> int:
    """Return how many results per line leave enough for the list after items are left out.

    users: the number of the job's lines.
    history: the most items that a user had. Personalize's own filter considers only the latest
        interactions, and cannot express days or exceptions. So the list itself leaves out the items
        that the filter lets through.
    leaves_out_untitled: whether the list shows titles and leaves out items without a title.
    """
    settings = published.settings
    leaves_out = settings.applied_rules is not None or leaves_out_untitled
    results = settings.count_candidates() if leaves_out else settings.num_results
    if settings.seen_items is not None:
        results += max(0, history - _count_filtered(resources, settings.seen_items))
    return min(resources.max_results, max(MAX_RESULTS, MAX_ROWS // max(1, users)), results)


def _count_filtered(resources: Resources, seen: ExcludeSeen) -> int:
    """Return how many of a user's latest interactions Personalize's own filter considers."""
    return resources.filter_interactions if seen.filter_expression else 0


def _measure_history(
    step: StepContext, published: ListTable, inputs: ListInputs, users: pl.Series
) -> int:
    """Return the most items that a user had and that the list itself must leave out.

    Returns 0 if Personalize's own filter considers all interactions. With rules, the few users with
    the longest histories do not count, because popular items fill their lists.
    """
    seen = published.settings.seen_items
    if seen is None:
        return 0
    if _count_filtered(step.resources, seen) >= count_interactions(step):
        return 0
    share = SHARE_SERVED if published.settings.applied_rules is not None else 1.0
    return measure_history(inputs.interactions, users, seen, inputs.data_until, share)


@dataclass(frozen=True)
class DeclaredFilter:
    """A filter that a job uses."""

    setting: str
    """The setting that declares the filter, such as recommendations.filter."""
    expression: str
    ending: str
    """The suffix of the filter's name, after the name of the dataset group.

    A filter cannot be changed, so another expression needs another name.
    """


def declare_filter(published: ListTable) -> DeclaredFilter | None:
    """Return the filter of the list's job; None if the job needs no filter."""
    settings, setting = published.settings, published.setting
    expression = settings.filter_expression
    if expression is None:
        return None
    if expression == EXCLUDE_SEEN:
        return DeclaredFilter(f"{setting}.exclude_seen", expression, EXCLUDE_SEEN_ENDING)
    name = "filter" if settings.filter else "exclude_seen"
    return DeclaredFilter(f"{setting}.{name}", expression, fingerprint(expression)[:8])


def list_endings_in_use(pipeline: Pipeline) -> Iterator[str]:
    """Yield the suffixes of the names of the pipeline's solutions and filters.

    A suffix comes after the name of the dataset group.
    """
    for training in pipeline.trainings.values():
        yield fingerprint_solution(training.recipe, training.parameters)
    # The filter for exclude_seen stays in use while exclude_seen is off or another filter is tried,
    # because the settings may change back.
    yield EXCLUDE_SEEN_ENDING
    for published in pipeline.published_lists():
        declared = declare_filter(published)
        if declared is not None:
            yield declared.ending


def _ensure_filter(resources: Resources, model: ModelRecord, declared: DeclaredFilter) -> str:
    """Return the ARN of the filter in the model's dataset group; create the filter if needed.

    Raises PersonalizeError, with the name of the setting, if Personalize rejects the filter.
    """
    group = model.dataset_group_arn
    try:
        return resources.find_or_create(
            FILTER,
            f"{model.dataset_group_name}-{declared.ending}",
            {"datasetGroupArn": group, "filterExpression": declared.expression},
            datasetGroupArn=group,
        ).arn
    except PersonalizeError as error:
        raise PersonalizeError(f"{declared.setting}: {error}", error.details) from error
