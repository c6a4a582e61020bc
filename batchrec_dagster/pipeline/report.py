"""Builds the report of what is published: its tables, the model's metrics and the checks."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
from pydantic import TypeAdapter, ValidationError

from batchrec_dagster.config import fingerprint
from batchrec_dagster.outcomes.experiment import summarize_experiment
from batchrec_dagster.personalize.batch_files import USER_FIELD
from batchrec_dagster.personalize.evidence import Evidence
from batchrec_dagster.personalize.schemas import scan_interactions
from batchrec_dagster.reporting.changes import build_changes_section
from batchrec_dagster.reporting.drift import RunInputs
from batchrec_dagster.reporting.experiment import describe_result
from batchrec_dagster.reporting.facts import (
    LISTS_FULL,
    Facts,
    ReportedRun,
    Tallies,
    combine_facts,
    count_tallies,
)
from batchrec_dagster.reporting.history import EditionHistory, describe_previous_edition
from batchrec_dagster.reporting.outcomes import build_outcomes_section
from batchrec_dagster.reporting.page import render_page
from batchrec_dagster.reporting.published import RunTables
from batchrec_dagster.reporting.run_records import read_check_records, read_trainings
from batchrec_dagster.steps.items import has_titles, list_categories, list_optional_tables
from batchrec_dagster.steps.outcomes import estimate_outcomes, read_sums
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.object_store import ObjectNotFoundError
from batchrec_dagster.storage.published_table import Edition

# Part of what the kept tallies are known by: raise it when the same tables give others.
TALLIES_VERSION = "2"


@dataclass(frozen=True)
class Report:
    """The page, and what it says."""

    html: str
    facts: Facts


def build_report(
    work: Work,
    solution_version: Mapping[str, Any],
    checks: Sequence[dg.AssetCheckKey],
    instance: dg.DagsterInstance,
    run_id: str,
) -> Report:
    """The report of the published table. `solution_version`: the newest one's record; the published
    table may be of an older one. `checks`: whose warnings it shows. `run_id`: of this run, to see
    whether it published the table. Raises StorageError."""
    pipeline = work.pipeline
    history = EditionHistory(work.files)
    edition, lists = work.files.table.read()
    before = history.find_previous(edition)
    trained = {"recipe": pipeline.solution.recipe, **solution_version, **edition.about}
    run = ReportedRun(
        pipeline=pipeline.name,
        description=pipeline.description,
        source=pipeline.ratings.shown_source,
        recipe=trained["recipe"],
        report_time=datetime.now(UTC),
        solution_version=trained["solution_version_arn"],
        metrics=trained["metrics"],
        popularity=trained["popularity_metrics"],
        trainings=read_trainings(instance, pipeline.asset_key("solution_version")),
        checks=read_check_records(instance, checks),
        earlier_data=trained["data_version"] != solution_version["data_version"],
        training_time=_trained_before(trained),
        engine=trained.get("engine", ReportedRun.engine),
        evidence=Evidence.read(trained.get("evidence", {})),
        edition=edition.number,
        before=describe_previous_edition(before, edition),
        unchanged=_unchanged(edition, run_id) if history.is_newest(edition) else None,
        requested=_of_lists(edition, "users"),
        full=_of_lists(edition, "full"),
    )
    found = combine_facts(run, _counted(work, edition, lists))
    inputs = RunInputs(found.data, found.item_ids).add_drift(history.read_inputs())
    changes = history.compare(before, edition) if before else None
    sums = read_sums(work.files)
    result = summarize_experiment(sums)
    happened = build_outcomes_section(
        [*estimate_outcomes(sums)], [*describe_result(result)] if result else []
    )
    sections = [build_changes_section(changes, inputs.drift), happened]
    found = replace(found, drift=inputs.drift, changes=changes, sections=sections)
    history.write_inputs(inputs)
    history.write_record(edition, found)
    return Report(render_page(found), found)


def _unchanged(edition: Edition, run_id: str) -> str | None:
    """Which edition remains, if this run published none."""
    if edition.about.get("run_id") in (None, run_id):
        return None
    return f"edition {edition.number} of {edition.about['made_at'][:10]}"


def _of_lists(edition: Edition, number: str) -> int | None:
    """How many users lists were made for ("users"), or how many have all items ("full"), as the
    check found when they were published."""
    for check in edition.about.get("checks", []):
        if check["name"] == LISTS_FULL:
            return int(check["numbers"][number])
    return None


def _trained_before(trained: Mapping[str, Any]) -> datetime | None:
    """When the model was trained, if its data were older than those of the lists."""
    if "trained_on" not in trained or trained["data_version"].startswith(trained["trained_on"]):
        return None
    return datetime.fromisoformat(trained["trained_at"])


@dataclass(frozen=True)
class _Remembered:
    """The tallies of the last report, and a fingerprint of the tables that they are of."""

    version: str
    tallies: Tallies


_REMEMBERED = TypeAdapter(_Remembered)


def _counted(work: Work, edition: Edition, lists: pl.LazyFrame) -> Tallies:
    """The tallies of the tables: those of the last report if it had the same. Raises
    StorageError."""
    store, uri = work.storage.store, work.storage.uri(work.pipeline.places.record("report_tallies"))
    version = _tables_version(work, edition)
    with suppress(ObjectNotFoundError, ValidationError):
        remembered = _REMEMBERED.validate_json(store.get(uri))
        if remembered.version == version:
            return remembered.tallies
    with _tables(work, lists) as tables:
        counted = count_tallies(tables)
    store.put(uri, _REMEMBERED.dump_json(_Remembered(version, counted)))
    return counted


def _tables_version(work: Work, edition: Edition) -> str:
    optional = [getattr(work.pipeline.places, name) for name in list_optional_tables(work.pipeline)]
    return fingerprint(
        TALLIES_VERSION,
        edition.version,
        work.files.interactions_version(),
        work.files.batch_users.version(),
        optional,
        [work.storage.version(work.storage.uri(key)) for key in optional],
        list(list_categories(work.pipeline)),
    )


@contextmanager
def _tables(work: Work, recommendations: pl.LazyFrame) -> Iterator[RunTables]:
    """The published tables; large ones are scanned, not loaded. Raises StorageError."""
    pipeline, storage, places = work.pipeline, work.storage, work.pipeline.places
    with ExitStack() as stack:

        def path(uri: str) -> str:
            return str(stack.enter_context(storage.local_file(uri)))

        def parquet(key: str) -> pl.DataFrame:
            return pl.read_parquet(path(storage.uri(key)), glob=False)

        users = [glob.escape(path(uri)) for uri in work.files.batch_users.files()]
        yield RunTables(
            interactions=scan_interactions(Path(path(work.files.interactions))),
            recommendations=recommendations,
            users=pl.scan_ndjson(users).select(USER_FIELD),
            titles=parquet(places.item_titles) if has_titles(pipeline) else None,
            items=(
                pl.read_csv(path(storage.uri(places.items)), infer_schema=False, glob=False)
                if list_categories(pipeline)
                else None
            ),
            categories=list_categories(pipeline),
            segments=parquet(places.user_segments) if pipeline.segments else None,
        )
