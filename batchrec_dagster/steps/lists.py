"""The step that makes the lists of users, items or segments and publishes them as one edition.

A line holds one user, item or segment and its results. Lines come from a batch job, from counting
the items that people had together, or from popular items. The step turns lines into rows. The
rules leave out some rows, and popular items fill users' lists that are too short. The rows get
their columns and are counted. If no finding refuses the table, the step publishes it.

If the inputs have not changed since the live lists were made, the step makes no new lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.personalize.api import ACTIVE
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.steps.cost import measure_run_cost
from batchrec_dagster.steps.interactions import read_interactions_record
from batchrec_dagster.steps.item_pairs import find_bought_together
from batchrec_dagster.steps.items import (
    list_categories,
    read_attributes,
    read_item_ids,
    read_titles,
)
from batchrec_dagster.steps.job_output import JobOutput
from batchrec_dagster.steps.judge import ListFacts, judge_lists
from batchrec_dagster.steps.list_checks import check_table
from batchrec_dagster.steps.list_context import ListContext, ListInputs, read_context, read_inputs
from batchrec_dagster.steps.list_counts import (
    CountedItems,
    Histories,
    count_audience,
    count_histories,
)
from batchrec_dagster.steps.list_jobs import (
    FinishedJob,
    choose_num_results,
    describe_sharing,
    run_job,
)
from batchrec_dagster.steps.list_table import SAMPLE, ListTable, make_lines
from batchrec_dagster.steps.model_records import ModelRecord
from batchrec_dagster.steps.popular_items import make_popular_lines
from batchrec_dagster.steps.publish import (
    DATA_FINDINGS,
    Publishing,
    read_data_findings,
    repeat_findings,
)
from batchrec_dagster.steps.requested import JOB_KINDS, Divided, Requested, divide, read_requested
from batchrec_dagster.steps.retention import delete_unneeded, prune_personalize
from batchrec_dagster.steps.run_facts import RunFacts
from batchrec_dagster.steps.users_without_lists import keep_users_without_lists
from batchrec_dagster.steps.work import PersonalizeWork
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Edition, Finding, ListCounts
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.lock import Lock
from batchrec_dagster.storage.progress import Progress


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
    work: PersonalizeWork,
    published: PublishedList,
    model: ModelRecord | None,
    run: RunFacts,
    lock: Lock,
) -> ListsResult:
    """Make the lists and publish them, if all checks pass.

    If the inputs have not changed since the live edition was made, keep the live edition and only
    update its findings.

    model: the trained model; None for items bought together, which this step counts without a
        model.
    lock: the lock of the list; the caller holds it.

    Raises Refused if a check refuses the lists, and UserError.
    """
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        requested = read_requested(work, published, interactions)
        inputs = read_inputs(work, published)
        versions = {"subjects": requested.version, **inputs.versions}
        publishing = Publishing(
            work, published, model or _make_record_without_model(work, published), versions
        )
        findings = publishing.judge_model(publish_anyway=run.publish_anyway)
        if any(finding.blocks for finding in findings):
            # Models are trained every night even if the gate refuses them, so old models are
            # deleted here too.
            delete_unneeded(work, published)
        if publishing.is_unchanged and _is_output_unchanged(work, publishing):
            lists = _judge_again(publishing, findings)
        else:
            require_passed(findings)
            new = NewLists(work, publishing, requested, inputs, interactions, run, lock)
            lists = new.publish(findings, has_model=model is not None)
    if published.subject == "user" and model is not None:
        prune_personalize(work, model.dataset_group_name)
    delete_unneeded(work, published, lists.edition.job_arn)
    return lists


def _is_output_unchanged(work: PersonalizeWork, publishing: Publishing) -> bool:
    """Return whether the live edition's job output still exists, unchanged.

    True if there is no live edition, or if the edition was made without a batch job. If the result
    is False, the run makes the lists again, and its checks report the problem if there still is
    one.
    """
    edition = publishing.live
    if edition is None or edition.job_arn is None:
        return True
    try:
        job = work.ensure.describe(JOB_KINDS[edition.subject], edition.job_arn)
    except ClientError:
        # The job may have been deleted, for example.
        return False
    output = JobOutput(work.storage, job)
    is_finished = job["status"] == ACTIVE and output.is_usable()
    return is_finished and output.version == edition.job_output


def _judge_again(publishing: Publishing, judged: Sequence[Finding]) -> ListsResult:
    """Keep the live edition, and update its findings.

    A new edition would have the same lists. The findings about the edition's rows still hold, so
    they are kept.

    judged: the current findings about the edition's model.

    Raises UserError, and Refused if a finding blocks and is not about the data.
    """
    edition = publishing.live
    assert edition is not None
    data_findings = read_data_findings(publishing.work, publish_anyway=False)
    findings = repeat_findings(edition, [*judged, *data_findings])
    publishing.editions.judge_again(findings)
    require_passed([finding for finding in findings if finding.name not in DATA_FINDINGS])
    _, rows = publishing.editions.read()
    sample = rows.head(SAMPLE).collect(engine="streaming")
    made = "inferred" if edition.job_arn else "counted"
    return ListsResult(edition, sample, findings, f"unchanged: not {made} again")


@dataclass(frozen=True)
class NewLists:
    """A maker of new lists, for a run in which the live lists are out of date."""

    work: PersonalizeWork
    publishing: Publishing
    requested: Requested
    inputs: ListInputs
    interactions: pl.LazyFrame
    run: RunFacts
    lock: Lock

    @property
    def published(self) -> PublishedList:
        return self.publishing.published

    def publish(self, judged: Sequence[Finding], *, has_model: bool) -> ListsResult:
        """Make the table of lists, and publish the table unless a finding refuses it.

        judged: the findings about the model.
        has_model: whether a batch job of the model makes the lists; if not, items bought together
            are counted.

        Raises Refused if a finding refuses the table, and UserError.
        """
        work, published, model = self.work, self.published, self.publishing.model
        divided = divide(work, published, self.requested)
        histories = count_histories(self.interactions)
        context = read_context(work, published, divided, self.inputs, self.interactions, histories)
        num_results = choose_num_results(work, published, context, divided.of_model.ids)
        job = None
        if has_model:
            root_run = self.run.root_run
            job = run_job(work, published, model, divided.of_model, num_results, root_run)
        with (
            temporary_folder() as folder,
            ListWriter(folder / f"{published.asset}.parquet") as writer,
        ):
            table = ListTable(published, context)
            table.write(self._iterate_lines(divided, context, num_results, job), writer)
            table_findings = check_table(work, published, divided.ids, table, num_results)
            findings = [*judged, *table_findings, *self.requested.findings]
            if job is not None:
                job.output(work.storage).require_usable(findings)
            require_passed(findings)
            counts, data = self._count(table, histories), histories.describe(self.publishing.live)
            if published.subject == "user":
                facts = ListFacts(counts, len(table.answered), data, self.publishing.live)
                findings += judge_lists(facts)
            findings += read_data_findings(work, publish_anyway=self.run.publish_anyway)
            edition = self._describe(findings, divided, context, job, counts=counts, data=data)
            writer.finish(edition)
            self._keep_users_without_lists(edition.version, table, writer.path)
            edition = self.publishing.publish(writer.path, self.lock)
        outcome = "counted" if job is None else describe_sharing(published, job.resource)
        return ListsResult(edition, table.sample, findings, outcome, job)

    def _keep_users_without_lists(self, version: str, table: ListTable, path: Path) -> None:
        """Store which users have no list in the edition, if a reader may need to know.

        Only editions of users' lists get such a file, and only if the list has an experiment or
        leaves out newcomers, or if Personalize failed for some users.

        version: the version of the edition.
        path: the file of the edition's table.
        """
        published = self.published
        leaves_out = published.experiment or published.settings.newcomers == "leave_out"
        if published.subject == "user" and (leaves_out or table.failed.height):
            keep_users_without_lists(
                self.publishing.files, version, self.requested.ids, path, table.failed
            )

    def _iterate_lines(
        self, divided: Divided, context: ListContext, num_results: int, job: FinishedJob | None
    ) -> Iterator[pl.DataFrame]:
        """Yield the lines of all lists, as tables for `ListTable.write`."""
        lines_of = f"{self.published.subject}s' lists written"
        progress = Progress(lines_of, len(divided.ids), self.work.ensure.log.debug)
        for lines in self._iterate_model_lines(divided, num_results, job):
            yield lines
            progress.add(lines.height)
        if context.popular is not None and divided.popular.height:
            for lines in make_popular_lines(divided.popular, context.popular, num_results):
                yield lines
                progress.add(lines.height)
        progress.end()

    def _iterate_model_lines(
        self, divided: Divided, num_results: int, job: FinishedJob | None
    ) -> Iterator[pl.DataFrame]:
        """Return the lines of the batch job, or of items bought together if there is no job."""
        if job is not None:
            return job.output(self.work.storage).lines()
        settings = self.published.pipeline.similar_items
        assert settings is not None
        assert settings.within_days is not None
        pairs = find_bought_together(
            self.interactions,
            within_days=settings.within_days,
            most=num_results,
            events=settings.events or (),
        )
        return make_lines(divided.of_model.ids, pairs)

    def _count(self, table: ListTable, histories: Histories) -> ListCounts:
        """Return the counts of the written table, its users and its items. Raises UserError."""
        work, subject = self.work, self.published.subject
        facts: dict[str, Any] = {}
        if subject == "user":
            facts |= count_audience(self.requested.ids, histories)
        if subject != "segment":
            pipeline = work.pipeline
            declared = read_item_ids(work) if pipeline.items is not None else None
            items = CountedItems(table.listed, histories, declared)
            categories = list_categories(pipeline)
            facts |= items.describe(
                read_titles(work) if pipeline.has_titles else None,
                read_attributes(work) if categories else None,
                categories,
            )
        return table.counts.model_copy(update={"requested": len(self.requested.ids), **facts})

    def _describe(
        self,
        findings: Sequence[Finding],
        divided: Divided,
        context: ListContext,
        job: FinishedJob | None,
        **facts: Any,
    ) -> Edition:
        """Return the description of the edition that is about to be published.

        facts: further fields of `Edition`: its counts and the facts about its data.

        Raises UserError.
        """
        work, published, rules = self.work, self.published, context.rules
        if job is not None:
            facts |= {
                "job_arn": job.resource.arn,
                "job_output": job.output(work.storage).version,
                "results_asked_for": job.num_results,
                "inference_cost_usd": round(job.job_cost.usd, 4),
            }
        if rules is not None and published.settings.applied_rules is not None:
            facts["rules"] = tuple(asdict(counts) for counts in rules.counts.values())
            facts["filled"] = asdict(rules.filled)
        if context.popular is not None:
            facts["popularity"] = context.popular.describe()
        if divided.newcomers is not None:
            policy = published.settings.model_dump(mode="json")["newcomers"]
            facts["newcomers"] = {"users": divided.newcomers, "get": policy}
        if context.reasons is not None:
            facts["reasons"] = dict(context.reasons.counts)
        if published.experiment is not None:
            facts["experiment"] = published.experiment.model_dump()
        return self.publishing.describe(
            self.publishing.compute_version(job.resource.arn if job is not None else None),
            self.run,
            findings,
            cost_usd=measure_run_cost(work, self.run.root_run, job.cost if job is not None else []),
            data_until=context.until,
            exclude_seen=published.settings.excludes_all_seen,
            **facts,
        )


def _make_record_without_model(work: PersonalizeWork, published: PublishedList) -> ModelRecord:
    """Return the record that stands in for a model if items bought together are counted."""
    settings = published.pipeline.similar_items
    assert settings is not None
    return ModelRecord(
        made_of={},
        version="",
        solution_version_arn=f"bought-together/{fingerprint(settings.deciding_settings)}",
        data_version=read_interactions_record(work).version,
        engine="batchrec",
    )
