"""The names that Personalize's API uses for resource kinds, tags, statuses and errors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from batchrec_dagster.errors import Retry, UserError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

Description = Mapping[str, Any]
"""The answer of Describe for a resource, or the resource's summary in an answer of List."""

# The tags on resources that a pipeline creates: the pipeline's name, and the deployment's storage.
PIPELINE_TAG, STORAGE_TAG = "batchrec:pipeline", "batchrec:storage"
DATA_VERSION_TAG = "batchrec:data-version"
# The name of a solution version is stored in a tag too, because DescribeSolutionVersion may leave
# it out.
VERSION_NAME_TAG = "batchrec:name"
OWN_TAGS = (PIPELINE_TAG, STORAGE_TAG, DATA_VERSION_TAG, VERSION_NAME_TAG)

ACTIVE = "ACTIVE"
# A data deletion job has its own statuses: PENDING, IN_PROGRESS, COMPLETED and FAILED.
READY = (ACTIVE, "COMPLETED")
# A job or version with this status is started a second time, unless it would fail again.
CREATE_FAILED = "CREATE FAILED"
FAILED = (CREATE_FAILED, "CREATE STOPPED", "FAILED")

# Personalize's error codes.
INVALID = "InvalidInputException"
LIMIT = "LimitExceededException"
NOT_FOUND = "ResourceNotFoundException"
IN_USE = "ResourceInUseException"
EXISTS = "ResourceAlreadyExistsException"
# Patterns of failure reasons: Personalize has no access to a bucket, or a bucket or file is not
# there.
_NO_ACCESS, _NOT_THERE = r"privilege|assume|access.?denied", r"no.?such|not exist|data location"
# The error codes of AWS for requests that come too fast.
_THROTTLED = ("Throttling", "TooManyRequests", "RequestLimitExceeded", "RequestThrottled")


@dataclass(frozen=True)
class ResourceKind:
    """A kind of resource, with its names in the API's operations and members."""

    label: str
    plural: str = ""
    is_numbered: bool = False
    """Whether the kind is a job or a version: each new one gets a number in its name."""

    @cached_property
    def snake(self) -> str:
        """The kind's name in the client's methods, such as dataset_group."""
        return self.label.replace(" ", "_")

    @cached_property
    def member(self) -> str:
        """The name of the member in Describe's answer, such as datasetGroup."""
        first, *later_words = self.label.split()
        return first + "".join(word.capitalize() for word in later_words)

    @cached_property
    def members(self) -> str:
        """The name of the member in List's answer, such as datasetGroups."""
        return self.plural or f"{self.member}s"

    @cached_property
    def arn(self) -> str:
        """The name of the member that holds an ARN, such as datasetGroupArn."""
        return f"{self.member}Arn"

    @cached_property
    def name(self) -> str:
        """The name of the member that holds the resource's name: jobName or name."""
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


class PersonalizeError(UserError):
    """An error from Personalize: a refused request, a failed resource, or a timeout.

    The message tells the user what to do. A later run may succeed. Retrying within the same run
    helps only after an UnavailableError.
    """

    def __init__(self, message: str, details: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.details: Mapping[str, str] = details or {}
        """The ARN, status and reason of the failed resource; empty for other errors."""


class UnavailableError(PersonalizeError, Retry):
    """An error from a Personalize that is overloaded or down."""


def is_temporary(error: ClientError) -> bool:
    """Return whether a later request may succeed, because the service was overloaded or down."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= HTTPStatus.INTERNAL_SERVER_ERROR or error.response["Error"]["Code"].startswith(
        _THROTTLED
    )


def explain_refusal(code: str, message: str, arguments: Mapping[str, Any]) -> str:
    """Return a hint, after a semicolon, on how to fix a refused Create; empty if none is known.

    arguments: the arguments of the Create request.
    """
    if code == LIMIT:
        return (
            "; delete one that nobody needs (`batchrec teardown NAME` for a pipeline that is gone),"
            " or ask Service Quotas for more"
        )
    fix = explain_role_error(message, arguments) if code == INVALID else None
    return f"; {fix}" if fix else ""


def explain_role_error(reason: str, description: Mapping[str, Any]) -> str | None:
    """Return the fix if Personalize lacks permissions in S3 for a job; None for other reasons.

    description: Describe's answer for the job, or the arguments of its Create request.
    """
    if not re.search(_NO_ACCESS, reason, re.IGNORECASE):
        return None
    reads = "s3:GetObject and s3:ListBucket"
    actions_by_path = {
        description.get("dataSource", {}).get("dataLocation"): reads,
        description.get("jobInput", {}).get("s3DataSource", {}).get("path"): reads,
        description.get("jobOutput", {}).get("s3DataDestination", {}).get("path"): "s3:PutObject",
    }
    actions = " and ".join(
        f"{actions} on {path}" for path, actions in actions_by_path.items() if path
    )
    return (
        f"allow {actions} to {description.get('roleArn', 'the role')}, and to"
        " personalize.amazonaws.com in the bucket's policy, and let personalize.amazonaws.com"
        " assume the role, as deploy/aws.yaml does. If all of that is allowed, deploy it with"
        " SourceConditions=no"
    )


def will_fail_again(reason: str) -> bool:
    """Return whether a job that failed for this reason fails again until somebody mends the cause.

    reason: Personalize's failure reason.
    """
    return re.search(f"{_NO_ACCESS}|{_NOT_THERE}", reason, re.IGNORECASE) is not None


def make_failure_error(kind: ResourceKind, arn: str, description: Description) -> PersonalizeError:
    """Return the error for a resource that failed, with Personalize's reason and the fix."""
    reason = description.get("failureReason") or f"its status is {description['status']}"
    role_fix = explain_role_error(reason, description)
    fix = (
        f"{role_fix or 'Fix the cause'}; then run again: it creates a new one"
        if kind.is_numbered
        else f"Fix the cause, delete this {kind.label} and run again"
    )
    return PersonalizeError(
        f"{kind.label} failed: {reason} ({arn}). {fix}",
        details={"arn": arn, "status": description["status"], "reason": reason},
    )
