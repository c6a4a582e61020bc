"""A shop's year, by batchrec's own commands at a faked clock, next to a plain account of it.

Every night a day's data are new. Some nights bring a bad file, a refusal by the gate, other
settings, a kill, a rollback, or people who leave. After each night all that batchrec says is
compared with the account.
"""

from __future__ import annotations

import html
import json
import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.cli.init import make_project
from batchrec_dagster_tests.guard.builders import REPOSITORY, Project, module_project
from batchrec_dagster_tests.guard.oracles.account import (
    Account,
    EditionEntry,
    Event,
    Lists,
    People,
    Sums,
)
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.faked_clock import Ended, FakedClock, faked_clock

pytestmark = [pytest.mark.slow, nightly("a process for each command of each night")]

FIRST_NIGHT = datetime(2027, 1, 5, 3, tzinfo=UTC)
# So long a command takes at most, on a busy machine.
SLACK = timedelta(minutes=45)
NDCG = "normalized_discounted_cumulative_gain_at_25"
KEPT = 3
SETTINGS: dict[str, Any] = {
    "name": "shop",
    "ratings": {
        "source": "ratings.csv",
        "columns": {name: name for name in ("user", "item", "rating", "timestamp")},
    },
    "interactions": {"min_rating": 3.0},
    "recommendations": {"num_results": 5},
    "gate": {"max_drop": 1},
    # With four tested people, popular items are better than a good model by chance in some nights.
    "popularity": {"days": 10_000},
    "retention": {"editions": KEPT, "models": 2},
    "experiment": {"name": "holdout", "control_share": 0.3},
    "sinks": {"export": {"format": "csv", "rows": "per_item"}},
}
# After which object a run is killed.
INTERACTIONS = "transformed/interactions/interactions.csv"
USERS = "transformed/batch_users_input/users.json"
TABLE = "recommendations/recommendations.parquet"
EXPORT = "exports/recommendations.csv"


@dataclass
class Shop:
    """The project, its clock, and the account of what happened."""

    project: Project
    clock: FakedClock
    chance: random.Random
    account: Account = field(default_factory=lambda: Account(KEPT))
    settings: dict[str, Any] = field(default_factory=lambda: json.loads(json.dumps(SETTINGS)))
    last_run: str = ""
    """The status of the last refresh."""
    sizes: list[dict[str, int]] = field(default_factory=list)
    """The bytes in each folder, night by night."""

    def __post_init__(self) -> None:
        self.people = People(self.chance, users=40, items=320)
        end = int(self.clock.now.timestamp()) - 7200
        self.account.source = self.people.start(end)

    # What happens

    def sleep(self, hours: float) -> None:
        """The time goes on, and people choose."""
        start = int(self.clock.now.timestamp()) + 3600
        self.clock.now += timedelta(hours=hours)
        end = int(self.clock.now.timestamp()) - 3600
        self.account.source = [
            *self.account.source,
            *self.people.act_until(start, end, self.account),
        ]

    def declare(self, **settings: Any) -> None:
        self.settings |= settings
        self.project.declare(self.settings)

    def write_source(self, last_line: str = "") -> None:
        """The shop's file, as it is now."""
        events = sorted(self.account.source, key=lambda event: event.time)
        lines = [f"{user},{item},{rating},{time}" for user, item, rating, time in events]
        path = self.project.root / "ratings.csv"
        path.write_text("\n".join(["user,item,rating,timestamp", *lines, last_line]) + "\n")

    @property
    def interactions(self) -> list[Event]:
        """What of the shop's file counts."""
        least = self.settings["interactions"]["min_rating"]
        return [event for event in self.account.source if event.rating >= least]

    def refresh(self, last_line: str = "", kill_after: str = "") -> Ended:
        self.write_source(last_line)
        result = self.clock.run("run", "shop", kill_after=kill_after, code=None)
        self.last_run = "FAILURE" if result.code else "SUCCESS"
        return result

    def night(self) -> None:
        """New lists."""
        result = self.refresh()
        assert result.code == 0, result.text
        number = self.publish()
        assert f"shop: published edition {number} in " in result.stdout
        self.finish()
        self.check_verdict(" ".join(result.stdout.split()))

    def publish(self) -> int:
        """The account has the lists that a run has published."""
        table = self.read_table()
        self.account.prepared = self.interactions
        # What people did with earlier lists is measured before there are new ones.
        if self.account.current is not None:
            self.account.measure()
        entry = EditionEntry(
            read_lists(table),
            dict(table.select("user_id", "arm").unique().rows()),
            self.read_about()["metrics"][NDCG],
            self.interactions,
            json.dumps(self.settings["interactions"]),
            max(event.time for event in self.interactions),
        )
        return self.account.publish(entry, self.clock.now)

    def finish(self) -> None:
        """A run has got to its end."""
        assert self.account.current is not None
        self.account.exported = self.account.editions[self.account.current].lists
        self.account.measure()
        self.account.write_report()

    def bad_file(self) -> None:
        """A line that cannot be read: nothing changes."""
        result = self.refresh(last_line="u1,i1,many,stars")
        assert result.code == 1
        assert "ratings.csv" in result.stderr
        assert "rows_readable" in result.stderr
        self.account.other_nights.append(("refused", ["rows_readable"]))

    def refusal(self) -> None:
        """Lists that are not good enough."""
        self.declare(gate={"max_drop": 1, "min_ndcg_at_25": 1, "min_coverage": 1})
        result = self.refresh()
        assert result.code == 1
        assert "quality_gate" in result.stderr
        self.account.other_nights.append(("refused", ["quality_gate"]))
        self.account.prepared = self.interactions
        self.account.measure()
        self.declare(gate=SETTINGS["gate"])

    def other_rows(self) -> None:
        """Other interactions count: metrics cannot be compared with those of before."""
        least = 4.0 if self.settings["interactions"]["min_rating"] == 3.0 else 3.0
        self.declare(interactions={"min_rating": least})
        self.night()

    def longer_lists(self) -> None:
        """The same model makes other lists."""
        self.night()
        self.clock.now += timedelta(hours=2)
        length = 7 if self.settings["recommendations"]["num_results"] == 5 else 5
        self.declare(recommendations={"num_results": length})
        self.night()

    def again(self) -> None:
        """A second run finds nothing to do."""
        self.night()
        self.clock.now += timedelta(hours=2)
        result = self.refresh()
        assert result.code == 0, result.text
        assert "shop: unchanged (" in result.stdout
        assert f"edition {self.account.current} of " in result.stdout
        self.account.other_nights.append(("unchanged", []))
        self.finish()

    def leave(self) -> None:
        """People are gone from the shop's file, and others come."""
        start, end = (int(self.clock.now.timestamp()) - seconds for seconds in (36_000, 3_600))
        for _ in range(2):
            gone = self.people.users.pop(0)
            self.account.source = [event for event in self.account.source if event.user != gone]
            self.account.source += self.people.join(start, end)
        self.night()
        lists = self.account.editions[self.account.next_edition - 1].lists
        assert {*lists} <= {*self.people.users}

    def killed_early(self, kill_after: str = INTERACTIONS) -> None:
        """New data are prepared, but not imported."""
        result = self.refresh(kill_after=kill_after)
        assert result.code == 1
        assert "SIGKILL" in result.stderr
        self.account.other_nights.append(("failed", []))
        self.account.prepared = self.interactions

    def killed_before_rollback(self) -> None:
        """Data are prepared, but not imported, and then lists of the same data are rolled back."""
        self.longer_lists()
        self.sleep(12)
        self.killed_early(USERS)
        # Users are listed and outcomes measured in no order.
        self.check(outcomes=False)
        self.clock.now += timedelta(hours=1)
        self.roll_back()

    def killed_late(self) -> None:
        """Readers have new lists, but nothing says so. The next run goes on."""
        history = {*self.account.history}
        result = self.refresh(kill_after=TABLE)
        assert result.code == 1
        self.publish()
        # Killed before it deleted the oldest edition, which the next publication does.
        self.account.history |= history - {self.account.current}
        self.check()
        self.clock.now += timedelta(hours=1)
        result = self.refresh()
        assert result.code == 0, result.text
        assert f"edition {self.account.current} of " in result.stdout
        self.account.other_nights.append(("unchanged", []))
        self.finish()

    def killed_in_sink(self) -> None:
        """Readers have new lists, the mailing has them too, but there is no report of them."""
        result = self.refresh(kill_after=EXPORT)
        assert result.code == 1
        number = self.publish()
        assert self.account.current == number
        self.account.exported = self.account.editions[number].lists
        # Sink and outcomes are made at the same time.
        self.check(outcomes=False)
        self.clock.now += timedelta(hours=1)
        assert self.refresh().code == 0
        self.account.other_nights.append(("unchanged", []))
        self.finish()

    def rollback(self) -> None:
        """New lists, which are bad as it turns out. They do not come back with the next run."""
        self.night()
        self.check()
        shown = self.account.source
        self.sleep(6)
        self.roll_back()
        self.check()
        self.clock.now += timedelta(hours=1)
        # A run that finds nothing new must not publish the same lists again.
        newest, self.account.source = self.account.source, shown
        result = self.refresh()
        assert result.code == 1
        assert "rolled back" in result.stderr
        self.account.other_nights.append(("refused", ["quality_gate"]))
        self.account.source = newest

    def roll_back(self, kill_after: str = "") -> None:
        target = self.account.find_target()
        if target is None:
            result = self.clock.run("rollback", "shop", "--yes", code=3)
            assert "there is no earlier edition to roll back to" in result.stderr
            return
        code = 1 if kill_after else 0
        result = self.clock.run("rollback", "shop", "--yes", kill_after=kill_after, code=code)
        assert f"shop: edition {target} is published" in result.stdout
        self.account.roll_back(target, self.clock.now)
        if not kill_after:
            self.finish()

    def killed_rollback(self) -> None:
        """A rollback that is killed is finished by the next one, which goes no further."""
        self.night()
        self.clock.now += timedelta(hours=1)
        target = self.account.find_target()
        if target is None:
            return
        self.roll_back(kill_after=TABLE)
        self.check(unfinished=True)
        self.clock.now += timedelta(hours=1)
        result = self.clock.run("rollback", "shop", "--yes")
        assert f"The rollback to edition {target} was not finished" in result.stdout
        self.finish()

    # What is checked

    @property
    def folder(self) -> Path:
        return self.project.storage / "shop"

    def read_table(self) -> pl.DataFrame:
        return pl.read_parquet(self.folder / f"curated/{TABLE}")

    def read_about(self) -> dict[str, Any]:
        metadata = pl.read_parquet_metadata(self.folder / f"curated/{TABLE}")
        about: dict[str, Any] = json.loads(metadata["batchrec"])
        return about

    def check(self, *, unfinished: bool = False, outcomes: bool = True) -> None:
        """Compare all that batchrec says with the account.

        unfinished: whether a rollback was killed.
        outcomes: whether it is known if they were measured.
        """
        if self.account.current is None:
            return
        self.check_storage()
        self.check_list()
        self.check_nights()
        self.check_show()
        self.check_past()
        self.check_diff()
        self.check_rollback_list(unfinished=unfinished)
        self.check_report()
        if outcomes:
            self.check_outcomes()

    def check_storage(self) -> None:
        """The table, its history, the record, the sink."""
        account = self.account
        assert account.current is not None
        assert self.read_about()["number"] == account.current
        assert read_lists(self.read_table()) == account.editions[account.current].lists
        arms: dict[str, str] = {}
        for path in (self.folder / "curated/history").rglob("*.parquet"):
            table = pl.read_parquet(path)
            edition = account.editions[int(path.name[:6])]
            assert read_lists(table) == edition.lists
        for edition in account.editions.values():
            for user, arm in edition.arms.items():
                assert arms.setdefault(user, arm) == arm
        if self.exported.exists():
            exported = pl.read_csv(self.exported, infer_schema=False)
            assert read_lists(exported) == account.exported
        record = json.loads((self.folder / "records/editions.json").read_text())
        reasons = {"published": "published", "restored": "rolled back"}
        publications = [
            (night["edition"], reasons[night["ended"]], night["replaced"])
            for night in record["nights"]
            if night["edition"] is not None
        ]
        expected = [(live.edition, live.why, live.replaced) for live in account.live]
        # What a killed process has not written down, readers see in the table.
        assert publications in (expected, expected[:-1])

    @property
    def exported(self) -> Path:
        return self.folder / f"curated/{EXPORT}"

    def check_list(self) -> None:
        (overview,) = json.loads(self.clock.run("list", "--json").stdout)
        live = self.account.live[-1]
        assert overview["last_run"]["status"] == self.last_run
        edition = overview["edition"]
        assert (edition["number"], edition["live_because"]) == (live.edition, live.why)
        self.check_time(edition["live_since"])
        assert edition["users"] == len(self.account.editions[live.edition].lists)

    def check_nights(self) -> None:
        """`list --editions` has each night, and what it published."""
        (overview,) = json.loads(self.clock.run("list", "--editions", "--json").stdout)
        nights = overview["nights"][::-1]
        published = [night for night in nights if night["edition"] is not None]
        assert [
            (night["edition"], night["status"]) for night in published
        ] == self.account.describe_nights()
        for night, live in zip(published, self.account.live, strict=True):
            entry = self.account.editions[live.edition]
            assert timedelta(0) <= datetime.fromisoformat(night["time"]) - live.since < SLACK
            assert night["ndcg"] == entry.ndcg
            assert night["replaced"] == live.replaced
            assert night["is_live"] == (live is self.account.live[-1])
        others = [(night["status"], night["checks"]) for night in nights if not night["edition"]]
        assert others == self.account.other_nights

    def check_past(self) -> None:
        """`show USER --edition N` says what somebody had in an edition."""
        account = self.account
        days = (self.clock.now - FIRST_NIGHT).days
        day = (FIRST_NIGHT + timedelta(days=self.chance.randint(0, days))).date()
        end = datetime.combine(day + timedelta(days=1), datetime.min.time(), UTC)
        edition = account.find_live(end)
        if edition is None:
            return
        entry = account.editions[edition]
        user = self.chance.choice([*entry.lists])
        result = self.clock.run("show", user, "--edition", f"{edition}", "--json", code=None)
        if edition not in {*account.history, account.current}:
            assert result.code == 3, result.text
            assert f"edition {edition}" in result.stderr
            return
        (details,) = json.loads(result.stdout)["pipelines"]
        assert (details["edition"], details["arm"]) == (edition, entry.arms[user])
        items = [item["item"] for item in details["recommendations"]]
        assert items == entry.lists[user], (user, day)

    def check_time(self, iso: str) -> None:
        """It is that at which the live edition became so."""
        passed = datetime.fromisoformat(iso) - self.account.live[-1].since
        assert timedelta(0) <= passed < SLACK

    def check_show(self) -> None:
        account = self.account
        assert account.current is not None
        (facts,) = json.loads(self.clock.run("show", "--json").stdout)["pipelines"]
        live, entry = account.live[-1], account.editions[account.current]
        assert (facts["edition"], facts["live_because"]) == (live.edition, live.why)
        self.check_time(facts["live_since"])
        assert facts["users"] == len(entry.lists)
        assert facts["ndcg_at_25"] == entry.ndcg
        self.check_verdict(facts.get("verdict", ""))
        user = self.chance.choice([*entry.lists])
        (details,) = json.loads(self.clock.run("show", user, "--json").stdout)["pipelines"]
        assert [item["item"] for item in details["recommendations"]] == entry.lists[user]
        history = [event for event in account.prepared if event.user == user]
        assert details["interactions"] == len(history)

    def check_verdict(self, text: str) -> None:
        """It says whether the lists can be sent."""
        assert re.search("Good to send|Checks passed|Look before you send", text), text

    def check_diff(self) -> None:
        account = self.account
        assert account.current is not None
        baseline = account.find_baseline(account.current)
        if baseline is None:
            result = self.clock.run("diff", code=3)
            reason = f"what readers had before edition {account.current} is not kept"
            if not account.older:
                reason = f"edition {account.current} is the only one"
            assert reason in result.stderr
            return
        diff = json.loads(self.clock.run("diff", "--json").stdout)
        assert (diff["before"], diff["after"]) == (baseline, account.current)
        before, after = account.editions[baseline], account.editions[account.current]
        both = {*before.lists} & {*after.lists}
        same = [user for user in both if {*before.lists[user]} == {*after.lists[user]}]
        assert diff["same_lists"] == len(same)
        assert diff["gained"] == len({*after.lists} - both)
        assert diff["lost"] == len({*before.lists} - both)
        assert ("cannot be compared" in diff["caveat"]) == (before.settings != after.settings)
        numbers = {
            change["name"]: (change["before"]["value"], change["after"]["value"])
            for change in diff["data"]
            if change["name"] == "interactions"
        }
        counts = len(before.data), len(after.data)
        assert numbers.get("interactions", counts) == counts
        assert ("interactions" in numbers) == (counts[0] != counts[1])

    def check_rollback_list(self, *, unfinished: bool) -> None:
        """The command asks, and nobody answers."""
        account = self.account
        result = self.clock.run("rollback", "shop", code=None)
        target = account.current if unfinished else account.find_target()
        if target is None:
            assert result.code == 3
            return
        lines = result.stdout.splitlines()
        assert lines[0].startswith(f"published: edition {account.current},")
        kept = [line for line in lines if line.startswith("kept:")]
        assert [int(re.split(r"\W+", line)[2]) for line in kept] == account.older
        for number, line in zip(account.older, kept, strict=True):
            assert ("(rolled back)" in line) == (number in account.withdrawn)
            assert line.endswith("<-") == (number == target)
            assert f"NDCG@25 {account.editions[number].ndcg:.4f}" in line
        assert ("was not finished" in result.stdout) == unfinished

    def check_report(self) -> None:
        report = self.account.report
        if report is None:
            return
        page = (self.folder / "curated/report/index.html").read_text()
        text = " ".join(html.unescape(re.sub("<[^>]+>", " ", page)).split())
        assert f"Edition {report.edition} " in text
        if report.before is None:
            assert "Kept of a list nothing before" in text
        else:
            assert f"of edition {report.before}" in text
            before = self.account.editions[report.before]
            after = self.account.editions[report.edition]
            has_changes = 'id="changed-settings' in page
            assert has_changes == (before.settings != after.settings)

    def check_outcomes(self) -> None:
        path = self.folder / "curated/recommendation_outcomes/recommendation_outcomes.parquet"
        if not path.exists():
            return
        measured: dict[tuple[int, datetime], dict[str, Sums]] = {}
        for row in pl.read_parquet(path).iter_rows(named=True):
            assert row["since"] == "publication"
            (since,) = [
                live.since
                for live in self.account.live
                if live.edition == row["edition"]
                and timedelta(0) <= row["start"] - live.since < SLACK
            ]
            sums = Sums(
                row["users"],
                row["active_users"],
                row["interactions"],
                row["new_interactions"],
                row["on_list"],
                round((row["hit_rate"] or 0) * row["active_users"]),
            )
            measured.setdefault((row["edition"], since), {})[row["arm"]] = sums
        assert measured == self.account.outcomes

    def weigh(self) -> None:
        """Note how large everything is."""
        home = self.project.root / ".batchrec"
        sizes = {}
        for folder in [*home.iterdir(), *self.folder.glob("*"), *(home / "dagster").glob("*")]:
            files = [folder] if folder.is_file() else folder.rglob("*")
            size = sum(file.stat().st_size for file in files if file.is_file())
            sizes[str(folder.relative_to(home))] = size
        self.sizes.append(sizes)


def read_lists(table: pl.DataFrame) -> Lists:
    """The items of each user, best first."""
    rows = table.with_columns(pl.col("rank").cast(pl.Int32)).sort("user_id", "rank")
    return dict(rows.group_by("user_id", maintain_order=True).agg("item_id").rows())


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    project = module_project(tmp_path)
    module = project.package.name
    definitions_module = make_project("shop", module, example=False)[f"{module}/definitions.py"]
    (project.package / "definitions.py").write_text(definitions_module)
    shutil.copy(REPOSITORY / "dagster.yaml", tmp_path)
    with faked_clock(tmp_path, FIRST_NIGHT, {}) as clock:
        shop = Shop(project, clock, random.Random(0))
        shop.declare()
        yield shop


# What happens in a night, by the names of Shop's methods.
FIRST_NIGHTS = [
    *("night", "again", "bad_file", "rollback", "killed_late", "refusal"),
    *("longer_lists", "killed_early", "leave", "killed_rollback", "other_rows", "night"),
]
OTHERS = [*{*FIRST_NIGHTS, "killed_in_sink"} - {"night"}]
NIGHTS = 60


def test_a_year_of_nights(shop: Shop) -> None:
    nights = [*FIRST_NIGHTS]
    while len(nights) < NIGHTS:
        nights.append(shop.chance.choice(["night", shop.chance.choice(sorted(OTHERS))]))
    for number, night in enumerate(nights):
        shop.clock.now = FIRST_NIGHT + timedelta(days=number)
        if number:
            shop.clock.now -= timedelta(hours=11)
            shop.sleep(11)
        try:
            getattr(shop, night)()
            shop.check()
        except AssertionError as error:
            raise AssertionError(f"night {number} of {nights}, {night}: {error}") from error
        shop.weigh()
    print(json.dumps(shop.sizes))
    third = NIGHTS // 3
    for folder in ("personalize", "storage"):
        sizes = [sizes[folder] for sizes in shop.sizes]
        # Without pruning, it would be half more. The data themselves grow a little each night.
        assert max(sizes[-third:]) < 1.25 * max(sizes[third:-third]), folder
