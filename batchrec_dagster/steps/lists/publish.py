"""Publishing of lists: the gate, the description of the new edition, and the publication.

`made_of` of an edition holds the versions of its inputs, its settings and its code. Parts of
`made_of` identify lists that a rollback replaced, even if another model makes the lists again. A
later run publishes such lists only if it is told to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.editions.edition import Edition, Finding, Withdrawn
from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.nights import EditionsRecord
from batchrec_dagster.personalize.measurements import NDCG, name_ndcg
from batchrec_dagster.steps.context import (
    StepContext,
    explain_publishing_anyway,
    measure_seconds,
)
from batchrec_dagster.steps.data.checks import SOURCE_WITHOUT_ERASED
from batchrec_dagster.steps.data.data_sizes import (
    NOT_SHRUNK,
    SizeComparison,
    collect_sizes,
    list_parts,
)
from batchrec_dagster.steps.data.interactions_record import read_interactions_record
from batchrec_dagster.steps.data.success import SUCCESS_KNOWN, check_success_known
from batchrec_dagster.steps.findings import PUBLISHED_ANYWAY
from batchrec_dagster.steps.judge.quality import (
    QUALITY_GATE,
    Behaviour,
    ModelFacts,
    judge_quality,
)
from batchrec_dagster.steps.judge.verdicts import NO_WORSE, judge_model
from batchrec_dagster.steps.records import ModelRecord, StepRecord
from batchrec_dagster.storage.lock import Lock
from batchrec_dagster.storage.records import load

# This version is part of `made_of`. Raise it when the code makes different lists from the same
# inputs.
CODE_VERSION = "1"
# The findings about a model. Items bought together are counted without a model, so these findings
# then get another text if they pass.
MODEL_FINDINGS = (QUALITY_GATE, NO_WORSE)
# The findings of earlier steps. An edition keeps such a finding only if its level is not good.
DATA_FINDINGS = (SOURCE_WITHOUT_ERASED, SUCCESS_KNOWN, NOT_SHRUNK)


def summarize_edition(edition: Edition) -> str:
    """Return a description of the edition in one line: its time, NDCG@25 and number of users."""
    facts = [f"edition {edition.number}", f"made {edition.made_at:%Y-%m-%d %H:%M} UTC"]
    if NDCG in edition.metrics:
        facts.append(f"{name_ndcg(edition.success)} {edition.metrics[NDCG]:.4f}")
    if edition.users is not None:
        facts.append(f"{edition.users:,} users")
    return ", ".join(facts)


@dataclass(frozen=True)
class EditionDraft:
    """An edition of a model's lists that may be published.

    The draft decides whether the lists may be published, and describes the new edition.
    """

    step: StepContext
    published: ListTable
    model: ModelRecord
    versions: Mapping[str, str] | None = None
    """The versions of the lists' inputs besides the model, by name; None before they are known.

    Without the versions, only `describe_model` and `judge_model` work.
    """

    @property
    def files(self) -> ListFiles:
        """The files of the list."""
        return self.step.files_of(self.published)

    @property
    def editions(self) -> Editions:
        """The editions of the list."""
        return self.files.editions

    @cached_property
    def live(self) -> Edition | None:
        """The edition that was live when this property was first read; None if there was none."""
        return self.editions.live()

    @cached_property
    def record(self) -> EditionsRecord:
        """The record of the list's earlier runs and of its withdrawn lists."""
        return self.editions.record()

    @cached_property
    def made_of(self) -> dict[str, str]:
        """The versions of all inputs that decide the lists, by name."""
        published, model = self.published, self.model
        experiment = [published.experiment] if published.experiment else []
        versions = {
            "model": model.solution_version_arn,
            "trained_on": model.trained_on or "",
            "data": model.data_version,
            "settings": fingerprint(
                published.settings, *experiment, *published.pipeline.popularity_settings
            ),
            "declaration": fingerprint(published.deciding_settings),
        }
        if self.versions is None:
            return versions
        return {
            **versions,
            **self.versions,
            # The edition holds the metrics, so a new edition is needed if they count other events.
            "metrics": self.measured_on,
            "code": CODE_VERSION,
        }

    @property
    def is_unchanged(self) -> bool:
        """Whether the live lists have the same inputs, and no user was dropped from them."""
        live = self.live
        return live is not None and not live.users_dropped and live.made_of == self.made_of

    def compute_version(self, job_arn: str | None) -> str:
        """Return the version of the lists.

        job_arn: the ARN of the batch job that made the lists; None if there was no job.
        """
        return fingerprint(self.made_of, job_arn)

    @property
    def measured_on(self) -> str:
        """A fingerprint of the settings that select the interactions, and of the events that count.

        Metrics are only compared if their fingerprints are the same.
        """
        events = sorted(name.lower() for name in self.model.success)
        return fingerprint(self.step.pipeline.interactions, events)

    @property
    def withdrawn(self) -> list[Withdrawn]:
        """The rolled-back lists that these inputs would make again."""
        return [lists for lists in self.record.withdrawn if lists.recognises(self.made_of)]

    def describe_model(self, *, publish_anyway: bool = False) -> ModelFacts:
        """Return the facts about the model that the judge needs. Raises UserError.

        publish_anyway: whether the lists are published even if a gate fails.
        """
        data_until = 0
        if self.published.gate.max_age_days is not None:
            data_until = read_interactions_record(self.step).counts.latest or 0
        is_for_people = self.published.is_for_people
        return ModelFacts(
            self.model,
            self.measured_on,
            self.live,
            self.step.pipeline.solution.success,
            rolled_back=_explain_withdrawal(self.withdrawn, self.model),
            behaviour=self._read_behaviour() if is_for_people else None,
            has_rules=self.published.settings.applied_rules is not None,
            needs_comparison=is_for_people,
            data_until=data_until,
            how_to_publish_anyway=explain_publishing_anyway(self.step.pipeline),
            publish_anyway=publish_anyway,
        )

    def judge_model(self) -> list[Finding]:
        """Judge the model, and return the findings. Lists may be made if no finding blocks.

        Raises UserError.
        """
        facts = self.describe_model(publish_anyway=self.step.run.publish_anyway)
        findings = judge_model(facts, self.published.gate)
        if self.published.recipe is not None:
            return findings
        text = "items bought together are counted, so there is no model to measure"
        return [
            replace(finding, text=text)
            if finding.passed and finding.name in MODEL_FINDINGS
            else finding
            for finding in findings
        ]

    def _read_behaviour(self) -> Behaviour | None:
        """Read how users responded to earlier lists; None if that was not measured."""
        # Imported here, because it needs NumPy.
        from batchrec_dagster.steps.outcomes.outcomes import pool_outcomes, read_sums

        return pool_outcomes(read_sums(self.files), self.step.pipeline.solution.success)

    def describe(self, version: str, findings: Sequence[Finding], **facts: Any) -> Edition:
        """Return the description of the edition that is about to be published. Raises UserError.

        If the run publishes rolled-back lists anyway, the lists are no longer withdrawn, so later
        runs may publish them too.

        version: the version of the lists.
        facts: further fields of `Edition`: facts about the lists, such as `counts`, and `cost_usd`.
        """
        published, model = self.published, self.model
        now = datetime.now(UTC)
        run = self.step.run
        allowed = self.withdrawn if run.publish_anyway else []
        return Edition(
            address=published.address,
            subject=published.subject.noun,
            number=self.editions.next_number(),
            version=version,
            made_at=now,
            run=run.id,
            root_run=run.root_id,
            seconds=measure_seconds(run.start),
            findings=tuple(findings),
            live_since=now,
            live_by=run.root_id,
            replaced=self.live.number if self.live is not None else None,
            withdrawn=tuple(lists for lists in self.record.withdrawn if lists not in allowed),
            made_of=self.made_of,
            settings=published.deciding_settings,
            source=published.pipeline.ratings.shown_source,
            sizes=collect_sizes(self.step),
            data_version=model.data_version,
            solution_version_arn=model.solution_version_arn if published.recipe else None,
            recipe=published.recipe,
            engine=model.engine,
            trained_on=model.trained_on,
            trained_at=model.trained_at,
            measured_on=self.measured_on,
            success=tuple(model.success),
            metrics=dict(model.metrics),
            ndcg=model.ndcg,
            groups=model.groups,
            measured_popularity=model.measured_popularity,
            **facts,
        )

    def publish(self, file: Path, lock: Lock) -> Edition:
        """Publish the lists, and return the live edition.

        file: the file that `ListWriter` wrote.
        lock: the lock of the list.

        Raises UserError, for example if another run has taken over the lock.
        """
        return self.editions.publish(file, self.published.retention.editions, lock)


def is_refused(step: StepContext, model: ModelRecord) -> bool:
    """Return whether the quality gate refuses the model for any of the lists for users.

    Raises UserError.
    """
    drafts = [EditionDraft(step, published, model) for published in step.pipeline.user_lists]
    return any(
        judge_quality(draft.describe_model(), draft.published.gate).blocks for draft in drafts
    )


def _explain_withdrawal(withdrawn: Sequence[Withdrawn], model: ModelRecord) -> str | None:
    """Explain why the model's lists count as rolled back; None if they do not."""
    if not withdrawn:
        return None
    arn = model.solution_version_arn
    if any(mark.get("model") == arn for lists in withdrawn for mark in lists.marks):
        return "its lists were rolled back"
    return f"edition {withdrawn[0].number}, of the same data and settings, was rolled back"


def read_data_findings(step: StepContext, *, publish_anyway: bool) -> list[Finding]:
    """Read the findings of earlier steps that have not passed and that readers of lists should see.

    publish_anyway: whether this run publishes although much of the data is missing.

    Raises UserError.
    """
    findings = [*read_interactions_record(step).findings, *check_success_known(step)]
    users = load(step.storage.store, step.files.record_uri("users"), StepRecord)
    if step.pipeline.users is not None and users is not None:
        findings += users.findings
    for part in list_parts(step.pipeline) if publish_anyway else ():
        findings.append(SizeComparison(step, part, publish_anyway=True).check_stored())
    return [finding for finding in findings if not finding.passed]


def repeat_findings(edition: Edition, judged_again: Sequence[Finding]) -> list[Finding]:
    """Return the new findings about an unchanged edition, and stored findings that still hold.

    A stored finding that is repeated names the day on which it was found. A stored finding about
    the data is left out if there is no new finding of the same name.

    judged_again: the new findings about the edition's model and data. A new finding replaces the
        stored finding of the same name. If the new finding does not block, two kinds of stored
        findings stay instead: the comparison with the edition before, and a finding that notes
        that somebody published the edition although it was refused.
    """
    note = f"as found {edition.made_at:%Y-%m-%d}, when edition {edition.number} was published"
    new = {finding.name: finding for finding in judged_again}
    findings = []
    for finding in edition.findings:
        is_kept = finding.name == NO_WORSE or finding.numbers.get(PUBLISHED_ANYWAY)
        new_finding = new.pop(finding.name, None)
        if new_finding is not None and (new_finding.blocks or not is_kept):
            findings.append(new_finding)
        elif is_kept or finding.name not in DATA_FINDINGS:
            findings.append(replace(finding, text=f"{finding.text}; {note}"))
    return [*findings, *new.values()]


def read_checks(edition: Edition, names: Sequence[str]) -> list[Finding]:
    """Return the stored results of these checks of an edition.

    If a check was not made for the edition, the result counts as passed, and its text says that the
    check was not made.
    """
    stored_checks = {check.name: check for check in edition.findings}
    text = "not checked when these lists were published"
    return [stored_checks.get(name, Finding(name, "good", text)) for name in names]
