"""What `batchrec list` shows of each pipeline: its last refresh and its published edition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import dagster as dg

from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.reporting.run_records import is_interrupted
from batchrec_dagster.reporting.run_stages import format_duration
from batchrec_dagster.reporting.terminal import Column, TerminalTable, format_time, render


def summarize_pipeline(published: PublishedResults, instance: dg.DagsterInstance) -> dict[str, Any]:
    """The last refresh and the published edition, each None if there is none.

    published: those of a pipeline, or of one of its lists.

    Raises UserError.
    """
    overview: dict[str, Any] = {"pipeline": published.address, "last_run": None, "edition": None}
    refreshes = dg.RunsFilter(job_name=f"{published.files.keys.pipeline}_refresh")
    for record in instance.get_run_records(refreshes, limit=1):
        status = record.dagster_run.status.value
        if is_interrupted(instance, record, published.files):
            status = "INTERRUPTED"
        began = record.start_time or record.create_timestamp.timestamp()
        overview["last_run"] = {
            "run_id": record.dagster_run.run_id,
            "status": status,
            "began": datetime.fromtimestamp(began, UTC).isoformat(timespec="seconds"),
            "seconds": round(record.end_time - began, 1) if record.end_time else None,
        }
    if published.edition is not None:
        publication = published.read_publication()
        since = publication.time if publication else None
        overview["edition"] = {
            "number": published.edition.number,
            "made": published.publication_time.astimezone(UTC).isoformat(timespec="seconds"),
            "users": published.edition.users,
            "live_since": since.astimezone(UTC).isoformat(timespec="seconds") if since else None,
            "live_because": publication.because if publication else None,
        }
    return overview


def format_overview(overviews: Sequence[Mapping[str, Any]], width: int | None) -> str:
    """A table with a line for each pipeline, or for each of its lists.

    `overviews` are those of `summarize_pipeline`. `width` is the terminal's; None for a pipe.
    """
    columns = [Column("pipeline"), Column("last run"), Column("time", right=True)]
    columns += [Column("edition", right=True), Column("made"), Column("users", right=True)]
    section = TerminalTable("Pipelines, by name", columns, [*map(_make_overview_row, overviews)])
    return render([], [[section]], width=width).lstrip("\n")


# What the commands call the statuses of Dagster's runs.
RUN_STATUS = {"SUCCESS": "done", "FAILURE": "failed", "STARTED": "running", "CANCELED": "stopped"}


def _make_overview_row(overview: Mapping[str, Any]) -> list[object]:
    run_cells: list[object] = ["never", None]
    run = overview["last_run"]
    if run is not None:
        status = RUN_STATUS.get(run["status"], run["status"].lower())
        began = _format_local_time(run["began"])
        run_cells = [f"{status} {began}", format_duration(run["seconds"])]
    edition_cells: list[object] = ["none", None, None]
    edition = overview["edition"]
    if edition is not None:
        users = None if edition["users"] is None else f"{edition['users']:,}"
        made = _format_local_time(edition["made"])
        if edition["live_because"] not in (None, "published"):
            made += f", {edition['live_because']} {_format_local_time(edition['live_since'])}"
        edition_cells = [edition["number"], made, users]
    return [overview["pipeline"], *run_cells, *edition_cells]


def _format_local_time(iso: str) -> str:
    return format_time(datetime.fromisoformat(iso).astimezone())
