"""The records of the steps in Personalize: of the imported data and of the trained models."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel

from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.steps.work import StepRecord
from batchrec_dagster.storage.estimate import Estimate
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.measured_ndcg import GroupSums, MeasuredPopularity
from batchrec_dagster.storage.records import load


class PaidRecord(StepRecord, frozen=True):
    """The record of a step that costs money on AWS."""

    root_run: str = ""
    """The id of the first of the run and its retries that wrote this record."""
    cost_usd: float = 0.0
    """What that run has paid for the step on AWS."""


class ImportedFile(BaseModel, frozen=True):
    """A dataset, and the job that imported its file."""

    dataset_arn: str
    import_job_arn: str


class DatasetRecord(PaidRecord, frozen=True):
    """What personalize_dataset imported, which was made of the files of these versions."""

    dataset_group_arn: str
    dataset_group_name: str
    imports: dict[str, ImportedFile]
    """By the asset that prepared the file."""
    estimated_usd: float = 0.0
    """What that run costs at most on AWS, as it was estimated before the import."""


class ModelRecord(PaidRecord, frozen=True):
    """A trained model: its solution version, its data and its metrics.

    It is made of the data that it was trained on (`data`), the settings that select the
    interactions (`interactions`), and what popular items are measured with (`popularity`).
    """

    solution_version_arn: str
    dataset_group_arn: str = ""
    dataset_group_name: str = ""
    data_version: str
    """The version of the imported data, which is used to make lists."""
    trained_at: datetime | None = None
    """When its training started."""
    training_hours: float | None = None
    """The hours that AWS bills for the training."""
    metrics: Mapping[str, float] = {}
    """Its metrics, by Personalize's names."""
    engine: str | None = None
    """What trained it, as people read it."""
    groups: GroupSums | None = None
    """NDCG@25 by groups of tested users; None if Amazon Personalize measured it."""
    measured_popularity: MeasuredPopularity | None = None
    """What recommending popular items reaches; None if it was not measured."""
    success: tuple[str, ...] = ()
    """The types of events that the metrics count alone; empty if they count all."""

    @property
    def ndcg(self) -> Estimate | None:
        """Its NDCG@25, with an interval if there are groups; None if it is not known."""
        ndcg = self.metrics.get(NDCG)
        if ndcg is None:
            return None
        if self.groups is None:
            return Estimate(value=ndcg)
        mean = self.groups.mean
        # The sums are not rounded as Personalize rounds a metric.
        return None if mean is None else mean.model_copy(update={"value": ndcg})

    @property
    def trained_on(self) -> str | None:
        """The first digits of the version of the data that it was trained on."""
        return self.made_of.get("data")

    @property
    def on_earlier_data(self) -> bool:
        """Whether it was trained on data from before the last import."""
        return not self.data_version.startswith(self.trained_on or "")


def read_dataset(files: PipelineFiles) -> DatasetRecord | None:
    """The record of the last import; None if there is none. Raises UserError."""
    return load(files.storage.store, files.record_uri("personalize_dataset"), DatasetRecord)


def read_model(files: PipelineFiles, asset: str) -> ModelRecord | None:
    """The record that the last run of the asset wrote; None if there is none. Raises UserError."""
    return load(files.storage.store, files.record_uri(asset), ModelRecord)
