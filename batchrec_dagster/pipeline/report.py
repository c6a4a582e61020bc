"""Builds the report of what is published: its tables, the model's metrics and the checks."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from pydantic import BaseModel

from batchrec_dagster.config import Pipeline, PublishedList, fingerprint
from batchrec_dagster.personalize.evidence import Evidence
from batchrec_dagster.personalize.file_formats import USER_FIELD, scan_interactions
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.reporting.audience import describe_newcomers
from batchrec_dagster.reporting.changes import build_changes_section
from batchrec_dagster.reporting.checks import build_checks_section
from batchrec_dagster.reporting.data_section import build_data_section
from batchrec_dagster.reporting.drift import RunInputs
from batchrec_dagster.reporting.experiment import describe_control, describe_result
from batchrec_dagster.reporting.facts import (
    LISTS_FULL,
    ROWS_TITLED,
    Facts,
    ReportedRun,
    Tallies,
    combine_facts,
    count_tallies,
)
from batchrec_dagster.reporting.history import (
    EditionHistory,
    describe_previous_edition,
    describe_restoration,
)
from batchrec_dagster.reporting.night_tables import build_nights_section
from batchrec_dagster.reporting.nights import list_nights, read_other_nights
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.reporting.page import render_page
from batchrec_dagster.reporting.provenance import describe_counted_events
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.rules import build_rules_section
from batchrec_dagster.reporting.run_records import CheckRecord, read_check_records, read_ended_runs
from batchrec_dagster.reporting.run_tables import RunTables
from batchrec_dagster.reporting.sections import ReportSection
from batchrec_dagster.steps.checks import QUALITY_GATE
from batchrec_dagster.steps.experiments import summarize_experiment
from batchrec_dagster.steps.import_dataset import compute_data_version
from batchrec_dagster.steps.items import has_item_table, list_categories, list_optional_tables
from batchrec_dagster.steps.outcomes import estimate_outcomes, read_sums
from batchrec_dagster.steps.reasons import weigh_events
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.nights import Night
from batchrec_dagster.storage.records import load, save

# Part of what the kept tallies are known by: raise it when the same tables give others.
TALLIES_VERSION = "6"


@dataclass(frozen=True)
class Report:
    """The page, and what it says."""

    html: str
    facts: Facts


def build_report(
    work: Work,
    published: PublishedList,
    newest_model: ModelRecord,
    checks: Sequence[dg.AssetCheckSpec],
    instance: dg.DagsterInstance,
    run_id: str,
) -> Report:
    """The report of the published table.

    newest_model: its record. The published table may be of an older one.
    checks: those whose newest results it shows.
    run_id: the id of this run, to see whether it published the table.
    Raises UserError.
    """
    files = work.files_of(published)
    history = EditionHistory(files)
    edition, lists = files.editions.read()
    baseline = history.find_baseline(edition)
    run = _describe_run(
        work,
        published,
        newest_model,
        edition,
        baseline,
        read_check_records(instance, checks),
        run_id,
    )
    facts = combine_facts(run, _count_or_recall(work, published, edition, lists))
    inputs = RunInputs(facts.data, facts.item_ids)
    # Data that the lists were not made from, such as those that the quality gate refused, are
    # compared with nothing, and nothing is compared with them later.
    if baseline is not None and not run.earlier_data:
        inputs = inputs.add_drift(history.read_inputs(baseline))
    changes = history.compare(baseline, edition) if baseline else None
    ended_runs = remember_ended_runs(files, instance)
    nights = list_nights(files, ended_runs)
    rules_section = build_rules_section(edition.rules, edition.filled)
    sections = [
        build_checks_section(run.checks, _name_missing_checks(run.checks, checks)),
        build_data_section(
            _read_preparation(work.pipeline, instance, facts.data.interactions),
            run.source,
        ),
        build_nights_section(nights),
        *([rules_section] if rules_section is not None else []),
        build_changes_section(changes, inputs.drift),
        _build_outcomes(files, edition),
    ]
    facts = replace(facts, drift=inputs.drift, changes=changes, sections=sections)
    if not run.earlier_data:
        history.write_inputs(edition, inputs)
    history.write(edition, facts)
    return Report(render_page(facts), facts)


def _describe_run(
    work: Work,
    published: PublishedList,
    newest_model: ModelRecord,
    edition: Edition,
    baseline: Edition | None,
    checks: Sequence[CheckRecord],
    run_id: str,
) -> ReportedRun:
    """The run that published the edition, as far as its metadata and records know it.

    newest_model: its record.
    baseline: the edition that it is compared with; None without one.
    checks: the newest result of each check.
    run_id: the id of this run, to see whether it published the edition.
    Raises UserError.
    """
    pipeline = work.pipeline
    restoration = EditionHistory(work.files_of(published)).find_restoration(edition)
    # What the record knows of the model, and what the published table knows of its own.
    engine = edition.engine or newest_model.engine
    return ReportedRun(
        pipeline=published.address,
        description=published.description,
        source=pipeline.ratings.shown_source,
        recipe=edition.recipe or pipeline.solution.recipe,
        report_time=datetime.now(UTC),
        solution_version=edition.solution_version_arn or "",
        metrics=edition.metrics,
        recent=edition.recent_popularity,
        checks=checks,
        # A run may have prepared data that it did not import, or whose lists were refused.
        earlier_data=edition.data_version != compute_data_version(work),
        training_time=_find_training_time(edition),
        engine=engine or ReportedRun.engine,
        evidence=Evidence.read(edition.evidence),
        success=edition.success,
        uncounted=(
            ""
            if edition.success
            else describe_counted_events(pipeline.solution.success, (), engine)
        ).strip(),
        edition=edition.number,
        before=describe_previous_edition(baseline, edition),
        unchanged=None if restoration else _name_remaining_edition(edition, run_id),
        restored=describe_restoration(restoration) if restoration else None,
        requested=_read_check_number(edition, LISTS_FULL, "users"),
        failed=edition.counts.failed,
        dropped=edition.users_dropped,
        overruled=[
            finding.name
            for finding in edition.findings
            if finding.name == QUALITY_GATE and finding.level == "watch"
        ],
        newcomers=describe_newcomers(edition.newcomers),
        full=_read_check_number(edition, LISTS_FULL, "full"),
        rows=_read_check_number(edition, ROWS_TITLED, "rows") or 0,
        untitled=_read_check_number(edition, ROWS_TITLED, "untitled") or 0,
        similar_items=_describe_similar_items(work),
    )


def _build_outcomes(files: ListFiles, edition: Edition) -> ReportSection:
    """The section about what people did with the lists, and about an experiment.

    Raises UserError.
    """
    sums = read_sums(files)
    result = summarize_experiment(sums)
    sentences: list[str] = []
    if result:
        editions = [edition, *files.editions.older()]
        sentences = [*describe_result(result), *describe_control(editions, result.name)]
    return build_outcomes_section([*estimate_outcomes(sums)], sentences)


def _name_missing_checks(
    records: Sequence[CheckRecord], specs: Sequence[dg.AssetCheckSpec]
) -> list[str]:
    """The names of the checks that have no result."""
    names_of_results = {(record.asset, record.check) for record in records}
    return [
        f"{spec.name} of {spec.asset_key.path[-1]}"
        for spec in specs
        if (spec.asset_key.path[-1], spec.name) not in names_of_results
    ]


def _find_similar_items(work: Work) -> PublishedResults | None:
    """The published lists of similar items; None if the pipeline declares none, or has published
    none. Raises UserError."""
    if work.pipeline.similar_items_list is None:
        return None
    return PublishedResults(work.storage, work.pipeline.name).similar_items


def _describe_similar_items(work: Work) -> str:
    """Which lists of similar items are published; empty if there are none."""
    similar_items = _find_similar_items(work)
    if similar_items is None:
        return ""
    edition = similar_items.require_edition()
    engine = edition.engine or ReportedRun.engine
    maker = (
        f"by the recipe {edition.recipe} of {engine}"
        if edition.recipe
        else "what people had together, counted by batchrec"
    )
    day = similar_items.publication_time.strftime("%Y-%m-%d")
    return f"{maker}: edition {edition.number} of {day}"


def _read_preparation(
    pipeline: Pipeline, instance: dg.DagsterInstance, interactions: int
) -> Mapping[str, Any]:
    """The metadata of the preparation of the interactions; empty if Dagster has those of others.

    interactions: how many there are.
    """
    event = instance.get_latest_materialization_event(asset_key(pipeline, "interactions"))
    if event is None or event.asset_materialization is None:
        return {}
    metadata = {name: value.value for name, value in event.asset_materialization.metadata.items()}
    return metadata if metadata.get("dagster/row_count") == interactions else {}


def remember_ended_runs(files: ListFiles, instance: dg.DagsterInstance) -> list[Night]:
    """The runs that Dagster says failed. Those that are not recorded yet are recorded, because
    Dagster may forget them; their processes were killed, for example. Raises UserError."""
    recorded_ids = {night.run for night in read_other_nights(files)}
    ended_runs = read_ended_runs(instance, files)
    for night in ended_runs:
        if night.run not in recorded_ids:
            files.editions.add_night(night)
    return ended_runs


def _name_remaining_edition(edition: Edition, run_id: str) -> str | None:
    """The name of the edition that remains, if this run published none; else None."""
    if edition.run == run_id:
        return None
    return f"edition {edition.number} of {edition.made_at:%Y-%m-%d}"


def _read_check_number(edition: Edition, check: str, number: str) -> int | None:
    """A number of the check as it was when the lists were published; None if it was not made.

    check: its name, such as `lists_full`, which counts for how many users lists were made, and how
    many of them have all items.
    number: its name, such as "users" or "full".
    """
    for finding in edition.findings:
        if finding.name == check:
            return int(finding.numbers[number])
    return None


def _find_training_time(edition: Edition) -> datetime | None:
    """When the model was trained, if its data were older than those of the lists."""
    if edition.trained_on is None or edition.data_version.startswith(edition.trained_on):
        return None
    return edition.trained_at


class _StoredTallies(BaseModel, frozen=True):
    """The tallies of the last report."""

    version: str
    """A fingerprint of the tables that they are of."""
    tallies: Tallies


def _count_or_recall(
    work: Work, published: PublishedList, edition: Edition, lists: pl.LazyFrame
) -> Tallies:
    """The tallies of the tables. Those of the last report are used if it had the same tables.

    Raises UserError.
    """
    store = work.storage.store
    uri = work.storage.uri(published.keys.list_record("report_tallies"))
    version = _fingerprint_tables(work, published, edition)
    stored = load(store, uri, _StoredTallies)
    if stored is not None and stored.version == version:
        return stored.tallies
    with _open_tables(work, published, lists) as tables:
        tallies = count_tallies(tables, work.pipeline.report.people)
    save(store, uri, _StoredTallies(version=version, tallies=tallies))
    return tallies


def _fingerprint_tables(work: Work, published: PublishedList, edition: Edition) -> str:
    optional_keys = [
        getattr(work.pipeline.keys, name) for name in list_optional_tables(work.pipeline)
    ]
    return fingerprint(
        TALLIES_VERSION,
        edition.version,
        *([edition.users_dropped] if edition.users_dropped else []),
        work.files.interactions_version(),
        work.files.record_version(published.users_record),
        optional_keys,
        [work.storage.version(work.storage.uri(key)) for key in optional_keys],
        list(list_categories(work.pipeline)),
        *_list_similar_items_versions(work),
        work.pipeline.report,
    )


def _list_similar_items_versions(work: Work) -> list[str]:
    """The version of the published lists of similar items; empty if there are none."""
    similar_items = _find_similar_items(work)
    if similar_items is None:
        return []
    return [similar_items.require_edition().version]


@contextmanager
def _open_tables(
    work: Work, published: PublishedList, recommendations: pl.LazyFrame
) -> Iterator[RunTables]:
    """The published tables; large ones are scanned, not loaded. Raises UserError."""
    pipeline, storage, keys = work.pipeline, work.storage, work.pipeline.keys
    with ExitStack() as stack:

        def open_path(uri: str) -> str:
            return str(stack.enter_context(storage.local_file(uri)))

        def read_parquet(key: str) -> pl.DataFrame:
            return pl.read_parquet(open_path(storage.uri(key)), glob=False)

        similar_items = _find_similar_items(work)
        users = glob.escape(open_path(work.files.uri(published.users_key)))
        yield RunTables(
            interactions=scan_interactions(Path(open_path(work.files.interactions))),
            recommendations=recommendations,
            users=pl.scan_ndjson(users).select(USER_FIELD),
            titles=read_parquet(keys.item_titles) if pipeline.has_titles else None,
            items=(
                pl.read_csv(open_path(storage.uri(keys.items)), infer_schema=False, glob=False)
                if has_item_table(pipeline)
                else None
            ),
            categories=list_categories(pipeline),
            event_strengths=weigh_events(pipeline.solution),
            segments=read_parquet(keys.user_segments) if pipeline.segments else None,
            similar_items=None if similar_items is None else similar_items.files.editions.read()[1],
        )
