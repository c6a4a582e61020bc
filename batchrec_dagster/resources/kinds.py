"""The kinds of Personalize resources, and how the API spells each in its operations and members."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """A kind of resource and how the API spells it in its operations and members."""

    label: str
    plural: str = ""
    names_are_free: bool = False
    """Whether the name may stand once more with another number: jobs and versions pile up."""

    @property
    def snake(self) -> str:
        return self.label.replace(" ", "_")

    @property
    def member(self) -> str:
        first, *rest = self.label.split()
        return first + "".join(word.capitalize() for word in rest)

    @property
    def members(self) -> str:
        return self.plural or f"{self.member}s"

    @property
    def arn(self) -> str:
        return f"{self.member}Arn"

    @property
    def name(self) -> str:
        return "jobName" if self.label.endswith("job") else "name"


DATASET_GROUP = Kind("dataset group")
SCHEMA = Kind("schema")
DATASET = Kind("dataset")
IMPORT_JOB = Kind("dataset import job", names_are_free=True)
SOLUTION = Kind("solution")
SOLUTION_VERSION = Kind("solution version", names_are_free=True)
FILTER = Kind("filter", plural="Filters")
BATCH_INFERENCE_JOB = Kind("batch inference job", names_are_free=True)
BATCH_SEGMENT_JOB = Kind("batch segment job", names_are_free=True)

# What this project never makes, but may find in its dataset groups.
CAMPAIGN = Kind("campaign")
EVENT_TRACKER = Kind("event tracker")
METRIC_ATTRIBUTION = Kind("metric attribution")
RECOMMENDER = Kind("recommender")
