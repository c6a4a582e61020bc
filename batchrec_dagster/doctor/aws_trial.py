"""The trial of `batchrec verify-aws`: a small generated data set in a dataset group of its own.

Nobody knows yet in which form the results come back, because that is one of the questions. So lines
are read as bare JSON.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, cast

import polars as pl

from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.data_deletion import DeletionResult, erase_users
from batchrec_dagster.personalize.file_formats import ITEM_FIELD, OUTPUT_SUFFIX, USER_FIELD
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2 as V2
from batchrec_dagster.personalize.recipes import build_recipe_arn
from batchrec_dagster.personalize.resource_kinds import (
    BATCH_INFERENCE_JOB,
    DATASET,
    DATASET_GROUP,
    FILTER,
    IMPORT_JOB,
    SCHEMA,
    SOLUTION,
    SOLUTION_VERSION,
    ResourceKind,
)
from batchrec_dagster.samples import generator
from batchrec_dagster.steps.batch_jobs import JobOutput
from batchrec_dagster.storage.paths import StorageKeys

Line = dict[str, Any]


@dataclass(frozen=True)
class Creation:
    """A resource that can be created."""

    kind: ResourceKind
    request: dict[str, Any]
    """Create's arguments."""
    parent: Mapping[str, str]
    """List's filter."""


# The size of the data is fixed, so that the cost is known before they are generated. There are more
# items than in any list of the trial, and more than the 1,000 interactions of 25 users that an
# import must have.
ROWS, ROWS_OF_A_USER, ITEMS, USERS = 10_000, 100, 1_500, 50
BYTES = 40 * ROWS
FULL, UPDATE = "FULL", "UPDATE"
MANY_RESULTS, FEW_RESULTS = 600, 25
# How many of the USERS a data deletion job erases.
ERASED_USERS = 3

# What the names of the resources end with, or go on with, in the group without event types.
GROUP_WITHOUT_EVENT_TYPE = "00000000"
WITHOUT_SEEN_ITEMS = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
# Lines of a batch input: nobody whom the model knows, no user at all, and a field too many.
BAD_REQUESTS = ({USER_FIELD: "nobody"}, {ITEM_FIELD: "1"}, {USER_FIELD: "nobody-2", "more": "1"})


@dataclass(frozen=True)
class Trial:
    """A dataset group of its own, and the resources in it that answer the questions.

    A resource is found by its name, so that a later call does not create it again.
    """

    pipeline: str
    """The name that all its resources and files have."""
    personalize: PersonalizeResource
    ensure: api.Ensure
    days: tuple[date, date]
    """The first and the last day of the trial; the last is today until the trial has ended."""
    glue_job: str | None = None
    """The name of a Glue job whose last runs to report."""

    @property
    def storage_keys(self) -> StorageKeys:
        return StorageKeys(self.pipeline)

    @property
    def uri(self) -> Callable[[str], str]:
        return self.personalize.storage.uri

    def make_name(self, what: str = "", *, event_type: bool = True) -> str:
        """The name of a resource, by which teardown finds it as it finds a pipeline's.

        event_type: whether it is in the dataset group whose interactions have event types.
        """
        group = self.pipeline[-8:] if event_type else GROUP_WITHOUT_EVENT_TYPE
        return f"{self.pipeline}-{group}{what and '-'}{what}"

    def ensure_dataset(self, *, event_type: bool = True) -> tuple[str, str]:
        """The ARNs of the dataset group and of its dataset of interactions."""
        name = self.make_name("interactions", event_type=event_type)
        text = schemas.build_interactions_schema(event_type=event_type)
        group_name = self.make_name(event_type=event_type)
        group = self.ensure.find_or_create(DATASET_GROUP, group_name, {}).arn
        schema = self.ensure.find_or_create(SCHEMA, name, {"schema": text}).arn
        parent = {"datasetGroupArn": group}
        request = {"datasetType": schemas.INTERACTIONS, "schemaArn": schema, **parent}
        return group, self.ensure.find_or_create(DATASET, name, request, **parent).arn

    def start_import(self, event_types: int = 1) -> api.StartedResource:
        """The import of the data with this many event types.

        Without event types they are in a dataset group of their own.
        """
        name = f"{event_types}-types"
        store = self.personalize.storage.store
        uri = self.uri(self.storage_keys.interactions.replace("interactions.csv", f"{name}.csv"))
        if store.head(uri) is None:
            data, users = make_interactions(event_types)
            store.put(self.uri(self.storage_keys.batch_users), users)
            store.put(uri, data)
        _, dataset = self.ensure_dataset(event_type=event_types > 0)
        request = {
            "datasetArn": dataset,
            "dataSource": {"dataLocation": uri},
            "roleArn": self.ensure.role_arn,
            "importMode": "FULL",
        }
        return self.ensure.start_named(
            IMPORT_JOB, self.make_name(name), request, datasetArn=dataset
        )

    def ensure_solution(self, recipe: str, *, event_type: bool = True) -> api.ReadyResource:
        """The solution of the recipe, in a dataset group whose data have been imported."""
        ensure = self.ensure
        ensure.wait_until_ready(IMPORT_JOB, self.start_import(1 if event_type else 0))
        parent = {"datasetGroupArn": self.ensure_dataset(event_type=event_type)[0]}
        arn = build_recipe_arn(recipe, ensure.client.meta.partition)
        request = {"recipeArn": arn, "performAutoTraining": False, **parent}
        name = self.make_name(recipe.removeprefix("aws-"), event_type=event_type)
        return ensure.find_or_create(SOLUTION, name, request, **parent)

    def train_version(
        self, recipe: str, mode: str = FULL, *, event_type: bool = True
    ) -> api.ReadyResource:
        """The solution version of the recipe and training mode.

        It is trained once. If that failed, it is not trained and paid for again.
        """
        kind = SOLUTION_VERSION
        ensure = self.ensure
        solution = self.ensure_solution(recipe, event_type=event_type).arn
        # It is found by its mode, because whether an UPDATE has a name is one of the questions.
        for existing_version in ensure.list(kind, solutionArn=solution):
            if existing_version.get("trainingMode", FULL) == mode:
                return ensure.wait_until_ready(
                    kind, api.StartedResource(existing_version[kind.arn], created=False)
                )
        # The types of boto3's client lack the name of a solution version.
        client = cast(Any, ensure.client)
        response = client.create_solution_version(
            solutionArn=solution,
            trainingMode=mode,
            name=self.make_name(mode.lower()),
            tags=[{"tagKey": key, "tagValue": value} for key, value in ensure.tags.items()],
        )
        ensure.log.info(f"training {recipe} ({mode})")
        return ensure.wait_until_ready(kind, api.StartedResource(response[kind.arn], created=True))

    def start_lists(
        self, name: str, recipe: str, results: int, *, event_type: bool = True, **request: object
    ) -> api.StartedResource:
        """The batch job of this name that writes the users' lists.

        `results` is the length of a list. `request` has further arguments of the operation.
        """
        version = self.train_version(recipe, event_type=event_type).arn
        creation = {
            "solutionVersionArn": version,
            "roleArn": self.ensure.role_arn,
            "numResults": results,
            "jobInput": {"s3DataSource": {"path": self.uri(self.storage_keys.batch_users)}},
            "jobOutput": {
                "s3DataDestination": {"path": self.uri(self.storage_keys.batch_inference(name))}
            },
            **request,
        }
        return self.ensure.start_named(
            BATCH_INFERENCE_JOB,
            self.make_name(name),
            creation,
            solutionVersionArn=version,
        )

    def read_lines(self, *started: api.StartedResource) -> list[list[Line]]:
        """The lines that each job wrote, in order of user. Waits until the jobs are finished.

        Raises LookupError or ValueError if the output has another form.
        """
        jobs = self.ensure.wait_until_all_ready(BATCH_INFERENCE_JOB, started)
        return [sorted(self._output(job), key=lambda line: str(line["input"])) for job in jobs]

    def _output(self, job: api.ReadyResource) -> Iterator[Line]:
        yield from map(json.loads, self._output_lines(job))

    def _output_lines(self, job: api.ReadyResource) -> Iterator[bytes]:
        store = self.personalize.storage.store
        folder = JobOutput(self.personalize.storage, job.description).folder
        files = [file.uri for file in store.list(folder)]
        outputs = [uri for uri in files if uri.endswith(OUTPUT_SUFFIX)]
        if not outputs:
            raise LookupError(f"no {OUTPUT_SUFFIX} file, but {files}")
        for uri in outputs:
            yield from store.get(uri).splitlines()

    def read_lines_of_bad_requests(self) -> list[str]:
        """What a batch job of version 2 writes for BAD_REQUESTS, each line as it is."""
        uri = self.uri(f"{self.pipeline}/bad-requests/users.json")
        lines = [json.dumps(request) + "\n" for request in BAD_REQUESTS]
        self.personalize.storage.store.put(uri, "".join(lines).encode())
        started = self.start_lists(
            "bad-requests", V2, FEW_RESULTS, jobInput={"s3DataSource": {"path": uri}}
        )
        job = self.ensure.wait_until_ready(BATCH_INFERENCE_JOB, started)
        return [line.decode(errors="replace") for line in self._output_lines(job)]

    def read_lists(self, *started: api.StartedResource) -> list[list[list[str]]]:
        """The lists that each job wrote, in order of user. Waits and raises as `read_lines`."""
        jobs = self.read_lines(*started)
        return [[line["output"]["recommendedItems"] for line in lines] for lines in jobs]

    def start_filtered_lists(self, *, event_type: bool = True) -> api.StartedResource:
        """The job that writes lists of version 2 without seen items.

        By Personalize's documentation such lists are padded with popular items.
        """
        # Nothing is trained for a filter that Personalize rejects.
        self.ensure_solution(V2, event_type=event_type)
        parent = {"datasetGroupArn": self.ensure_dataset(event_type=event_type)[0]}
        request = {"filterExpression": WITHOUT_SEEN_ITEMS, **parent}
        name = self.make_name("seen", event_type=event_type)
        arn = self.ensure.find_or_create(FILTER, name, request, **parent).arn
        lists = "lines" if event_type else "lines-without-types"
        return self.start_lists(lists, V2, FEW_RESULTS, event_type=event_type, filterArn=arn)

    def erase_users(self, users: Collection[str]) -> DeletionResult:
        """What a data deletion job did that erased the users from the dataset group.

        A later call adopts the job, unless it failed.
        """
        group, _ = self.ensure_dataset()
        return erase_users(
            self.ensure,
            self.personalize.storage.store,
            self.uri(f"{self.pipeline}/erasures/"),
            group,
            users,
            request=self.pipeline[-8:],
        )

    def plan_creations(self, *, with_training: bool = False) -> list[Creation]:
        """Creations of new resources that cost little or nothing, with names never used before.

        with_training: whether one of them is a solution version.
        """
        solution = self.ensure_solution(V2)
        group, dataset = self.ensure_dataset()
        name = self.make_name(secrets.token_hex(2))
        data = self.uri(self.storage_keys.interactions.replace("interactions.csv", "1-types.csv"))
        in_group = {"datasetGroupArn": group}
        creations = [
            Creation(
                SCHEMA,
                {"schema": schemas.build_interactions_schema(event_type=True)},
                {},
            ),
            Creation(
                FILTER,
                {"filterExpression": WITHOUT_SEEN_ITEMS, **in_group},
                in_group,
            ),
            Creation(
                SOLUTION,
                {
                    "recipeArn": solution.description["recipeArn"],
                    "performAutoTraining": False,
                    **in_group,
                },
                in_group,
            ),
            Creation(
                IMPORT_JOB,
                {
                    "datasetArn": dataset,
                    "dataSource": {"dataLocation": data},
                    "roleArn": self.ensure.role_arn,
                    "importMode": "FULL",
                },
                {"datasetArn": dataset},
            ),
        ]
        if with_training:
            parent = {"solutionArn": solution.arn}
            creations.append(Creation(SOLUTION_VERSION, parent, parent))
        tags = [{"tagKey": key, "tagValue": value} for key, value in self.ensure.tags.items()]
        for creation in creations:
            if creation.kind is SCHEMA:
                # It has no tags. Teardown finds it by a name that a dataset's schema can have.
                creation.request["name"] = f"{self.pipeline}-{secrets.token_hex(4)}-interactions"
            else:
                creation.request.update({creation.kind.name: name, "tags": tags})
        return creations

    def create(self, creation: Creation) -> str:
        """The ARN of the new resource, created by one request. Raises ClientError."""
        create = getattr(self.ensure.client, f"create_{creation.kind.snake}")
        return str(create(**creation.request)[creation.kind.arn])


@cache
def generate_ratings() -> pl.DataFrame:
    """ROWS of the demo's ratings, in order of user, with the ITEMS that most people rated."""
    ratings = generator.generate_ratings()
    counts = ratings["movieID"].value_counts()
    popular_movies = counts.sort("count", "movieID", descending=True)["movieID"].head(ITEMS)
    ratings_of_popular_movies = ratings.filter(pl.col("movieID").is_in(popular_movies.implode()))
    return ratings_of_popular_movies.filter(
        pl.int_range(pl.len()).over("userID") < ROWS_OF_A_USER
    ).head(ROWS)


def count_users_with_seen_items(lines: Iterable[Line]) -> int:
    """How many lists have an item that their user has interactions with."""
    items = generate_ratings().group_by(pl.col("userID").cast(pl.String)).agg("movieID")
    seen_items = {user: set(map(str, seen)) for user, seen in items.iter_rows()}
    return sum(
        not seen_items[line["input"][USER_FIELD]].isdisjoint(line["output"]["recommendedItems"])
        for line in lines
    )


def count_interactions(users: Collection[str]) -> int:
    """How many interactions the users have together."""
    return generate_ratings().filter(pl.col("userID").cast(pl.String).is_in([*users])).height


def make_interactions(event_types: int) -> tuple[bytes, bytes]:
    """The CSV of the interactions, and the batch input of USERS users.

    event_types: how many there are; without any, the CSV has no column for them.
    """
    table = generate_ratings().select(
        pl.col("userID").cast(pl.String),
        "movieID",
        pl.col("timestamp") // 1000,
        pl.format("type_{}", pl.int_range(pl.len()) % max(1, event_types)),
    )
    table.columns = schemas.list_interactions_columns(event_type=True)
    users = table.select(pl.first().unique(maintain_order=True).alias(USER_FIELD)).head(USERS)
    columns = schemas.list_interactions_columns(event_type=event_types > 0)
    return table.select(columns).write_csv().encode(), users.write_ndjson().encode()
