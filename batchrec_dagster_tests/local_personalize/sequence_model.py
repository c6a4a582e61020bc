"""A simple model of the service: what there is, what is refused, and what becomes of work.

It knows no time. What was asked for is pending until `outcomes` and `settle` say that all work has
been done. Where the order of work decides what becomes of it, more than one outcome is right.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from batchrec_dagster.local_personalize.catalog.quotas import Quotas

QUOTAS = Quotas(
    dataset_groups=2,
    schemas=3,
    solutions_per_group=2,
    filters_per_group=1,
    running_dataset_import_jobs=2,
    running_solution_versions=2,
    running_batch_inference_jobs=2,
    running_batch_segment_jobs=2,
)
EXISTS, MISSING, IN_USE, LIMIT, INVALID = (
    f"{name}Exception"
    for name in (
        "ResourceAlreadyExists",
        "ResourceNotFound",
        "ResourceInUse",
        "LimitExceeded",
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
# The forms that have all columns of a form: such data can be imported by its schema, and the schema
# of an Items data set may be replaced by such a one.
FITS = {
    "plain": ("plain", "events"),
    "events": ("events",),
    "items": ("items", "wider items"),
    "wider items": ("wider items",),
}


@dataclass
class Known:
    """What the model knows of a resource; `form` is a schema's, or that of a job's data.

    `rows`: whether a data set has any; `full`: whether of a FULL import, or that an import is one.
    `segments`: whether a solution, and its versions, are for segments of users.
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
    updating: bool = False
    tags: dict[str, str] = field(default_factory=dict)


class Model:
    """All resources by ARN, in order of creation."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}

    def of(self, kind: str, parent: str | None = None) -> list[str]:
        """The ARNs of a kind, or of those under a parent, in order of creation."""
        return [
            arn
            for arn, known in self.known.items()
            if known.kind == kind and (parent is None or known.parent == parent)
        ]

    def dataset(self, group: str, dataset_type: str = "INTERACTIONS") -> str:
        """The ARN that the group's data set has, or would have."""
        return f"{group.replace(':dataset-group/', ':dataset/')}/{dataset_type}"

    def form_of(self, dataset: str) -> str:
        """The form of the schema that a data set has."""
        return self.known[self.known[dataset].schema or ""].form

    # What is refused, in the order in which it is looked at; None: nothing is.

    def unready(self, arn: str) -> str | None:
        if arn not in self.known:
            return MISSING
        known = self.known[arn]
        if known.status not in (ACTIVE, None) or (known.kind == "Dataset" and known.updating):
            return IN_USE
        parent = self.known.get(self.known[arn].parent or "")
        return IN_USE if parent and parent.status == DELETING else None

    def create(self, arn: str, kind: str, most: int, parent: str | None = None) -> str | None:
        if arn in self.known:
            return EXISTS
        return LIMIT if len(self.of(kind, parent)) >= most else None

    def start(self, arn: str, kind: str, most: int) -> str | None:
        # The name of a batch job is free when its version is gone.
        if arn in self.known and self.known[arn].parent in self.known:
            return EXISTS
        running = [job for job in self.of(kind) if self.known[job].status == PENDING]
        return LIMIT if len(running) >= most else None

    def create_dataset(self, group: str, schema: str, dataset_type: str) -> str | None:
        if (refused := self.unready(group)) or (refused := self.unready(schema)):
            return refused
        if TYPES[self.known[schema].form] != dataset_type:
            return INVALID
        return EXISTS if self.dataset(group, dataset_type) in self.known else None

    def create_import(self, dataset: str, arn: str, *, full: bool) -> str | None:
        if refused := self.unready(dataset):
            return refused
        jobs = [self.known[job] for job in self.of("DatasetImportJob", dataset)]
        comes = any(job.status == PENDING and job.full for job in jobs)
        if not (full or comes or self.known[dataset].rows):
            return INVALID
        return self.start(arn, "DatasetImportJob", QUOTAS.running_dataset_import_jobs)

    def update_dataset(self, dataset: str, schema: str) -> str | None:
        if refused := self.unready(dataset):
            return refused
        if self.known[dataset].updating:
            return IN_USE
        if dataset.endswith("/INTERACTIONS"):
            return INVALID
        if schema not in self.known:
            return MISSING
        fits = self.known[schema].form in FITS[self.form_of(dataset)]
        return None if fits else INVALID

    def update_solution(self, solution: str) -> str | None:
        if refused := self.unready(solution):
            return refused
        return IN_USE if self.known[solution].updating else None

    def create_filter(self, arn: str, group: str) -> str | None:
        if group not in self.known:
            return MISSING
        dataset = self.dataset(group)
        if dataset not in self.known or self.form_of(dataset) != "events":
            return INVALID
        return self.create(arn, "Filter", QUOTAS.filters_per_group, group)

    def create_version(self, solution: str, name: str) -> str | None:
        if refused := self.unready(solution):
            return refused
        known = self.known[solution]
        if any(self.known[arn].name == name for arn in self.of("SolutionVersion", solution)):
            return EXISTS
        dataset = self.known.get(self.dataset(known.group or ""))
        if dataset is None or dataset.status != ACTIVE:
            return INVALID
        return self.start("", "SolutionVersion", QUOTAS.running_solution_versions)

    def create_batch(self, kind: str, arn: str, version: str, used: str | None) -> str | None:
        if refused := self.unready(version):
            return refused
        segments = kind == "BatchSegmentJob"
        if self.known[version].segments != segments:
            return INVALID
        if used:
            if refused := self.unready(used):
                return refused
            if segments or self.known[used].group != self.known[version].group:
                return INVALID  # all filters of these sequences are on items
        return self.start(arn, kind, 2)

    def stop(self, version: str) -> str | None:
        if version not in self.known:
            return MISSING
        return None if self.known[version].status == PENDING else IN_USE

    def delete(self, arn: str) -> str | None:
        if arn not in self.known:
            return MISSING
        known = self.known[arn]
        if known.status in (PENDING, DELETING) or known.updating:
            return IN_USE
        others = list(self.known.values())
        match known.kind:
            case "DatasetGroup":
                held = bool(self.of("Solution", arn) or self.of("Dataset", arn))
            case "Schema":
                held = any(other.schema == arn for other in others)
            case "Dataset":
                jobs = ("SolutionVersion", "BatchInferenceJob", "BatchSegmentJob")
                held = bool(self._pending(arn) or self.of("Filter", known.group)) or any(
                    other.group == known.group and other.status == PENDING
                    for other in others
                    if other.kind in jobs
                )
            case "Solution":
                versions = self.of("SolutionVersion", arn)
                held = self._pending(arn) or any(map(self._pending, versions))
            case _:
                held = any(other.filter == arn and other.status == PENDING for other in others)
        return IN_USE if held else None

    def _pending(self, parent: str) -> bool:
        return any(k.parent == parent and k.status == PENDING for k in self.known.values())

    # What becomes of work.

    def outcomes(self) -> dict[str, set[str]]:
        """For everything there is: the statuses that are right when all work is done."""
        return {arn: self._outcomes(arn, known) for arn, known in self.known.items()}

    def _outcomes(self, arn: str, known: Known) -> set[str]:
        if known.status == DELETING or self._goes_along(known):
            return {"gone"}
        if known.status != PENDING:
            return {str(known.status)}
        match known.kind:
            case "DatasetImportJob":
                return {ACTIVE if known.form in FITS[self.form_of(known.parent or "")] else FAILED}
            case "SolutionVersion":
                return self._with_data(known.group or "", full=known.segments)
            case "BatchInferenceJob":
                return self._with_data(known.group or "", events=known.filter is not None)
            case "BatchSegmentJob":
                return self._with_data(known.group or "", full=True)
            case _:
                return {ACTIVE}

    def _goes_along(self, known: Known) -> bool:
        parent = self.known.get(known.parent or "")
        goes = known.kind in ("DatasetImportJob", "Filter", "SolutionVersion")
        return bool(goes and parent and parent.status == DELETING)

    def _with_data(self, group: str, *, events: bool = False, full: bool = False) -> set[str]:
        """What becomes of work that reads the group's interactions, or those of FULL imports."""
        arn = self.dataset(group)
        dataset = self.known.get(arn)
        if dataset is None or (events and self.form_of(arn) != "events"):
            return {FAILED}
        jobs = [self.known[job] for job in self.of("DatasetImportJob", arn)]
        comes = any(
            job.status == PENDING and job.form in FITS[self.form_of(arn)] and (job.full or not full)
            for job in jobs
        )
        if not (dataset.full if full else dataset.rows):
            return {ACTIVE, FAILED} if comes else {FAILED}
        return {ACTIVE, FAILED} if dataset.status == DELETING else {ACTIVE}

    def settle(self, statuses: dict[str, str]) -> None:
        """Takes over what has become of everything."""
        for arn, status in statuses.items():
            known = self.known[arn]
            if status == "gone":
                del self.known[arn]
                continue
            if known.kind == "DatasetImportJob" and known.status == PENDING and status == ACTIVE:
                dataset = self.known[known.parent or ""]
                dataset.rows = True
                dataset.full = dataset.full or known.full
            known.status = None if known.kind == "Schema" else status
            known.updating = False
