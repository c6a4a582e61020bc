"""The current state of a list: the edition that people have, the verdict, and the last night."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.editions.edition import Edition
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.reporting.insight.nights import (
    ENDED_BADLY,
    ListedNight,
    format_iso,
    list_nights,
)
from batchrec_dagster.reporting.insight.verdict import Verdict, give_verdict


@dataclass(frozen=True)
class ListOverview:
    """The current state of a list."""

    address: str
    """The address of the list, such as `shop` or `shop/newsletter`."""
    edition: Edition | None
    """The live edition; None if nothing is published."""
    verdict: Verdict | None
    """The verdict on the live edition; None if nothing is published."""
    live: Night | None
    """The night since which the edition is live; None if nothing is published."""
    last_night: ListedNight | None
    """The newest run or rollback that ended; None if there was none."""
    table: str
    """The location of the live edition's file."""
    report: str | None
    """The location of the list's report; None if there is no report."""
    example_user: str | None
    """A user who has a list; None if there is no such user, or if finding one takes a download."""

    @property
    def is_restored(self) -> bool:
        """Whether the live edition had already been live before."""
        return self.live is not None and self.live.ended == "restored"

    @property
    def last_failure(self) -> ListedNight | None:
        """The last night, if it was refused or stopped, or if a step failed; None otherwise."""
        night = self.last_night
        is_bad = night is not None and (night.status in ENDED_BADLY or night.steps)
        return night if is_bad else None


def read_overview(files: ListFiles, ended_runs: Sequence[Night] = ()) -> ListOverview:
    """Return the current state of the list.

    ended_runs: the runs that Dagster reports as failed.

    Raises UserError.
    """
    record, edition = files.editions.record(), files.editions.live()
    nights = list_nights(files, ended_runs)
    where = files.storage.where
    report = files.uri(files.keys.report)
    return ListOverview(
        address=files.keys.address,
        edition=edition,
        verdict=None if edition is None else give_verdict(record.list_findings(edition)),
        live=None if edition is None else record.live,
        last_night=nights[-1] if nights else None,
        table=where(files.editions.uri),
        report=where(report) if files.storage.store.head(report) is not None else None,
        example_user=None if edition is None else _find_example_user(files, edition),
    )


def _find_example_user(files: ListFiles, edition: Edition) -> str | None:
    if files.storage.in_s3 or edition.users is None:
        return None
    first = files.editions.read_rows(edition).select("user_id").head(1).collect().to_series()
    return str(first[0]) if len(first) else None


def describe_overview(overview: ListOverview) -> dict[str, Any]:
    """Return the current state of a published list, for JSON."""
    edition, live = overview.edition, overview.live
    assert edition is not None, "only lists that are published are described"
    popularity = edition.measured_popularity
    return {
        "pipeline": overview.address,
        "edition": edition.number,
        "verdict": str(overview.verdict),
        "rows": edition.counts.rows,
        "users": edition.users,
        "made": edition.made_at,
        "live_since": live.time if live else None,
        "live_because": live.because if live else None,
        "ndcg_at_25": edition.ndcg.value if edition.ndcg is not None else None,
        "popularity_ndcg_at_25": popularity.ndcg if popularity is not None else None,
        "success": list(edition.success),
        "last_night": describe_last_night(overview),
        "table": overview.table,
        "report": overview.report,
        "example_user": overview.example_user,
    }


def describe_last_night(overview: ListOverview) -> dict[str, Any] | None:
    """Return the ending of the last night, for JSON; None if there was no night."""
    night = overview.last_night
    if night is None:
        return None
    return {
        "status": night.status,
        "time": format_iso(night.time),
        "steps": list(night.steps),
        "checks": list(night.checks),
        "reason": night.reason,
    }
