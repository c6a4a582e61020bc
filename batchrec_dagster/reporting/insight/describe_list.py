"""The content of the page about a list, read from the storage."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import polars as pl

from batchrec_dagster.config import ListTable
from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import EditionsRecord
from batchrec_dagster.personalize.formats import scan_interactions
from batchrec_dagster.reporting.insight.changes import Changes, compare_editions
from batchrec_dagster.reporting.insight.explanations import PastInteractions
from batchrec_dagster.reporting.insight.nights import list_nights
from batchrec_dagster.reporting.insight.outcomes import describe_control, describe_result
from batchrec_dagster.reporting.insight.page import CheckResult, Page, select_model_outcomes
from batchrec_dagster.reporting.insight.people import People, PeopleTables, collect_people
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.lists.reasons import weigh_events
from batchrec_dagster.steps.model.import_dataset import compute_data_version
from batchrec_dagster.steps.outcomes.experiments import summarize_experiment
from batchrec_dagster.steps.outcomes.outcomes import estimate_outcomes, read_sums


def describe_list(
    work: StepContext,
    published: ListTable,
    checks: Sequence[CheckResult] = (),
    missing_checks: Sequence[str] = (),
) -> Page:
    """Return the content of the page about a published list.

    checks: the newest results of the checks of all assets that the lists are made of.
    missing_checks: the names of the checks without a result.

    Raises UserError.
    """
    files = work.files_of(published)
    edition, lists = files.editions.read()
    record = files.editions.record()
    sums = read_sums(files)
    return Page(
        address=published.address,
        description=published.description,
        made_at=datetime.now(UTC),
        edition=edition,
        findings=record.list_findings(edition),
        nights=tuple(list_nights(files)),
        changes=compare_with_before(files, record, edition),
        outcomes=select_model_outcomes([*estimate_outcomes(sums)]),
        experiment=tuple(_describe_experiment(files, edition, sums)),
        people=_read_people(work, edition, lists),
        checks=tuple(checks),
        missing_checks=tuple(missing_checks),
        has_newer_data=edition.data_version != compute_data_version(work),
    )


def compare_with_before(
    files: ListFiles, record: EditionsRecord, edition: Edition
) -> Changes | None:
    """Return the changes since the edition that readers had before this edition.

    Returns None if the earlier edition is not kept. `find_before` finds the earlier edition. Raises
    UserError.
    """
    before = find_before(files, record, edition)
    if before is None:
        return None
    table = files.editions
    return compare_editions((before, table.read_rows(before)), (edition, table.read_rows(edition)))


def find_before(files: ListFiles, record: EditionsRecord, edition: Edition) -> Edition | None:
    """Return the edition that readers had before this edition was first published.

    Returns None if the earlier edition is not kept. `EditionsRecord.find_before` says which edition
    that is. Raises UserError.
    """
    night = record.find_before(edition)
    if night is None:
        return None
    return next((older for older in files.editions.older() if night.is_of(older)), None)


def _describe_experiment(files: ListFiles, edition: Edition, sums: pl.DataFrame) -> list[str]:
    """Return sentences on the results of an experiment; empty without an experiment."""
    result = summarize_experiment(sums)
    if result is None:
        return []
    editions = [edition, *files.editions.older()]
    return [*describe_result(result), *describe_control(editions, result.name)]


def _read_people(work: StepContext, edition: Edition, lists: pl.LazyFrame) -> People:
    """Return the people on the page.

    Raises UserError.
    """
    pipeline, storage = work.pipeline, work.storage
    with ExitStack() as stack:

        def open_path(uri: str) -> Path:
            return stack.enter_context(storage.local_file(uri))

        titles = None
        if pipeline.has_titles:
            path = open_path(storage.uri(pipeline.keys.item_titles))
            titles = pl.scan_parquet(glob.escape(str(path)))
        tables = PeopleTables(
            lists=lists,
            histories=PastInteractions(
                scan_interactions(open_path(work.files.interactions)),
                0 if edition.data is None else edition.data.users,
                weigh_events(pipeline.solution),
            ),
            titles=titles,
        )
        return collect_people(tables, pipeline.report.people)
