"""What `batchrec verify-aws` asks of Amazon Personalize."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.doctor import aws_trial as trial
from batchrec_dagster.doctor.aws import SERVICE
from batchrec_dagster.doctor.aws_trial import Line, Trial
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.batch_files import read_inference
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION as V1
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2 as V2
from batchrec_dagster.steps import cost
from batchrec_dagster.steps.batch_jobs import job_seconds
from batchrec_dagster.steps.training import now
from batchrec_dagster.storage.object_store import split_uri

BILL_USD = 0.01  # of Cost Explorer, for each call

# Stages: what is asked with the resources there, after their teardown, and once the bill is out.
ASKING, NAMES, DELETED = "asking", "names", "deleted"

# What Personalize says no with. Other errors (no network, no permission) are not its answers.
_REFUSALS = {
    "InvalidInputException",
    "LimitExceededException",
    "ResourceAlreadyExistsException",
    "ResourceInUseException",
    "ResourceNotFoundException",
}


class UnansweredError(Exception):
    """A question has no answer, for this reason. status: `skipped`, or `pending` until later."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Question:
    """A question, the stage at which it is asked, and what finds the answer."""

    name: str
    text: str
    stage: str
    ask: Callable[[Trial], Mapping[str, Any]]


def estimated() -> list[cost.Cost]:
    """The most that all questions cost on AWS."""
    _, hours = cost.training_hours(V1, trial.ROWS)
    return [
        cost.import_cost("interactions in 5 imports", 5 * trial.BYTES),
        cost.training_cost(V2, hours, trial.ROWS),
        cost.training_cost(V1, hours, trial.ROWS),
        cost.training_cost(f"{V1} ({trial.UPDATE})", hours, trial.ROWS),
        cost.recommendations_cost(V2, 2 * trial.USERS),
        cost.recommendations_cost(V1, 3 * trial.USERS),
        cost.Cost(BILL_USD, "reading the bill", BILL_USD),
    ]


def _other(on: Trial, status: str, service: str, operation: str, **request: object) -> Any:
    """What another service of AWS answers; where it cannot, the question has this status."""
    if not on.ensure.on_aws:
        raise UnansweredError("skipped", "local")
    try:
        return getattr(on.personalize.storage.client(service), operation)(**request)
    except ClientError as error:
        raise UnansweredError(status, str(error)) from error


def refusal(error: PersonalizeError | ClientError) -> str:
    """Why Personalize refused or failed; raises the error if it could not be asked."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError):
        refused = cause.response["Error"]["Code"] in _REFUSALS
    else:
        # It has the status of a job that failed, but not of one that takes too long.
        refused = isinstance(error, PersonalizeError) and "status" in error.details
    if not refused:
        raise error
    return str(error)


def _v2_lines(on: Trial) -> dict[str, Any]:
    return about_lines(*on.lines(on.filtered()))


def about_lines(lines: Sequence[Line]) -> dict[str, Any]:
    """What is in the lines of lists, and whether batchrec reads them."""
    outputs = [line["output"] for line in lines if line.get("output")]
    padded = [len(each.get("scores") or []) < len(each["recommendedItems"]) for each in outputs]
    written = [json.dumps(line) for line in lines]
    try:
        rows = read_inference("\n".join(written).encode()).height
        read = f"{rows} lines"
    except ValueError as error:
        read = str(error)
    return {
        "line": sorted({key for line in lines for key in line}),
        "output": sorted({key for each in outputs for key in each}),
        "users": len(lines),
        "users_with_fewer_scores_than_items": sum(padded),
        "users_with_nan": sum("NaN" in json.dumps(each.get("scores")) for each in outputs),
        "errors": sorted({str(line["error"]) for line in lines if line.get("error")})[:5],
        "read_by_batchrec": read,
        "example": max(written, key=len, default="")[:2000],
    }


def _policy(on: Trial) -> dict[str, Any]:
    on.lines(on.filtered())  # It has read the data, and written lists.
    found: dict[str, Any] = {"read": True, "written": True}
    bucket, _ = split_uri(on.uri(""))
    try:
        policy = json.loads(
            _other(on, "skipped", "s3", "get_bucket_policy", Bucket=bucket)["Policy"]
        )
    except UnansweredError as error:
        return {**found, "statements": str(error)}
    ours = [each for each in policy["Statement"] if SERVICE in str(each.get("Principal"))]
    return {**found, "statements": _only(ours, "Effect", "Action", "Condition")}


def _kms(on: Trial) -> dict[str, Any]:
    bucket, _ = split_uri(on.uri(""))
    found = _other(on, "skipped", "s3", "get_bucket_encryption", Bucket=bucket)
    rules = found["ServerSideEncryptionConfiguration"]["Rules"]
    algorithms = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    if not any(algorithm.startswith("aws:kms") for algorithm in algorithms):
        raise UnansweredError("skipped", "the bucket is not encrypted with a KMS key")
    on.lines(on.filtered())
    return {"algorithms": algorithms, "read": True, "written": True}


def _over_500(on: Trial) -> dict[str, Any]:
    (lists,) = on.lists(on.start_lists("many", V2, trial.MANY_RESULTS))
    lengths = [len(items) for items in lists]
    return {"asked": trial.MANY_RESULTS, "least": min(lengths), "most": max(lengths)}


def _version(on: Trial, recipe: str, mode: str = trial.FULL) -> dict[str, Any]:
    version = on.version(recipe, mode)
    metrics = on.ensure.client.get_solution_metrics(solutionVersionArn=version.arn)["metrics"]
    return {
        "name": version.description.get("name"),
        "training_hours": version.description.get("trainingHours"),
        "most_hours_estimated": round(cost.training_hours(V1, trial.ROWS)[1], 2),
        "hours_passed": round(job_seconds(version) / 3600, 3),
        "metrics": metrics,
    }


def _versions(on: Trial) -> dict[str, Any]:
    return {recipe: _version(on, recipe) for recipe in (V2, V1)}


def _update(on: Trial) -> dict[str, Any]:
    on.version(V1)
    return _version(on, V1, trial.UPDATE)


def _exploration(on: Trial) -> dict[str, Any]:
    def start(name: str, weight: str) -> api.StartedResource:
        config = {"itemExplorationConfig": {"explorationWeight": weight}}
        return on.start_lists(name, V1, trial.FEW_RESULTS, batchInferenceJobConfig=config)

    names = {"without": "0", "without-again": "0", "with": "1"}
    once, again, explored = on.lists(*(start(*each) for each in names.items()))
    return {
        "users": len(once),
        "same_lists_twice_with_weight_0": sum(map(eq, once, again)),
        "same_lists_with_weights_0_and_1": sum(map(eq, once, explored)),
    }


def _event_types(on: Trial) -> dict[str, Any]:
    on.ensure.ready(api.IMPORT_JOB, on.start_import())
    found = {}
    for types in (9, 10, 11):
        try:
            on.ensure.ready(api.IMPORT_JOB, on.start_import(types))
            found[f"{types}"] = "imported"
        except PersonalizeError as error:
            found[f"{types}"] = refusal(error)
    return found


def _glue(on: Trial) -> dict[str, Any]:
    if on.ensure.on_aws and not on.glue_job:
        raise UnansweredError("skipped", "no --glue-job")
    job = _other(on, "skipped", "glue", "get_job", JobName=on.glue_job)["Job"]
    runs = _other(on, "skipped", "glue", "get_job_runs", JobName=on.glue_job)["JobRuns"][:3]
    keys = ("JobRunState", "ErrorMessage", "ExecutionTime", "DPUSeconds")
    (about,) = _only([job], "GlueVersion", "WorkerType", "NumberOfWorkers")
    return {**about, "last_runs": _only(runs, *keys)}


def _names(on: Trial) -> dict[str, Any]:
    try:
        on.start_import()
    except PersonalizeError as error:
        # Without a cause, the name is taken.
        message = str(error) if error.__cause__ is None else refusal(error)
        return {"free_again": False, "message": message}
    return {"free_again": True}


def _bill(on: Trial) -> dict[str, Any]:
    first, last = on.days
    today = now().date()
    if on.ensure.on_aws and today <= last:
        raise UnansweredError("pending", f"run the command again after {last}")
    days = _other(
        on,
        "pending",
        "ce",
        "get_cost_and_usage",
        TimePeriod={"Start": f"{first}", "End": f"{today}"},
        Granularity="DAILY",
        Metrics=["UnblendedCost", "UsageQuantity"],
        Filter={"Dimensions": {"Key": "SERVICE", "Values": ["Amazon Personalize"]}},
        GroupBy=[{"Type": "DIMENSION", "Key": "USAGE_TYPE"}],
    )["ResultsByTime"]
    billed = [
        {"day": day["TimePeriod"]["Start"], "usage_type": group["Keys"][0], **group["Metrics"]}
        for day in days
        for group in day["Groups"]
    ]
    if not billed:
        raise UnansweredError("pending", "Cost Explorer has nothing of Personalize yet")
    return {"of": "all of the account's Personalize on these days", "billed": billed}


def _only(dicts: Iterable[Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
    return [{key: each.get(key) for key in keys} for each in dicts]


QUESTIONS = (
    Question("v2_lines", "What is in the lines of lists of version 2?", ASKING, _v2_lines),
    Question("policy", "With which policy can it read and write the bucket?", ASKING, _policy),
    Question("kms", "Can it read and write a bucket encrypted with a KMS key?", ASKING, _kms),
    Question("over_500", "Do lists have more than 500 items?", ASKING, _over_500),
    Question("versions", "Which name and hours has a solution version?", ASKING, _versions),
    Question("update", "Which name, hours and metrics has an UPDATE?", ASKING, _update),
    Question("exploration", "Are lists without exploration reproducible?", ASKING, _exploration),
    Question(
        "event_types", "Are nine event types imported, ten, and eleven?", ASKING, _event_types
    ),
    Question("glue", "How did the Glue job's last runs end?", ASKING, _glue),
    Question("names", "Are names free again after a teardown?", NAMES, _names),
    Question("bill", "What was billed, by usage type?", DELETED, _bill),
)
