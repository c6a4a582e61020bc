"""The records that steps store for later runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, Self, TypeVar

from pydantic import BaseModel

from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.personalize.estimate import Estimate
from batchrec_dagster.personalize.measured_ndcg import GroupSums, MeasuredPopularity
from batchrec_dagster.personalize.measurements import NDCG
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.storage.layout import PipelineFiles
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.records import Record, load, save


class StepRecord(Record, frozen=True):
    """The record of a step, with the findings of its checks."""

    findings: tuple[Finding, ...] = ()

    def is_stored(self, store: ObjectStore) -> bool:
        """Return whether the step's output is still in the storage, unchanged. Raises UserError.

        Here the result is always True. PreparedRecord, the record of a file, checks the file.
        """
        return True


R = TypeVar("R", bound=StepRecord)


@dataclass(frozen=True)
class Result(Generic[R]):
    """The result of a step, made in this run or in an earlier one."""

    record: R
    is_unchanged: bool
    """Whether an earlier run made the result."""
    findings: tuple[Finding, ...]
    """The findings of the record, and of checks that depend on more than the step's inputs."""

    def with_check(self, check: Finding) -> Self:
        """Return a copy with one more finding. Raises Refused if the finding blocks."""
        findings = (*self.findings, check)
        require_passed(findings)
        return replace(self, findings=findings)


def once(
    step: StepContext, uri: str, model: type[R], made_of: Mapping[str, str], make: Callable[[], R]
) -> Result[R]:
    """Run `make` and store its record, or return the stored record if the inputs are unchanged.

    `make` also runs if the step's output is no longer in the storage.

    uri: the URI of the record.
    model: the class of the record.
    made_of: the versions of each input, of the settings and of the code, by name.
    make: the function that does the work and returns its record.

    Raises UserError, and Refused if a finding of the new record blocks.
    """
    store = step.storage.store
    last = load(store, uri, model)
    if last is not None and last.made_of == made_of and last.is_stored(store):
        return Result(last, is_unchanged=True, findings=last.findings)
    record = make()
    require_passed(record.findings)
    save(store, uri, record)
    return Result(record, is_unchanged=False, findings=record.findings)


class PaidRecord(StepRecord, frozen=True):
    """The record of a step that costs money on AWS."""

    root_run: str = ""
    """The id of the run that wrote this record; for a retry, the id of the first attempt."""
    cost_usd: float = 0.0
    """The sum in USD that all attempts of this run paid for the step on AWS."""


class ImportedFile(BaseModel, frozen=True):
    """A dataset in Personalize, and the import job that filled it from a file."""

    dataset_arn: str
    import_job_arn: str


class DatasetRecord(PaidRecord, frozen=True):
    """The record of the data that the asset personalize_dataset imported.

    `made_of` has the versions of the imported files.
    """

    dataset_group_arn: str
    dataset_group_name: str
    imports: dict[str, ImportedFile]
    """The imported files, by the asset that prepared each file."""
    estimated_usd: float = 0.0
    """The highest cost of the run on AWS in USD, estimated before the import."""


class ModelRecord(PaidRecord, frozen=True):
    """A trained model: its solution version, its data and its metrics.

    `made_of` has up to three parts. `data` has the first digits of the version of the data that the
    model was trained on. `interactions` is a fingerprint of the settings that select the
    interactions. `popularity` is a fingerprint of the settings that popular items are measured
    with. Only the model of users' lists has `popularity`.
    """

    solution_version_arn: str
    dataset_group_arn: str = ""
    dataset_group_name: str = ""
    data_version: str
    """The version of the imported data that lists are made from."""
    trained_at: datetime | None = None
    """The start of the training."""
    training_hours: float | None = None
    """The training hours that AWS bills."""
    metrics: Mapping[str, float] = {}
    """The model's metrics, by Personalize's names."""
    engine: str | None = None
    """The name of the engine that trained the model, as shown to people."""
    groups: GroupSums | None = None
    """The NDCG@25 by groups of tested users; None if Amazon Personalize measured the model."""
    measured_popularity: MeasuredPopularity | None = None
    """The NDCG@25 of recommending popular items; None if it was not measured."""
    success: tuple[str, ...] = ()
    """The only types of events that the metrics count; empty if the metrics count all types."""

    @property
    def ndcg(self) -> Estimate | None:
        """The model's NDCG@25, with an interval if there are groups; None if it is not known."""
        ndcg = self.metrics.get(NDCG)
        if ndcg is None:
            return None
        if self.groups is None:
            return Estimate(value=ndcg)
        mean = self.groups.mean
        # The metric is rounded like Personalize's metrics. The mean of the groups is not rounded,
        # so only its interval is used.
        return None if mean is None else mean.model_copy(update={"value": ndcg})

    @property
    def trained_on(self) -> str | None:
        """The first digits of the version of the data that the model was trained on."""
        return self.made_of.get("data")

    @property
    def on_earlier_data(self) -> bool:
        """Whether the model was trained on data from before the last import."""
        return not self.data_version.startswith(self.trained_on or "")


def read_dataset(files: PipelineFiles) -> DatasetRecord | None:
    """Return the record of the last import; None if there is none. Raises UserError."""
    return load(files.storage.store, files.record_uri("personalize_dataset"), DatasetRecord)


def read_model(files: PipelineFiles, asset: str) -> ModelRecord | None:
    """Return the record that the last run of the asset wrote; None if there is none.

    Raises UserError.
    """
    return load(files.storage.store, files.record_uri(asset), ModelRecord)
