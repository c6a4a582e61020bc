"""Random years of nights, next to a plain account of what readers had.

Lists are published, refused, rolled back and killed in between, without Personalize: the steps get
made-up models and lists. After each night all that speaks of "before" is compared with the account.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from unittest.mock import patch

import polars as pl
import pytest

from batchrec_dagster.cli.declared_pipelines import UnknownNameError
from batchrec_dagster.cli.show import _choose_editions
from batchrec_dagster.config import Pipeline
from batchrec_dagster.reporting.history import EditionHistory, describe_restoration
from batchrec_dagster.reporting.published import PublishedResults
from batchrec_dagster.steps import publishing as publishing_module
from batchrec_dagster.steps.checks import FailedChecksError, require_passed
from batchrec_dagster.steps.errors import StepError
from batchrec_dagster.steps.lists_declaration import describe_lists
from batchrec_dagster.steps.outcomes import measure_outcomes
from batchrec_dagster.steps.publishing import PREVIOUS, Publishing, republish
from batchrec_dagster.steps.records import ModelRecord
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.publications import RECORD, Publications
from batchrec_dagster.storage.published_table import PublishedTable, TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import declaration
from batchrec_dagster_tests.guard.repeats import repeats

NDCG = "normalized_discounted_cumulative_gain_at_25"
KEPT = 3
SHOP = Pipeline.model_validate(
    declaration("shop", "ratings.csv", retention={"editions": KEPT}, gate={"max_drop": 1})
)
T0, DAY = 1_700_000_000, 86_400
NIGHTS = 12
USERS = [f"u{n}" for n in range(8)]
ITEMS = [f"i{n}" for n in range(9)]
WORSE_THAN_POPULAR = 0.01


class KilledError(Exception):
    """Stands for the end of the process."""


@dataclass(frozen=True)
class Model:
    """A model that a night would publish lists of."""

    arn: str
    data: str
    rows: str
    """The seed of its lists: equal ones are equal lists."""
    ndcg: float


@dataclass
class Account:
    """What readers had, in plain Python."""

    live: list[tuple[int, int]] = field(default_factory=list)
    """When which edition became live: the time and the number."""
    models: dict[int, Model] = field(default_factory=dict)
    """The model of each edition."""
    withdrawn: dict[int, set[str]] = field(default_factory=dict)
    """What tells the lists of the editions that were rolled back."""

    @property
    def current(self) -> int | None:
        return self.live[-1][1] if self.live else None

    def withdraw(self, edition: int, target: int) -> None:
        """Roll back from the edition to the target."""
        model, restored = self.models[edition], self.models[target]
        self.withdrawn.pop(target, None)
        for lists in self.withdrawn.values():
            lists.difference_update({restored.arn, restored.data})
        if edition != target:
            self.withdrawn[edition] = {model.arn, model.data} - {restored.arn, restored.data}

    def is_rolled_back(self, model: Model) -> bool:
        """Whether lists of this model or of its data were rolled back."""
        signs = {model.arn, model.data}
        return any(signs & lists for lists in self.withdrawn.values())

    def find_before(self, edition: int) -> int | None:
        """What readers had before the edition was first live.

        Lists that were rolled back, and equal ones, do not count.
        """
        numbers = [number for _, number in self.live]
        for number in reversed(numbers[: numbers.index(edition)]):
            is_same = self.models[number].arn == self.models[edition].arn
            if number not in self.withdrawn and not is_same:
                return number
        return None

    def find_live(self, time: int) -> int | None:
        """The edition that was live then."""
        numbers = [number for start, number in self.live if start < time]
        return numbers[-1] if numbers else None


@dataclass
class Year:
    """A pipeline over many nights, its account, and the chance that decides what happens."""

    work: Work
    folder: Path
    chance: random.Random
    account: Account = field(default_factory=Account)
    unfinished_runs: set[str] = field(default_factory=set)
    events: list[tuple[str, str, int]] = field(default_factory=list)
    night: int = 0
    refusal: str = ""
    """Why the last lists were refused."""
    model: Model = field(default_factory=lambda: Model("arn:0/g-1/0", "data 0", "rows 0", 0.2))

    def has_ended(self, run_id: str) -> bool:
        return run_id not in self.unfinished_runs

    def is_unfinished(self, run_id: str) -> bool:
        return run_id in self.unfinished_runs

    @property
    def time(self) -> int:
        return T0 + self.night * DAY

    def have_a_night(self) -> str:
        """What happened, in one word."""
        self.night += 1
        self.events += [
            (self.chance.choice(USERS), self.chance.choice(ITEMS), self.time - 1 - second)
            for second in range(1, 20)
        ]
        header = ["USER_ID", "ITEM_ID", "TIMESTAMP"]
        table = pl.DataFrame(self.events, schema=header, orient="row")
        self.work.storage.store.put(self.work.files.interactions, table.write_csv().encode())

        class Clock(datetime):
            @classmethod
            def now(cls, tz: object = None) -> Clock:
                return cls.fromtimestamp(T0 + self.night * DAY, UTC)

        with patch.object(publishing_module, "datetime", Clock):
            if self.account.current is not None and self.chance.random() < 0.35:
                return self._roll_back()
            return self._refresh()

    def _refresh(self) -> str:
        what = self.chance.choice(
            ["new data", "new data", "new data", "equal lists", "retrain", "nothing"]
        )
        night = f"{self.night}"
        if what == "new data":
            self.model = Model(
                f"arn:x/g-1/{night}", f"data {night}", f"rows {night}", self.chance.uniform(0, 0.4)
            )
        elif what == "equal lists":
            # New data that change no list.
            self.model = Model(
                f"arn:x/g-1/{night}", f"data {night}", self.model.rows, self.model.ndcg
            )
        elif what == "retrain":
            # The same data give equal lists, or nearly.
            rows = self.chance.choice([self.model.rows, f"rows {night}"])
            self.model = Model(f"arn:x/g-1/{night}", self.model.data, rows, self.model.ndcg)
        return self.refresh(what, is_killed=self.chance.random() < 0.2)

    def refresh(self, what: str, *, is_killed: bool = False, skip: bool = False) -> str:
        """Publish lists of the model, if they may be.

        Returns what happened: `what` if they are published, or else `refused` or `killed`.
        """
        model, current = self.model, self.account.current
        publishing = Publishing(self.work, describe_lists(SHOP), self._record(model), "users")
        gate = publishing.gate(skip=skip)
        is_live_withdrawn = current in self.account.withdrawn
        # A gate that compares says with which number: that of the lists that readers have.
        compared_ndcg = gate.numbers.get("published_ndcg_at_25")
        live_model = None if current is None else self.account.models[current]
        if live_model is None or is_live_withdrawn or live_model.arn == model.arn:
            assert compared_ndcg is None
        else:
            assert compared_ndcg == live_model.ndcg
        is_known = live_model is not None and live_model.arn == model.arn
        is_bad = model.ndcg < WORSE_THAN_POPULAR + 0.05 and not is_known
        try:
            require_passed([gate])
            self._publish(publishing, model, is_killed=is_killed)
        except FailedChecksError as error:
            self.refusal = str(error)
            assert is_bad or self.account.is_rolled_back(model)
            return "refused"
        except KilledError:
            what = "killed"
        assert skip or not is_bad
        assert skip or not self.account.is_rolled_back(model)
        edition = self.work.files.table.current()
        assert edition is not None
        if edition.number != current:
            self.account.live.append((self.time, edition.number))
            self.account.models[edition.number] = model
        return what

    def _record(self, model: Model) -> ModelRecord:
        popular = WORSE_THAN_POPULAR + 0.05
        evidence = {
            "all/users": 200,
            "all/ndcg": model.ndcg,
            "all/popular": popular,
            "all/difference": model.ndcg - popular,
        }
        metrics = {NDCG: model.ndcg, "coverage": 0.2}
        return ModelRecord(model.arn, "group", "g", model.data, metrics=metrics, evidence=evidence)

    def _publish(self, publishing: Publishing, model: Model, *, is_killed: bool) -> None:
        chance = random.Random(model.rows)
        rows = [
            (user, rank, item)
            for user in USERS
            for rank, item in enumerate(chance.sample(ITEMS, 3), 1)
        ]
        schema = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
        facts = {
            "root_run": f"run {self.night}",
            "run_cost_usd": 0.0,
            "data_until": self.time - 2,
            "exclude_seen": False,
        }
        with TableWriter(self.folder / "lists.parquet") as writer:
            writer.write(pl.DataFrame(rows, schema, orient="row").to_arrow())
            version = model.arn.replace("/", "_").replace(":", "_").replace("-", "_")
            writer.finish(publishing.about(version, f"run {self.night}", [], facts))
        if is_killed:
            # Killed after the table changed, or the old one was copied, before the record did.
            with patch.object(Publications, "settle", side_effect=KilledError):
                publishing.publish(writer.path)
        publishing.publish(writer.path)

    def _roll_back(self) -> str:
        current = self.account.current
        assert current is not None
        kept = [edition.number for edition in self.work.files.table.older()]
        is_pending = bool(self.unfinished_runs)
        run = self.unfinished_runs.pop() if is_pending else f"run {self.night}"
        to = PREVIOUS
        if not is_pending and kept and self.chance.random() < 0.3:
            to = f"{self.chance.choice(kept)}"
        good = [
            number for number in kept if number < current and number not in self.account.withdrawn
        ]
        kill = self.chance.choice([None, None, "put_back", "settle"])
        where = PublishedTable if kill == "put_back" else Publications
        try:
            if kill is not None and not is_pending:
                with patch.object(where, kill, side_effect=KilledError):
                    republish(self.work, to, run, self, logging.getLogger())
            republish(self.work, to, run, self, logging.getLogger())
        except KilledError:
            self.unfinished_runs.add(run)
        except StepError:
            assert not good or is_pending
            return "nothing to roll back to"
        record = Publications(self.work.files).read()
        assert record.rollback is not None
        target = record.rollback.edition
        if not is_pending:
            assert target == (max(good) if to == PREVIOUS else int(to))
        self.account.withdraw(current, target)
        if not (kill == "put_back" and run in self.unfinished_runs) and target != current:
            self.account.live.append((self.time, target))
        return "rolled back"

    def check(self) -> None:
        """Compare what everything says with the account."""
        files, account = self.work.files, self.account
        edition = files.table.current()
        if edition is None:
            assert account.current is None
            return
        assert edition.number == account.current
        # The record, and `show`.
        record = Publications(files).read()
        publications = [
            (int(past.since.timestamp()), past.edition)
            for past in record.publications
            if past.since is not None
        ]
        assert publications == account.live
        live = PublishedResults(self.work.storage, "shop").read_publication()
        assert live == record.live
        # The report and `diff`.
        history = EditionHistory(files)
        before = account.find_before(edition.number)
        kept = {old.number for old in files.table.older()}
        baseline = history.find_baseline(edition)
        expected = before if before in kept else None
        assert (baseline.number if baseline else None) == expected
        if expected is None:
            with pytest.raises(UnknownNameError):
                _choose_editions(history, ())
        else:
            chosen = _choose_editions(history, ())
            assert [chosen[0].number, chosen[1].number] == [expected, edition.number]
        numbers = [number for _, number in account.live]
        is_restored = numbers.index(edition.number) < len(numbers) - 1
        assert (history.find_restoration(edition) is not None) == is_restored
        # Outcomes: each interaction counts once, for what was live then.
        sums = measure_outcomes(self.work).sums
        measured = dict(sums.group_by("edition").agg(pl.col("interactions").sum()).rows())
        newest = max(time for _, _, time in self.events)
        counted = Counter(account.find_live(time) for _, _, time in self.events if time <= newest)
        for number, interactions in measured.items():
            if number in {edition.number, *kept}:
                assert interactions == counted[number], number
            else:
                assert interactions <= counted[number], number


@pytest.fixture
def work(tmp_path: Path) -> Work:
    return Work(SHOP, StorageResource(root=str(tmp_path / "storage"), s3=S3Connection()))


@pytest.mark.parametrize("seed", range(repeats(60, 6)))
def test_all_agree_with_a_plain_account(work: Work, tmp_path: Path, seed: int) -> None:
    year = Year(work, tmp_path, random.Random(seed))
    happened = []
    for _ in range(NIGHTS):
        happened.append(year.have_a_night())
        try:
            year.check()
        except AssertionError as error:
            raise AssertionError(f"{happened}, {year.account}") from error
    assert len({*happened}) > 2


def test_lists_that_were_rolled_back_do_not_come_back_from_another_model(
    work: Work, tmp_path: Path
) -> None:
    year = Year(work, tmp_path, random.Random(0))
    good, bad = (Model(f"arn:x/g-1/{n}", f"data {n}", f"rows {n}", 0.2) for n in (1, 2))
    for model in (good, bad):
        year.model = model
        assert year.refresh("published") == "published"
    assert republish(work, PREVIOUS, "run", year, logging.getLogger()).edition.number == 1
    year.account.withdraw(2, 1)
    year.account.live.append((year.time, 1))

    year.model = replace(bad, arn="arn:x/g-1/3", rows="rows 3")
    assert year.refresh("published") == "refused"
    assert "edition 2, of the same data and settings, was rolled back" in year.refusal
    assert "--publish-anyway`" in year.refusal
    # Somebody wants them all the same. Then they may also be published again.
    assert year.refresh("published", skip=True) == "published"
    assert Publications(work.files).read().withdrawn == ()


def test_a_record_that_is_lost_is_made_from_the_editions_that_are_kept(
    work: Work, tmp_path: Path
) -> None:
    year = Year(work, tmp_path, random.Random(5))
    while len(year.account.live) < 4:
        year.have_a_night()
    files, store = work.files, work.storage.store
    record = Publications(files).read()
    store.delete(files.uri(files.storage_keys.record(RECORD)))
    derived = Publications(files).read()
    kept = sorted(edition.number for edition in files.table.all_editions())
    first = {past.edition: past.since for past in record.publications if past.is_first}
    assert [(past.edition, past.since) for past in derived.publications if past.is_first] == [
        (number, first[number]) for number in kept
    ]
    assert derived.live is not None
    assert derived.live.edition == year.account.current
    # The next publication writes it down.
    Publications(files).settle()
    assert Publications(files).read() == derived


def test_an_edition_that_somebody_copied_back_is_live_again(work: Work, tmp_path: Path) -> None:
    year = Year(work, tmp_path, random.Random(0))
    for number in (1, 2):
        year.model = Model(f"arn:x/g-1/{number}", f"data {number}", f"rows {number}", 0.2)
        year.refresh("published")
    (first,) = work.files.table.older()
    work.storage.store.copy(first.uri, work.files.table.uri)
    live = Publications(work.files).read().live
    assert live is not None
    assert (live.edition, live.why, live.replaced) == (1, "restored by hand", 2)
    assert live.description.endswith("UTC, restored by hand in place of edition 2")
    restoration = EditionHistory(work.files).find_restoration(first)
    assert restoration is not None
    text = describe_restoration(restoration)
    assert text.startswith("readers have edition 1 again since ")
    assert text.endswith("in place of edition 2")
    # The next edition is compared with what readers have.
    year.account.live.append((year.time, 1))
    year.model = Model("arn:x/g-1/3", "data 3", "rows 3", 0.2)
    assert year.refresh("published") == "published"
    third = work.files.table.current()
    assert third is not None
    assert EditionHistory(work.files).find_baseline(third) == first


def test_a_damaged_record_is_named(work: Work, tmp_path: Path) -> None:
    year = Year(work, tmp_path, random.Random(5))
    year.have_a_night()
    work.files.write_record(RECORD, {"publications": [{"edition": "x"}]})
    with pytest.raises(StorageError, match=r"publications.json is damaged .*delete it"):
        Publications(work.files).read()
