"""Where a pipeline's files are in the storage: their keys, and how each of them is read.

The folders are those of the AWS walkthrough: raw/, transformed/ and curated/. Besides there are the
records that steps write for later runs.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import polars as pl

from batchrec_dagster.storage.connection import StorageResource
from batchrec_dagster.storage.editions import PublishedTable
from batchrec_dagster.storage.objects import (
    DamagedObjectError,
    ObjectNotFoundError,
    ObjectStore,
)
from batchrec_dagster.storage.records import ANY_RECORD, parse_record

MAKE_AGAIN = "delete it, and run the refresh, which makes it again"


# The name, among the lists of a pipeline, of those of items that go with each item.
SIMILAR_ITEMS = "similar_items"
# The name of the file of users who get lists, the input of a batch inference job.
USERS_FILE = "users.json"


def is_of_list(asset: str) -> bool:
    """Whether each list of a pipeline has an asset of this name of its own."""
    # recommendations, recommendation_outcomes, recommendation_report, recommendations_in_postgres.
    return asset.startswith("recommendation")


class StorageKeys:
    """Storage keys of one pipeline, or of one of its lists.

    A list has a folder of its own in the pipeline's: for what is published, and for the records of
    it. What all lists are made from is the pipeline's.
    """

    def __init__(self, address: str, *, has_own_users: bool = False) -> None:
        """The keys of what has this address.

        address: a pipeline's name, such as `shop`, or that of a list, such as `shop/newsletter`.
        has_own_users: whether the list has users of its own, instead of the pipeline's.
        """
        pipeline, _, list_name = address.partition("/")
        self.pipeline = pipeline
        self.suppressed_users = f"{pipeline}/records/suppressed_users.json"
        list_folder = f"{pipeline}/lists/{list_name}" if list_name else pipeline
        users_folder = list_folder if has_own_users else pipeline
        # The name of the published table.
        table = SIMILAR_ITEMS if list_name == SIMILAR_ITEMS else "recommendations"
        self.table = table
        self.address = address
        self.list_name = list_name
        self.list_folder = list_folder
        self.interactions = f"{pipeline}/transformed/interactions/interactions.csv"
        # The folder, with its final slash, of the users who get lists.
        self.all_batch_users = f"{users_folder}/transformed/batch_users_input/"
        self.batch_users = f"{self.all_batch_users}{USERS_FILE}"
        self.items = f"{pipeline}/transformed/items/items.csv"
        self.users = f"{pipeline}/transformed/users/users.csv"
        self.item_titles = f"{pipeline}/transformed/item_titles/item_titles.parquet"
        self.segment_queries = f"{pipeline}/transformed/batch_segments_input/queries.json"
        self.user_segments = f"{pipeline}/curated/user_segments/user_segments.parquet"
        # The published table: of a list, or of similar items.
        self.recommendations = f"{list_folder}/curated/{table}/{table}.parquet"
        self.report = f"{list_folder}/curated/report/index.html"
        self.outcomes = (
            f"{list_folder}/curated/recommendation_outcomes/recommendation_outcomes.parquet"
        )
        # The folder, with its final slash, of a folder for each list.
        self.all_lists = f"{pipeline}/lists/"
        # The folder, with its final slash, of the leases on the pipeline's steps.
        self.all_leases = f"{pipeline}/leases/"
        # The folder, with its final slash, of the copies of the sources.
        self.all_raw = f"{pipeline}/raw/"
        self.all_raw_items = f"{pipeline}/raw/items/"
        self.all_raw_users = f"{pipeline}/raw/users/"
        # What the outcomes are computed from: sums over groups of users.
        self.outcome_sums = f"{list_folder}/curated/recommendation_outcomes/sums.parquet"
        # The folder, with its final slash, of a file for each edition that needs one: those of an
        # experiment, and those without some users whom Personalize returned an error for.
        self.all_users_without_lists = f"{list_folder}/curated/users_without_lists/"
        # The folder, with its final slash, of the data of each edition, which the report of the
        # next edition compares its own with.
        self.all_edition_inputs = f"{list_folder}/records/inputs/"
        # The folders, with their final slash, of the outputs of all batch jobs, and of the users of
        # all arms of experiments.
        self.all_batch_inference = f"{pipeline}/curated/batch_inference/"
        self.all_batch_segments = f"{pipeline}/curated/batch_segments/"
        self.all_arm_users = f"{list_folder}/transformed/batch_users_of_arms/"
        # The items that get a list of similar items, and the folder of the outputs of these jobs.
        self.batch_items = f"{pipeline}/transformed/batch_items_input/items.json"
        self.all_batch_similar_items = f"{pipeline}/curated/batch_similar_items/"
        # The folder, with its final slash, of what sinks export into the storage.
        self.all_exports = f"{list_folder}/curated/exports/"
        # The folder, with its final slash, of a record for each place that a sink wrote to.
        self.all_sink_records = f"{list_folder}/records/sinks/"
        # The folder, with its final slash, of the users that a sink wrote to DynamoDB, by table.
        self.all_users_in_dynamodb = f"{list_folder}/records/users_in_dynamodb/"
        # The folders, with their final slash, of what Spark writes, and of the ids that Personalize
        # is asked to erase. Both are empty while nothing is under way.
        self.work = f"{pipeline}/work/"
        self.erasure_inputs = f"{pipeline}/erasures/"
        # The folders, with their final slash, of the receipts of erasures, and of the records of
        # those that have not ended.
        self.erasure_receipts = f"{pipeline}/records/erasures/"
        self.unfinished_erasures = f"{pipeline}/records/unfinished_erasures/"
        # The folder, with its final slash, of a record for each step that ended a run which
        # published nothing.
        self.all_unpublished_runs = f"{list_folder}/records/unpublished_runs/"

    def of_list(self, name: str | None, *, has_own_users: bool = False) -> StorageKeys:
        """The keys of a list of the same pipeline; of all of it, if the name is None."""
        address = self.pipeline if name is None else f"{self.pipeline}/{name}"
        return StorageKeys(address, has_own_users=has_own_users)

    def arm_users(self, arm: str) -> str:
        """The users of an experiment's arm, as the input of a batch inference job."""
        return f"{self.all_arm_users}{arm}/{USERS_FILE}"

    def users_without_lists(self, version: str) -> str:
        """The requested users whom the edition of this version has no rows of."""
        return f"{self.all_users_without_lists}{version}.parquet"

    def edition_inputs(self, version: str) -> str:
        """The data that the edition of this version was made from, as its report needs them."""
        return f"{self.all_edition_inputs}{version}.parquet"

    def export(self, filename: str) -> str:
        return f"{self.all_exports}{filename}"

    def sink_record(self, name: str) -> str:
        """The record of a place that a sink wrote to."""
        return f"{self.all_sink_records}{name}.json"

    def users_in_dynamodb(self, table: str) -> str:
        """The users whose lists were written to a DynamoDB table."""
        return f"{self.all_users_in_dynamodb}{table}.parquet"

    def raw(self, filename: str) -> str:
        return f"{self.all_raw}{filename}"

    def raw_items(self, filename: str) -> str:
        return f"{self.all_raw_items}{filename}"

    def raw_users(self, filename: str) -> str:
        return f"{self.all_raw_users}{filename}"

    def batch_inference(self, job: str) -> str:
        """The folder of a batch inference job, with its final slash."""
        return f"{self.all_batch_inference}{job}/"

    def batch_similar_items(self, job: str) -> str:
        """The folder of a batch inference job of similar items, with its final slash."""
        return f"{self.all_batch_similar_items}{job}/"

    def batch_segments(self, job: str) -> str:
        """The folder of a batch segment job, with its final slash."""
        return f"{self.all_batch_segments}{job}/"

    def lease(self, asset: str) -> str:
        """The folder, with its final slash, of the lease on the asset's step."""
        folder = self.list_folder if is_of_list(asset) else self.pipeline
        return f"{folder}/leases/{asset}/"

    def record(self, asset: str) -> str:
        """The record of an asset of the pipeline."""
        return f"{self.pipeline}/records/{asset}.json"

    def list_record(self, name: str) -> str:
        """A record of what the list published, such as `publications`."""
        return f"{self.list_folder}/records/{name}.json"

    def unpublished_run(self, run: str, step: str) -> str:
        """How the run of this id ended in the step."""
        return f"{self.all_unpublished_runs}{run}.{step}.json"


def read_record(storage: StorageResource, uri: str, shape: Any = ANY_RECORD) -> dict[str, Any]:
    """The record that an earlier run wrote; empty if there is none.

    shape: the type that it must fit, see records.py.

    Raises UserError, and DamagedObjectError if it does not fit.
    """
    try:
        return parse_record(storage.store.get(uri), shape)
    except ObjectNotFoundError:
        return {}
    except ValueError as error:
        raise DamagedObjectError(storage.where(uri), error, MAKE_AGAIN) from error


def write_record(storage: StorageResource, key: str, record: Mapping[str, Any]) -> None:
    """Write a record for later runs. Raises UserError."""
    storage.store.put(storage.uri(key), (json.dumps(record, indent=2) + "\n").encode())


@dataclass(frozen=True)
class UsersOfInteractions:
    """The Parquet file that Spark writes of the users of the interactions.

    It has the columns USER_ID, TIMESTAMP (of the user's last interaction) and INTERACTIONS (how
    many the user has). Its folder is named after the ETag of its interactions, the file after their
    version. So a file in the folder of the current interactions always belongs to them, even after
    a kill. Without such a file, the interactions themselves are read.
    """

    store: ObjectStore
    uri: str
    """The URI of the interactions."""

    @property
    def folder(self) -> str:
        """The folder of the files, with its final slash; outside what Personalize imports."""
        return f"{self.uri.rpartition('/')[0]}_users/"

    def table(self) -> pl.DataFrame | None:
        """The users of the current interactions; None without a file."""
        uri = self._find_file()
        if uri is None:
            return None
        try:
            with self.store.open(uri) as file:
                return pl.read_parquet(file)
        except ObjectNotFoundError:
            return None
        except pl.exceptions.PolarsError as error:
            where = str(self.store.local_path(uri) or uri)
            raise DamagedObjectError(where, error, MAKE_AGAIN) from error

    def version(self) -> str | None:
        """StorageResource.version of the current interactions; None without a file."""
        uri = self._find_file()
        return None if uri is None else PurePosixPath(uri).stem

    def place(self, etag: str, version: str) -> str:
        """The URI of the file for interactions with this ETag and version."""
        return f"{self._folder_of(etag)}{version}.parquet"

    def keep_only(self, etag: str) -> None:
        """Delete the files of interactions with any other ETag."""
        for file in self.store.list(self.folder):
            if not file.uri.startswith(self._folder_of(etag)):
                self.store.delete(file.uri)

    def _find_file(self) -> str | None:
        interactions = self.store.head(self.uri)
        if interactions is None or not interactions.etag:
            return None
        files = self.store.list(self._folder_of(interactions.etag))
        # Another program may have put a file of its own there.
        uris = [file.uri for file in files if file.uri.endswith(".parquet")]
        return uris[0] if uris else None

    def _folder_of(self, etag: str) -> str:
        # An ETag may contain any character.
        return f"{self.folder}{hashlib.sha256(etag.encode()).hexdigest()[:16]}/"


@dataclass(frozen=True)
class PreparedFiles:
    """Files that Spark prepared, and that publication moves to their places: files on this machine,
    or URIs of objects in the storage."""

    interactions: Path | str
    """The interactions, as CSV."""
    users: Path | str
    """Their users, as Parquet."""
    version: str
    """The version of the CSV, as from StorageResource.version."""


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline's files in the storage. Raises UserError."""

    storage: StorageResource
    storage_keys: StorageKeys

    @cached_property
    def _root(self) -> str:
        return self.storage.uri("")

    def uri(self, key: str) -> str:
        """The URI of the object at this key."""
        return f"{self._root}{key}"

    @cached_property
    def interactions(self) -> str:
        """The URI of the interactions."""
        return self.uri(self.storage_keys.interactions)

    @cached_property
    def users_of_interactions(self) -> UsersOfInteractions:
        return UsersOfInteractions(self.storage.store, self.interactions)

    @cached_property
    def batch_users(self) -> str:
        """The URI of the users who get a list, the input of a batch inference job."""
        return self.uri(self.storage_keys.batch_users)

    @cached_property
    def table(self) -> PublishedTable:
        """The published recommendations."""
        return PublishedTable(
            self.storage.store,
            self.uri(self.storage_keys.recommendations),
            companions=self.uri(self.storage_keys.all_users_without_lists),
        )

    def interactions_version(self) -> str:
        """The version of the interactions, which are read for it unless Spark recorded it."""
        return self.users_of_interactions.version() or self.storage.version(self.interactions)

    def record(self, asset: str, shape: Any = ANY_RECORD) -> dict[str, Any]:
        """The record of the asset's last run; empty if there is none.

        shape: the type that it must fit, see records.py.
        """
        return read_record(self.storage, self.uri(self.storage_keys.record(asset)), shape)

    def write_record(self, asset: str, record: Mapping[str, Any]) -> None:
        """Write the asset's record for later runs."""
        write_record(self.storage, self.storage_keys.record(asset), record)

    def list_record(self, name: str, shape: Any = ANY_RECORD) -> dict[str, Any]:
        """The record of this name of what the list published; empty if there is none.

        shape: the type that it must fit, see records.py.
        """
        return read_record(self.storage, self.uri(self.storage_keys.list_record(name)), shape)

    def write_list_record(self, name: str, record: Mapping[str, Any]) -> None:
        """Write the record of this name of what the list published."""
        write_record(self.storage, self.storage_keys.list_record(name), record)

    def parquet(self, key: str, damaged: str) -> pl.DataFrame | None:
        """The table at this key; None if there is none.

        damaged: what the user can do if the file is damaged.
        """
        uri = self.storage.uri(key)
        try:
            return pl.read_parquet(self.storage.store.get(uri))
        except ObjectNotFoundError:
            return None
        except pl.exceptions.PolarsError as error:
            raise DamagedObjectError(self.storage.where(uri), error, damaged) from error

    def write_parquet(self, key: str, table: pl.DataFrame) -> None:
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        self.storage.store.put(self.storage.uri(key), buffer.getvalue())
