"""Random nights on which users come and go, next to a plain account of who has lists.

Lists are published and rolled back, and killed at any write, in a folder and in a bucket.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import polars as pl
import pytest

from batchrec_dagster.config import Pipeline
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.publishing import PREVIOUS, republish
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.publications import Publications
from batchrec_dagster.storage.published_table import Edition, TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster.storage.table_without_users import list_users
from batchrec_dagster_tests.guard.builders import declaration
from batchrec_dagster_tests.guard.editions import complete_about
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server

KEPT = 4
SHOP = Pipeline.model_validate(
    declaration("shop", "ratings.csv", retention={"editions": KEPT}, gate={"max_drop": 1})
)
USERS = [f"u{number}" for number in range(20)]
NIGHTS = 10
LOG = logging.getLogger()


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass
class Account:
    """Who has lists, in plain Python."""

    editions: dict[int, set[str]] = field(default_factory=dict)
    """The users of each edition when it was published."""
    live: int = 0
    """The number of the edition that is live."""
    users: set[str] = field(default_factory=set)
    """The users of the live lists."""
    erased: set[str] = field(default_factory=set)

    def keep_present(self, users: set[str], present: set[str]) -> set[str]:
        """Those of the users who keep their lists."""
        absent = users - present
        if 5 * len(absent) > len(users):
            return users - self.erased
        return users - absent - self.erased


@dataclass
class Nights:
    """A pipeline, its account, and the chance that decides what happens."""

    work: Work
    folder: Path
    chance: random.Random
    account: Account = field(default_factory=Account)
    present: set[str] = field(default_factory=lambda: {*USERS})
    night: int = 0

    def has_ended(self, run_id: str) -> bool:
        return True

    def is_unfinished(self, run_id: str) -> bool:
        return False

    def have_a_night(self) -> None:
        self.night += 1
        self._change_users()
        if not self.account.live:
            self._publish()
            return
        events = [self._publish, self._roll_back]
        if self.chance.random() < 0.1:
            self._restore_by_hand()
            return
        self._run_again_if_killed(self.chance.choice(events))

    def _change_users(self) -> None:
        if self.chance.random() < 0.2:
            self.account.erased.add(self.chance.choice(USERS))
            SuppressionList(self.work.files).add(self.account.erased)
        is_bad = self.chance.random() < 0.2
        gone = {*self.chance.sample(USERS, 10 if is_bad else self.chance.randrange(6))}
        self.present = {*USERS} - gone - self.account.erased
        lines = pl.DataFrame({"userId": sorted(self.present)}).write_ndjson()
        self.work.storage.store.put(self.work.files.batch_users, lines.encode())

    def _run_again_if_killed(self, event: Callable[[], None]) -> None:
        """The night's run, which is killed at a random write at times, and started again."""
        if self.chance.random() < 0.5:
            with killed_at_write(self.chance.randrange(5), after=self.chance.random() < 0.5):
                try:
                    event()
                except KilledError:
                    pass
                else:
                    return
        event()

    def _publish(self) -> None:
        table = self.work.files.table
        number, version = table.next_number(), f"v{self.night}"
        rows = [(user, rank, f"i{rank}") for user in sorted(self.present) for rank in (1, 2)]
        schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
        with TableWriter(self.folder / "lists.parquet") as writer:
            writer.write(pl.DataFrame(rows, schema, orient="row").to_arrow())
            about = {"edition": number, "version": version, "users": len(self.present)}
            writer.finish(complete_about({**about, "made_by": [version]}))
        edition = table.publish(writer.path, KEPT)
        Publications(self.work.files).settle()
        self.account.live = edition.number
        self.account.editions[edition.number] = {*self.present}
        self.account.users = {*self.present}

    def _roll_back(self) -> None:
        # A run that is started again goes no further back.
        try:
            edition = republish(self.work, PREVIOUS, f"run {self.night}", self, LOG).edition
        except StepError:
            return
        self.account.live = edition.number
        whole = self.account.editions[edition.number]
        self.account.users = self.account.keep_present(whole, self.present)

    def _restore_by_hand(self) -> None:
        """Somebody copies an older file to the table's place. The next run looks at it."""
        table = self.work.files.table
        older = table.older()
        if older:
            edition = self.chance.choice(older)
            self.work.storage.store.copy(edition.uri, table.uri)
            self.account.live = edition.number
            self.account.users = self.account.editions[edition.number]

    def check(self) -> None:
        """Compare the table and its history with the account."""
        table, account = self.work.files.table, self.account
        edition = table.current()
        assert edition is not None
        assert edition.number == account.live
        assert self._read_users(edition) == account.users
        assert edition.users == len(account.users)
        whole_copy = table.find_whole_copy(edition)
        for older in [*table.older(), whole_copy]:
            assert self._read_users(older) == account.editions[older.number]
        assert edition not in table.older()

    def _read_users(self, edition: Edition) -> set[str]:
        return {*list_users(self.work.files.table.read_edition(edition))}


@contextmanager
def killed_at_write(count: int, *, after: bool) -> Iterator[None]:
    """A block whose process ends at its write number `count`, from 0: before it, or after it."""
    writes = 0

    def kill(name: str) -> Callable[..., Any]:
        write = getattr(ObjectStore, name)

        def write_or_die(*arguments: Any) -> Any:
            nonlocal writes
            writes += 1
            if writes <= count:
                return write(*arguments)
            if after:
                write(*arguments)
            raise KilledError

        return write_or_die

    with (
        patch.object(ObjectStore, "put", kill("put")),
        patch.object(ObjectStore, "copy", kill("copy")),
        patch.object(ObjectStore, "delete", kill("delete")),
    ):
        yield


def have_nights(storage: StorageResource, folder: Path, seed: int) -> None:
    nights = Nights(Work(SHOP, storage), folder, random.Random(seed))
    for _ in range(NIGHTS):
        nights.have_a_night()
        nights.check()


@pytest.mark.parametrize("seed", range(repeats(100, 10)))
def test_only_present_users_have_lists_that_come_back(tmp_path: Path, seed: int) -> None:
    storage = StorageResource(root=str(tmp_path / "storage"), s3=S3Connection())
    have_nights(storage, tmp_path, seed)


def test_so_it_is_in_a_bucket(s3: S3Server, tmp_path: Path) -> None:
    connection = S3Connection(
        endpoint_url=s3.endpoint,
        aws_access_key_id=OWNER.access,
        aws_secret_access_key=OWNER.secret,
    )
    storage = StorageResource(root=f"s3://{s3.create_bucket()}", s3=connection)
    have_nights(storage, tmp_path, 1)
