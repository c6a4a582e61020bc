"""Who gets lists from which model: all users from one, or the arms of an experiment from two."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.recommendations import Experiment
from batchrec_dagster.personalize.batch_files import USER_FIELD, UsersFiles, measured
from batchrec_dagster.personalize.recipes import POPULARITY_COUNT
from batchrec_dagster.steps.experiment import CONTROL, MODEL, arms
from batchrec_dagster.steps.publishing import published_table
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.storage.object_store import DamagedError, ObjectNotFoundError
from batchrec_dagster.storage.published_table import Edition
from batchrec_dagster.storage.resource import StorageResource, storage_errors


@dataclass(frozen=True)
class Batch:
    """Users for one batch inference. input: the URI of their file or files; version: of these."""

    recipe: str
    solution_version_arn: str
    users: pl.Series
    input: str
    version: str


def find_batches(
    pipeline: Pipeline, storage: StorageResource, model: ModelRecord, batch_users: pl.LazyFrame
) -> list[Batch]:
    """The batches, the model's first. batch_users: the content of the users' file. Raises
    dg.Failure."""
    if pipeline.experiment is None:
        files = UsersFiles(storage.store, storage.uri(pipeline.places.batch_users))
        users = batch_users.select(USER_FIELD).collect(engine="streaming").get_column(USER_FIELD)
        recipe, arn = pipeline.solution.recipe, model.solution_version_arn
        return [Batch(recipe, arn, users, files.input(), files.version())]
    lines = batch_users.collect(engine="streaming")
    arm = arms(lines.get_column(USER_FIELD), pipeline.experiment)
    found = []
    for name, recipe, arn in _models(pipeline, model):
        of_arm = lines.filter(arm == name)
        if not of_arm.height:
            continue
        files = UsersFiles(storage.store, storage.uri(pipeline.places.arm_users(name)))
        with storage_errors():
            files.publish(of_arm)
            version, _ = measured(of_arm)
            found.append(Batch(recipe, arn, of_arm.get_column(USER_FIELD), files.input(), version))
    if not found:
        raise dg.Failure(
            f"all {lines.height} users are in the control, which gets no lists: set a lower"
            " experiment.control_share",
            allow_retries=False,
        )
    return found


def _models(pipeline: Pipeline, model: ModelRecord) -> list[tuple[str, str, str]]:
    """The arm, recipe and solution version's ARN of each model."""
    assert pipeline.experiment is not None
    models = [(MODEL, pipeline.solution.recipe, model.solution_version_arn)]
    if pipeline.experiment.control == "popular":
        if model.popularity_version_arn is None:
            raise dg.Failure(
                "an older batchrec trained popularity and did not note it: materialize"
                " solution_version, then this asset again",
                allow_retries=False,
            )
        models.append((CONTROL, POPULARITY_COUNT, model.popularity_version_arn))
    return models


def keep_users_without_lists(
    pipeline: Pipeline,
    storage: StorageResource,
    version: str,
    batch_users: pl.LazyFrame,
    table: Path,
) -> None:
    """Keep, for an experiment's edition of this version, which of the requested users have no rows
    in the table: the outcomes count them too. Raises dg.Failure."""
    listed = pl.scan_parquet(table, glob=False).filter(rank=1).select("user_id")
    requested = batch_users.select(user_id=USER_FIELD)
    without = requested.join(listed, on="user_id", how="anti").sort("user_id")
    buffer = io.BytesIO()
    without.collect(engine="streaming").write_parquet(buffer)
    with storage_errors():
        uri = storage.uri(pipeline.places.users_without_lists(version))
        storage.store.put(uri, buffer.getvalue())


def users_without_lists(
    pipeline: Pipeline, storage: StorageResource, edition: Edition
) -> pl.Series:
    """Which requested users an experiment's edition has no rows of. Raises StorageError."""
    uri = storage.uri(pipeline.places.users_without_lists(edition.version))
    try:
        return pl.read_parquet(storage.store.get(uri)).get_column("user_id")
    except ObjectNotFoundError:
        return pl.Series("user_id", [], pl.String)
    except pl.exceptions.PolarsError as error:
        fix = "delete it: then the users without lists do not count in this edition's outcomes"
        raise DamagedError(storage.where(uri), error, fix) from error


def withheld(pipeline: Pipeline, storage: StorageResource, edition: Edition) -> int:
    """How many of the requested users an experiment gives no list. Raises StorageError."""
    if edition.about.get("experiment", {}).get("control") != "none":
        return 0
    experiment = Experiment.model_validate(edition.about["experiment"])
    without = users_without_lists(pipeline, storage, edition)
    return int((arms(without, experiment) == CONTROL).sum())


def forget_users_without_lists(pipeline: Pipeline, storage: StorageResource) -> None:
    """Delete what was kept for editions that are no longer kept themselves. Raises dg.Failure."""
    places = pipeline.places
    folder = storage.uri(places.users_without_lists("")).rpartition("/")[0] + "/"
    with storage_errors():
        if not (there := storage.store.list(folder)):
            return
        versions = published_table(storage, places).versions()
        wanted = {storage.uri(places.users_without_lists(version)) for version in versions}
        for found in there:
            if found.uri not in wanted:
                storage.store.delete(found.uri)
