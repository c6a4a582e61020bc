"""The step that makes the lists of users, items or segments and publishes them as one edition.

A line holds one user, item or segment and its candidates. The rows of the lists are made from the
lines, counted and checked. If no finding refuses the table, the step publishes it.

If the inputs have not changed since the live lists were made, the step makes no new lists.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.config.list_table import ItemLists
from batchrec_dagster.editions.edition import Edition, Finding, ListCounts
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.api import ACTIVE
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.steps.context import StepContext, measure_seconds
from batchrec_dagster.steps.data.interactions_record import read_interactions_record
from batchrec_dagster.steps.data.items import (
    list_categories,
    read_attributes,
    read_item_ids,
    read_titles,
)
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.steps.judge.verdicts import ListFacts, judge_lists
from batchrec_dagster.steps.lists.audience import Audience, divide, read_audience
from batchrec_dagster.steps.lists.candidates import iterate_lines
from batchrec_dagster.steps.lists.checks import check_table
from batchrec_dagster.steps.lists.counts import (
    CountedItems,
    Histories,
    count_audience,
    count_histories,
)
from batchrec_dagster.steps.lists.inputs import (
    ListInputs,
    read_blocked,
    read_inputs,
    read_versions,
)
from batchrec_dagster.steps.lists.job import (
    FinishedJob,
    choose_num_results,
    describe_sharing,
    run_job,
)
from batchrec_dagster.steps.lists.job_output import JobOutput
from batchrec_dagster.steps.lists.publish import (
    DATA_FINDINGS,
    EditionDraft,
    read_data_findings,
    repeat_findings,
)
from batchrec_dagster.steps.lists.reasons import prepare_reasons
from batchrec_dagster.steps.lists.retention import delete_unneeded, prune_personalize
from batchrec_dagster.steps.lists.rows import SAMPLE, RowBuilder
from batchrec_dagster.steps.lists.rules import prepare_rules
from batchrec_dagster.steps.model.cost import measure_run_cost, read_run_cost
from batchrec_dagster.steps.outcomes.users_without_lists import keep_users_without_lists
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.lock import Lock


@dataclass(frozen=True)
class ListsResult:
    """The result of the step: the live edition, and a report of the run's work."""

    edition: Edition
    sample: pl.DataFrame
    """The first rows of the edition."""
    findings: Sequence[Finding]
    """The current findings about the edition, including the findings of earlier steps."""
    outcome: str
    """A sentence that says what this run did."""
    job: FinishedJob | None = None
    """The batch job that this run made the edition from; None if the run used no job."""


def make_lists(
    step: StepContext, published: ListTable, model: ModelRecord | None, lock: Lock
) -> ListsResult:
    """Make the lists and publish them, if all checks pass.

    If the inputs have not changed since the live edition was made, keep the live edition and only
    update its findings.

    model: the trained model; None for items bought together, which this step counts without a
        model.
    lock: the lock of the list; the caller holds it.

    Raises Refused if a check refuses the lists, and UserError.
    """
    today = datetime.now(UTC).date()
    with step.storage.local_file(step.files.interactions) as path:
        interactions = scan_interactions(path)
        audience = read_audience(step, published, interactions)
        blocked = read_blocked(step, published)
        versions = {
            "subjects": audience.version,
            **read_versions(step, published, blocked, today),
        }
        draft = EditionDraft(
            step, published, model or _stand_in_for_model(step, published), versions
        )
        findings = draft.judge_model()
        if any(finding.blocks for finding in findings):
            # Models are trained every night even if the gate refuses them, so old models are
            # deleted here too.
            delete_unneeded(step, published)
        if draft.is_unchanged and _is_output_unchanged(step, draft):
            lists = _judge_again(draft, findings)
        else:
            require_passed(findings)
            audience = divide(step, published, audience)
            histories = count_histories(interactions)
            inputs = read_inputs(step, published, audience, interactions, histories, blocked, today)
            lists = _make_new_lists(draft, audience, inputs, histories, findings, lock)
    if published.is_for_people:
        prune_personalize(step, draft.model.dataset_group_name)
    delete_unneeded(step, published, lists.edition.job_arn)
    return lists


def _is_output_unchanged(step: StepContext, draft: EditionDraft) -> bool:
    """Return whether the live edition's job output still exists, unchanged.

    True if there is no live edition, or if the edition was made without a batch job. If the result
    is False, the run makes the lists again, and its checks report the problem if there still is
    one.
    """
    edition = draft.live
    if edition is None or edition.job_arn is None:
        return True
    try:
        job = step.resources.describe(draft.published.job_kind, edition.job_arn)
    except ClientError:
        # The job may have been deleted, for example.
        return False
    output = JobOutput(step.storage, job)
    is_finished = job["status"] == ACTIVE and output.is_usable()
    return is_finished and output.version == edition.job_output


def _judge_again(draft: EditionDraft, judged: Sequence[Finding]) -> ListsResult:
    """Keep the live edition, and update its findings.

    A new edition would have the same lists. The findings about the edition's rows still hold, so
    they are kept.

    judged: the current findings about the edition's model.

    Raises UserError, and Refused if a finding blocks and is not about the data.
    """
    edition = draft.live
    assert edition is not None
    data_findings = read_data_findings(draft.step, publish_anyway=False)
    findings = repeat_findings(edition, [*judged, *data_findings])
    draft.editions.judge_again(findings)
    require_passed([finding for finding in findings if finding.name not in DATA_FINDINGS])
    if edition.root_run != draft.step.run.root_id:
        _record_unchanged(draft)
    _, rows = draft.editions.read()
    sample = rows.head(SAMPLE).collect(engine="streaming")
    made = "inferred" if edition.job_arn else "counted"
    return ListsResult(edition, sample, findings, f"unchanged: not {made} again")


def _record_unchanged(draft: EditionDraft) -> None:
    """Record that the run had nothing new to publish."""
    run = draft.step.run
    # The lists are as they should be, even if this night is missing in the record.
    with suppress(UserError):
        night = Night(
            run=run.root_id,
            ended="unchanged",
            time=datetime.now(UTC),
            steps=(draft.published.asset,),
            cost_usd=read_run_cost(draft.step.files, run.root_id),
            seconds=measure_seconds(run.start),
        )
        draft.editions.add_night(night)


def _make_new_lists(
    draft: EditionDraft,
    audience: Audience,
    inputs: ListInputs,
    histories: Histories,
    judged: Sequence[Finding],
    lock: Lock,
) -> ListsResult:
    """Make the table of lists, and publish the table unless a finding refuses it.

    histories: the counts of the interactions.
    judged: the findings about the model.
    lock: the lock of the list.

    Raises Refused if a finding refuses the table, and UserError.
    """
    step, published = draft.step, draft.published
    num_results = choose_num_results(step, published, inputs, audience.of_model)
    job = None
    if published.recipe is not None:
        job = run_job(step, published, draft.model, audience, num_results)
    with (
        temporary_folder() as folder,
        ListWriter(folder / f"{published.asset}.parquet") as writer,
    ):
        rules, reasons = prepare_rules(published, inputs), prepare_reasons(published, inputs)
        rows = RowBuilder(published, inputs, rules, reasons)
        rows.write(iterate_lines(step, published, audience, inputs, num_results, job), writer)
        table_findings = check_table(step, published, audience.served, rows, num_results)
        findings = [*judged, *table_findings, *audience.findings]
        if job is not None:
            job.output(step.storage).require_usable(findings)
        require_passed(findings)
        counts = _count(step, published, audience, rows, histories)
        data = histories.describe(draft.live)
        if published.is_for_people:
            facts = ListFacts(counts, len(rows.answered), data, draft.live)
            findings += judge_lists(facts)
        findings += read_data_findings(step, publish_anyway=step.run.publish_anyway)
        edition = draft.describe(
            draft.compute_version(job.resource.arn if job is not None else None),
            findings,
            counts=counts,
            data=data,
            data_until=inputs.data_until,
            exclude_seen=published.settings.excludes_all_seen,
            **_describe_job(step, job),
            **_describe_lists(published, audience, rows),
        )
        writer.finish(edition)
        if _needs_users_without_lists(published, rows):
            keep_users_without_lists(
                draft.files, edition.version, audience.requested, writer.path, rows.failed
            )
        edition = draft.publish(writer.path, lock)
    outcome = "counted" if job is None else describe_sharing(published, job.resource)
    return ListsResult(edition, rows.sample, findings, outcome, job)


def _needs_users_without_lists(published: ListTable, rows: RowBuilder) -> bool:
    """Return whether a reader of the edition may need to know which users have no list.

    That is so for users' lists with an experiment, for lists that leave out newcomers, and if
    Personalize failed for some users.
    """
    leaves_out = published.experiment is not None or published.settings.newcomers == "leave_out"
    return published.is_for_people and (leaves_out or rows.failed.height > 0)


def _count(
    step: StepContext,
    published: ListTable,
    audience: Audience,
    rows: RowBuilder,
    histories: Histories,
) -> ListCounts:
    """Return the counts of the written table, its users and its items. Raises UserError."""
    facts: dict[str, Any] = {}
    if published.is_for_people:
        facts |= count_audience(audience.requested, histories)
    if published.has_items:
        pipeline = step.pipeline
        declared = read_item_ids(step) if pipeline.items is not None else None
        items = CountedItems(rows.listed, histories, declared)
        categories = list_categories(pipeline)
        facts |= items.describe(
            read_titles(step) if pipeline.has_titles else None,
            read_attributes(step) if categories else None,
            categories,
        )
    return rows.counts.model_copy(update={"requested": len(audience.requested), **facts})


def _describe_job(step: StepContext, job: FinishedJob | None) -> dict[str, Any]:
    """Return the fields of `Edition` about the batch job and the cost of the run.

    Raises UserError.
    """
    if job is None:
        return {"cost_usd": measure_run_cost(step, [])}
    return {
        "job_arn": job.resource.arn,
        "job_output": job.output(step.storage).version,
        "results_asked_for": job.num_results,
        "inference_cost_usd": round(job.job_cost.usd, 4),
        "cost_usd": measure_run_cost(step, job.cost),
    }


def _describe_lists(published: ListTable, audience: Audience, rows: RowBuilder) -> dict[str, Any]:
    """Return the fields of `Edition` about rules, popular items, newcomers and reasons."""
    facts: dict[str, Any] = {}
    if rows.rules is not None and published.settings.applied_rules is not None:
        facts["rules"] = tuple(asdict(counts) for counts in rows.rules.counts.values())
        facts["filled"] = asdict(rows.rules.filled)
    if rows.inputs.popular is not None:
        facts["popularity"] = rows.inputs.popular.describe()
    if audience.newcomers is not None:
        policy = published.settings.model_dump(mode="json")["newcomers"]
        facts["newcomers"] = {"users": audience.newcomers, "get": policy}
    if rows.reasons is not None:
        facts["reasons"] = dict(rows.reasons.counts)
    if published.experiment is not None:
        facts["experiment"] = published.experiment.model_dump()
    return facts


def _stand_in_for_model(step: StepContext, published: ListTable) -> ModelRecord:
    """Return the record that stands in for a model if items bought together are counted."""
    assert isinstance(published, ItemLists)
    settings = fingerprint(published.similar_items.deciding_settings)
    return ModelRecord(
        made_of={},
        version="",
        solution_version_arn=f"bought-together/{settings}",
        data_version=read_interactions_record(step).version,
        engine="batchrec",
    )
