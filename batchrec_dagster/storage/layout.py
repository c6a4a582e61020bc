"""The layout of a pipeline's files in the storage: their keys, and functions that read them.

The folders raw/, transformed/ and curated/ are named as in the AWS walkthrough. The folder records/
has the records that steps write for later runs. Keys that end with a slash are folders.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal

import polars as pl

from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.records import Record, load

MAKE_AGAIN = "delete it, and run the refresh, which makes it again"
# The names in addresses of two kinds of lists: the lists of items that go with each item, and the
# lists of the users of each segment. They are not declared under `lists`.
SIMILAR_ITEMS, SEGMENTS = "similar_items", "segments"
# The name of the asset and table, by the list's name. For all other lists, it is `recommendations`.
_TABLES = {SIMILAR_ITEMS: "similar_items", SEGMENTS: "user_segments"}
# The name of the file of users who get lists, the input of a batch inference job.
USERS_FILE = "users.json"

SourceBlock = Literal["ratings", "items", "users"]
"""A block of the declaration that names a source to copy."""
BatchJob = Literal["batch_inference", "batch_similar_items", "batch_segments"]
"""A kind of batch job, named like the folder of its outputs."""
JOB_INPUTS: Mapping[BatchJob, str] = {
    "batch_inference": f"batch_users_input/{USERS_FILE}",
    "batch_similar_items": "batch_items_input/items.json",
    "batch_segments": "batch_segments_input/queries.json",
}


def is_of_list(asset: str) -> bool:
    """Return whether every list of users has its own asset with this name."""
    # Examples are recommendations, recommendation_outcomes and recommendations_in_postgres.
    return asset.startswith("recommendation")


class PipelineKeys:
    """The storage keys of a pipeline's files that all its lists share."""

    def __init__(self, pipeline: str) -> None:
        """Make the keys of the pipeline with this name."""
        self.pipeline = pipeline

    def raw(self, source: SourceBlock, filename: str = "") -> str:
        """Return the key of a source's copied file.

        Without a filename, return the folder of the source's copies.
        """
        return f"{self.pipeline}/raw/{source}/{filename}"

    def transformed(self, filename: str) -> str:
        """Return the key of a prepared file, such as `items.csv`. Each file has its own folder."""
        return f"{self.pipeline}/transformed/{_place_in_folder(filename)}"

    def job_input(self, job: BatchJob) -> str:
        """Return the key of the input lines for the pipeline's batch jobs.

        job: the kind of the jobs.
        """
        return f"{self.pipeline}/transformed/{JOB_INPUTS[job]}"

    def job_output(self, job: BatchJob, name: str = "") -> str:
        """Return the folder of a job's output.

        Without a name, return the folder of the outputs of all jobs of this kind.

        job: the kind of the job.
        name: the name of the output's folder.
        """
        folder = f"{self.pipeline}/curated/{job}/"
        return f"{folder}{name}/" if name else folder

    def record(self, asset: str) -> str:
        """Return the key of the record of an asset of the pipeline."""
        return f"{self.pipeline}/records/{asset}.json"

    def lock(self, step: str) -> str:
        """Return the key of the lock on the step of an asset of the pipeline."""
        return f"{self.locks}{step}.lock"

    @property
    def interactions(self) -> str:
        """The interactions, as Personalize imports them."""
        return self.transformed("interactions.csv")

    @property
    def items(self) -> str:
        """The items' categories and numbers, as Personalize imports them."""
        return self.transformed("items.csv")

    @property
    def users(self) -> str:
        """The users' categories and numbers, as Personalize imports them."""
        return self.transformed("users.csv")

    @property
    def item_titles(self) -> str:
        """The titles of the items, and the addresses of their pictures and pages."""
        return self.transformed("item_titles.parquet")

    @property
    def erased_users(self) -> str:
        """The record of the erased users, who are left out."""
        return self.record("erased_users")

    @property
    def lists(self) -> str:
        """The folder of all lists with a name. Each list has its own folder in it."""
        return f"{self.pipeline}/lists/"

    @property
    def locks(self) -> str:
        """The folder of the locks on the pipeline's steps."""
        return f"{self.pipeline}/locks/"

    @property
    def work(self) -> str:
        """The folder of Spark's output. It is empty while no Spark job runs."""
        return f"{self.pipeline}/work/"

    @property
    def erasure_inputs(self) -> str:
        """The folder of the ids that Personalize is asked to erase, empty between erasures."""
        return f"{self.pipeline}/erasures/"

    @property
    def erasure_receipts(self) -> str:
        """The folder of the receipts of erasures."""
        return f"{self.pipeline}/records/erasures/"


class ListKeys(PipelineKeys):
    """The storage keys of a list's published files and records, and of its pipeline's files.

    A list with a name has its own folder in the pipeline's folder. If a pipeline has only one list
    of users, that list has no name and uses the pipeline's folder. The segments use the pipeline's
    folder too, but their table has the name `user_segments`.
    """

    def __init__(self, address: str) -> None:
        """Make the keys of the list with this address, such as `shop` or `shop/newsletter`."""
        pipeline, _, name = address.partition("/")
        super().__init__(pipeline)
        self.address = address
        self.name = name
        self.table_name = _TABLES.get(name, "recommendations")
        self.folder = pipeline if name in ("", SEGMENTS) else f"{self.lists}{name}"
        records = f"{self.folder}/records/"
        self.records = f"{records}{SEGMENTS}/" if name == SEGMENTS else records

    @property
    def asset_key(self) -> list[str]:
        """The key path of the asset that publishes the table."""
        folder = [self.pipeline, self.name] if self.is_named_list else [self.pipeline]
        return [*folder, self.table_name]

    @property
    def is_named_list(self) -> bool:
        """Whether the list is one of several lists of users."""
        return self.name not in ("", *_TABLES)

    @property
    def rollback_job(self) -> str:
        """The name of the Dagster job that publishes older lists again."""
        return f"{self.address.replace('/', '__')}_rollback"

    def curated(self, filename: str) -> str:
        """Return the key of a table or page of the list, such as `recommendations.parquet`.

        Each file has its own folder.
        """
        return f"{self.folder}/curated/{_place_in_folder(filename)}"

    def list_record(self, name: str) -> str:
        """Return the key of a record about the list's publications, such as `editions`."""
        return f"{self.records}{name}.json"

    def list_lock(self, step: str) -> str:
        """Return the key of the lock on the step of an asset of the list."""
        return f"{self.folder}/locks/{step}.lock"

    @property
    def table(self) -> str:
        """The published table."""
        return self.curated(f"{self.table_name}.parquet")

    @property
    def history(self) -> str:
        """The folder of the tables that were published before."""
        return f"{self.folder}/curated/history/{self.table_name}/"

    @property
    def report(self) -> str:
        """The page about the published lists."""
        return f"{self.folder}/curated/report/index.html"

    @property
    def report_facts(self) -> str:
        """The stored content of the page about the lists, from which the page is shown again."""
        return f"{self.folder}/curated/report/facts.json"

    @property
    def outcomes(self) -> str:
        """The outcomes of each published edition: what people did with its lists."""
        return self.curated("recommendation_outcomes.parquet")

    @property
    def outcome_sums(self) -> str:
        """Sums over groups of users, from which the outcomes are computed."""
        return f"{self.folder}/curated/recommendation_outcomes/sums.parquet"

    @property
    def users_of_list(self) -> str:
        """The users who get the list, if the list has its own users."""
        return f"{self.folder}/transformed/{JOB_INPUTS['batch_inference']}"

    @property
    def all_arm_users(self) -> str:
        """The folder of the users of each arm of an experiment."""
        return f"{self.folder}/transformed/batch_users_of_arms/"

    @property
    def model_users(self) -> str:
        """The users whose lists the model makes, if other users get popular items or nothing."""
        return f"{self.all_arm_users}model/{USERS_FILE}"

    def users_without_lists(self, version: str = "") -> str:
        """Return the key of the requested users who have no rows in an edition.

        An edition has such a file if it has an experiment, if it leaves out newcomers, or if
        Personalize returned an error for some users.

        version: the version of the edition. Without it, the folder of all such files is returned.
        """
        return _name_file(f"{self.folder}/curated/users_without_lists/", version, "parquet")

    def export(self, extension: str) -> str:
        """Return the key of the exported table with this file extension, such as `csv`."""
        return f"{self.folder}/curated/exports/{self.table_name}.{extension}"

    def sink_record(self, name: str = "") -> str:
        """Return the key of the record of a place that a sink wrote to.

        Without a name, return the folder of all such records.
        """
        return _name_file(f"{self.records}sinks/", name, "json")

    def users_in_dynamodb(self, table: str = "") -> str:
        """Return the key of the users with lists in a DynamoDB table.

        Without a table, return the folder of all such files.
        """
        return _name_file(f"{self.records}users_in_dynamodb/", table, "parquet")


def _name_file(folder: str, name: str, extension: str) -> str:
    """Return the key of the file with this name in the folder; the folder if the name is empty."""
    return f"{folder}{name}.{extension}" if name else folder


def _place_in_folder(filename: str) -> str:
    """Return the file's path in a folder of the same name, such as `items/items.csv`."""
    return f"{PurePosixPath(filename).stem}/{filename}"


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline's files in the storage. The methods raise UserError."""

    storage: Storage
    keys: PipelineKeys

    @cached_property
    def _root(self) -> str:
        return self.storage.uri("")

    def uri(self, key: str) -> str:
        """Return the URI of the object at this key."""
        return f"{self._root}{key}"

    @cached_property
    def interactions(self) -> str:
        """The URI of the interactions."""
        return self.uri(self.keys.interactions)

    def asset_version(self, asset: str) -> str:
        """Return the version of the asset's output, as its record says; empty without a record."""
        return self.record_version(self.keys.record(asset))

    def record_version(self, key: str) -> str:
        """Return the version of a step's output, as the record at this key says.

        The version is empty if there is no record. Only the record is read, not the output.
        """
        record = load(self.storage.store, self.uri(key), Record)
        return "" if record is None else record.version

    def record_uri(self, asset: str) -> str:
        """Return the URI of the asset's record."""
        return self.uri(self.keys.record(asset))

    def read_parquet(self, key: str, damaged: str) -> pl.DataFrame | None:
        """Return the table at this key; None if there is none.

        damaged: advice for the user if the file is damaged.
        """
        uri = self.uri(key)
        try:
            return pl.read_parquet(self.storage.store.get(uri))
        except ObjectNotFoundError:
            return None
        except pl.exceptions.PolarsError as error:
            raise DamagedObjectError(self.storage.where(uri), error, damaged) from error

    def write_parquet(self, key: str, table: pl.DataFrame) -> None:
        """Write the table at this key, atomically."""
        buffer = io.BytesIO()
        table.write_parquet(buffer)
        self.storage.store.put(self.uri(key), buffer.getvalue())
