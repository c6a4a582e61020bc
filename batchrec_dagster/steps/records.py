"""The records that the steps in Personalize hand over, kept as JSON under records/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from batchrec_dagster.storage.paths import PipelineFiles


class Record:
    """A frozen dataclass as a JSON object, whose keys are the fields that are not None."""

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """From what any version wrote: keys that are not known any more are ignored."""
        known = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in values.items() if key in known})


@dataclass(frozen=True)
class DatasetRecord(Record):
    """What personalize_dataset imported: ARNs, and the version of the data."""

    dataset_group_arn: str
    dataset_group_name: str
    data_version: str
    dataset_arn: str | None = None
    dataset_import_job_arn: str | None = None
    items_dataset_arn: str | None = None
    items_dataset_import_job_arn: str | None = None


@dataclass(frozen=True)
class ModelRecord(Record):
    """A solution version: its ARN, the imported data, the data it was trained on, its metrics.

    trained_at: ISO 8601, UTC. trained_with: fingerprint of the settings of the interactions.
    training_hours: as AWS bills them. popularity_metrics: of the most popular items; may be empty.
    popularity_version_arn: the solution version that has these metrics.
    engine: what trained it, in words. evidence: of personalize/evidence.py; may be empty.
    """

    solution_version_arn: str
    dataset_group_arn: str
    dataset_group_name: str
    data_version: str
    trained_on: str | None = None
    trained_at: str | None = None
    trained_with: str | None = None
    training_hours: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    popularity_metrics: Mapping[str, float] = field(default_factory=dict)
    popularity_version_arn: str | None = None
    engine: str | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)

    @property
    def on_earlier_data(self) -> bool:
        """Whether it was trained on earlier data than the imported ones."""
        return not self.data_version.startswith(self.trained_on or "")


def read_model(files: PipelineFiles, asset: str) -> ModelRecord | None:
    """The record that the last run of the asset wrote; None where there is none."""
    values = files.record(asset)
    return ModelRecord.from_json(values) if values else None
