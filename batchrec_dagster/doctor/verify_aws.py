"""What only an AWS account can tell: the questions of `batchrec verify-aws`.

The file of answers is the only state, written after each answer. It has the name of all that is
made in Personalize and in the storage, so that a later call continues, or deletes it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.metadata import version as version_of
from logging import Logger
from pathlib import Path
from typing import Any, cast

import dagster as dg
import polars as pl
from botocore.exceptions import ClientError

from batchrec_dagster.config import fingerprint
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.doctor.aws import SERVICE
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.batch_files import USER_FIELD, read_inference
from batchrec_dagster.personalize.datasets import interactions_columns, interactions_schema
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION as V1
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2 as V2
from batchrec_dagster.personalize.recipes import recipe_arn
from batchrec_dagster.personalize.schemas import INTERACTIONS
from batchrec_dagster.personalize.teardown import delete, find
from batchrec_dagster.reporting.markdown import code, escaped
from batchrec_dagster.samples import generator
from batchrec_dagster.steps import cost
from batchrec_dagster.steps.batch_jobs import job_seconds, output_files, output_pieces
from batchrec_dagster.steps.training import now
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.object_store import split_uri
from batchrec_dagster.storage.paths import Places

# The data: fixed, so that the cost is known before they are generated. There are more items than
# in any list here, and more than the 1,000 interactions of 25 users that an import must have.
ROWS, ROWS_OF_A_USER, ITEMS, USERS = 10_000, 100, 1_500, 50
BYTES = 40 * ROWS
FULL, UPDATE = "FULL", "UPDATE"
MANY_RESULTS, FEW_RESULTS = 600, 25
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


class VerifyError(Exception):
    """The file of answers cannot be used, or the cost exceeds the budget."""


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
    ask: Callable[[Verification], Mapping[str, Any]]


def estimated() -> list[cost.Cost]:
    """The most that all questions cost on AWS."""
    hours = cost.most_training_hours(ROWS)
    return [
        cost.import_cost("interactions in 4 imports", 4 * BYTES),
        cost.training_cost(V2, hours, ROWS),
        cost.training_cost(V1, hours, ROWS),
        cost.training_cost(f"{V1} ({UPDATE})", hours, ROWS),
        cost.recommendations_cost(V2, 2 * USERS),
        cost.recommendations_cost(V1, 3 * USERS),
        cost.Cost(BILL_USD, "reading the bill"),
    ]


@dataclass(frozen=True)
class Verification:
    """The answers so far, and the deployment that is asked."""

    file: Path
    personalize: PersonalizeResource
    ensure: api.Ensure
    state: dict[str, Any]
    glue_job: str | None = None

    @classmethod
    def opened(
        cls, file: Path, personalize: PersonalizeResource, log: Logger, glue_job: str | None = None
    ) -> Verification:
        """That of the file, or a new one. Raises VerifyError for a file of another deployment."""
        storage = personalize.storage.uri("")
        state: dict[str, Any] = {
            "deployment": fingerprint(personalize.endpoint, storage, personalize.role_arn),
            "pipeline": f"verify-aws-{secrets.token_hex(4)}",
            "batchrec": version_of("batchrec-dagster"),
            "personalize": "Amazon" if personalize.on_aws else "local",
            "region": personalize.client.meta.region_name,
            "started": f"{now():%FT%TZ}",
            "estimate": cost.summary(estimated()),
            "stage": ASKING,
            "answers": {},
        }
        if file.exists():
            try:
                known = json.loads(file.read_text(encoding="utf-8"))
                same = known["deployment"] == state["deployment"]
            except (ValueError, LookupError, TypeError) as error:
                raise VerifyError(f"{file} is damaged ({error}): move it away") from error
            if not same:
                raise VerifyError(
                    f"{file} has another deployment's answers: go back to its settings"
                    " (BATCHREC_STORAGE, BATCHREC_PERSONALIZE, BATCHREC_ROLE_ARN), or set --output"
                )
            state = known
        ensure = personalize.ensure(log, {api.PIPELINE_TAG: state["pipeline"]})
        return cls(file, personalize, ensure, state, glue_job)

    def run(self) -> None:
        """Ask what has no answer yet, and delete everything. Raises dg.Failure, StorageError and
        botocore's errors if Personalize could not be asked; a later call continues."""
        self._save()
        if self.state["stage"] == ASKING:
            self._ask()
            self._delete()
            self._save(stage=NAMES)
        if self.state["stage"] == NAMES:
            self._ask()
            self.delete()
        self._ask()

    def delete(self) -> None:
        """Delete everything, and ask for nothing more but the bill."""
        self._delete()
        self._save(stage=DELETED, ended=f"{now():%FT%TZ}")

    def _delete(self) -> None:
        delete(self.ensure, find(self.ensure, self.state["pipeline"]))
        store = self.personalize.storage.store
        for file in store.list(self.personalize.storage.uri(f"{self.state['pipeline']}/")):
            store.delete(file.uri)

    def _save(self, **changes: object) -> None:
        self.state.update(changes)
        durable.write(self.file, [(json.dumps(self.state, indent=2) + "\n").encode()])
        durable.write(self.file.with_suffix(".md"), [summary(self.state).encode()])

    def _ask(self) -> None:
        answers = self.state["answers"]
        for each in QUESTIONS:
            known = answers.get(each.name, {"status": "pending"})
            if each.stage != self.state["stage"] or known["status"] != "pending":
                continue
            self.ensure.log.info(f"asking: {each.text}")
            found: dict[str, Any]
            try:
                found = {"status": "answered", "answer": each.ask(self)}
            except UnansweredError as error:
                found = {"status": error.status, "reason": str(error)}
            except (dg.Failure, ClientError) as error:
                found = {"status": "refused", "reason": _refusal(error)}
            at = {"question": each.text, "at": f"{now():%FT%TZ}"}
            answers[each.name] = {**at, **self._anonymous(found)}
            self._save()

    def _anonymous(self, found: Mapping[str, Any]) -> dict[str, Any]:
        """Without the account's number and the bucket's name: the file is made to be sent."""
        bucket, _ = split_uri(self.uri(""))
        text = json.dumps(found, default=str).replace(self.ensure.role_arn.split(":")[4], "ACCOUNT")
        text = text.replace(f"s3://{bucket}", "s3://BUCKET").replace(f":::{bucket}", ":::BUCKET")
        anonymous: dict[str, Any] = json.loads(text)
        return anonymous

    @property
    def places(self) -> Places:
        return Places(self.state["pipeline"])

    @property
    def uri(self) -> Callable[[str], str]:
        return self.personalize.storage.uri

    def named(self, what: str = "") -> str:
        """A name under which teardown finds it, as it finds a pipeline's."""
        pipeline: str = self.state["pipeline"]
        return f"{pipeline}-{pipeline[-8:]}{what and '-'}{what}"

    def dataset(self) -> tuple[str, str]:
        """The ARNs of the dataset group and of its interactions."""
        name, text = self.named("interactions"), interactions_schema(event_type=True)
        group = self.ensure.named(api.DATASET_GROUP, self.named(), {}).arn
        schema = self.ensure.named(api.SCHEMA, name, {"schema": text}).arn
        within = {"datasetGroupArn": group}
        request = {"datasetType": INTERACTIONS, "schemaArn": schema, **within}
        return group, self.ensure.named(api.DATASET, name, request, **within).arn

    def start_import(self, event_types: int = 1) -> api.Started:
        """The import of the data with so many event types."""
        name, store = f"{event_types}-types", self.personalize.storage.store
        uri = self.uri(self.places.interactions.replace("interactions.csv", f"{name}.csv"))
        if store.head(uri) is None:
            data, users = interactions(event_types)
            store.put(self.uri(self.places.batch_users), users)
            store.put(uri, data)
        _, dataset = self.dataset()
        request = {
            "datasetArn": dataset,
            "dataSource": {"dataLocation": uri},
            "roleArn": self.ensure.role_arn,
            "importMode": "FULL",
        }
        return self.ensure.start_named(
            api.IMPORT_JOB, self.named(name), request, datasetArn=dataset
        )

    def version(self, recipe: str, mode: str = FULL) -> api.Ensured:
        """The solution version, trained once: one that failed is not trained and paid again."""
        kind, ensure = api.SOLUTION_VERSION, self.ensure
        ensure.ready(api.IMPORT_JOB, self.start_import())
        within = {"datasetGroupArn": self.dataset()[0]}
        request = {"recipeArn": recipe_arn(recipe), "performAutoTraining": False, **within}
        name = self.named(recipe.removeprefix("aws-"))
        solution = ensure.named(api.SOLUTION, name, request, **within).arn
        # By the mode: whether an UPDATE has a name is one of the questions.
        for there in ensure.list(kind, solutionArn=solution):
            if there.get("trainingMode", FULL) == mode:
                return ensure.ready(kind, api.Started(there[kind.arn], created=False))
        name, client = self.named(mode.lower()), cast(Any, ensure.client)
        made = client.create_solution_version(solutionArn=solution, trainingMode=mode, name=name)
        ensure.log.info(f"training {recipe} ({mode})")
        return ensure.ready(kind, api.Started(made[kind.arn], created=True))

    def start_lists(self, name: str, recipe: str, results: int, **request: object) -> api.Started:
        """A batch inference job for the users."""
        version = self.version(recipe).arn
        create = {
            "solutionVersionArn": version,
            "roleArn": self.ensure.role_arn,
            "numResults": results,
            "jobInput": {"s3DataSource": {"path": self.uri(self.places.batch_users)}},
            "jobOutput": {
                "s3DataDestination": {"path": self.uri(self.places.batch_inference(name))}
            },
            **request,
        }
        return self.ensure.start_named(
            api.BATCH_INFERENCE_JOB, self.named(name), create, solutionVersionArn=version
        )

    def lists(self, *started: api.Started) -> list[tuple[api.Ensured, pl.DataFrame]]:
        """The finished jobs with their lines in order of user."""
        return [
            (
                job,
                pl.concat(
                    output_pieces(self.personalize.storage, job.description, read_inference)
                ).sort("user_id"),
            )
            for job in self.ensure.all_ready(api.BATCH_INFERENCE_JOB, started)
        ]

    def filtered(self) -> api.Started:
        """Lists of version 2 without seen items: documented to be padded."""
        self.version(V2)
        within = {"datasetGroupArn": self.dataset()[0]}
        seen = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
        request = {"filterExpression": seen, **within}
        arn = self.ensure.named(api.FILTER, self.named("seen"), request, **within).arn
        return self.start_lists("lines", V2, FEW_RESULTS, filterArn=arn)

    def other(self, status: str, service: str, operation: str, **request: object) -> Any:
        """What another service of AWS answers; where it cannot, the question has this status."""
        if not self.ensure.on_aws:
            raise UnansweredError("skipped", "local")
        try:
            return getattr(self.personalize.storage.client(service), operation)(**request)
        except ClientError as error:
            raise UnansweredError(status, str(error)) from error


@cache
def ratings() -> pl.DataFrame:
    """ROWS of the demo's ratings, by user: of the ITEMS that most people rated."""
    all_of_them = generator.ratings()
    counts = all_of_them["movieID"].value_counts()
    most = counts.sort("count", "movieID", descending=True)["movieID"].head(ITEMS)
    some = all_of_them.filter(pl.col("movieID").is_in(most.implode()))
    return some.filter(pl.int_range(pl.len()).over("userID") < ROWS_OF_A_USER).head(ROWS)


def interactions(event_types: int) -> tuple[bytes, bytes]:
    """The generated data: the CSV of the interactions, and the batch input of USERS users."""
    table = ratings().select(
        pl.col("userID").cast(pl.String),
        "movieID",
        pl.col("timestamp") // 1000,
        pl.format("type_{}", pl.int_range(pl.len()) % event_types),
    )
    table.columns = interactions_columns(event_type=True)
    users = table.select(pl.first().unique(maintain_order=True).alias(USER_FIELD)).head(USERS)
    return table.write_csv().encode(), users.write_ndjson().encode()


def summary(state: Mapping[str, Any]) -> str:
    """The answers as Markdown."""
    lines = [
        f"# Answers of Personalize ({state['personalize']}, {state['region']})",
        f"batchrec {state['batchrec']}, started {state['started']}; {state['estimate']}.",
    ]
    for name, found in state["answers"].items():
        lines.append(f"## {escaped(found['question'])}")
        lines.append(f"`{name}`: {found['status']}, {found['at']}")
        answer = found.get("answer")
        lines.append(code(json.dumps(answer, indent=2)) if answer else escaped(found["reason"]))
    return "\n\n".join(lines) + "\n"


def _refusal(error: dg.Failure | ClientError) -> str:
    """Why Personalize refused or failed; raises the error if it could not be asked."""
    cause = error if isinstance(error, ClientError) else error.__cause__
    if isinstance(cause, ClientError):
        refused = cause.response["Error"]["Code"] in _REFUSALS
    else:
        # It has the status of a job that failed, but not of one that takes too long.
        refused = isinstance(error, dg.Failure) and "status" in error.metadata
    if not refused:
        raise error
    return getattr(error, "description", None) or str(error)


def _v2_lines(on: Verification) -> dict[str, Any]:
    ((job, lists),) = on.lists(on.filtered())
    files = output_files(on.personalize.storage, job.description)
    first = on.personalize.storage.store.get(files[0]).decode().partition("\n")[0]
    line = json.loads(first)
    padded = pl.col("scores").list.len() < pl.col("items").list.len()
    return {
        "files": [file.rpartition("/")[2] for file in files],
        "line": list(line),
        "output": list(line["output"] or {}),
        "users": lists.height,
        "users_with_fewer_scores_than_items": lists.filter(padded).height,
        "errors": lists["error"].drop_nulls().unique().sort().to_list()[:5],
        "example": first[:2000],
    }


def _policy(on: Verification) -> dict[str, Any]:
    on.lists(on.filtered())  # It has read the data, and written lists.
    found: dict[str, Any] = {"read": True, "written": True}
    bucket, _ = split_uri(on.uri(""))
    try:
        policy = json.loads(on.other("skipped", "s3", "get_bucket_policy", Bucket=bucket)["Policy"])
    except UnansweredError as error:
        return {**found, "statements": str(error)}
    ours = [each for each in policy["Statement"] if SERVICE in str(each.get("Principal"))]
    return {**found, "statements": _only(ours, "Effect", "Action", "Condition")}


def _kms(on: Verification) -> dict[str, Any]:
    bucket, _ = split_uri(on.uri(""))
    found = on.other("skipped", "s3", "get_bucket_encryption", Bucket=bucket)
    rules = found["ServerSideEncryptionConfiguration"]["Rules"]
    algorithms = [rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] for rule in rules]
    if not any(algorithm.startswith("aws:kms") for algorithm in algorithms):
        raise UnansweredError("skipped", "the bucket is not encrypted with a KMS key")
    on.lists(on.filtered())
    return {"algorithms": algorithms, "read": True, "written": True}


def _over_500(on: Verification) -> dict[str, Any]:
    ((_, lists),) = on.lists(on.start_lists("many", V2, MANY_RESULTS))
    lengths = lists["items"].list.len()
    return {"asked": MANY_RESULTS, "least": lengths.min(), "most": lengths.max()}


def _version(on: Verification, recipe: str, mode: str = FULL) -> dict[str, Any]:
    version = on.version(recipe, mode)
    metrics = on.ensure.client.get_solution_metrics(solutionVersionArn=version.arn)["metrics"]
    return {
        "name": version.description.get("name"),
        "training_hours": version.description.get("trainingHours"),
        "most_hours_estimated": round(cost.most_training_hours(ROWS), 2),
        "hours_passed": round(job_seconds(version) / 3600, 3),
        "metrics": metrics,
    }


def _versions(on: Verification) -> dict[str, Any]:
    return {recipe: _version(on, recipe) for recipe in (V2, V1)}


def _update(on: Verification) -> dict[str, Any]:
    on.version(V1)
    return _version(on, V1, UPDATE)


def _exploration(on: Verification) -> dict[str, Any]:
    def start(name: str, weight: str) -> api.Started:
        config = {"itemExplorationConfig": {"explorationWeight": weight}}
        return on.start_lists(name, V1, FEW_RESULTS, batchInferenceJobConfig=config)

    jobs = on.lists(start("without", "0"), start("without-again", "0"), start("with", "1"))
    once, again, explored = (lists["items"] for _, lists in jobs)
    return {
        "users": len(once),
        "same_lists_twice_with_weight_0": int((once == again).sum()),
        "same_lists_with_weights_0_and_1": int((once == explored).sum()),
    }


def _event_types(on: Verification) -> dict[str, Any]:
    on.ensure.ready(api.IMPORT_JOB, on.start_import())
    found = {}
    for types in (9, 10, 11):
        try:
            on.ensure.ready(api.IMPORT_JOB, on.start_import(types))
            found[f"{types}"] = "imported"
        except dg.Failure as failure:
            found[f"{types}"] = _refusal(failure)
    return found


def _glue(on: Verification) -> dict[str, Any]:
    if on.ensure.on_aws and not on.glue_job:
        raise UnansweredError("skipped", "no --glue-job")
    job = on.other("skipped", "glue", "get_job", JobName=on.glue_job)["Job"]
    runs = on.other("skipped", "glue", "get_job_runs", JobName=on.glue_job)["JobRuns"][:3]
    keys = ("JobRunState", "ErrorMessage", "ExecutionTime", "DPUSeconds")
    (about,) = _only([job], "GlueVersion", "WorkerType", "NumberOfWorkers")
    return {**about, "last_runs": _only(runs, *keys)}


def _names(on: Verification) -> dict[str, Any]:
    try:
        on.start_import()
    except dg.Failure as failure:
        # Without a cause, the name is taken.
        message = failure.description if failure.__cause__ is None else _refusal(failure)
        return {"free_again": False, "message": message}
    return {"free_again": True}


def _bill(on: Verification) -> dict[str, Any]:
    first, last = (date.fromisoformat(on.state[key][:10]) for key in ("started", "ended"))
    today = now().date()
    if on.ensure.on_aws and today <= last:
        raise UnansweredError("pending", f"run the command again after {last}")
    days = on.other(
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
