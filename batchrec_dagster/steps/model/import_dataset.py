"""The import of a pipeline's changed CSV files into Amazon Personalize."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.errors import UserError
from batchrec_dagster.personalize.api import (
    DATASET,
    DATASET_GROUP,
    IMPORT_JOB,
    SCHEMA,
    STORAGE_TAG,
    Description,
)
from batchrec_dagster.personalize.prices import Cost, add_up, summarize_costs
from batchrec_dagster.personalize.resources import ReadyResource, Resources, StartedResource
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, USERS
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.stored_files import require_prepared
from batchrec_dagster.steps.findings import require_passed
from batchrec_dagster.steps.model.cost import (
    add_payment,
    check_budget,
    estimate_results,
    estimate_trainings,
    find_restart_obstacle,
    read_run_cost,
)
from batchrec_dagster.steps.model.training import find_recipes_to_train
from batchrec_dagster.steps.records import DatasetRecord, ImportedFile, ModelRecord
from batchrec_dagster.storage.records import save

ASSET = "personalize_dataset"


@dataclass(frozen=True)
class DatasetFile:
    """A CSV file to import, with the type and the schema of its dataset."""

    dataset_type: str
    schema: str
    key: str
    """The file's key in the storage."""

    @property
    def asset(self) -> str:
        """The name of the asset that prepares the file."""
        return self.dataset_type.lower()

    @property
    def is_interactions(self) -> bool:
        return self.dataset_type == INTERACTIONS


@dataclass(frozen=True)
class ImportRequest:
    """A request to import a file, answered by the job of an earlier run or by a new job."""

    resources: Resources
    stem: str
    """The start of the job's name, which identifies the imported content."""
    dataset: ReadyResource
    uri: str
    """The URI of the file."""
    cost: Cost
    """The cost of a new job."""

    def find(self) -> str | None:
        """Return the ARN of the job that `start` would adopt; None if it would create a new job."""
        jobs = self.resources.list(IMPORT_JOB, datasetArn=self.dataset.arn)
        return self.resources.find(IMPORT_JOB, jobs, self.stem, self._is_of_this_dataset)

    def start(self) -> StartedResource:
        """Return the job of an earlier run, or create a new job."""
        arguments = {
            "datasetArn": self.dataset.arn,
            "dataSource": {"dataLocation": self.uri},
            "roleArn": self.resources.role_arn,
            "importMode": "FULL",
        }
        return self.resources.start(
            IMPORT_JOB,
            self.stem,
            lambda _: arguments,
            self._is_of_this_dataset,
            datasetArn=self.dataset.arn,
        )

    def _is_of_this_dataset(self, job: Description) -> bool:
        """Return whether the job imported into this dataset, not into a deleted predecessor.

        A dataset that was deleted and created again has its old ARN, and so its old jobs.
        """
        return bool(job["creationDateTime"] >= self.dataset.description["creationDateTime"])


@dataclass(frozen=True)
class FileImport:
    """The finished import of a file."""

    file: DatasetFile
    dataset: ReadyResource
    job: ReadyResource

    @property
    def outcome(self) -> str:
        return self.job.describe_work("imported")


@dataclass(frozen=True)
class DatasetImport:
    """The finished imports of all files of a pipeline, by this run or an earlier run."""

    record: DatasetRecord
    """The stored record."""
    imports: list[FileImport]
    """The imports, interactions first."""
    estimate: list[Cost]
    """The highest costs of the whole run, estimated before its import."""
    cost: list[Cost]
    """The costs of the imports that this run started."""
    checks: list[Finding]


def list_dataset_files(pipeline: Pipeline) -> list[DatasetFile]:
    """Return the files to import, interactions first."""
    keys = {
        INTERACTIONS: pipeline.keys.interactions,
        ITEMS: pipeline.keys.items,
        USERS: pipeline.keys.users,
    }
    return [DatasetFile(kind, schema, keys[kind]) for kind, schema in pipeline.schemas.items()]


def fingerprint_schemas(files: Sequence[DatasetFile]) -> str:
    """Return a fingerprint of the files' schemas.

    The schema of a dataset cannot change, so other schemas need another dataset group.
    """
    return fingerprint(*(file.schema for file in files))


def import_dataset(
    step: StepContext,
    is_refused: Callable[[ModelRecord], bool],
    *,
    force: bool,
    forced_trainings: Collection[str],
) -> DatasetImport:
    """Import the files that have changed since the last import.

    is_refused: a function that says whether the quality gate refuses the lists of a model.
    force: whether to import all files, changed or not.
    forced_trainings: the assets that this run will train, whether or not their data changed.
    Raises Refused and UserError.
    """
    pipeline = step.pipeline
    files = list_dataset_files(pipeline)
    versions = [require_prepared(step, file.asset).version for file in files]
    version = _combine_versions(versions)
    step = step.for_data(version)
    resources = step.resources
    group_name = f"{pipeline.name}-{fingerprint_schemas(files)[:8]}"
    group = _find_or_create_group(step, files, group_name)
    datasets = [_find_or_create_dataset(resources, group, file) for file in files]
    requests = [
        _prepare_import(step, group_name, file, dataset, file_version, force=force)
        for file, dataset, file_version in zip(files, datasets, versions, strict=True)
    ]
    trainings = find_recipes_to_train(step, group, version, is_refused, forced=forced_trainings)

    def price_missing_imports() -> list[Cost]:
        return [request.cost for request in requests if request.find() is None]

    estimate = _estimate_run(step, price_missing_imports(), trainings)
    where = "" if resources.on_aws else "on AWS "
    resources.log_resource(f"{where}this run costs {summarize_costs(estimate)}")
    checks = check_budget(step, estimate)
    require_passed(checks)
    jobs = resources.start_and_wait(
        IMPORT_JOB,
        lambda: [request.start() for request in requests],
        lambda: find_restart_obstacle(step, estimate, price_missing_imports()),
    )
    imports = [
        FileImport(file, dataset, job)
        for file, dataset, job in zip(files, datasets, jobs, strict=True)
    ]
    for file_import in imports:
        resources.log.debug(
            f"{file_import.file.asset}: {file_import.outcome}, {file_import.job.seconds:.1f} s"
        )
    paid = [request.cost for request, job in zip(requests, jobs, strict=True) if job.is_new]
    record = DatasetRecord(
        made_of={file.asset: version for file, version in zip(files, versions, strict=True)},
        version=version,
        dataset_group_arn=group.arn,
        dataset_group_name=group_name,
        imports={
            file_import.file.asset: ImportedFile(
                dataset_arn=file_import.dataset.arn, import_job_arn=file_import.job.arn
            )
            for file_import in imports
        },
        estimated_usd=add_up(estimate),
        root_run=step.run.root_id,
        cost_usd=add_payment(step, ASSET, paid),
    )
    save(step.storage.store, step.files.record_uri(ASSET), record)
    return DatasetImport(record, imports, estimate, paid, checks)


def _estimate_run(
    step: StepContext, imports: Sequence[Cost], trainings: Sequence[str]
) -> list[Cost]:
    """Return the estimated costs of the run, including the costs of its earlier attempts.

    imports: the costs of the imports that the run still has to make.
    trainings: the recipes that the run will train.
    """
    paid_before = read_run_cost(step.files, step.run.root_id)
    earlier_attempts = [Cost(paid_before, "its earlier attempts")] if paid_before else []
    return [
        *earlier_attempts,
        *imports,
        *estimate_trainings(step, trainings),
        *estimate_results(step),
    ]


def compute_data_version(step: StepContext) -> str:
    """Return the version of the data that the next import will import.

    If a run prepared new data and failed before the import, the last imported data have an earlier
    version. Raises UserError.
    """
    files = list_dataset_files(step.pipeline)
    return _combine_versions([require_prepared(step, file.asset).version for file in files])


def _combine_versions(versions: Sequence[str]) -> str:
    return versions[0] if len(versions) == 1 else fingerprint(*versions)


def _price_import(step: StepContext, file: DatasetFile) -> Cost:
    """Return the cost of importing the file."""
    head = step.storage.store.head(step.files.uri(file.key))
    return step.prices.price_import(file.asset, head.size if head else 0)


def _find_or_create_group(
    step: StepContext, files: Sequence[DatasetFile], name: str
) -> ReadyResource:
    """Find the pipeline's dataset group, or create the group if the budget allows a first run.

    name: the group's name.
    Raises Refused, PersonalizeError and UserError.
    """
    pipeline, resources = step.pipeline, step.resources
    exists = any(group["name"] == name for group in resources.list(DATASET_GROUP))
    if not exists and pipeline.budget.max_usd_per_run is not None:
        # Check the budget before anything is created.
        recipes = [training.recipe for training in pipeline.trainings.values()]
        estimate = [
            *(_price_import(step, file) for file in files),
            *estimate_trainings(step, recipes),
            *estimate_results(step),
        ]
        require_passed(check_budget(step, estimate))
    group = resources.find_or_create(DATASET_GROUP, name, {})
    if not group.created:
        _check_owner(resources, group)
    return group


def _check_owner(resources: Resources, group: ReadyResource) -> None:
    """Raise UserError unless the dataset group has the tag of this deployment's storage."""
    arn, own_storage = group.arn, resources.tags.get(STORAGE_TAG)
    tags = resources.tags_of(arn)
    if own_storage is None or tags.get(STORAGE_TAG) == own_storage:
        return
    owner = f"somebody else: it has no tag {STORAGE_TAG}"
    if STORAGE_TAG in tags:
        owner = f"the deployment with the storage {tags[STORAGE_TAG]}"
    own_home = "" if resources.on_aws else ", or set a BATCHREC_HOME of its own"
    raise UserError(
        f"the dataset group {group.description['name']} belongs to {owner}."
        f" Rename this pipeline{own_home}. If the group is this pipeline's, say so: aws personalize"
        f" tag-resource --resource-arn {arn} --tags"
        f" tagKey={STORAGE_TAG},tagValue={own_storage}"
    )


def _find_or_create_dataset(
    resources: Resources, group: ReadyResource, file: DatasetFile
) -> ReadyResource:
    name = f"{group.description['name']}-{file.asset}"
    schema = resources.find_or_create(SCHEMA, name, {"schema": file.schema}).arn
    return resources.find_or_create(
        DATASET,
        name,
        {"datasetGroupArn": group.arn, "datasetType": file.dataset_type, "schemaArn": schema},
        datasetGroupArn=group.arn,
    )


def _prepare_import(
    step: StepContext,
    group_name: str,
    file: DatasetFile,
    dataset: ReadyResource,
    version: str,
    *,
    force: bool,
) -> ImportRequest:
    """Return a request to import the file into the dataset. No job starts yet.

    version: the version of the file's content.
    force: whether the run imports the file even if it is unchanged.
    """
    # The names of import jobs are unique over all dataset groups, so a job's name has the name of
    # its group. With at most 41 characters for the group, the name stays within Personalize's limit
    # of 63. Later runs adopt a forced import too, so its name starts with the stem that later
    # runs look for.
    stem = f"{group_name}-{version[:8]}"
    if force:
        stem = f"{stem}-{step.run.root_id[:6]}"
    return ImportRequest(
        step.resources, stem, dataset, step.files.uri(file.key), _price_import(step, file)
    )
