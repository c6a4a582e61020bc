"""Publishing lists: the quality gate before it, and the metadata that is stored in the table."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.steps.checks import Checked, quality_gate
from batchrec_dagster.steps.items import titles_versions
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.rollback import (
    edition_summary,
    publish_again,
    published_table,
    roll_back,
    still_published,
    was_rolled_back,
)
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster.storage.resource import StorageResource, storage_errors


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
