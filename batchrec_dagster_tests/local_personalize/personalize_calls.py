"""A simple model of the service: which resources exist, what is refused, and how work ends.

The model has no clock. A request stays pending until `predict_outcomes` and `settle` say that all
work has been done. Where the order of work decides how it ends, more than one outcome is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

EXISTS, MISSING, IN_USE, INVALID = (
    f"{name}Exception"
    for name in (
        "ResourceAlreadyExists",
        "ResourceNotFound",
        "ResourceInUse",
        "InvalidInput",
    )
)
ACTIVE, FAILED, STOPPED = "ACTIVE", "CREATE FAILED", "CREATE STOPPED"
PENDING, DELETING = "CREATE PENDING", "DELETE PENDING"

# Forms of schemas and of data, and the type of data set that each is for.
TYPES = {
    "plain": "INTERACTIONS",
    "events": "INTERACTIONS",
    "items": "ITEMS",
    "wider items": "ITEMS",
}
# The forms that have all columns of a form: such data can be imported by its schema.
FITS = {
    "plain": ("plain", "events"),
    "events": ("events",),
    "items": ("items", "wider items"),
    "wider items": ("wider items",),
}


@dataclass
class ModelResource:
    """What the model knows of a resource.

    form: the form of a schema, or of the data of an import job.
    rows: whether a data set has any rows.
    full: whether the rows of a data set come from a FULL import, or an import is a FULL one.
    segments: whether a solution and its versions are for segments of users.
    """

    kind: str
    status: str | None = PENDING
    name: str = ""
    parent: str | None = None
    group: str | None = None
    schema: str | None = None
    form: str = ""
    filter: str | None = None
    rows: bool = False
    full: bool = False
    segments: bool = False
    tags: dict[str, str] = field(default_factory=dict)


class Model:
    """All resources by ARN, in order of creation."""

    def __init__(self) -> None:
        self.resources: dict[str, ModelResource] = {}

    def list_arns(self, kind: str, parent: str | None = None) -> list[str]:
        """The ARNs of a kind, or of those under a parent, in order of creation."""
        return [
            arn
            for arn, resource in self.resources.items()
            if resource.kind == kind and (parent is None or resource.parent == parent)
        ]

    def build_dataset_arn(self, group: str, dataset_type: str = "INTERACTIONS") -> str:
        """The ARN that the group's data set has, or would have."""
        return f"{group.replace(':dataset-group/', ':dataset/')}/{dataset_type}"

    def find_form(self, dataset: str) -> str:
        """The form of the schema that a data set has."""
        return self.resources[self.resources[dataset].schema or ""].form

    # Each method returns the error of the first check that fails, or None if nothing is refused.

    def refuse_unready(self, arn: str) -> str | None:
        if arn not in self.resources:
            return MISSING
        resource = self.resources[arn]
        if resource.status not in (ACTIVE, None):
            return IN_USE
        parent = self.resources.get(self.resources[arn].parent or "")
        return IN_USE if parent and parent.status == DELETING else None

    def create(self, arn: str) -> str | None:
        return EXISTS if arn in self.resources else None

    def start(self, arn: str) -> str | None:
        # The name of a batch job is free when its version is gone.
        is_taken = arn in self.resources and self.resources[arn].parent in self.resources
        return EXISTS if is_taken else None

    def create_dataset(self, group: str, schema: str, dataset_type: str) -> str | None:
        if (refusal := self.refuse_unready(group)) or (refusal := self.refuse_unready(schema)):
            return refusal
        if TYPES[self.resources[schema].form] != dataset_type:
            return INVALID
        return EXISTS if self.build_dataset_arn(group, dataset_type) in self.resources else None

    def create_import(self, dataset: str, arn: str, *, full: bool) -> str | None:
        if refusal := self.refuse_unready(dataset):
            return refusal
        jobs = [self.resources[job] for job in self.list_arns("DatasetImportJob", dataset)]
        comes = any(job.status == PENDING and job.full for job in jobs)
        if not (full or comes or self.resources[dataset].rows):
            return INVALID
        return self.start(arn)

    def create_filter(self, arn: str, group: str) -> str | None:
        if group not in self.resources:
            return MISSING
        dataset = self.build_dataset_arn(group)
        if dataset not in self.resources or self.find_form(dataset) != "events":
            return INVALID
        return self.create(arn)

    def create_version(self, solution: str, name: str) -> str | None:
        if refusal := self.refuse_unready(solution):
            return refusal
        resource = self.resources[solution]
        if any(
            self.resources[arn].name == name for arn in self.list_arns("SolutionVersion", solution)
        ):
            return EXISTS
        dataset = self.resources.get(self.build_dataset_arn(resource.group or ""))
        return INVALID if dataset is None or dataset.status != ACTIVE else None

    def create_batch(self, kind: str, arn: str, version: str, filter_arn: str | None) -> str | None:
        if refusal := self.refuse_unready(version):
            return refusal
        segments = kind == "BatchSegmentJob"
        if self.resources[version].segments != segments:
            return INVALID
        if filter_arn:
            if refusal := self.refuse_unready(filter_arn):
                return refusal
            if segments or self.resources[filter_arn].group != self.resources[version].group:
                return INVALID  # all filters of these sequences are on items
        return self.start(arn)

    def stop(self, version: str) -> str | None:
        if version not in self.resources:
            return MISSING
        return None if self.resources[version].status == PENDING else IN_USE

    def delete(self, arn: str) -> str | None:
        if arn not in self.resources:
            return MISSING
        resource = self.resources[arn]
        if resource.status in (PENDING, DELETING):
            return IN_USE
        resources = list(self.resources.values())
        match resource.kind:
            case "DatasetGroup":
                is_used = bool(self.list_arns("Solution", arn) or self.list_arns("Dataset", arn))
            case "Schema":
                is_used = any(other.schema == arn for other in resources)
            case "Dataset":
                jobs = ("SolutionVersion", "BatchInferenceJob", "BatchSegmentJob")
                is_used = bool(
                    self._has_pending_work(arn) or self.list_arns("Filter", resource.group)
                ) or any(
                    other.group == resource.group and other.status == PENDING
                    for other in resources
                    if other.kind in jobs
                )
            case "Solution":
                versions = self.list_arns("SolutionVersion", arn)
                is_used = self._has_pending_work(arn) or any(map(self._has_pending_work, versions))
            case _:
                is_used = any(
                    other.filter == arn and other.status == PENDING for other in resources
                )
        return IN_USE if is_used else None

    def _has_pending_work(self, parent: str) -> bool:
        return any(k.parent == parent and k.status == PENDING for k in self.resources.values())

    # What becomes of work.

    def predict_outcomes(self) -> dict[str, set[str]]:
        """For every resource the statuses that are right when all work is done."""
        return {
            arn: self._predict_outcomes(arn, resource) for arn, resource in self.resources.items()
        }

    def _predict_outcomes(self, arn: str, resource: ModelResource) -> set[str]:
        if resource.status == DELETING or self._is_deleted_with_parent(resource):
            return {"gone"}
        if resource.status != PENDING:
            return {str(resource.status)}
        match resource.kind:
            case "DatasetImportJob":
                return {
                    ACTIVE
                    if resource.form in FITS[self.find_form(resource.parent or "")]
                    else FAILED
                }
            case "SolutionVersion":
                return self._predict_work_on_data(resource.group or "", full=resource.segments)
            case "BatchInferenceJob":
                return self._predict_work_on_data(
                    resource.group or "", events=resource.filter is not None
                )
            case "BatchSegmentJob":
                return self._predict_work_on_data(resource.group or "", full=True)
            case _:
                return {ACTIVE}

    def _is_deleted_with_parent(self, resource: ModelResource) -> bool:
        parent = self.resources.get(resource.parent or "")
        goes = resource.kind in ("DatasetImportJob", "Filter", "SolutionVersion")
        return bool(goes and parent and parent.status == DELETING)

    def _predict_work_on_data(
        self, group: str, *, events: bool = False, full: bool = False
    ) -> set[str]:
        """The statuses in which work may end that reads the group's interactions.

        full: whether it reads those of FULL imports only.
        """
        arn = self.build_dataset_arn(group)
        dataset = self.resources.get(arn)
        if dataset is None or (events and self.find_form(arn) != "events"):
            return {FAILED}
        jobs = [self.resources[job] for job in self.list_arns("DatasetImportJob", arn)]
        comes = any(
            job.status == PENDING
            and job.form in FITS[self.find_form(arn)]
            and (job.full or not full)
            for job in jobs
        )
        if not (dataset.full if full else dataset.rows):
            return {ACTIVE, FAILED} if comes else {FAILED}
        return {ACTIVE, FAILED} if dataset.status == DELETING else {ACTIVE}

    def settle(self, statuses: dict[str, str]) -> None:
        """Takes over the statuses in which the service's resources have ended."""
        for arn, status in statuses.items():
            resource = self.resources[arn]
            if status == "gone":
                del self.resources[arn]
                continue
            if (
                resource.kind == "DatasetImportJob"
                and resource.status == PENDING
                and status == ACTIVE
            ):
                dataset = self.resources[resource.parent or ""]
                dataset.rows = True
                dataset.full = dataset.full or resource.full
            resource.status = None if resource.kind == "Schema" else status
