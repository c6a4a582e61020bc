"""The kinds of resources in Personalize, and how its API spells each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class ResourceKind:
    """A kind of resource, and its spelling in the API's operations and members."""

    label: str
    plural: str = ""
    is_numbered: bool = False
    """Whether a run makes a new one each time, with a number in its name: jobs and versions."""

    @cached_property
    def snake(self) -> str:
        """As in the names of operations, such as dataset_group."""
        return self.label.replace(" ", "_")

    @cached_property
    def member(self) -> str:
        """The member of Describe's answer, such as datasetGroup."""
        first, *others = self.label.split()
        return first + "".join(word.capitalize() for word in others)

    @cached_property
    def members(self) -> str:
        """The member of List's answer, such as datasetGroups."""
        return self.plural or f"{self.member}s"

    @cached_property
    def arn(self) -> str:
        """The member that holds an ARN, such as datasetGroupArn."""
        return f"{self.member}Arn"

    @cached_property
    def resource_type(self) -> str:
        """As in ARNs, such as dataset-group."""
        return self.label.replace(" ", "-")

    @cached_property
    def name(self) -> str:
        """The member that holds the name: jobName or name."""
        return "jobName" if self.label.endswith("job") else "name"


DATASET_GROUP = ResourceKind("dataset group")
SCHEMA = ResourceKind("schema")
DATASET = ResourceKind("dataset")
IMPORT_JOB = ResourceKind("dataset import job", is_numbered=True)
SOLUTION = ResourceKind("solution")
SOLUTION_VERSION = ResourceKind("solution version", is_numbered=True)
FILTER = ResourceKind("filter", plural="Filters")
BATCH_INFERENCE_JOB = ResourceKind("batch inference job", is_numbered=True)
BATCH_SEGMENT_JOB = ResourceKind("batch segment job", is_numbered=True)
DATA_DELETION_JOB = ResourceKind("data deletion job", is_numbered=True)

# Kinds that this project never creates, but may find in its dataset groups.
CAMPAIGN = ResourceKind("campaign")
EVENT_TRACKER = ResourceKind("event tracker")
METRIC_ATTRIBUTION = ResourceKind("metric attribution")
RECOMMENDER = ResourceKind("recommender")
