"""What `batchrec verify-aws` asks of Amazon Personalize."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import eq
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.doctor import aws_trial
from batchrec_dagster.doctor.aws_trial import Creation, Line, Trial
from batchrec_dagster.doctor.policies import SERVICE
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.file_formats import USER_FIELD, read_inference
from batchrec_dagster.personalize.prices import Cost, PriceList
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION as V1
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2 as V2
from batchrec_dagster.personalize.resource_kinds import (
    BATCH_INFERENCE_JOB,
    DATASET,
    DATASET_GROUP,
    FILTER,
    IMPORT_JOB,
    SOLUTION,
    SOLUTION_VERSION,
)
from batchrec_dagster.steps.batch_jobs import measure_job_seconds
from batchrec_dagster.steps.training import now
from batchrec_dagster.storage.object_store import split_uri
from batchrec_dagster.storage.permissions import is_denied

# Cost Explorer's price of a call.
BILL_USD = 0.01

# How long a new resource may be missing, and how often it is asked for.
LONGEST_LAG_SECONDS = 120
LAG_POLL_SECONDS = 0.2

# The stages: first the trial's resources exist, then they have been deleted, so that their names
# should be free again, and in the end only the bill is still to come.
ASKING, NAMES, DELETED = "asking", "names", "deleted"

# The errors with which Personalize refuses a request. Other errors, such as those of the network
# and of missing permissions, are not its answers.
_REFUSALS = {
    "InvalidInputException",
    "LimitExceededException",
    "ResourceAlreadyExistsException",
    "ResourceInUseException",
    "ResourceNotFoundException",
}


class UnansweredError(Exception):
    """A question has no answer, for this reason.

    `status` is `skipped`, or `pending` if the question is to be asked again later.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Question:
    """A question to Amazon Personalize."""

    name: str
    text: str
    stage: str
    """The stage at which it is asked."""
    ask: Callable[[Trial], Mapping[str, Any]]
    """The function that finds the answer."""


def estimate_costs(prices: PriceList) -> list[Cost]:
    """The most that all questions cost on AWS."""
    _, hours = prices.estimate_training_hours(V1, aws_trial.ROWS)
    return [
        prices.price_import("interactions in 10 imports", 10 * aws_trial.BYTES),
        # One in each dataset group, and three if AWS trains again what has a name that is taken.
        prices.price_training(V2, 5 * hours, 5 * aws_trial.ROWS),
        prices.price_training(V1, hours, aws_trial.ROWS),
        prices.price_training(f"{V1} ({aws_trial.UPDATE})", hours, aws_trial.ROWS),
        prices.price_recommendations(V2, 5 * aws_trial.USERS + len(aws_trial.BAD_REQUESTS)),
        prices.price_recommendations(V1, 3 * aws_trial.USERS),
        Cost(BILL_USD, "reading the bill", BILL_USD),
    ]


def _call_service(
    trial: Trial, status: str, service: str, operation: str, **request: object
) -> Any:
    """The response of another service of AWS.

    Raises UnansweredError of this status if the service refuses.
    """
    if not trial.ensure.on_aws:
        raise UnansweredError("skipped", "local")
    try:
        return getattr(trial.personalize.storage.client(service), operation)(**request)
    except ClientError as error:
        raise UnansweredError(status, str(error)) from error


def explain_refusal(error: PersonalizeError | ClientError) -> str:
    """Why Personalize refused or failed.

    Raises the error if it is not an answer of Personalize.
    """
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError):
        is_refusal = cause.response["Error"]["Code"] in _REFUSALS
    else:
        # The failure has the status of a job that failed, but none if a job takes too long.
        is_refusal = isinstance(error, PersonalizeError) and "status" in error.details
    if not is_refusal:
        raise error
    return str(error)


def _ask_create_solution(trial: Trial) -> dict[str, Any]:
    try:
        solution = trial.ensure_solution(V2)
    except PersonalizeError as error:
        cause = error.__cause__
        if isinstance(cause, ClientError) and is_denied(cause):
            raise UnansweredError("refused", str(error)) from error
        raise
    return {"allowed": True, "recipe": solution.description["recipeArn"]}


def _ask_v2_lines(trial: Trial) -> dict[str, Any]:
    return describe_lines(*trial.read_lines(trial.start_filtered_lists()))


def describe_lines(lines: Sequence[Line]) -> dict[str, Any]:
    """The fields in the lines of lists, and whether batchrec can read them."""
    outputs = [line["output"] for line in lines if line.get("output")]
    are_padded = [
        len(output.get("scores") or []) < len(output["recommendedItems"]) for output in outputs
    ]
    lines_as_json = [json.dumps(line) for line in lines]
    try:
        rows = read_inference("\n".join(lines_as_json).encode()).height
        reading = f"{rows} lines"
    except ValueError as error:
        reading = str(error)
    return {
        "line": sorted({key for line in lines for key in line}),
        "output": sorted({key for output in outputs for key in output}),
        "users": len(lines),
        "users_with_fewer_scores_than_items": sum(are_padded),
        "users_with_nan": sum("NaN" in json.dumps(output.get("scores")) for output in outputs),
        "errors": sorted({str(line["error"]) for line in lines if line.get("error")})[:5],
        "read_by_batchrec": reading,
        "example": max(lines_as_json, key=len, default="")[:2000],
    }


def _ask_policy(trial: Trial) -> dict[str, Any]:
    # Reading the lines raises an error unless Personalize could read the data and write lists.
    trial.read_lines(trial.start_filtered_lists())
    answer: dict[str, Any] = {"read": True, "written": True}
    bucket, _ = split_uri(trial.uri(""))
    try:
        policy = json.loads(
            _call_service(trial, "skipped", "s3", "get_bucket_policy", Bucket=bucket)["Policy"]
        )
    except UnansweredError as error:
        return {**answer, "statements": str(error)}
    our_statements = [
        statement for statement in policy["Statement"] if SERVICE in str(statement.get("Principal"))
    ]
    return {**answer, "statements": _select_keys(our_statements, "Effect", "Action", "Condition")}


def _ask_kms(trial: Trial) -> dict[str, Any]:
    bucket, _ = split_uri(trial.uri(""))
    encryption = _call_service(trial, "skipped", "s3", "get_bucket_encryption", Bucket=bucket)
    rules = encryption["ServerSideEncryptionConfiguration"]["Rules"]
    algorithms = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    if not any(algorithm.startswith("aws:kms") for algorithm in algorithms):
        raise UnansweredError("skipped", "the bucket is not encrypted with a KMS key")
    trial.read_lines(trial.start_filtered_lists())
    return {"algorithms": algorithms, "read": True, "written": True}


def _ask_over_500(trial: Trial) -> dict[str, Any]:
    (lists,) = trial.read_lists(trial.start_lists("many", V2, aws_trial.MANY_RESULTS))
    lengths = [len(items) for items in lists]
    return {"asked": aws_trial.MANY_RESULTS, "least": min(lengths), "most": max(lengths)}


def _describe_version(trial: Trial, recipe: str, mode: str = aws_trial.FULL) -> dict[str, Any]:
    version = trial.train_version(recipe, mode)
    _, most_hours = trial.personalize.read_prices().estimate_training_hours(V1, aws_trial.ROWS)
    metrics = trial.ensure.client.get_solution_metrics(solutionVersionArn=version.arn)["metrics"]
    return {
        "name": version.description.get("name"),
        "training_hours": version.description.get("trainingHours"),
        "most_hours_estimated": round(most_hours, 2),
        "hours_passed": round(measure_job_seconds(version) / 3600, 3),
        "metrics": metrics,
    }


def _ask_versions(trial: Trial) -> dict[str, Any]:
    return {recipe: _describe_version(trial, recipe) for recipe in (V2, V1)}


def _ask_update(trial: Trial) -> dict[str, Any]:
    trial.train_version(V1)
    return _describe_version(trial, V1, aws_trial.UPDATE)


def _ask_exploration(trial: Trial) -> dict[str, Any]:
    def start(name: str, weight: str) -> api.StartedResource:
        config = {"itemExplorationConfig": {"explorationWeight": weight}}
        return trial.start_lists(name, V1, aws_trial.FEW_RESULTS, batchInferenceJobConfig=config)

    first_lists, second_lists, explored_lists = trial.read_lists(
        start("without", "0"), start("without-again", "0"), start("with", "1")
    )
    return {
        "users": len(first_lists),
        "same_lists_twice_with_weight_0": sum(map(eq, first_lists, second_lists)),
        "same_lists_with_weights_0_and_1": sum(map(eq, first_lists, explored_lists)),
    }


def _ask_event_types(trial: Trial) -> dict[str, Any]:
    trial.ensure.wait_until_ready(IMPORT_JOB, trial.start_import())
    outcomes = {}
    for types in (9, 10, 11):
        try:
            trial.ensure.wait_until_ready(IMPORT_JOB, trial.start_import(types))
            outcomes[f"{types}"] = "imported"
        except PersonalizeError as error:
            outcomes[f"{types}"] = explain_refusal(error)
    return outcomes


def _ask_error_lines(trial: Trial) -> dict[str, Any]:
    lines = trial.read_lines_of_bad_requests()
    try:
        rows = read_inference("\n".join(lines).encode())
        reading = f"{rows.height} lines, {rows['error'].count()} of them with an error"
    except ValueError as error:
        reading = str(error)
    return {
        "requests": [json.dumps(request) for request in aws_trial.BAD_REQUESTS],
        "lines": [line[:2000] for line in lines],
        "read_by_batchrec": reading,
    }


def _ask_any_event(trial: Trial) -> dict[str, Any]:
    (lines,) = trial.read_lines(trial.start_filtered_lists(event_type=False))
    users_with_seen_items = aws_trial.count_users_with_seen_items(lines)
    return {"users": len(lines), "users_with_seen_items": users_with_seen_items}


def _ask_repeats(trial: Trial) -> dict[str, Any]:
    def repeat(creation: Creation) -> str:
        try:
            arn = trial.create(creation)
        except ClientError as error:
            return explain_refusal(error)
        # Nothing can be deleted while it is being trained or imported.
        trial.ensure.wait_until_ready(creation.kind, api.StartedResource(arn, created=True))
        return f"created {arn}"

    answers = {}
    for creation in trial.plan_creations(with_training=True):
        started = api.StartedResource(trial.create(creation), created=True)
        at_once = repeat(creation)
        trial.ensure.wait_until_ready(creation.kind, started)
        answers[creation.kind.label] = {"at_once": at_once, "when_active": repeat(creation)}
    return answers


def _ask_lag(trial: Trial) -> dict[str, Any]:
    return {
        creation.kind.label: _measure_lag(trial, creation) for creation in trial.plan_creations()
    }


def _measure_lag(trial: Trial, creation: Creation) -> dict[str, Any]:
    """The seconds after which Describe and List show the new resource, and how many did not.

    The seconds are None for what does not show it within LONGEST_LAG_SECONDS.
    """
    kind, ensure = creation.kind, trial.ensure
    arn = trial.create(creation)
    start = time.monotonic()

    def is_described() -> bool:
        try:
            ensure.describe(kind, arn)
        except ClientError as error:
            if error.response["Error"]["Code"] != api.NOT_FOUND:
                raise
            return False
        return True

    def is_listed() -> bool:
        return any(summary[kind.arn] == arn for summary in ensure.list(kind, **creation.parent))

    answer: dict[str, Any] = {}
    for name, is_shown in (("describe", is_described), ("list", is_listed)):
        missed = 0
        while not (shown := is_shown()) and time.monotonic() - start < LONGEST_LAG_SECONDS:
            missed += 1
            time.sleep(LAG_POLL_SECONDS)
        answer[f"{name}_seconds"] = round(time.monotonic() - start, 1) if shown else None
        answer[f"{name}s_without_it"] = missed
    ensure.wait_until_ready(kind, api.StartedResource(arn, created=True))
    return answer


def _ask_tags(trial: Trial) -> dict[str, Any]:
    group, dataset = trial.ensure_dataset()
    solution = trial.ensure_solution(V2).arn
    version = trial.train_version(V2).arn
    lists = trial.start_filtered_lists()
    (filter_summary, *_) = trial.ensure.list(FILTER, datasetGroupArn=group)
    arns = {
        DATASET_GROUP: group,
        DATASET: dataset,
        IMPORT_JOB: trial.start_import().arn,
        SOLUTION: solution,
        SOLUTION_VERSION: version,
        FILTER: filter_summary[FILTER.arn],
        BATCH_INFERENCE_JOB: lists.arn,
    }
    answers = {}
    for kind, arn in arns.items():
        try:
            tags = trial.ensure.tags_of(arn)
        except ClientError as error:
            answers[kind.label] = explain_refusal(error)
        else:
            missing = sorted(set(trial.ensure.tags.items()) - set(tags.items()))
            answers[kind.label] = f"without {missing}" if missing else "all came back"
    return answers


def _ask_deletion(trial: Trial) -> dict[str, Any]:
    (lines_before,) = trial.read_lines(
        trial.start_lists("before-deletion", V2, aws_trial.FEW_RESULTS)
    )
    lists_before = _find_lists(lines_before)
    erased_users = [*lists_before][: aws_trial.ERASED_USERS]
    # One of the ids is unknown, as that of somebody who was erased before.
    result = trial.erase_users([*erased_users, "nobody"])
    (lines_after,) = trial.read_lines(
        trial.start_lists("after-deletion", V2, aws_trial.FEW_RESULTS)
    )
    lists_after = _find_lists(lines_after)
    other_users = [user for user in lists_before if user not in erased_users]
    started, ended = result.started_at, result.ended_at
    return {
        "status": result.status,
        "hours_passed": ended and round((ended - started).total_seconds() / 3600, 3),
        "records_deleted": result.records_deleted,
        "interactions_of_erased_users": aws_trial.count_interactions(erased_users),
        "work_meanwhile": result.overlapping_work,
        "lists_of_erased_users": _compare_lists(lists_before, lists_after, erased_users),
        "lists_of_other_users": _compare_lists(lists_before, lists_after, other_users),
    }


def _compare_lists(
    lists_before: Mapping[str, list[str] | None],
    lists_after: Mapping[str, list[str] | None],
    users: Collection[str],
) -> dict[str, int]:
    """How many of the users there are, how many have a list after, and how many the same one."""
    return {
        "users": len(users),
        "with_list": sum(lists_after.get(user) is not None for user in users),
        "with_same_list": sum(lists_after.get(user) == lists_before[user] for user in users),
    }


def _find_lists(lines: Iterable[Line]) -> dict[str, list[str] | None]:
    """The items of each user, in order of user; None for a user without a list."""
    return {
        line["input"][USER_FIELD]: (line.get("output") or {}).get("recommendedItems")
        for line in lines
    }


def _ask_glue(trial: Trial) -> dict[str, Any]:
    if trial.ensure.on_aws and not trial.glue_job:
        raise UnansweredError("skipped", "no --glue-job")
    job = _call_service(trial, "skipped", "glue", "get_job", JobName=trial.glue_job)["Job"]
    answer = _call_service(trial, "skipped", "glue", "get_job_runs", JobName=trial.glue_job)
    runs = answer["JobRuns"][:3]
    keys = ("JobRunState", "ErrorMessage", "ExecutionTime", "DPUSeconds")
    (settings,) = _select_keys([job], "GlueVersion", "WorkerType", "NumberOfWorkers")
    return {**settings, "last_runs": _select_keys(runs, *keys)}


def _ask_names(trial: Trial) -> dict[str, Any]:
    try:
        trial.start_import()
    except PersonalizeError as error:
        # The failure has no cause if the name is still taken.
        message = str(error) if error.__cause__ is None else explain_refusal(error)
        return {"free_again": False, "message": message}
    return {"free_again": True}


def _ask_bill(trial: Trial) -> dict[str, Any]:
    first, last = trial.days
    today = now().date()
    if trial.ensure.on_aws and today <= last:
        raise UnansweredError("pending", f"run the command again after {last}")
    days = _call_service(
        trial,
        "pending",
        "ce",
        "get_cost_and_usage",
        TimePeriod={"Start": f"{first}", "End": f"{today}"},
        Granularity="DAILY",
        Metrics=["UnblendedCost", "UsageQuantity"],
        Filter={"Dimensions": {"Key": "SERVICE", "Values": ["Amazon Personalize"]}},
        GroupBy=[{"Type": "DIMENSION", "Key": "USAGE_TYPE"}],
    )["ResultsByTime"]
    charges = [
        {"day": day["TimePeriod"]["Start"], "usage_type": group["Keys"][0], **group["Metrics"]}
        for day in days
        for group in day["Groups"]
    ]
    if not charges:
        raise UnansweredError("pending", "Cost Explorer has nothing of Personalize yet")
    return {"of": "all of the account's Personalize on these days", "billed": charges}


def _select_keys(dicts: Iterable[Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
    """Of each mapping only these keys, with None for those that it lacks."""
    return [{key: mapping.get(key) for key in keys} for mapping in dicts]


QUESTIONS = (
    Question(
        "create_solution",
        "May the runner create a solution with the recipe's ARN?",
        ASKING,
        _ask_create_solution,
    ),
    Question("v2_lines", "What is in the lines of lists of version 2?", ASKING, _ask_v2_lines),
    Question("policy", "With which policy can it read and write the bucket?", ASKING, _ask_policy),
    Question("kms", "Can it read and write a bucket encrypted with a KMS key?", ASKING, _ask_kms),
    Question("over_500", "Do lists have more than 500 items?", ASKING, _ask_over_500),
    Question("versions", "Which name and hours has a solution version?", ASKING, _ask_versions),
    Question("update", "Which name, hours and metrics has an UPDATE?", ASKING, _ask_update),
    Question(
        "exploration", "Are lists without exploration reproducible?", ASKING, _ask_exploration
    ),
    Question(
        "event_types", "Are nine event types imported, ten, and eleven?", ASKING, _ask_event_types
    ),
    Question(
        "error_lines", "What is in the line of a request that fails?", ASKING, _ask_error_lines
    ),
    Question(
        "any_event",
        "Does a filter on any event type work on interactions without types?",
        ASKING,
        _ask_any_event,
    ),
    Question("repeats", "What is the answer to a creation that is repeated?", ASKING, _ask_repeats),
    Question("lag", "After how long is a new resource described and listed?", ASKING, _ask_lag),
    Question("tags", "Do the tags of each kind come back?", ASKING, _ask_tags),
    Question("glue", "How did the Glue job's last runs end?", ASKING, _ask_glue),
    Question(
        "deletion",
        "What does a data deletion job delete, and what do the erased get afterwards?",
        ASKING,
        _ask_deletion,
    ),
    Question("names", "Are names free again after a teardown?", NAMES, _ask_names),
    Question("bill", "What was billed, by usage type?", DELETED, _ask_bill),
)
