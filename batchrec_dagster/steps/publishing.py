"""Publishing lists: the quality gate before it, the metadata that is stored in the table, rollback.

A rollback records what the lists that it replaced were made from, and what is in them. So the next
refresh, which has the same data and settings, does not publish these lists again, not even if
another model makes them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.errors import UserError
from batchrec_dagster.outcomes.edition_facts import complete_facts
from batchrec_dagster.personalize.evidence import NDCG, name_ndcg
from batchrec_dagster.steps.absent_users import AbsentUsers, find_absent_users
from batchrec_dagster.steps.checks import (
    ModelToPublish,
    check_quality_gate,
)
from batchrec_dagster.steps.data_sizes import collect_sizes
from batchrec_dagster.steps.items import read_item_columns_versions
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.runs import RunFacts, RunHistory, explain_skipping, measure_seconds
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.editions import Edition, Finding, PublishedTable
from batchrec_dagster.storage.layout import ListFiles
from batchrec_dagster.storage.publications import (
    PublicationRecord,
    Publications,
    Rollback,
    WithdrawnLists,
    describe_withdrawn_source,
    fingerprint_edition,
    fingerprint_source,
)
from batchrec_dagster.storage.table_without_users import drop_users, open_reduced_table

PREVIOUS = "previous"


def build_rollback_config(op: str, to: str) -> dict[str, Any]:
    """The run config of the rollback job.

    op: the name of the op of the asset `recommendations`.
    to: an edition's number, or PREVIOUS.
    """
    return {"ops": {op: {"config": {"roll_back_to": to}}}}


def summarize_edition(edition: Edition) -> str:
    """An edition in one line: its time, NDCG@25 and number of users."""
    facts = [f"edition {edition.number}", f"made {edition.made_at:%Y-%m-%d %H:%M} UTC"]
    if NDCG in edition.metrics:
        facts.append(f"{name_ndcg(edition.success)} {edition.metrics[NDCG]:.4f}")
    if edition.users is not None:
        facts.append(f"{edition.users:,} users")
    return ", ".join(facts)


@dataclass(frozen=True)
class Restoration:
    """An edition that is published again."""

    edition: Edition
    """The edition as it is in the history."""
    absent: AbsentUsers
    """Its users who are not among the current users."""


@dataclass(frozen=True)
class Rollbacks:
    """The rollbacks of a pipeline's lists, in the record of its publications.

    Its methods raise UserError.
    """

    files: ListFiles

    @property
    def publications(self) -> Publications:
        return Publications(self.files)

    def read_unfinished_edition(self, runs: RunHistory) -> int:
        """The number of the edition that the last rollback chose, if it is not finished; else 0.

        It is not finished if its run is known, and neither that nor a retry of it succeeded.
        """
        rollback = self.publications.read().rollback
        is_unfinished = rollback is not None and runs.is_unfinished(rollback.run)
        return rollback.edition if rollback is not None and is_unfinished else 0

    def roll_back(self, to: str, run: str, runs: RunHistory, users_key: str) -> Restoration:
        """Choose the edition to publish again, and record the one that it replaces as rolled back.

        Returns the edition with its users who are absent now.

        to: an edition's number, or PREVIOUS.
        run: the id of the first of a run and its retries, which all choose the same edition.
        users_key: the storage key of the current users.
        Raises UserError, and DamagedObjectError if the chosen edition's file is damaged.
        """
        table, record = self.files.table, self.publications.read()
        current, rollback = table.current(), record.rollback
        if rollback is not None and (rollback.run, rollback.to) == (run, to):
            edition = choose_edition(table, str(rollback.edition))
        else:
            unfinished = self.read_unfinished_edition(runs)
            edition = choose_edition(table, to, record, unfinished)
        # Before the record says that the published lists were rolled back: it raises if the edition
        # is damaged.
        absent = find_absent_users(self.files, users_key, table.read_edition(edition))
        source = fingerprint_edition(edition)
        withdrawn = [
            # What the edition itself is made from may be published again.
            replace(lists, source=None) if lists.source == source else lists
            for lists in record.withdrawn
            if not lists.is_of(edition)
        ]
        if current is not None and not current.is_copy_of(edition):
            new = _describe_withdrawn(current, edition)
            if new not in withdrawn:
                withdrawn.append(new)
        self.publications.write(
            replace(
                record,
                withdrawn=tuple(withdrawn),
                rollback=Rollback(run, to, edition.number, datetime.now(UTC)),
            )
        )
        return Restoration(edition, absent)


def _describe_withdrawn(current: Edition, edition: Edition) -> WithdrawnLists:
    """The published lists, by what tells them from those of the edition that replaces them."""
    # Only the first key that differs: that of the model and the settings if they differ, or else
    # that of the data, users and titles.
    new_keys = [key for key in current.made_by if key not in edition.made_by]
    key = new_keys[0] if new_keys else None
    source = describe_withdrawn_source(key, current, edition)
    return WithdrawnLists(current.number, current.version, key, source)


def choose_edition(
    table: PublishedTable, to: str, record: PublicationRecord | None = None, unfinished: int = 0
) -> Edition:
    """The edition to publish again.

    to: an edition's number, or PREVIOUS. PREVIOUS is the newest edition before the published one
        that was not rolled back itself.
    record: says which lists were rolled back; None if that does not matter.
    unfinished: the number of the edition that a killed rollback chose, or 0. If it is published,
        PREVIOUS is that edition.

    Raises UserError if there is no such edition.
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
                or (edition.number < current.number and not _has_same_lists(edition, current))
            )
            and not (record is not None and record.is_withdrawn(edition))
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
    raise UserError(f"{missing} to roll back to. Kept: {editions_kept}")


def _has_same_lists(edition: Edition, other: Edition) -> bool:
    """Whether both have the same lists, perhaps with metrics that count other events."""
    if edition.version == other.version:
        return True
    return edition.success != other.success and edition.made_by == other.made_by


@dataclass(frozen=True)
class Publishing:
    """Decides whether the lists that a model makes may be published, and describes them."""

    work: Work
    published: PublishedList
    model: ModelRecord
    users_version: str | None = None
    """The version of the users' file; None before there is one. Then only `gate` can be called."""
    rule_versions: Sequence[str] = ()
    """The versions of what the rules of lists read; empty without rules."""

    @property
    def files(self) -> ListFiles:
        """The files of the list."""
        return self.work.files_of(self.published)

    @cached_property
    def published_edition(self) -> Edition | None:
        """The edition that was published when this was first read; None if there was none."""
        return self.files.table.current()

    @cached_property
    def item_versions(self) -> list[str]:
        """A list of the version of what lists have of the items, by default the titles; empty if
        they have nothing of them.

        It is read before the items are: if they change in between, the next run publishes again.
        """
        return read_item_columns_versions(self.work, self.published)

    @cached_property
    def made_by(self) -> list[str]:
        """Two keys of the lists, by which lists made in the same way are found again.

        The first is a fingerprint of the model and the settings. The second is a fingerprint of
        these with the data, the users and the items; it is missing if there is no users' file yet.
        """
        published = self.published
        experiment = [published.experiment] if published.experiment else []
        arn = self.model.solution_version_arn
        own = [*experiment, *published.pipeline.popularity_settings]
        model = fingerprint(arn, published.settings, *own)
        if self.users_version is None:
            return [model]
        tables = (*self.item_versions, *self.rule_versions)
        inputs = (self.model.data_version, self.users_version, *tables)
        return [model, fingerprint(model, *inputs)]

    def gate(self, *, skip: bool) -> Finding:
        """Whether the lists may be published. Raises UserError.

        skip: whether this run publishes anyway. Then lists that were rolled back may be published
            by later runs too.
        """
        publications = Publications(self.files)
        record, current = publications.read(), self.published_edition
        withdrawn = record.find_withdrawn(keys=self.made_by, source=self._source)
        if skip and withdrawn:
            publications.write(record.allow(withdrawn))
        candidate = ModelToPublish(
            self.model,
            self.measured_on,
            current,
            self.work.pipeline.solution.success,
            rolled_back=_explain_withdrawal(withdrawn, self.made_by),
            unfinished_rollback=current is not None and record.is_withdrawn(current),
        )
        return check_quality_gate(
            self.published.gate,
            candidate,
            how_to_skip=explain_skipping(self.work.pipeline),
            skip_quality_gate=skip,
        )

    @property
    def measured_on(self) -> str:
        """A fingerprint of the interactions that the model's metrics count.

        Metrics are compared if it is the same.
        """
        events = sorted(name.lower() for name in self.model.success)
        return fingerprint(self.work.pipeline.interactions, events)

    @property
    def _source(self) -> str:
        """A fingerprint of the data and the settings that the lists are made from."""
        model = self.model
        return fingerprint_source(
            model.data_version, model.trained_on or None, self.published.deciding_settings
        )

    def publish(self, file: Path) -> Edition:
        """Publish the lists. Raises UserError.

        file: as `TableWriter` wrote it.
        """
        publications, table = Publications(self.files), self.files.table
        # Before editions are deleted.
        publications.write(remember_facts(publications.read(), self.files))
        edition = table.publish(file, self.published.retention.editions)
        publications.settle(partial(remember_facts, files=self.files))
        return edition

    def describe(
        self,
        version: str,
        run: RunFacts,
        findings: Sequence[Finding],
        **facts: Any,
    ) -> Edition:
        """What is known of the edition that is about to be published. Raises StorageError.

        version: the version of the lists.
        facts: those of the lists themselves, such as `counts`, and `cost_usd`.
        Raises UserError.
        """
        work, published, model = self.work, self.published, self.model
        return Edition(
            address=published.address,
            subject=published.subject,
            number=self.files.table.next_number(),
            version=version,
            made_at=datetime.now(UTC).replace(microsecond=0),
            run=run.run,
            root_run=run.root_run,
            seconds=measure_seconds(run.start),
            findings=tuple(findings),
            made_by=tuple(self.made_by),
            settings=published.deciding_settings,
            source=work.pipeline.ratings.shown_source,
            sizes=collect_sizes(work),
            data_version=model.data_version,
            solution_version_arn=model.solution_version_arn,
            recipe=work.pipeline.solution.recipe,
            engine=model.engine,
            trained_on=model.trained_on,
            trained_at=model.trained_at,
            measured_on=self.measured_on,
            success=tuple(model.success),
            metrics=dict(model.metrics),
            evidence=dict(model.evidence),
            recent_popularity=dict(model.recent_popularity),
            **facts,
        )


def _explain_withdrawal(withdrawn: Sequence[WithdrawnLists], made_by: Sequence[str]) -> str | None:
    """Why lists with these keys count as rolled back; None if no such lists were."""
    if not withdrawn:
        return None
    if any(lists.key in made_by for lists in withdrawn):
        return "its lists were rolled back"
    return f"edition {withdrawn[0].edition}, of the same data and settings, was rolled back"


def remember_facts(record: PublicationRecord, files: ListFiles) -> PublicationRecord:
    """The record with the numbers of all editions that are kept. Raises UserError."""
    return complete_facts(record, files.table.all_editions)


def republish(
    work: Work,
    published: PublishedList,
    to: str,
    run: str,
    runs: RunHistory,
    log: logging.Logger,
) -> Restoration:
    """Publish the lists of an older edition again, without the users who are absent now.

    See `Rollbacks.roll_back`. The history keeps the whole edition. Raises UserError and
    UserError.
    """
    files = work.files_of(published)
    restoration = Rollbacks(files).roll_back(to, run, runs, published.users_key)
    publications = Publications(files)
    # Before editions are deleted.
    publications.write(remember_facts(publications.read(), files))
    put_back(files.table, published.retention.editions, restoration)
    publications.settle(partial(remember_facts, files=files))
    log.info(f"published again: {summarize_edition(restoration.edition)}")
    if restoration.absent.description:
        log.warning(restoration.absent.description)
    return restoration


def put_back(table: PublishedTable, keep: int, restoration: Restoration) -> None:
    """Publish the edition without the absent users. Raises UserError.

    keep: how many older editions are kept.
    """
    edition, absent = restoration.edition, restoration.absent
    current = table.current()
    if current is not None and current.is_copy_of(edition):
        # A killed rollback has published it, perhaps before the current users were known.
        drop_users(table, current, absent.to_drop)
        return
    with open_reduced_table(table, edition, absent.to_drop) as reduced:
        table.put_back(edition, keep, reduced.path if reduced else None)


def repeat_checks(edition: Edition, gate: Finding) -> list[Finding]:
    """The checks that an unchanged edition passed, with the day, except the gate.

    gate: the check that was made again, by a gate that may have changed.
    """
    note = f"as checked {edition.made_at:%Y-%m-%d}, when edition {edition.number} was published"
    return [
        replace(check, text=f"{check.text}; {note}")
        for check in edition.findings
        if check.name != gate.name
    ]


def read_checks(edition: Edition, names: Sequence[str]) -> list[Finding]:
    """The results that are stored with an edition, for checks of these names.

    A check that was not made for the edition counts as passed, and says so.
    """
    stored_checks = {check.name: check for check in edition.findings}
    finding = "not checked when these lists were published"
    return [stored_checks.get(name, Finding(name, passed=True, text=finding)) for name in names]
