"""Publishing lists: the quality gate before it, the metadata that is stored in the table, rollback.

A record remembers what made the lists that were rolled back, so that the next refresh, with the
same data and settings, does not publish them again.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.evidence import NDCG
from batchrec_dagster.steps.checks import Checked, quality_gate
from batchrec_dagster.steps.items import titles_versions
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.paths import Places, read_record, write_record
from batchrec_dagster.storage.published_table import Edition, PublishedTable
from batchrec_dagster.storage.resource import StorageResource, storage_errors

PREVIOUS = "previous"


def run_config(recommendations: dg.AssetKey, to: str) -> dict[str, Any]:
    """The run config of the rollback job. to: an edition's number, or PREVIOUS."""
    return {"ops": {recommendations.to_python_identifier(): {"config": {"roll_back_to": to}}}}


def published_table(storage: StorageResource, places: Places) -> PublishedTable:
    """The pipeline's table of recommendations."""
    return PublishedTable(storage.store, storage.uri(places.recommendations))


def edition_summary(edition: Edition) -> str:
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


def was_rolled_back(storage: StorageResource, places: Places, made_by: Sequence[str]) -> bool:
    """Whether lists made by one of these were rolled back."""
    return not {*rolled_back_keys(storage, places)}.isdisjoint(made_by)


def publish_again(storage: StorageResource, places: Places, made_by: Sequence[str]) -> None:
    """Allow lists made by one of these to be published again."""
    before = rolled_back_keys(storage, places)
    after = [key for key in before if key not in made_by]
    if after != before:
        record = {**read_record(storage, _key(places)), "rolled_back": after}
        write_record(storage, _key(places), record)


def still_published(storage: StorageResource, places: Places, current: Edition | None) -> bool:
    """Whether lists that were rolled back are published: the rollback was killed before its end."""
    return current is not None and was_rolled_back(
        storage, places, current.about.get("made_by", [])
    )


def unfinished(storage: StorageResource, places: Places, instance: dg.DagsterInstance) -> int:
    """The edition that the last rollback chose, if the instance knows its run and neither that nor
    a retry succeeded; else 0."""
    record = read_record(storage, _key(places))
    if not instance.has_run(run := record.get("run", "")):
        return 0
    _, runs = instance.get_run_group(run) or ("", [])
    done = any(one.status == dg.DagsterRunStatus.SUCCESS for one in runs)
    return 0 if done else int(record["edition"])


def roll_back(
    storage: StorageResource, places: Places, to: str, run: str, instance: dg.DagsterInstance
) -> Edition:
    """Choose the edition to publish again, and record the one that it replaces as rolled back.

    to: an edition's number, or PREVIOUS. run: the id of the first of a run and its retries, which
    all choose the same edition. Raises dg.Failure, StorageError.
    """
    table, record = published_table(storage, places), read_record(storage, _key(places))
    current, rolled_back = table.current(), rolled_back_keys(storage, places)
    again = [*record.get("published_again", [])]
    if (record.get("run"), record.get("to")) == (run, to):
        edition = chosen(table, str(record["edition"]))
    else:
        edition = chosen(table, to, rolled_back, unfinished(storage, places, instance))
        again.append([edition.number, datetime.now(UTC).isoformat(timespec="seconds")])
    made_by = edition.about.get("made_by", [])
    rolled_back = [key for key in rolled_back if key not in made_by]
    if current is not None and current != edition:
        # The model and its settings if they differ, else the users and titles.
        differ = [key for key in current.about.get("made_by", []) if key not in made_by]
        rolled_back += [key for key in differ[:1] if key not in rolled_back]
    remembered = {"rolled_back": rolled_back, "run": run, "to": to, "edition": edition.number}
    write_record(storage, _key(places), {**remembered, "published_again": again})
    return edition


def rollback_times(storage: StorageResource, places: Places) -> list[tuple[int, datetime]]:
    """The number of each edition that a rollback published again, and when, oldest first."""
    again = read_record(storage, _key(places)).get("published_again", [])
    return [(number, datetime.fromisoformat(at)) for number, at in again]


def chosen(
    table: PublishedTable, to: str, rolled_back: Sequence[str] = (), unfinished: int = 0
) -> Edition:
    """The edition of this number; for PREVIOUS the published one if its rollback is `unfinished`,
    else the newest one before it that was not rolled back itself. Raises dg.Failure."""
    current, older = table.current(), table.older()
    if to == PREVIOUS:
        if current is not None and current.number == unfinished:
            return current
        before = [
            edition
            for edition in older
            if (current is None or _is_before(edition, current))
            and {*rolled_back}.isdisjoint(edition.about.get("made_by", []))
        ]
        if before:
            return before[0]
        missing = "there is no earlier edition"
    else:
        there = [edition for edition in [current, *older] if edition is not None]
        for edition in there:
            if str(edition.number) == to:
                return edition
        missing = f"there is no edition {to!r}"
    listed = "; ".join(edition_summary(edition) for edition in older) or "nothing"
    raise dg.Failure(f"{missing} to roll back to. Kept: {listed}", allow_retries=False)


def _is_before(edition: Edition, current: Edition) -> bool:
    """The same lists, published twice, do not count."""
    return edition.number < current.number and edition.version != current.version


def _key(places: Places) -> str:
    return places.record("rollback")


def rolled_back_keys(storage: StorageResource, places: Places) -> list[str]:
    """The keys of what made the lists that were rolled back."""
    return list(read_record(storage, _key(places)).get("rolled_back", []))


@dataclass(frozen=True)
class Publishing:
    """Publishes lists that the model makes for the users. users_version: of the users' file; None
    before there is one, when only the gate can be asked."""

    pipeline: Pipeline
    storage: StorageResource
    model: ModelRecord
    users_version: str | None = None

    @property
    def made_by(self) -> list[str]:
        """Keys of what makes the lists: model and settings; these with data, users and titles."""
        # As without experiments, where there is none.
        experiment = [self.pipeline.experiment] if self.pipeline.experiment else []
        arn = self.model.solution_version_arn
        model = fingerprint(arn, self.pipeline.recommendations, *experiment)
        if self.users_version is None:
            return [model]
        titles = titles_versions(self.pipeline, self.storage)
        inputs = (self.model.data_version, self.users_version, *titles)
        return [model, fingerprint(model, *inputs)]

    @property
    def measured_on(self) -> str:
        """A fingerprint of the settings that select the interactions."""
        return fingerprint(self.pipeline.interactions)

    def gate(self, *, skip: bool) -> Checked:
        """Whether the lists may be published. Raises dg.Failure."""
        name, places = self.pipeline.name, self.pipeline.places
        op = self.pipeline.op_name("recommendations")
        with storage_errors():
            current = published_table(self.storage, places).current()
            if skip:
                publish_again(self.storage, places, self.made_by)
            rolled_back = was_rolled_back(self.storage, places, self.made_by)
            unfinished = still_published(self.storage, places, current)
        return quality_gate(
            self.pipeline.gate,
            self.model,
            current.about if current else None,
            self.measured_on,
            how_to_skip=f"run {name}_refresh with ops: {{{op}: {{config:"
            " {skip_quality_gate: true}}}",
            skip_quality_gate=skip,
            rolled_back=rolled_back,
            unfinished_rollback=unfinished,
        )

    def about(
        self, version: str, run: str, checks: Sequence[Checked], facts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The metadata to store in the table; facts: more of it. Raises dg.Failure."""
        with storage_errors():
            number = published_table(self.storage, self.pipeline.places).next_number()
        return {
            "pipeline": self.pipeline.name,
            "key_prefix": self.pipeline.key_prefix,
            "edition": number,
            "version": version,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": run,
            **facts,
            "data_version": self.model.data_version,
            "solution_version_arn": self.model.solution_version_arn,
            **(
                {"trained_on": self.model.trained_on, "trained_at": self.model.trained_at}
                if self.model.trained_on
                else {}
            ),
            "recipe": self.pipeline.solution.recipe,
            "metrics": dict(self.model.metrics),
            "popularity_metrics": dict(self.model.popularity_metrics),
            **({"engine": self.model.engine} if self.model.engine else {}),
            "evidence": dict(self.model.evidence),
            "source": self.pipeline.ratings.shown_source,
            "settings": self.pipeline.making_lists,
            "checks": [asdict(check) for check in checks],
            "measured_on": self.measured_on,
            "made_by": self.made_by,
        }

    def publish(self, file: Path) -> Edition:
        """Publish a file written by `TableWriter`. Raises dg.Failure."""
        with storage_errors():
            table = published_table(self.storage, self.pipeline.places)
            return table.publish(file, self.pipeline.publication.history)


def republish(
    pipeline: Pipeline,
    storage: StorageResource,
    to: str,
    run: str,
    instance: dg.DagsterInstance,
    log: logging.Logger,
) -> Edition:
    """Publish the lists of an older edition again; see `roll_back`. Raises dg.Failure."""
    with storage_errors():
        edition = roll_back(storage, pipeline.places, to, run, instance)
        table = published_table(storage, pipeline.places)
        table.put_back(edition, pipeline.publication.history)
        log.info(f"published again: {edition_summary(edition)}")
    return edition


# Names of checks in editions that batchrec 0.1 published.
OLD_CHECKS = {
    "every_user_has_a_line": "every_user_answered",
    "no_line_failed": "no_failed_users",
    "none_seen": "no_seen_items",
}


def checks_of(edition: Edition, names: Sequence[str]) -> list[Checked]:
    """The verdicts that an edition carries, for checks of these names."""
    there = [Checked(**check) for check in edition.about.get("checks", [])]
    found = {
        name: replace(check, name=name)
        for check in there
        for name in [OLD_CHECKS.get(check.name, check.name)]
    }
    unknown = "not checked when these lists were published"
    return [found.get(name, Checked(name, passed=True, found=unknown)) for name in names]
