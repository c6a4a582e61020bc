"""Amazon Personalize and the embedded Personalize: filters, models, resources and lists."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import polars as pl

from batchrec_dagster.local_personalize import catalogue, filter_masks, trained_recipes
from batchrec_dagster.local_personalize.engine.blend_model import BlendModel
from batchrec_dagster.local_personalize.engine.data import Interactions as TrainingInteractions
from batchrec_dagster.local_personalize.engine.serve import recommend
from batchrec_dagster.local_personalize.errors import CatalogueError
from batchrec_dagster.local_personalize.filter_masks import ItemFilter
from batchrec_dagster.local_personalize.imported_rows import ReadColumns
from batchrec_dagster.personalize import api
from batchrec_dagster.personalize import resources as personalize_resources
from batchrec_dagster.personalize.api import (
    PIPELINE_TAG,
    STORAGE_TAG,
    PersonalizeError,
    ResourceKind,
)
from batchrec_dagster.personalize.data_deletion import erase_users_from_groups, find_dataset_groups
from batchrec_dagster.personalize.resources import StartedResource
from batchrec_dagster.storage.objects import ObjectStore

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient


def mask_items(
    expression: str,
    data: Mapping[str, pl.DataFrame],
    item_ids: Sequence[str],
    user_ids: Sequence[str],
    latest: int = 100,
) -> list[list[bool]]:
    """Return for each user which of the items a filter allows on the user's list.

    data: the datasets of the group, by INTERACTIONS, ITEMS and USERS.
    item_ids: the items that the model knows.
    latest: the number of a user's latest interactions of each event type that the filter considers.
    """
    return _mask(ItemFilter(expression, _reader(data), item_ids, latest), user_ids, len(item_ids))


def mask_similar_items(
    expression: str, data: Mapping[str, pl.DataFrame], item_ids: Sequence[str]
) -> list[bool]:
    """Return which of the items a filter allows on lists of similar items, which have no user."""
    item_filter = ItemFilter(expression, _reader(data), item_ids, latest=100)
    (allowed,) = _mask(item_filter, [None], len(item_ids))
    return allowed


def _mask(item_filter: ItemFilter, users: Sequence[str | None], items: int) -> list[list[bool]]:
    scores = np.zeros((len(users), items), dtype=np.float32)
    item_filter.exclude_for(users)(slice(0, len(users)), scores)
    allowed: list[list[bool]] = (scores == 0).tolist()
    return allowed


def mask_users(
    expression: str, data: Mapping[str, pl.DataFrame], user_ids: Sequence[str]
) -> list[bool]:
    """Return which of the users a filter allows in a segment."""
    allowed: list[bool] = filter_masks.mask_users(expression, _reader(data), user_ids).tolist()
    return allowed


def _reader(data: Mapping[str, pl.DataFrame]) -> ReadColumns:
    return lambda dataset_type, columns, take: take(data[dataset_type].lazy().select(columns))


PersonalizeFailure = PersonalizeError
CatalogueFailure = CatalogueError


@contextmanager
def held_downloads() -> Iterator[None]:
    """Make jobs in this process wait before they read their input, until the block ends."""
    gate, download = Event(), ObjectStore.download

    def download_behind_gate(store: ObjectStore, *arguments: Any) -> Any:
        assert gate.wait(300)
        return download(store, *arguments)

    with patch.object(ObjectStore, "download", download_behind_gate):
        try:
            yield
        finally:
            gate.set()


@contextmanager
def impatient_catalogue() -> Iterator[None]:
    """Make clients opened in the block wait at most a tenth of a second for a busy catalogue."""
    with patch.object(catalogue, "BUSY_SECONDS", 0.1):
        yield


@contextmanager
def counted_reads() -> Iterator[list[None]]:
    """Yield a list that gets an entry for each resource that this process reads from catalogues."""
    reads: list[None] = []
    read = catalogue._from_row

    def count_and_read(row: Any) -> catalogue.Resource:
        reads.append(None)
        return read(row)

    with patch.object(catalogue, "_from_row", count_and_read):
        yield reads


@dataclass(frozen=True)
class Resources:
    """The pipeline's side of Personalize, which finds, adopts or creates resources."""

    client: PersonalizeClient
    pipeline: str = "shop"
    deadline_seconds: float = 60

    def start(
        self,
        kind: str,
        name: str,
        params: Mapping[str, Any],
        parent: Mapping[str, str] | None = None,
        *,
        is_usable: bool = True,
    ) -> str:
        """Find or create the resource with this name, and return its ARN.

        Raises PersonalizeFailure.

        kind: the kind in words, such as solution version. Jobs and solution versions get a number
            after the name.
        params: the parameters of the Create request, besides the name and the tags.
        parent: the parameters of the List request that limit it to a parent.
        is_usable: whether an existing job may be used.
        """
        within = dict(parent or {})
        return self._start(_find_kind(kind), name, params, within, is_usable).arn

    def ensure(
        self,
        kind: str,
        name: str,
        params: Mapping[str, Any],
        parent: Mapping[str, str] | None = None,
    ) -> str:
        """Do as `start`, wait until the resource is ready, and return its ARN.

        A job or solution version that failed is started once more.
        """
        resource_kind, within = _find_kind(kind), dict(parent or {})
        if not resource_kind.is_numbered:
            return self._opened.find_or_create(resource_kind, name, params, **within).arn
        (ready,) = self._opened.start_and_wait(
            resource_kind, lambda: [self._start(resource_kind, name, params, within)]
        )
        return ready.arn

    def _start(
        self,
        kind: ResourceKind,
        name: str,
        params: Mapping[str, Any],
        within: dict[str, Any],
        is_usable: bool = True,
    ) -> StartedResource:
        return self._opened.start(kind, name, lambda _: params, lambda _: is_usable, **within)

    def find_groups(self) -> list[str]:
        """Return the ARNs of the pipeline's dataset groups."""
        return find_dataset_groups(self._opened, self.pipeline)

    def erase_users(
        self, store: ObjectStore, folder: str, users: Sequence[str], request: str
    ) -> list[ErasedFromGroup]:
        """Erase users from all dataset groups of the pipeline, and return each group's result.

        Raises PersonalizeFailure.

        folder: the URI of the folder for the list of users. The list exists only during the job.
        request: the name of the request, which the names of the jobs contain.
        """
        groups = self.find_groups()
        erase_users_from_groups(self._opened, store, folder, groups, users, request=request)
        return [self._find_erasure(group, request) for group in groups]

    def _find_erasure(self, group: str, request: str) -> ErasedFromGroup:
        """Return the result of the request's newest job, as Personalize reports it."""
        kind = _find_kind("data deletion job")
        for _ in self._opened.attempts_until_shown("the job is not listed yet"):
            for job in self._opened.list(kind, datasetGroupArn=group):
                if f"-{request}-" in job[kind.name]:
                    description = self._opened.describe(kind, job[kind.arn])
                    return ErasedFromGroup(
                        job[kind.arn], description["status"], description["numDeleted"]
                    )
        raise AssertionError("there is no job of this request")

    @cached_property
    def _opened(self) -> personalize_resources.Resources:
        return personalize_resources.Resources(
            client=self.client,
            log=logging.getLogger("guard"),
            tags={PIPELINE_TAG: self.pipeline, STORAGE_TAG: "s3://data/"},
            poll_seconds=0.01,
            busy_seconds=0.01,
            heartbeat_seconds=60,
            deadline_seconds=self.deadline_seconds,
            role_arn="arn:aws:iam::000000000000:role/personalize",
        )


@dataclass(frozen=True)
class ErasedFromGroup:
    """The result of a data deletion job."""

    job_arn: str
    status: str
    records_deleted: int | None


def _find_kind(label: str) -> ResourceKind:
    return next(
        kind
        for kind in vars(api).values()
        if isinstance(kind, ResourceKind) and kind.label == label
    )


def train(
    interactions: pl.DataFrame,
    folder: Path,
    recipe: str = "aws-user-personalization-v2",
    options: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Train a model, save it in the folder, and return its metrics.

    interactions: USER_ID, ITEM_ID and TIMESTAMP.
    options: the recipe's hyperparameters.
    """
    rows = TrainingInteractions.from_frame(interactions)
    model, measurements = trained_recipes.train(recipe, rows, options or {})
    model.save(folder)
    return dict(measurements.metrics)


def infer(
    folder: Path, interactions: pl.DataFrame, user_ids: Sequence[str], length: int
) -> list[list[tuple[str, float]]]:
    """Return each user's items with their scores, best first, from a saved model.

    folder: the folder with the saved model.
    interactions: the interactions to recommend from, which may be newer than the training.
    length: the maximum number of items for a user.
    """
    model = BlendModel.load(folder)
    chunks = recommend(model, user_ids, TrainingInteractions.from_frame(interactions), length)
    return [
        [
            (str(model.item_ids[item]), float(score))
            for item, score in zip(items, scores, strict=True)
            if item >= 0
        ]
        for chunk in chunks
        for items, scores in zip(chunk.items, chunk.scores, strict=True)
    ]
