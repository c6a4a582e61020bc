"""The differences between Amazon Personalize at its worst and a calm local Personalize.

Each misbehaviour is a separate class, which can be switched on alone and counts its effects.
`worst_aws.py` has clients and a proxy with these misbehaviours.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field

from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.faults.personalize_requests import (
    Answer,
    Kind,
    Misbehaviour,
    Request,
    make_error,
)

READY = ("ACTIVE", "COMPLETED")
DELETION = "DataDeletionJob"
SOFT_QUOTA = "More than 5 resources with PENDING or IN_PROGRESS status."
HARD_QUOTA = "The account has reached the maximum number of these resources."
NO_ACCESS = "Insufficient privileges for accessing data in Amazon S3."
LINE_ERROR = "Internal server error: the request could not be answered."


def _name_status(kind: Kind, status: str) -> str:
    """Return the status in the words that this kind of resource uses."""
    return status.removeprefix("CREATE ") if kind.noun == DELETION else status


@dataclass
class ExpiringCredentials(Misbehaviour):
    """Expired credentials, from the next request of an operation until they are renewed."""

    expire_before: str | None = None
    """The operation; None for credentials that do not expire."""
    expired: bool = field(default=False, init=False)

    def renew(self) -> None:
        self.expire_before, self.expired = None, False

    def refuse(self, request: Request) -> Answer | None:
        self.expired = self.expired or request.operation == self.expire_before
        if not self.expired:
            return None
        self.count += 1
        return make_error(
            "ExpiredTokenException", "The security token included in the request is expired"
        )


@dataclass
class Throttling(Misbehaviour):
    """Throttling of a share of the requests, at random."""

    chance: random.Random
    share: float = 0.2

    def refuse(self, request: Request) -> Answer | None:
        if self.chance.random() >= self.share:
            return None
        self.count += 1
        return make_error("ThrottlingException", "Rate exceeded")


@dataclass
class ReachedQuotas(Misbehaviour):
    """Quotas that are reached at the next Create of an operation, which is refused once.

    A quota of jobs in progress frees itself. For any other quota, resources have to be deleted.
    """

    messages: dict[str, str] = field(default_factory=dict)
    """The message for each operation to refuse."""

    def refuse(self, request: Request) -> Answer | None:
        message = self.messages.pop(request.operation, None)
        if message is None:
            return None
        self.count += 1
        return make_error("LimitExceededException", message)


@dataclass
class FailingResources(Misbehaviour):
    """Failures of the next resources that an operation creates, which do not become ACTIVE."""

    reasons: dict[str, list[str]] = field(default_factory=dict)
    """The reasons of the next failures, by operation; each reason is for one resource."""
    failed: dict[str, str] = field(default_factory=dict, init=False)
    """The failure reasons of resources, by ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None and self.reasons.get(request.operation):
            self.failed[arn] = self.reasons[request.operation].pop(0)
            self.count += 1
        for summary in answer.summaries(request):
            assert request.kind is not None
            reason = self.failed.get(summary[request.kind.arn])
            if reason is not None and summary.get("status") in READY:
                status = _name_status(request.kind, "CREATE FAILED")
                summary.update(status=status, failureReason=reason)
        return answer


@dataclass
class PendingStatuses(Misbehaviour):
    """Created resources that are shown as pending, then as in progress, even if they are ready.

    Each Describe moves the resource on to its next status.
    """

    statuses: tuple[str, ...] = ("CREATE PENDING", "CREATE IN_PROGRESS")
    described: Counter[str] = field(default_factory=Counter, init=False)
    """The number of Describe requests for each created resource, by ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None:
            self.described[arn] = 0
        for summary in answer.summaries(request):
            assert request.kind is not None
            arn = summary[request.kind.arn]
            step = self.described.get(arn, len(self.statuses))
            if step < len(self.statuses) and "status" in summary:
                self.count += 1
                summary["status"] = _name_status(request.kind, self.statuses[step])
                summary.pop("failureReason", None)
                if request.verb == "Describe":
                    self.described[arn] += 1
        return answer


@dataclass
class LaggingLists(Misbehaviour):
    """Created resources that are missing from up to `calls` next answers of List."""

    chance: random.Random
    calls: int = 3
    lists_without: dict[str, int] = field(default_factory=dict, init=False)
    """The number of next List answers without the resource, by ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None:
            self.lists_without[arn] = self.chance.randint(1, self.calls)
        if request.verb == "List" and request.kind is not None and answer.succeeded:
            shown = [
                summary
                for summary in answer.summaries(request)
                if not self._is_missing(summary[request.kind.arn])
            ]
            return Answer(answer.status, {**answer.content, request.kind.members: shown})
        return answer

    def _is_missing(self, arn: str) -> bool:
        if not self.lists_without.get(arn):
            return False
        self.lists_without[arn] -= 1
        self.count += 1
        return True


@dataclass
class LateDescribes(Misbehaviour):
    """Created resources that the first `calls` Describe requests do not find."""

    calls: int = 1
    describes_without: dict[str, int] = field(default_factory=dict, init=False)
    """The number of next Describe requests that do not find the resource, by ARN."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        arn = answer.created_arn(request)
        if arn is not None:
            self.describes_without[arn] = self.calls
        if request.verb == "Describe":
            for summary in answer.summaries(request):
                assert request.kind is not None
                arn = summary[request.kind.arn]
                if self.describes_without.get(arn):
                    self.describes_without[arn] -= 1
                    self.count += 1
                    return make_error(
                        "ResourceNotFoundException", f"The given resource does not exist: {arn}"
                    )
        return answer


@dataclass
class BusyParents(Misbehaviour):
    """Refusals of the next requests of an operation, as if a resource they need were not ready."""

    operation: str
    times: int = 2

    def refuse(self, request: Request) -> Answer | None:
        if request.operation != self.operation or self.count == self.times:
            return None
        self.count += 1
        return make_error("ResourceInUseException", "The resource is in use.")


@dataclass
class LostAnswers(Misbehaviour):
    """A connection that is cut before the answer to a request that was carried out."""

    operation: str | None = None
    """The operation that loses its next successful answer; None for no loss."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        if request.operation != self.operation or not answer.succeeded:
            return answer
        self.operation = None
        self.count += 1
        return None


@dataclass
class ChangedOutputs(Misbehaviour):
    """Output files of batch jobs that are changed before the jobs are shown as ACTIVE."""

    store: ObjectStore
    seen: set[str] = field(default_factory=set, init=False)
    """The ARNs of the jobs with outputs that have been changed."""

    def change(self, request: Request, answer: Answer) -> Answer | None:
        if request.kind and request.kind.noun in ("BatchInferenceJob", "BatchSegmentJob"):
            for summary in answer.summaries(request):
                arn = summary[request.kind.arn]
                # Only Describe says where the output is.
                if summary.get("status") == "ACTIVE" and arn not in self.seen:
                    if request.verb == "Describe":
                        self.seen.add(arn)
                        self.rewrite(summary["jobOutput"]["s3DataDestination"]["path"])
                    else:
                        summary["status"] = "CREATE IN_PROGRESS"
        return answer

    def rewrite(self, folder: str) -> None:
        """Change the files of the folder. The folder's URI ends with a slash."""
        raise NotImplementedError

    def outputs(self, folder: str) -> list[str]:
        """Return the URIs of the output files with lines, in order."""
        files = [file.uri for file in self.store.list(folder)]
        return sorted(uri for uri in files if uri.endswith(".out"))


@dataclass
class SplitOutputs(ChangedOutputs):
    """Outputs with their lines in another order, in several parts, and without a marker file."""

    chance: random.Random
    parts: int = 3

    def rewrite(self, folder: str) -> None:
        self.count += 1
        lines = []
        for uri in self.outputs(folder):
            lines += self.store.get(uri).splitlines(keepends=True)
        for file in self.store.list(folder):
            self.store.delete(file.uri)
        self.chance.shuffle(lines)
        for part in range(self.parts):
            uri = f"{folder}part-{part}.json.out"
            self.store.put(uri, b"".join(lines[part :: self.parts]))


@dataclass
class ErrorLines(ChangedOutputs):
    """Errors in place of results in a share of the lines of the next outputs."""

    chance: random.Random
    share: float = 0.02
    outputs_left: int = 0
    """The number of next outputs that get error lines."""
    users: list[list[str]] = field(default_factory=list, init=False)
    """The users without a list, for each output with error lines."""

    def rewrite(self, folder: str) -> None:
        if not self.outputs_left:
            return
        self.outputs_left -= 1
        self.count += 1
        contents = {uri: self.store.get(uri).splitlines() for uri in self.outputs(folder)}
        places = [(uri, index) for uri, lines in contents.items() for index in range(len(lines))]
        chosen = self.chance.sample(places, max(1, round(self.share * len(places))))
        self.users.append([])
        for uri, index in chosen:
            line = json.loads(contents[uri][index])
            self.users[-1].append(line["input"].get("userId", ""))
            failed = {"input": line["input"], "error": LINE_ERROR}
            contents[uri][index] = json.dumps(failed, separators=(",", ":")).encode()
        for uri in {uri for uri, _ in chosen}:
            self.store.put(uri, b"".join(line + b"\n" for line in contents[uri]))
