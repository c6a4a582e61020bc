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
    """A trained model: its solution version, its data and its metrics."""

    solution_version_arn: str
    dataset_group_arn: str
    dataset_group_name: str
    data_version: str
    """The version of the imported data, with which it makes lists."""
    trained_on: str | None = None
    """The first digits of the version of the data that it was trained on."""
    trained_at: str | None = None
    """When its training started, in ISO 8601 and UTC."""
    trained_with: str | None = None
    """A fingerprint of the settings that select the interactions."""
    training_hours: float | None = None
    """The hours that AWS bills for the training."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Its metrics, by Personalize's names."""
    popularity_metrics: Mapping[str, float] = field(default_factory=dict)
    """The metrics of recommending the most popular items, where they were measured."""
    popularity_version_arn: str | None = None
    """The solution version that has these metrics."""
    engine: str | None = None
    """What trained it, in words."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """How sure the metrics are, as personalize/evidence.py describes it, where that is known."""

    @property
    def on_earlier_data(self) -> bool:
        """Whether it was trained on earlier data than the imported ones."""
        return not self.data_version.startswith(self.trained_on or "")


def read_model(files: PipelineFiles, asset: str) -> ModelRecord | None:
    """The record that the last run of the asset wrote; None where there is none."""
    values = files.record(asset)
    return ModelRecord.from_json(values) if values else None
