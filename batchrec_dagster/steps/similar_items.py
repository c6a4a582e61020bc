"""Makes and publishes the lists of similar items: those of a recipe, or of items bought together.

They are published as lists for users are, by the same steps: with a gate, checks, editions and
rollback. What differs is whose lists they are: an item has one, so nothing here is about people.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.ensure import ReadyResource
from batchrec_dagster.personalize.file_formats import (
    ITEM_FIELD,
    read_similar_items,
    scan_interactions,
)
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.resource_kinds import BATCH_INFERENCE_JOB
from batchrec_dagster.personalize.schemas import ITEM_ID, TIMESTAMP, USER_ID
from batchrec_dagster.preparation.sources.parsing import parse_source
from batchrec_dagster.preparation.users import check_limits, read_ids
from batchrec_dagster.steps.batch_jobs import (
    SAMPLE,
    JobOutput,
    JobRequest,
    describe_outcome,
    fingerprint_output,
    prepare_batch_job,
    require_usable,
)
from batchrec_dagster.steps.checks import require_passed
from batchrec_dagster.steps.cost import measure_run_cost, price_item_lists
from batchrec_dagster.steps.item_checks import ENOUGH_PEOPLE, check_requested_items_known
from batchrec_dagster.steps.item_lists import (
    RULES,
    SimilarItemsTable,
    build_item_lists,
    make_item_lines,
)
from batchrec_dagster.steps.item_pairs import find_bought_together
from batchrec_dagster.steps.items import find_titled_items, read_item_ids
from batchrec_dagster.steps.list_rules import prepare_rules, read_rule_inputs
from batchrec_dagster.steps.publish import Publishing, repeat_checks
from batchrec_dagster.steps.raw_files import open_source
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.retention import delete_unneeded_similar_items
from batchrec_dagster.steps.rules import Rules
from batchrec_dagster.steps.runs import RunFacts
from batchrec_dagster.steps.work import PersonalizeWork, Work
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.edition import Edition, Finding
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster.storage.lock import Lock


@dataclass(frozen=True)
class PublishedSimilarItems:
    """The published edition and what is known of it."""

    edition: Edition
    table: SimilarItemsTable
    job: ReadyResource | None
    """The job that found the similar items; None if they are counted, or were published before."""
    cost: list[Cost]
    """What this run pays for."""
    checks: list[Finding]
    outcome: str
    """What this run did, in words."""


@dataclass(frozen=True)
class RequestedItems:
    """The items that get a list."""

    ids: pl.Series
    """Each once, in order."""
    few: int
    """How many of them too few people had to say what goes with them."""
    unknown: pl.Series
    """Those that are neither in the interactions nor in the items file."""


def publish_similar_items(
    work: PersonalizeWork,
    published: PublishedList,
    settings: SimilarItems,
    model: ModelRecord | None,
    run: RunFacts,
    lock: Lock,
) -> PublishedSimilarItems:
    """Make the lists of similar items and publish them, if all checks pass.

    model: that of the recipe; None for items bought together.
    lock: that of the list, which the caller holds.
    Raises Refused, UserError, PersonalizeError, UserError.
    """
    rule_inputs = read_rule_inputs(work, published)
    with work.storage.local_file(work.files.interactions) as path:
        interactions = scan_interactions(path)
        requested = read_requested_items(work, settings, interactions)
        publishing = Publishing(
            work,
            published,
            model or _replace_model(work, settings),
            fingerprint(requested.ids.to_list()),
            rule_inputs.versions if rule_inputs is not None else (),
        )
        gate = _check_gate(publishing, model, skip=run.skip_quality_gate)
        require_passed([gate])
        lists = _read_unchanged(publishing, gate)
        if lists is None:
            rules = None
            titled = find_titled_items(work, published, interactions)
            if rule_inputs is not None or titled is not None:
                newest = interactions.select(pl.col(TIMESTAMP).max()).collect(engine="streaming")
                now = int(newest.item())
                rules, _ = prepare_rules(
                    published, rule_inputs, interactions, requested.ids, now, titled
                )
            edition = NewEdition(work, publishing, gate, requested, rules, run, lock)
            recipe, within_days = work.pipeline.similar_items_recipe, settings.within_days
            if within_days is not None:
                lists = edition.publish_counted(within_days, settings.events, interactions)
            else:
                assert model is not None
                assert recipe is not None
                lists = edition.publish_found(model, recipe)
    delete_unneeded_similar_items(work, published, lists.job.arn if lists.job is not None else None)
    return lists


def _check_gate(publishing: Publishing, model: ModelRecord | None, *, skip: bool) -> Finding:
    gate = publishing.gate(skip=skip)
    if model is None and gate.passed:
        finding = "items bought together are counted, so there is no model to measure"
        return replace(gate, text=finding)
    return gate


def _replace_model(work: Work, settings: SimilarItems) -> ModelRecord:
    """What stands in the place of a model where items bought together are counted.

    Raises UserError.
    """
    name = f"bought-together/{fingerprint(settings.deciding_settings)}"
    data_version = work.files.interactions_version()
    return ModelRecord(
        made_of={},
        version=f"{name}-{data_version}",
        solution_version_arn=name,
        data_version=data_version,
        engine="batchrec",
    )


@dataclass(frozen=True)
class NewEdition:
    """An edition that is to be made of the lists of similar items."""

    work: PersonalizeWork
    publishing: Publishing
    gate: Finding
    requested: RequestedItems
    rules: Rules | None
    """What leaves out items; None if nothing does."""
    run: RunFacts
    lock: Lock
    """That of the list."""

    @property
    def num_results(self) -> int:
        """How many results each item needs, so that the rules leave enough of them."""
        settings = self.publishing.published.settings
        return settings.num_results if self.rules is None else settings.count_candidates()

    def publish_counted(
        self, within_days: int, events: Sequence[str] | None, interactions: pl.LazyFrame
    ) -> PublishedSimilarItems:
        """Count what people had together, and publish it.

        within_days, events: as of `find_bought_together`.
        """
        lists = find_bought_together(
            interactions,
            within_days=within_days,
            most=self.num_results,
            events=events or (),
        )
        edition, table = self._publish(make_item_lines(self.requested.ids, lists), None, [])
        return PublishedSimilarItems(edition, table, None, [], table.checks, "counted")

    def publish_found(self, model: ModelRecord, recipe: str) -> PublishedSimilarItems:
        """Find similar items by a batch inference job with the recipe's model, and publish them."""
        lines = self._write_lines()
        request = self._prepare_job(model, recipe, lines)
        (job,) = self.work.ensure.start_and_wait(BATCH_INFERENCE_JOB, lambda: [request.start()])
        cost = [request.cost] if job.created else []
        pieces = JobOutput(self.work.storage, job.description).pieces(read_similar_items)
        edition, table = self._publish(pieces, job, cost)
        return PublishedSimilarItems(
            edition, table, job, cost, table.checks, describe_outcome(job, "inferred")
        )

    def _publish(
        self, pieces: Iterable[pl.DataFrame], job: ReadyResource | None, cost: Sequence[Cost]
    ) -> tuple[Edition, SimilarItemsTable]:
        """Publish the lists of these lines. Raises UserError, Refused.

        job: the one whose output they are; None if they are counted.
        cost: what this run has paid for it.
        """
        publishing, requested = self.publishing, self.requested
        output = None if job is None else JobOutput(self.work.storage, job.description)
        with (
            temporary_folder() as folder,
            ListWriter(folder / "similar_items.parquet") as writer,
        ):
            table = build_item_lists(
                self.work, publishing.published, pieces, requested.ids, self.rules, writer
            )
            items_known = check_requested_items_known(
                len(requested.ids), requested.few, requested.unknown
            )
            checks = [self.gate, *table.checks, items_known]
            described = self._describe(table, checks, job, cost)
            require_usable(output, checks)
            writer.finish(described)
            edition = publishing.publish(writer.path, self.lock)
        return edition, replace(table, checks=checks)

    def _describe(
        self,
        table: SimilarItemsTable,
        checks: Sequence[Finding],
        job: ReadyResource | None,
        cost: Sequence[Cost],
    ) -> Edition:
        """What is known of the edition."""
        of_job: dict[str, Any] = {}
        if job is not None:
            output = JobOutput(self.work.storage, job.description)
            of_job = {"job_arn": job.arn, "job_output": fingerprint_output(output)}
        version = self.publishing.compute_version(of_job.get("job_arn"))
        described = self.publishing.describe(
            version,
            self.run,
            checks,
            cost_usd=measure_run_cost(self.work, self.run.root_run, cost),
            counts=table.counts,
            **table.facts,
            results_asked_for=self.num_results,
            **of_job,
        )
        of_model = {"recipe": self.work.pipeline.similar_items_recipe}
        if job is None:
            of_model["solution_version_arn"] = None
        return described.model_copy(update=of_model)

    def _write_lines(self) -> str:
        """Write the input of the job, and return it."""
        work = self.work
        lines = pl.DataFrame({ITEM_FIELD: self.requested.ids})
        text = lines.write_ndjson()
        check_limits(lines.height, len(text.encode()))
        work.storage.store.put(
            work.files.uri(work.pipeline.keys.job_input("batch_similar_items")), text.encode()
        )
        return text

    def _prepare_job(self, model: ModelRecord, recipe: str, lines: str) -> JobRequest:
        """The job for these lines: a new one, or that of an earlier run."""
        work, keys = self.work.for_data(model.data_version), self.work.pipeline.keys
        request: dict[str, Any] = {
            "solutionVersionArn": model.solution_version_arn,
            "numResults": self.num_results,
            "jobInput": {
                "s3DataSource": {"path": work.files.uri(keys.job_input("batch_similar_items"))}
            },
            "roleArn": work.ensure.role_arn,
        }
        cost = price_item_lists(work, recipe, len(self.requested.ids))
        return prepare_batch_job(
            work,
            BATCH_INFERENCE_JOB,
            request,
            "batch_similar_items",
            cost,
            lines,
            model.data_version,
        )


def _read_unchanged(publishing: Publishing, gate: Finding) -> PublishedSimilarItems | None:
    """The published lists with their checks, if making them again would give the same; else None.

    They would be the same if the same model, data, items and settings made them.
    """
    edition = publishing.live
    if edition is None:
        return None
    job = edition.job_arn
    if edition.made_of != publishing.made_of:
        return None
    rows = publishing.files.editions.read_rows(edition)
    checks = repeat_checks(edition, gate)
    facts = {RULES: edition.rules}
    sample = rows.head(SAMPLE).collect(engine="streaming")
    table = SimilarItemsTable(edition.counts, sample, checks, facts)
    outcome = "unchanged: not inferred again" if job else "unchanged: not counted again"
    return PublishedSimilarItems(edition, table, None, [], [gate, *checks], outcome)


def read_requested_items(
    work: Work, settings: SimilarItems, interactions: pl.LazyFrame
) -> RequestedItems:
    """The items that get a list: those of the declared source, or all of the interactions.

    Raises PreparationError, UserError, UserError, UserError.
    """
    pipeline = work.pipeline
    people = (
        interactions.group_by(item=ITEM_ID)
        .agg(people=pl.col(USER_ID).n_unique())
        .collect(engine="streaming")
    )
    items_with_people = people.get_column("item")
    if settings.items is None:
        ids = items_with_people.sort()
    else:
        source, setting = parse_source(settings.items.source), "similar_items.items.column"
        null_values = pipeline.ratings.all_null_values
        with open_source(source, work.storage, pipeline.project) as files:
            ids = read_ids(files, "item", settings.items.column, setting, null_values).to_series()
        if not len(ids):
            raise UserError("similar_items.items has no items: correct its rows, or leave it out")
    unknown = ids.filter(~ids.is_in(items_with_people.implode()))
    if len(unknown) and pipeline.items is not None:
        unknown = unknown.filter(~unknown.is_in(read_item_ids(work).implode()))
    enough = people.filter(pl.col("people") >= ENOUGH_PEOPLE).get_column("item")
    few = len(ids) - int(ids.is_in(enough.implode()).sum())
    return RequestedItems(ids, few, unknown)
