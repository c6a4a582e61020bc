"""The trial of `batchrec verify-aws`: a small generated data set in a dataset group of its own.

Nobody knows yet in which form the results come back, because that is one of the questions. So lines
are read as bare JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any, cast

import polars as pl

from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.file_formats import OUTPUT_SUFFIX, USER_FIELD
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2 as V2
from batchrec_dagster.personalize.recipes import build_recipe_arn
from batchrec_dagster.samples import generator
from batchrec_dagster.steps.batch_jobs import JobOutput
from batchrec_dagster.storage.paths import StorageKeys

Line = dict[str, Any]

# The size of the data is fixed, so that the cost is known before they are generated. There are more
# items than in any list of the trial, and more than the 1,000 interactions of 25 users that an
# import must have.
ROWS, ROWS_OF_A_USER, ITEMS, USERS = 10_000, 100, 1_500, 50
BYTES = 40 * ROWS
FULL, UPDATE = "FULL", "UPDATE"
MANY_RESULTS, FEW_RESULTS = 600, 25


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

    def make_name(self, what: str = "") -> str:
        """The name of a resource, by which teardown finds it as it finds a pipeline's."""
        return f"{self.pipeline}-{self.pipeline[-8:]}{what and '-'}{what}"

    def ensure_dataset(self) -> tuple[str, str]:
        """The ARNs of the dataset group and of its dataset of interactions."""
        name = self.make_name("interactions")
        text = schemas.build_interactions_schema(event_type=True)
        group = self.ensure.find_or_create(api.DATASET_GROUP, self.make_name(), {}).arn
        schema = self.ensure.find_or_create(api.SCHEMA, name, {"schema": text}).arn
        parent = {"datasetGroupArn": group}
        request = {"datasetType": schemas.INTERACTIONS, "schemaArn": schema, **parent}
        return group, self.ensure.find_or_create(api.DATASET, name, request, **parent).arn

    def start_import(self, event_types: int = 1) -> api.StartedResource:
        """The import of the data with this many event types."""
        name = f"{event_types}-types"
        store = self.personalize.storage.store
        uri = self.uri(self.storage_keys.interactions.replace("interactions.csv", f"{name}.csv"))
        if store.head(uri) is None:
            data, users = make_interactions(event_types)
            store.put(self.uri(self.storage_keys.batch_users), users)
            store.put(uri, data)
        _, dataset = self.ensure_dataset()
        request = {
            "datasetArn": dataset,
            "dataSource": {"dataLocation": uri},
            "roleArn": self.ensure.role_arn,
            "importMode": "FULL",
        }
        return self.ensure.start_named(
            api.IMPORT_JOB, self.make_name(name), request, datasetArn=dataset
        )

    def train_version(self, recipe: str, mode: str = FULL) -> api.ReadyResource:
        """The solution version of the recipe and training mode.

        It is trained once. If that failed, it is not trained and paid for again.
        """
        kind = api.SOLUTION_VERSION
        ensure = self.ensure
        ensure.wait_until_ready(api.IMPORT_JOB, self.start_import())
        parent = {"datasetGroupArn": self.ensure_dataset()[0]}
        arn = build_recipe_arn(recipe, ensure.client.meta.partition)
        request = {"recipeArn": arn, "performAutoTraining": False, **parent}
        name = self.make_name(recipe.removeprefix("aws-"))
        solution = ensure.find_or_create(api.SOLUTION, name, request, **parent).arn
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
        self, name: str, recipe: str, results: int, **request: object
    ) -> api.StartedResource:
        """The batch job of this name that writes the users' lists.

        `results` is the length of a list. `request` has further arguments of the operation.
        """
        version = self.train_version(recipe).arn
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
            api.BATCH_INFERENCE_JOB, self.make_name(name), creation, solutionVersionArn=version
        )

    def read_lines(self, *started: api.StartedResource) -> list[list[Line]]:
        """The lines that each job wrote, in order of user. Waits until the jobs are finished.

        Raises LookupError or ValueError if the output has another form.
        """
        jobs = self.ensure.wait_until_all_ready(api.BATCH_INFERENCE_JOB, started)
        return [sorted(self._output(job), key=lambda line: str(line["input"])) for job in jobs]

    def _output(self, job: api.ReadyResource) -> Iterator[Line]:
        store = self.personalize.storage.store
        folder = JobOutput(self.personalize.storage, job.description).folder
        files = [file.uri for file in store.list(folder)]
        outputs = [uri for uri in files if uri.endswith(OUTPUT_SUFFIX)]
        if not outputs:
            raise LookupError(f"no {OUTPUT_SUFFIX} file, but {files}")
        for uri in outputs:
            yield from map(json.loads, store.get(uri).splitlines())

    def read_lists(self, *started: api.StartedResource) -> list[list[list[str]]]:
        """The lists that each job wrote, in order of user. Waits and raises as `read_lines`."""
        jobs = self.read_lines(*started)
        return [[line["output"]["recommendedItems"] for line in lines] for lines in jobs]

    def start_filtered_lists(self) -> api.StartedResource:
        """The job that writes lists of version 2 without seen items.

        By Personalize's documentation such lists are padded with popular items.
        """
        self.train_version(V2)
        parent = {"datasetGroupArn": self.ensure_dataset()[0]}
        filter_expression = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
        request = {"filterExpression": filter_expression, **parent}
        arn = self.ensure.find_or_create(api.FILTER, self.make_name("seen"), request, **parent).arn
        return self.start_lists("lines", V2, FEW_RESULTS, filterArn=arn)


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


def make_interactions(event_types: int) -> tuple[bytes, bytes]:
    """The CSV of the interactions, and the batch input of USERS users."""
    table = generate_ratings().select(
        pl.col("userID").cast(pl.String),
        "movieID",
        pl.col("timestamp") // 1000,
        pl.format("type_{}", pl.int_range(pl.len()) % event_types),
    )
    table.columns = schemas.list_interactions_columns(event_type=True)
    users = table.select(pl.first().unique(maintain_order=True).alias(USER_FIELD)).head(USERS)
    return table.write_csv().encode(), users.write_ndjson().encode()
