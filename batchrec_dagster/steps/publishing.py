"""Publishing lists: the quality gate before it, the metadata that is stored in the table, rollback.

A rollback records the keys of the lists that it replaced. With them the next refresh, which has the
same data and settings, does not publish these lists again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from batchrec_dagster.config import fingerprint
from batchrec_dagster.personalize.evidence import NDCG
from batchrec_dagster.steps.checks import CheckResult, ModelToPublish, check_quality_gate
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.items import read_titles_version
from batchrec_dagster.steps.lists_declaration import ListsDeclaration
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.runs import RunHistory
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.paths import PipelineFiles
from batchrec_dagster.storage.published_table import Edition, PublishedTable

PREVIOUS = "previous"
# The name of the record of rollbacks.
RECORD = "rollback"


def build_rollback_config(op: str, to: str) -> dict[str, Any]:
    """The run config of the rollback job.

    op: the name of the op of the asset `recommendations`.
    to: an edition's number, or PREVIOUS.
    """
    return {"ops": {op: {"config": {"roll_back_to": to}}}}


def summarize_edition(edition: Edition) -> str:
    """An edition in one line: its time, NDCG@25 and number of users."""
    about = edition.about
    facts = [f"edition {edition.number}"]
    if "made_at" in about:
        facts.append(f"made {about['made_at'][:16].replace('T', ' ')} UTC")
    if NDCG in about.get("metrics", {}):
        facts.append(f"NDCG@25 {about['metrics'][NDCG]:.4f}")
    if "users" in about:
        facts.append(f"{about['users']:,} users")
    return ", ".join(facts)


@dataclass(frozen=True)
class Rollbacks:
    """The rollbacks of a pipeline's lists, as stored in a record.

    Its methods raise StorageError.
    """

    files: PipelineFiles

    @property
    def _record(self) -> dict[str, Any]:
        return self.files.record(RECORD)

    def read_keys(self) -> list[str]:
        """The keys of the lists that were rolled back; see `Publishing.made_by`."""
        return list(self._record.get("rolled_back", []))

    def include(self, made_by: Sequence[str]) -> bool:
        """Whether lists with one of these keys were rolled back."""
        return not {*self.read_keys()}.isdisjoint(made_by)

    def allow(self, made_by: Sequence[str]) -> None:
        """Allow lists with one of these keys to be published again."""
        keys = self.read_keys()
        other_keys = [key for key in keys if key not in made_by]
        if other_keys != keys:
            self.files.write_record(RECORD, {**self._record, "rolled_back": other_keys})

    def is_published(self, current: Edition | None) -> bool:
        """Whether the published lists were rolled back.

        If so, the rollback was killed before it published other lists.
        """
        return current is not None and self.include(current.about.get("made_by", []))

    def read_unfinished_edition(self, runs: RunHistory) -> int:
        """The number of the edition that the last rollback chose, if it is not finished; else 0.

        It is not finished if its run is known, and neither that nor a retry of it succeeded.
        """
        record = self._record
        is_unfinished = runs.is_unfinished(record.get("run", ""))
        return int(record["edition"]) if is_unfinished else 0

    def read_times(self) -> list[tuple[int, datetime]]:
        """The number of each edition that a rollback published again, and when, oldest first."""
        publications = self._record.get("published_again", [])
        return [(number, datetime.fromisoformat(time)) for number, time in publications]

    def roll_back(self, to: str, run: str, runs: RunHistory) -> Edition:
        """Choose the edition to publish again, and record the one that it replaces as rolled back.

        to: an edition's number, or PREVIOUS.
        run: the id of the first of a run and its retries, which all choose the same edition.
        Raises StepError.
        """
        table, record = self.files.table, self._record
        current, rolled_back = table.current(), self.read_keys()
        publications = [*record.get("published_again", [])]
        is_retry = (record.get("run"), record.get("to")) == (run, to)
        if is_retry:
            edition = choose_edition(table, str(record["edition"]))
        else:
            edition = choose_edition(table, to, rolled_back, self.read_unfinished_edition(runs))
            publications.append([edition.number, datetime.now(UTC).isoformat(timespec="seconds")])
        made_by = edition.about.get("made_by", [])
        rolled_back = [key for key in rolled_back if key not in made_by]
        if current is not None and current != edition:
            # Only the first key that differs: that of the model and the settings if they differ, or
            # else that of the data, users and titles.
            new_keys = [key for key in current.about.get("made_by", []) if key not in made_by]
            rolled_back += [key for key in new_keys[:1] if key not in rolled_back]
        self.files.write_record(
            RECORD,
            {
                "rolled_back": rolled_back,
                "run": run,
                "to": to,
                "edition": edition.number,
                "published_again": publications,
            },
        )
        return edition


def choose_edition(
    table: PublishedTable, to: str, rolled_back: Sequence[str] = (), unfinished: int = 0
) -> Edition:
    """The edition to publish again.

    to: an edition's number, or PREVIOUS. PREVIOUS is the newest edition before the published one
        that was not rolled back itself.
    rolled_back: the keys of the lists that were rolled back.
    unfinished: the number of the edition that a killed rollback chose, or 0. If it is published,
        PREVIOUS is that edition.

    Raises StepError if there is no such edition.
    """
    current, older = table.current(), table.older()
    if to == PREVIOUS:
        if current is not None and current.number == unfinished:
            return current
        candidates = [
            edition
            for edition in older
            # An edition with the same lists as the published one would change nothing.
            if (
                current is None
                or (edition.number < current.number and edition.version != current.version)
            )
            and {*rolled_back}.isdisjoint(edition.about.get("made_by", []))
        ]
        if candidates:
            return candidates[0]
        missing = "there is no earlier edition"
    else:
        for edition in [current, *older]:
            if edition is not None and str(edition.number) == to:
                return edition
        missing = f"there is no edition {to!r}"
    editions_kept = "; ".join(summarize_edition(edition) for edition in older) or "nothing"
    raise StepError(f"{missing} to roll back to. Kept: {editions_kept}")


@dataclass(frozen=True)
class Publishing:
    """Decides whether the lists that a model makes may be published, and describes them."""

    work: Work
    declaration: ListsDeclaration
    model: ModelRecord
    users_version: str | None = None
    """The version of the users' file; None before there is one. Then only `gate` can be called."""

    @cached_property
    def published_edition(self) -> Edition | None:
        """The edition that was published when this was first read; None if there was none."""
        return self.work.files.table.current()

    @cached_property
    def titles_versions(self) -> list[str]:
        """A list of the titles' version; empty if no titles are declared.

        It is read before the titles are: if they change in between, the next run publishes again.
        """
        return [read_titles_version(self.work)] if self.work.pipeline.has_titles else []

    @cached_property
    def made_by(self) -> list[str]:
        """Two keys of the lists, by which lists made in the same way are found again.

        The first is a fingerprint of the model and the settings. The second is a fingerprint of
        these with the data, the users and the titles; it is missing if there is no users' file yet.
        """
        # Without an experiment, the key is that of versions of batchrec without experiments.
        pipeline = self.work.pipeline
        experiment = [pipeline.experiment] if pipeline.experiment else []
        arn = self.model.solution_version_arn
        model = fingerprint(arn, pipeline.recommendations, *experiment)
        if self.users_version is None:
            return [model]
        inputs = (self.model.data_version, self.users_version, *self.titles_versions)
        return [model, fingerprint(model, *inputs)]

    def gate(self, *, skip: bool) -> CheckResult:
        """Whether the lists may be published. Raises StorageError."""
        rollbacks = Rollbacks(self.work.files)
        current = self.published_edition
        if skip:
            rollbacks.allow(self.made_by)
        candidate = ModelToPublish(
            self.model,
            self.declaration.measured_on,
            current.about if current else None,
            rolled_back=rollbacks.include(self.made_by),
            unfinished_rollback=rollbacks.is_published(current),
        )
        return check_quality_gate(
            self.work.pipeline.gate,
            candidate,
            how_to_skip=self.declaration.how_to_skip_gate,
            skip_quality_gate=skip,
        )

    def about(
        self, version: str, run: str, checks: Sequence[CheckResult], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The metadata to store in the table.

        version: the version of the lists.
        run: the id of the run.
        facts: metadata of the lists themselves, such as their number of rows.
        Raises StorageError.
        """
        pipeline, declaration, model = self.work.pipeline, self.declaration, self.model
        return {
            "pipeline": pipeline.name,
            "key_prefix": pipeline.key_prefix,
            "edition": self.work.files.table.next_number(),
            "version": version,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": run,
            **facts,
            "data_version": model.data_version,
            "solution_version_arn": model.solution_version_arn,
            **(
                {"trained_on": model.trained_on, "trained_at": model.trained_at}
                if model.trained_on
                else {}
            ),
            "recipe": pipeline.solution.recipe,
            "metrics": dict(model.metrics),
            "popularity_metrics": dict(model.popularity_metrics),
            **({"engine": model.engine} if model.engine else {}),
            "evidence": dict(model.evidence),
            "source": declaration.source,
            "settings": dict(declaration.settings),
            "checks": [check.to_json() for check in checks],
            "measured_on": declaration.measured_on,
            "made_by": self.made_by,
        }


def republish(work: Work, to: str, run: str, runs: RunHistory, log: logging.Logger) -> Edition:
    """Publish the lists of an older edition again; see `Rollbacks.roll_back`.

    Raises StorageError and StepError.
    """
    edition = Rollbacks(work.files).roll_back(to, run, runs)
    work.files.table.put_back(edition, work.pipeline.publication.history)
    log.info(f"published again: {summarize_edition(edition)}")
    return edition


# Names of checks in editions that batchrec 0.1 published.
OLD_CHECKS = {
    "every_user_has_a_line": "every_user_answered",
    "no_line_failed": "no_failed_users",
    "none_seen": "no_seen_items",
}


def read_checks(edition: Edition, names: Sequence[str]) -> list[CheckResult]:
    """The results that are stored with an edition, for checks of these names.

    A check that was not made for the edition counts as passed, and says so.
    """
    stored_checks = {}
    for values in edition.about.get("checks", []):
        check = CheckResult.from_json(values)
        name = OLD_CHECKS.get(check.name, check.name)
        stored_checks[name] = replace(check, name=name)
    finding = "not checked when these lists were published"
    return [
        stored_checks.get(name, CheckResult(name, passed=True, finding=finding)) for name in names
    ]
