"""What the lists go through on their way to readers: the gate, and what they say of themselves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.steps.checks import Checked
from batchrec_dagster.steps.items import titles_versions
from batchrec_dagster.steps.quality_gate import quality_gate
from batchrec_dagster.steps.rollback import (
    edition_summary,
    publish_again,
    published_table,
    roll_back,
    was_rolled_back,
)
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster.storage.resource import StorageResource


class PublicationConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    skip_quality_gate: bool = Field(
        default=False, description="Publish even if the quality gate fails."
    )
    roll_back_to: str = Field(
        default="",
        description="Publish older lists again instead of new ones: an edition's number, or"
        " previous.",
    )


# What the record of solution_version says of the training.
TRAINED = ("trained_on", "trained_at")


def lists_key(pipeline: Pipeline, solution_version_arn: str) -> str:
    """What lists of a model, by the current settings, are remembered by when rolled back."""
    return fingerprint(solution_version_arn, pipeline.recommendations)


@dataclass(frozen=True)
class Publishing:
    """Lists that are about to be made. trained: the record of solution_version; users_version: of
    the file of users."""

    pipeline: Pipeline
    storage: StorageResource
    trained: Mapping[str, Any]
    users_version: str

    @property
    def made_by(self) -> list[str]:
        """What the lists are made from: the model and its request; these, data, users, titles."""
        model = lists_key(self.pipeline, self.trained["solution_version_arn"])
        titles = titles_versions(self.pipeline, self.storage)
        inputs = (self.trained["data_version"], self.users_version, *titles)
        return [model, fingerprint(model, *inputs)]

    @property
    def measured_on(self) -> str:
        """Which interactions the model was measured on, by the settings that choose them."""
        return fingerprint(self.pipeline.interactions)

    def gate(self, config: PublicationConfig) -> Checked:
        """Whether they may be published. Raises dg.Failure."""
        name, places = self.pipeline.name, self.pipeline.places
        with storage_errors():
            current = published_table(self.storage, places).current()
            if config.skip_quality_gate:
                publish_again(self.storage, places, self.made_by)
            rolled_back = was_rolled_back(self.storage, places, self.made_by)
        return quality_gate(
            self.pipeline.gate,
            self.trained,
            current.about if current else None,
            self.measured_on,
            how_to_skip=f"run {name}_refresh with ops: {{{name}__recommendations: {{config:"
            " {skip_quality_gate: true}}}",
            skip_quality_gate=config.skip_quality_gate,
            rolled_back=rolled_back,
        )

    def about(
        self, version: str, run: str, checks: Sequence[Checked], counts: Mapping[str, Any]
    ) -> dict[str, Any]:
        """What the lists say of themselves. Raises dg.Failure."""
        with storage_errors():
            number = published_table(self.storage, self.pipeline.places).next_number()
        return {
            "pipeline": self.pipeline.name,
            "edition": number,
            "version": version,
            "made_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "run_id": run,
            **counts,
            "data_version": self.trained["data_version"],
            "solution_version_arn": self.trained["solution_version_arn"],
            **{key: self.trained[key] for key in TRAINED if key in self.trained},
            "recipe": self.pipeline.solution.recipe,
            "metrics": self.trained["metrics"],
            "popularity_metrics": self.trained["popularity_metrics"],
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
    pipeline: Pipeline, storage: StorageResource, to: str, run: str, log: logging.Logger
) -> Edition:
    """Publish the lists of an older edition again; see `roll_back`. Raises dg.Failure."""
    with storage_errors():
        edition = roll_back(storage, pipeline.places, to, run)
        log.info(f"publishing again: {edition_summary(edition)}")
        table = published_table(storage, pipeline.places)
        table.put_back(edition, pipeline.publication.history)
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


@contextmanager
def storage_errors() -> Iterator[None]:
    """What the storage says no to ends the step, with its words."""
    try:
        yield
    except StorageError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
