"""The records of the steps in Personalize, stored as JSON files in the folder records/.

A step reads the records of the steps before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from batchrec_dagster.storage.layout import PipelineFiles


class Record:
    """The base of frozen dataclasses that are stored as JSON objects."""

    def to_json(self) -> dict[str, Any]:
        """The fields that are not None, by their names."""
        return {key: value for key, value in vars(self).items() if value is not None}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """The record with these values. Keys that are not fields are ignored."""
        names = {field.name for field in fields(cls)}  # type: ignore[arg-type]
        return cls(**{key: value for key, value in values.items() if key in names})


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
    users_dataset_arn: str | None = None
    users_dataset_import_job_arn: str | None = None
    root_run: str | None = None
    """The id of the first of the run and its retries that wrote this record."""
    cost_usd: float | None = None
    """What that run has paid for the imports on AWS."""


@dataclass(frozen=True)
class ModelRecord(Record):
    """A trained model: its solution version, its data and its metrics."""

    solution_version_arn: str
    dataset_group_arn: str
    dataset_group_name: str
    data_version: str
    """The version of the imported data, which is used to make lists."""
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
    engine: str | None = None
    """What trained it, as people read it."""
    evidence: Mapping[str, float] = field(default_factory=dict)
    """How certain the metrics are, as personalize/evidence.py describes; empty if not known."""
    recent_popularity: Mapping[str, Any] = field(default_factory=dict)
    """What recommending popular items reaches, as `MeasuredPopularity` writes it; empty if
    it was not measured."""
    popularity_measured_with: str | None = None
    """A fingerprint of the settings that it was measured with."""
    success: Sequence[str] = ()
    """The types of events that the metrics count alone; empty if they count all."""
    root_run: str | None = None
    """The id of the first of the run and its retries that wrote this record."""
    cost_usd: float | None = None
    """What that run has paid for the training on AWS."""

    @property
    def on_earlier_data(self) -> bool:
        """Whether it was trained on data from before the last import."""
        return not self.data_version.startswith(self.trained_on or "")


def read_model(files: PipelineFiles, asset: str) -> ModelRecord | None:
    """The record that the last run of the asset wrote; None if there is none."""
    values = files.record(asset, ModelRecord)
    return ModelRecord.from_json(values) if values else None
