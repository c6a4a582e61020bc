"""Tests of random years of nights against a plain account of the lists that people had.

A year has publications, refusals, rollbacks, people who leave or are erased, and processes that end
at any of their writes.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from batchrec_dagster_tests.guard.faults.crashes import crash_at
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.publishing import (
    Editions,
    NightsWork,
    NoEditionError,
    Refused,
)
from batchrec_dagster_tests.guard.seams.store import Store
from batchrec_dagster_tests.guard.servers.s3 import S3Server

FIRST_NIGHT = datetime(2026, 1, 5, 3, tzinfo=UTC)
KEPT = 3
USERS = [f"u{number}" for number in range(20)]
ITEMS = [f"i{number}" for number in range(9)]
# If more than a fifth of the users with lists were absent, a rollback would assume a fault of the
# data, and keep their lists.
MOST_ABSENT = 2
MOST_ERASED = 4
# The gate's floor. Models worse than popular items pass if people chose more from earlier lists, as
# random people do in some years.
GATE = {"max_drop": 1, "min_ndcg_at_25": 0.1}
# The process ends before the write with this number, or does not end if it is None. The number may
# exceed the writes of a publication or a rollback; then the process does not end.
CRASHES = st.none() | st.integers(0, 7)

Lists = dict[str, list[str]]


@dataclass
class Account:
    """A plain account of the lists that people had."""

    live: list[tuple[int, str, datetime]] = field(default_factory=list)
    """The edition, the reason and the time of each change of the live lists."""
    nights: dict[int, NightsWork] = field(default_factory=dict)
    """The night's work behind each edition."""
    lists: dict[int, Lists] = field(default_factory=dict)
    """The lists of each edition, without people erased since."""
    shown: Lists = field(default_factory=dict)
    """The current lists of all people."""
    withdrawn: set[int] = field(default_factory=set)
    """The editions that were rolled back."""
    erased: set[str] = field(default_factory=set)
    ended: int = 0
    """The number of processes that ended since the last complete publication or rollback.

    Each of them may leave a further old edition: the process that continues finds the lists live
    already, and then deletes no old edition."""

    @property
    def current(self) -> int | None:
        return self.live[-1][0] if self.live else None

    def count_ended(self, has_crashed: bool) -> None:
        """Record whether the process of a publication or rollback ended early."""
        self.ended = self.ended + 1 if has_crashed else 0

    def find_before(self, edition: int) -> int | None:
        """Return the live edition before this edition first was, without withdrawn editions."""
        numbers = [number for number, _, _ in self.live]
        earlier = numbers[: numbers.index(edition)]
        return next((number for number in reversed(earlier) if number not in self.withdrawn), None)

    def find_live(self, time: float) -> int | None:
        """Return the edition that was live at this time."""
        numbers = [number for number, _, since in self.live if since.timestamp() < time]
        return numbers[-1] if numbers else None


class Year(RuleBasedStateMachine):
    """A pipeline over many nights.

    After each night, all records of earlier live editions are compared with the account.
    """

    open_store: Callable[[Path], Store] = Store.open

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.editions = Editions(self.open_store(self.root), KEPT, settings={"gate": GATE})
        self.account = Account()
        self.night = 0
        self.present = {*USERS}
        self.events: list[tuple[str, str, int]] = []

    def teardown(self) -> None:
        self.folder.cleanup()

    @property
    def time(self) -> datetime:
        return FIRST_NIGHT + timedelta(days=self.night)

    @initialize()
    def open_the_shop(self) -> None:
        self.begin_night(set())

    def begin_night(self, absent: set[str]) -> None:
        """Let a day pass: people act, and some are absent from tonight's users."""
        self.night += 1
        chance = random.Random(self.night)
        day = int(self.time.timestamp())
        self.events += [
            (chance.choice(USERS), chance.choice(ITEMS), day - second) for second in range(2, 12)
        ]
        columns = ["USER_ID", "ITEM_ID", "TIMESTAMP"]
        self.editions.set_interactions(pl.DataFrame(self.events, columns, orient="row"))
        self.present = {*USERS} - absent - self.account.erased
        self.editions.set_users(self.present)

    def make_lists(self) -> NightsWork:
        chance = random.Random(self.night)
        rows = [
            (user, rank, item)
            for user in sorted(self.present)
            for rank, item in enumerate(chance.sample(ITEMS, 3), 1)
        ]
        schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
        lists = pl.DataFrame(rows, schema, orient="row")
        newest = max(time for _, _, time in self.events)
        return NightsWork(
            f"arn:m/{self.night}", f"data {self.night}", lists, self.time, newest, ndcg=0.2
        )

    @rule(absent=st.sets(st.sampled_from(USERS), max_size=MOST_ABSENT), crash=CRASHES,
          goes_on=st.booleans())  # fmt: skip
    def publish(self, absent: set[str], crash: int | None, goes_on: bool) -> None:
        """Publish lists by a process that may end; the next process may continue."""
        self.begin_night(absent)
        night, number = self.make_lists(), max(self.account.nights, default=0) + 1
        has_crashed = False
        if crash is not None:
            with crash_at(crash, self.root) as ended:
                self.editions.publish(night)
            has_crashed = ended.has_happened
            if has_crashed and goes_on:
                assert self.editions.publish(night) == number
        else:
            assert self.editions.publish(night) == number
        self.account.count_ended(has_crashed)
        live = self.editions.live()
        if live is not None and live.number == number:
            self.account.live.append((number, "published", self.time))
            self.account.nights[number] = night
            self.account.lists[number] = read_lists(night.lists)
            self.account.shown = self.account.lists[number]

    @precondition(lambda self: self.account.live)
    @rule()
    def publish_a_bad_model(self) -> None:
        """Require that a model below the gate's floor changes nothing."""
        self.begin_night(set())
        night = self.make_lists()
        bad = NightsWork(f"{night.model}/bad", night.data, night.lists, night.time, ndcg=0.01)
        with pytest.raises(Refused):
            self.editions.publish(bad)

    @precondition(lambda self: self.account.withdrawn)
    @rule(data=st.data())
    def publish_what_was_rolled_back(self, data: st.DataObject) -> None:
        """Require that withdrawn lists do not come back by the same model of the same data."""
        withdrawn = data.draw(st.sampled_from(sorted(self.account.withdrawn)))
        with pytest.raises(Refused):
            self.editions.publish(self.account.nights[withdrawn])

    @precondition(lambda self: self.account.live)
    @rule(absent=st.sets(st.sampled_from(USERS), max_size=MOST_ABSENT), crash=CRASHES,
          is_retry=st.booleans(), data=st.data())  # fmt: skip
    def roll_back(
        self, absent: set[str], crash: int | None, is_retry: bool, data: st.DataObject
    ) -> None:
        """Roll back to the edition before, or to any; a process that ends is started again."""
        self.begin_night(absent)
        account, current = self.account, self.account.current
        assert current is not None
        kept = [edition.number for edition in self.editions.older()]
        good = [number for number in kept if number < current and number not in account.withdrawn]
        to = data.draw(st.none() | st.sampled_from(kept)) if kept else None
        target = max(good, default=None) if to is None else to
        run = f"run {self.night}"
        if target is None:
            with pytest.raises(NoEditionError):
                self.editions.roll_back(to, run=run, time=self.time)
            return
        has_crashed = False
        if crash is not None:
            with crash_at(crash, self.root) as ended:
                assert self.editions.roll_back(to, run=run, time=self.time) == target
            if has_crashed := ended.has_happened:
                live = self.editions.live()
                assert live is not None
                assert live.number in (current, target)
        if crash is None or has_crashed:
            # A retry has the same run id. Another run sees in Dagster's history that this run has
            # not finished.
            if not is_retry:
                self.editions.unfinished_runs.add(run)
                run = f"{run}, again"
            assert self.editions.roll_back(to, run=run, time=self.time) == target
        self.editions.unfinished_runs.clear()
        account.count_ended(has_crashed)
        account.withdrawn = (account.withdrawn | {current}) - {target}
        account.live.append((target, "rollback", self.time))
        lists = account.lists[target]
        account.shown = {user: lists[user] for user in lists if user in self.present}

    @precondition(lambda self: len(self.account.erased) < MOST_ERASED)
    @rule(user=st.sampled_from(USERS), crash=CRASHES)
    def erase(self, user: str, crash: int | None) -> None:
        """Erase a user from all editions, including editions that come back."""
        if crash is not None:
            with crash_at(crash, self.root):
                self.editions.erase([user])
        self.editions.erase([user])
        self.account.erased.add(user)
        self.present.discard(user)
        for lists in [*self.account.lists.values(), self.account.shown]:
            lists.pop(user, None)

    @invariant()
    def people_have_what_the_account_says(self) -> None:
        live = self.editions.live()
        assert (live and live.number) == self.account.current
        if live is not None:
            assert read_lists(live.lists) == self.account.shown

    @invariant()
    def kept_editions_are_whole(self) -> None:
        older = self.editions.older()
        assert self.account.current not in [edition.number for edition in older]
        for edition in older:
            assert read_lists(edition.lists) == self.account.lists[edition.number]
        numbers = {number for number, _, _ in self.account.live}
        least, most = min(KEPT, len(numbers) - 1), KEPT + self.account.ended
        assert least <= len(older) <= most or not numbers

    @invariant()
    def the_record_says_what_was_live_when(self) -> None:
        assert self.editions.nights() == self.account.live

    @invariant()
    def the_live_edition_is_compared_with_what_people_had(self) -> None:
        current = self.account.current
        if current is None:
            return
        before = self.account.find_before(current)
        kept = [edition.number for edition in self.editions.older()]
        assert self.editions.before() == (before if before in kept else None)

    @invariant()
    def each_interaction_counts_for_what_was_live_then(self) -> None:
        if not self.account.live:
            return
        kept = {self.account.current, *(edition.number for edition in self.editions.older())}
        expected = Counter(
            number
            for user, _, time in self.events
            for number in [self.account.find_live(time)]
            if number is not None and user in self.account.lists[number]
        )
        for number, interactions in self.editions.count_interactions().items():
            if number in kept:
                assert interactions == expected[number], number


def read_lists(table: pl.DataFrame) -> Lists:
    """Return the items of each user, the best first."""
    rows = table.sort("user_id", "rank").group_by("user_id", maintain_order=True).agg("item_id")
    return dict(rows.rows())


def test_a_year_of_nights_agrees_with_a_plain_account() -> None:
    run_state_machine_as_test(
        Year, settings=settings(max_examples=repeats(200, 8), stateful_step_count=repeats(40, 15))
    )


def test_so_it_does_in_a_bucket(s3: S3Server) -> None:
    class InBucket(Year):
        def open_store(self, root: Path) -> Store:
            return Store.open(f"s3://{s3.create_bucket()}/prefix", s3.environment())

    run_state_machine_as_test(
        InBucket, settings=settings(max_examples=repeats(10, 1), stateful_step_count=10)
    )
