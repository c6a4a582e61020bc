"""Where a pipeline's files are in the storage: their keys, and how each of them is read.

The folders are those of the AWS walkthrough: raw/, transformed/ and curated/. Besides there are the
records that steps write for later runs. Keys that end with a slash are folders.
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
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.objects import DamagedObjectError, ObjectNotFoundError
from batchrec_dagster.storage.records import Record, load

MAKE_AGAIN = "delete it, and run the refresh, which makes it again"
# The names, in addresses, of the lists that are not declared under `lists`: of the items that go
# with each item, and of the users of each segment.
SIMILAR_ITEMS, SEGMENTS = "similar_items", "segments"
# The asset and the table of the lists of such a name. Those of all others are `recommendations`.
_TABLES = {SIMILAR_ITEMS: "similar_items", SEGMENTS: "user_segments"}
# The name of the file of users who get lists, the input of a batch inference job.
USERS_FILE = "users.json"

SourceBlock = Literal["ratings", "items", "users"]
"""A block of the declaration whose source is copied."""
BatchJob = Literal["batch_inference", "batch_similar_items", "batch_segments"]
"""A kind of batch job, by the name of the folder of its outputs."""
JOB_INPUTS: Mapping[BatchJob, str] = {
    "batch_inference": f"batch_users_input/{USERS_FILE}",
    "batch_similar_items": "batch_items_input/items.json",
    "batch_segments": "batch_segments_input/queries.json",
}


def is_of_list(asset: str) -> bool:
    """Whether each list of users has an asset of this name of its own."""
    # recommendations, recommendation_outcomes, recommendation_report, recommendations_in_postgres.
    return asset.startswith("recommendation")


class PipelineKeys:
    """The storage keys of what all lists of a pipeline are made from."""

    def __init__(self, pipeline: str) -> None:
        """The keys of the pipeline of this name."""
        self.pipeline = pipeline

    def raw(self, source: SourceBlock, filename: str = "") -> str:
        """A copied file of the source; without its name, the folder of the copies."""
        return f"{self.pipeline}/raw/{source}/{filename}"

    def transformed(self, filename: str) -> str:
        """A prepared file, such as `items.csv`, in a folder of its own."""
        return f"{self.pipeline}/transformed/{_place_in_folder(filename)}"

    def job_input(self, job: BatchJob) -> str:
        """The lines that the pipeline's jobs of this kind answer."""
        return f"{self.pipeline}/transformed/{JOB_INPUTS[job]}"

    def job_output(self, job: BatchJob, name: str = "") -> str:
        """The folder of the output of the job of this name; without it, of all of this kind."""
        folder = f"{self.pipeline}/curated/{job}/"
        return f"{folder}{name}/" if name else folder

    def record(self, asset: str) -> str:
        """The record of an asset of the pipeline."""
        return f"{self.pipeline}/records/{asset}.json"

    def lock(self, step: str) -> str:
        """The lock on the step of an asset of the pipeline."""
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
        """Who was erased and is left out."""
        return self.record("erased_users")

    @property
    def lists(self) -> str:
        """The folder of a folder for each list with a name."""
        return f"{self.pipeline}/lists/"

    @property
    def locks(self) -> str:
        """The folder of the locks on the pipeline's steps."""
        return f"{self.pipeline}/locks/"

    @property
    def work(self) -> str:
        """The folder of what Spark writes. It is empty while nothing is under way."""
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
    """The storage keys of what a list published and of the records of it, besides those of its
    pipeline.

    A list with a name has a folder of its own in the pipeline's. The only list of a pipeline has
    no name, and the pipeline's folder. So have the segments, whose table has another name.
    """

    def __init__(self, address: str) -> None:
        """The keys of the list of this address, such as `shop` or `shop/newsletter`."""
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
        """The path of the key of the asset that publishes the table."""
        folder = [self.pipeline, self.name] if self.is_named_list else [self.pipeline]
        return [*folder, self.table_name]

    @property
    def is_named_list(self) -> bool:
        """Whether it is one of several lists of users."""
        return self.name not in ("", *_TABLES)

    @property
    def rollback_job(self) -> str:
        """The name of Dagster's job that publishes older lists again."""
        return f"{self.address.replace('/', '__')}_rollback"

    def curated(self, filename: str) -> str:
        """A table or a page of the list, such as `recommendations.parquet`, in its own folder."""
        return f"{self.folder}/curated/{_place_in_folder(filename)}"

    def list_record(self, name: str) -> str:
        """A record of what the list published, such as `editions`."""
        return f"{self.records}{name}.json"

    def list_lock(self, step: str) -> str:
        """The lock on the step of an asset of the list."""
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
        """What that page says, from which it is shown again."""
        return f"{self.folder}/curated/report/facts.json"

    @property
    def outcomes(self) -> str:
        """What people did with each published edition."""
        return self.curated("recommendation_outcomes.parquet")

    @property
    def outcome_sums(self) -> str:
        """What the outcomes are computed from: sums over groups of users."""
        return f"{self.folder}/curated/recommendation_outcomes/sums.parquet"

    @property
    def users_of_list(self) -> str:
        """The users who get the list, where it has users of its own."""
        return f"{self.folder}/transformed/{JOB_INPUTS['batch_inference']}"

    @property
    def all_arm_users(self) -> str:
        """The folder of the users of each arm of an experiment."""
        return f"{self.folder}/transformed/batch_users_of_arms/"

    @property
    def model_users(self) -> str:
        """The users whose lists the model makes, where others get popular items or nothing."""
        return f"{self.all_arm_users}model/{USERS_FILE}"

    def users_without_lists(self, version: str = "") -> str:
        """The requested users whom the edition of this version has no rows of; without it, the
        folder of all. Those of an experiment have such a file, and those without some users whom
        Personalize returned an error for."""
        return _name_file(f"{self.folder}/curated/users_without_lists/", version, "parquet")

    def export(self, extension: str) -> str:
        """The exported table in the format of this extension, such as `csv`."""
        return f"{self.folder}/curated/exports/{self.table_name}.{extension}"

    def sink_record(self, name: str = "") -> str:
        """The record of a place that a sink wrote to; without its name, the folder of all."""
        return _name_file(f"{self.records}sinks/", name, "json")

    def users_in_dynamodb(self, table: str = "") -> str:
        """The users whose lists were written to a DynamoDB table; without it, the folder of all."""
        return _name_file(f"{self.records}users_in_dynamodb/", table, "parquet")


def _name_file(folder: str, name: str, extension: str) -> str:
    """The file of this name in the folder; without it, the folder."""
    return f"{folder}{name}.{extension}" if name else folder


def _place_in_folder(filename: str) -> str:
    """The file in a folder that is called as it is, such as `items/items.csv`."""
    return f"{PurePosixPath(filename).stem}/{filename}"


@dataclass(frozen=True)
class PipelineFiles:
    """A pipeline's files in the storage. Raises UserError."""

    storage: Storage
    keys: PipelineKeys

    @cached_property
    def _root(self) -> str:
        return self.storage.uri("")

    def uri(self, key: str) -> str:
        """The URI of the object at this key."""
        return f"{self._root}{key}"

    @cached_property
    def interactions(self) -> str:
        """The URI of the interactions."""
        return self.uri(self.keys.interactions)

    def asset_version(self, asset: str) -> str:
        """The version of what the asset has made, as its record says; empty without one."""
        return self.record_version(self.keys.record(asset))

    def record_version(self, key: str) -> str:
        """The version of what a step has made, as the record at this key says; empty without one.

        Nothing but the record is read.
        """
        record = load(self.storage.store, self.uri(key), Record)
        return "" if record is None else record.version

    def record_uri(self, asset: str) -> str:
        """The URI of the asset's record."""
        return self.uri(self.keys.record(asset))

    def read_parquet(self, key: str, damaged: str) -> pl.DataFrame | None:
        """The table at this key; None if there is none.

        damaged: what the user can do if the file is damaged.
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


@dataclass(frozen=True)
class ListFiles(PipelineFiles):
    """A list's files in the storage, besides those of its pipeline. Raises UserError."""

    keys: ListKeys

    @cached_property
    def editions(self) -> Editions:
        """The published lists, live and kept."""
        return Editions(
            self.storage.store,
            self.uri(self.keys.table),
            self.uri(self.keys.list_record("editions")),
            companions=self.uri(self.keys.users_without_lists()),
        )
