"""The nights of a pipeline: which edition each published, or why it published none.

A row is a run that ended, or a change of the lists by hand. What was live comes from the record of
publications, the other nights from the records of unpublished runs and from Dagster.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from batchrec_dagster.outcomes.edition_facts import complete_facts
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.publications import EditionFacts, Publication, Publications
from batchrec_dagster.storage.unpublished_runs import Ending, UnpublishedRun, UnpublishedRuns

Status = Literal[
    "published", "rolled back", "restored", "restored by hand", "refused", "failed", "stopped",
    "unchanged",
]  # fmt: skip


@dataclass(frozen=True)
class Night:
    """A run that published an edition or ended without one, or a change of the lists by hand."""

    time: datetime | None
    """When the edition became live, or the run ended; None if that is not known."""
    status: Status
    """`rolled back` if the edition was published and rolled back later, `restored` if older lists
    were published again by a rollback."""
    edition: int | None = None
    """The edition that became live; None if none did."""
    is_live: bool = False
    """Whether the edition is live since then."""
    replaced: int | None = None
    """The edition that was live before it; None if there was none."""
    until: datetime | None = None
    """When another edition became live; None if it is live, or if that is not known."""
    checks: tuple[str, ...] = ()
    """The checks that refused the lists or the data."""
    steps: tuple[str, ...] = ()
    """The steps that failed, also after the publication."""
    ndcg: float | None = None
    """The NDCG@25 of the edition, or of the model that was refused."""
    ndcg_low: float | None = None
    ndcg_high: float | None = None
    popular_ndcg: float | None = None
    """The NDCG@25 of recommending the most popular items."""
    measured_on: str | None = None
    """A fingerprint of the settings of the interactions, and of the events that the NDCG counts."""
    success: tuple[str, ...] = ()
    """The types of events that the NDCG counts alone; empty if it counts all."""
    users: int | None = None
    """How many users have a list."""
    cost_usd: float | None = None
    """What the run paid."""
    seconds: float | None = None
    """How long the run took until the edition was live, or until it ended."""
    run: str | None = None
    """The id of the first of the run and its retries; None if it is not known."""

    @property
    def is_publication(self) -> bool:
        """Whether an edition became live."""
        return self.edition is not None

    @property
    def is_restoration(self) -> bool:
        """Whether lists became live that had been live before."""
        return self.status in ("restored", "restored by hand")

    @property
    def description(self) -> str:
        """The status in a few words, such as `refused by quality_gate`."""
        steps = ", ".join(self.steps)
        match self.status:
            case "refused":
                return f"refused by {', '.join(self.checks)}"
            case "failed" | "stopped":
                return f"{self.status} at {steps}" if steps else self.status
            case "restored":
                text = f"restored: {self.replaced} rolled back"
            case _:
                text = self.status
        if self.is_live:
            text += ", live"
        return f"{text}; failed at {steps}" if steps else text


def list_nights(
    files: ListFiles,
    ended_runs: Sequence[UnpublishedRun] = (),
) -> list[Night]:
    """All nights that are known, oldest first.

    ended_runs: the runs of which Dagster says that they failed.
    Raises UserError.
    """
    record = complete_facts(Publications(files).read(), files.table.all_editions)
    withdrawn = {(lists.edition, lists.version) for lists in record.withdrawn}
    recorded_runs = UnpublishedRuns(files).read()
    recorded_ids = {run.run for run in recorded_runs}
    other_runs = [run for run in ended_runs if run.run not in recorded_ids]
    endings = _group_by_run([*recorded_runs, *other_runs])
    nights = []
    publications = [*record.publications]
    for publication, successor in zip(publications, [*publications[1:], None], strict=False):
        is_withdrawn = (publication.edition, publication.version) in withdrawn
        night = _describe_publication(publication, successor, is_withdrawn=is_withdrawn)
        ending = endings.pop(night.run or "", None)
        if ending is not None and ending.ending == "failed" and _is_later(ending, night):
            night = replace(night, steps=tuple(ending.step.split(", ")))
        nights.append(night)
    nights += [_describe_ending(run) for run in endings.values()]
    start = datetime.fromtimestamp(0, UTC)
    return sorted(nights, key=lambda night: night.time or start)


def _is_later(run: UnpublishedRun, night: Night) -> bool:
    return night.time is not None and run.time > night.time


def _group_by_run(runs: Iterable[UnpublishedRun]) -> dict[str, UnpublishedRun]:
    """How each run ended last, by its id, with all steps and checks of that ending."""
    grouped: dict[str, UnpublishedRun] = {}
    for run in sorted(runs, key=lambda run: run.time):
        before = grouped.get(run.run)
        if before is not None and before.ending == run.ending:
            steps = dict.fromkeys([*before.step.split(", "), run.step])
            checks = tuple(dict.fromkeys([*before.checks, *run.checks]))
            run = replace(run, step=", ".join(steps), checks=checks)
        grouped[run.run] = run
    return grouped


def _describe_publication(
    publication: Publication, successor: Publication | None, *, is_withdrawn: bool
) -> Night:
    facts = publication.facts or EditionFacts()
    status: Status = "published"
    if publication.why == "rolled back":
        status = "restored"
    elif publication.why == "restored by hand":
        status = "restored by hand"
    elif is_withdrawn or (successor is not None and successor.why == "rolled back"):
        status = "rolled back"
    is_first = publication.is_first
    return Night(
        time=publication.since,
        status=status,
        edition=publication.edition,
        is_live=successor is None,
        replaced=publication.replaced,
        until=successor.since if successor is not None else None,
        ndcg=facts.ndcg,
        ndcg_low=facts.ndcg_low,
        ndcg_high=facts.ndcg_high,
        popular_ndcg=facts.popular_ndcg,
        measured_on=facts.measured_on,
        success=facts.success,
        users=facts.users,
        # Those of the edition's run, not of the rollback.
        cost_usd=facts.cost_usd if is_first else None,
        seconds=facts.seconds if is_first else None,
        run=facts.root_run if is_first else publication.run,
    )


def _describe_ending(run: UnpublishedRun) -> Night:
    statuses: dict[Ending, Status] = {
        "refused": "refused",
        "failed": "failed",
        "stopped": "stopped",
        "unchanged": "unchanged",
    }
    return Night(
        time=run.time,
        status=statuses[run.ending],
        checks=run.checks,
        steps=tuple(step for step in run.step.split(", ") if step)
        if run.ending != "unchanged"
        else (),
        ndcg=run.ndcg,
        ndcg_low=run.ndcg_low,
        ndcg_high=run.ndcg_high,
        cost_usd=run.cost_usd,
        seconds=run.seconds,
        run=run.run,
    )
