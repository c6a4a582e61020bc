"""The trial of `batchrec verify-aws`: a small generated data set in a dataset group of its own.

What comes back may be of any form, which is why it is asked for: lines are read as bare JSON.
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
from batchrec_dagster.personalize.batch_files import OUTPUT_SUFFIX, USER_FIELD
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION_V2 as V2
from batchrec_dagster.personalize.recipes import recipe_arn
from batchrec_dagster.samples import generator
from batchrec_dagster.steps.batch_jobs import JobOutput
from batchrec_dagster.storage.paths import StorageKeys

Line = dict[str, Any]

# The data: fixed, so that the cost is known before they are generated. There are more items than
# in any list here, and more than the 1,000 interactions of 25 users that an import must have.
ROWS, ROWS_OF_A_USER, ITEMS, USERS = 10_000, 100, 1_500, 50
BYTES = 40 * ROWS
FULL, UPDATE = "FULL", "UPDATE"
MANY_RESULTS, FEW_RESULTS = 600, 25


@dataclass(frozen=True)
class Trial:
    """A dataset group of its own, and what is made in it to find answers: each once, by its name.

    days: the first and the last day of it; today, as long as it lasts.
    """

    pipeline: str
    personalize: PersonalizeResource
    ensure: api.Ensure
    days: tuple[date, date]
    glue_job: str | None = None

    @property
    def places(self) -> StorageKeys:
        return StorageKeys(self.pipeline)

    @property
    def uri(self) -> Callable[[str], str]:
        return self.personalize.storage.uri

    def make_name(self, what: str = "") -> str:
        """A name under which teardown finds it, as it finds a pipeline's."""
        return f"{self.pipeline}-{self.pipeline[-8:]}{what and '-'}{what}"

    def ensure_dataset(self) -> tuple[str, str]:
        """The ARNs of the dataset group and of its interactions."""
        name, text = self.make_name("interactions"), schemas.interactions_schema(event_type=True)
        group = self.ensure.named(api.DATASET_GROUP, self.make_name(), {}).arn
        schema = self.ensure.named(api.SCHEMA, name, {"schema": text}).arn
        parent = {"datasetGroupArn": group}
        request = {"datasetType": schemas.INTERACTIONS, "schemaArn": schema, **parent}
        return group, self.ensure.named(api.DATASET, name, request, **parent).arn

    def start_import(self, event_types: int = 1) -> api.StartedResource:
        """The import of the data with so many event types."""
        name, store = f"{event_types}-types", self.personalize.storage.store
        uri = self.uri(self.places.interactions.replace("interactions.csv", f"{name}.csv"))
        if store.head(uri) is None:
            data, users = make_interactions(event_types)
            store.put(self.uri(self.places.batch_users), users)
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
        """The solution version, trained once: one that failed is not trained and paid again."""
        kind, ensure = api.SOLUTION_VERSION, self.ensure
        ensure.ready(api.IMPORT_JOB, self.start_import())
        parent = {"datasetGroupArn": self.ensure_dataset()[0]}
        arn = recipe_arn(recipe, ensure.client.meta.partition)
        request = {"recipeArn": arn, "performAutoTraining": False, **parent}
        name = self.make_name(recipe.removeprefix("aws-"))
        solution = ensure.named(api.SOLUTION, name, request, **parent).arn
        # By the mode: whether an UPDATE has a name is one of the questions.
        for existing_version in ensure.list(kind, solutionArn=solution):
            if existing_version.get("trainingMode", FULL) == mode:
                return ensure.ready(
                    kind, api.StartedResource(existing_version[kind.arn], created=False)
                )
        name, client = self.make_name(mode.lower()), cast(Any, ensure.client)
        response = client.create_solution_version(
            solutionArn=solution, trainingMode=mode, name=name
        )
        ensure.log.info(f"training {recipe} ({mode})")
        return ensure.ready(kind, api.StartedResource(response[kind.arn], created=True))

    def start_lists(
        self, name: str, recipe: str, results: int, **request: object
    ) -> api.StartedResource:
        version = self.train_version(recipe).arn
        creation = {
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
            api.BATCH_INFERENCE_JOB, self.make_name(name), creation, solutionVersionArn=version
        )

    def read_lines(self, *started: api.StartedResource) -> list[list[Line]]:
        """Of each job, once it is finished, the lines of its output by user. Raises LookupError and
        ValueError for an output of another form."""
        jobs = self.ensure.all_ready(api.BATCH_INFERENCE_JOB, started)
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
        """Of each job, once it is finished, the list of each user."""
        jobs = self.read_lines(*started)
        return [[line["output"]["recommendedItems"] for line in lines] for lines in jobs]

    def start_filtered_lists(self) -> api.StartedResource:
        """Lists of version 2 without seen items: documented to be padded."""
        self.train_version(V2)
        parent = {"datasetGroupArn": self.ensure_dataset()[0]}
        filter_expression = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("*")'
        request = {"filterExpression": filter_expression, **parent}
        arn = self.ensure.named(api.FILTER, self.make_name("seen"), request, **parent).arn
        return self.start_lists("lines", V2, FEW_RESULTS, filterArn=arn)


@cache
def generate_ratings() -> pl.DataFrame:
    """ROWS of the demo's ratings, by user: of the ITEMS that most people rated."""
    ratings = generator.generate_ratings()
    counts = ratings["movieID"].value_counts()
    popular_movies = counts.sort("count", "movieID", descending=True)["movieID"].head(ITEMS)
    ratings_of_popular_movies = ratings.filter(pl.col("movieID").is_in(popular_movies.implode()))
    return ratings_of_popular_movies.filter(
        pl.int_range(pl.len()).over("userID") < ROWS_OF_A_USER
    ).head(ROWS)


def make_interactions(event_types: int) -> tuple[bytes, bytes]:
    """The generated data: the CSV of the interactions, and the batch input of USERS users."""
    table = generate_ratings().select(
        pl.col("userID").cast(pl.String),
        "movieID",
        pl.col("timestamp") // 1000,
        pl.format("type_{}", pl.int_range(pl.len()) % event_types),
    )
    table.columns = schemas.interactions_columns(event_type=True)
    users = table.select(pl.first().unique(maintain_order=True).alias(USER_FIELD)).head(USERS)
    return table.write_csv().encode(), users.write_ndjson().encode()
