"""A plain account of a shop's nights: what was live when, what each person had, what they did.

It knows nothing of batchrec but the words of its commands. Where it is told something, as the lists
of a new edition, it is once, when they are published.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

# With fewer, popular items are as good as a model once people have had most items of their taste.
TASTES = 4

Lists = dict[str, list[str]]
"""The items of each user, best first."""


class Event(NamedTuple):
    """A rating."""

    user: str
    item: str
    rating: float
    time: int
    """In epoch seconds."""


@dataclass(frozen=True)
class EditionEntry:
    """What is known of an edition since it was published."""

    lists: Lists
    arms: Mapping[str, str]
    ndcg: float
    data: Sequence[Event]
    """The interactions that it was made from."""
    settings: str
    """Which interactions count: metrics of other ones cannot be compared."""
    known_until: int
    """The time of the newest of these interactions."""


@dataclass(frozen=True)
class Live:
    """An edition that became live."""

    edition: int
    since: datetime
    """The time of the night, which is at most minutes earlier."""
    why: str
    replaced: int | None


@dataclass
class Sums:
    """What the users of an arm did while an edition was live."""

    users: int = 0
    active: int = 0
    interactions: int = 0
    new: int = 0
    hits: int = 0
    hit_users: int = 0


@dataclass
class ReportEntry:
    """What the newest report is about."""

    edition: int
    before: int | None
    """The edition that it has to compare with; None if there is none that is kept."""


@dataclass
class Account:
    """What happened."""

    kept_editions: int
    """How many older editions are kept."""
    source: list[Event] = field(default_factory=list)
    """What the shop's file has."""
    prepared: list[Event] = field(default_factory=list)
    """The interactions that are in the storage."""
    editions: dict[int, EditionEntry] = field(default_factory=dict)
    live: list[Live] = field(default_factory=list)
    withdrawn: set[int] = field(default_factory=set)
    """The editions that were rolled back."""
    history: set[int] = field(default_factory=set)
    """The editions that are kept, of which the live one may be one."""
    outcomes: dict[tuple[int, datetime], dict[str, Sums]] = field(default_factory=dict)
    """By edition and the start of its period: the sums of each arm, as they were last measured."""
    other_nights: list[tuple[str, list[str]]] = field(default_factory=list)
    """How the runs ended that published nothing: the status, and the checks that refused."""
    exported: Lists = field(default_factory=dict)
    """What the sink has."""
    report: ReportEntry | None = None

    @property
    def current(self) -> int | None:
        """The edition that is live."""
        return self.live[-1].edition if self.live else None

    @property
    def older(self) -> list[int]:
        """The other editions that are kept, newest first."""
        return sorted(self.history - {self.current}, reverse=True)

    @property
    def next_edition(self) -> int:
        return max(self.editions, default=0) + 1

    def find_live(self, until: datetime) -> int | None:
        """The edition that was live at this time."""
        editions = [live.edition for live in self.live if live.since < until]
        return editions[-1] if editions else None

    def describe_nights(self) -> list[tuple[int, str]]:
        """The edition that became live each time, and what became of it."""
        nights = []
        for place, live in enumerate(self.live):
            later = self.live[place + 1] if place + 1 < len(self.live) else None
            is_withdrawn = live.edition in self.withdrawn or (
                later is not None and later.why == "rolled back"
            )
            if live.why == "rolled back":
                nights.append((live.edition, "restored"))
            else:
                nights.append((live.edition, "rolled back" if is_withdrawn else "published"))
        return nights

    def find_before(self, edition: int) -> int | None:
        """What readers had before this edition was new, whether it is kept or not.

        What was rolled back does not count.
        """
        numbers = [live.edition for live in self.live]
        for number in reversed(numbers[: numbers.index(edition)]):
            if number not in self.withdrawn:
                return number
        return None

    def find_baseline(self, edition: int) -> int | None:
        """The same, if it is kept."""
        before = self.find_before(edition)
        return before if before in self.history or before == self.current else None

    def find_target(self) -> int | None:
        """What a rollback goes to."""
        assert self.current is not None
        good = [
            number
            for number in self.older
            if number < self.current and number not in self.withdrawn
        ]
        return max(good, default=None)

    def publish(self, entry: EditionEntry, since: datetime) -> int:
        """The number of the new edition, which is live now."""
        number = self.next_edition
        self.editions[number] = entry
        self._make_live(number, since, "published")
        return number

    def roll_back(self, target: int, since: datetime) -> None:
        assert self.current is not None
        self.withdrawn = (self.withdrawn | {self.current}) - {target}
        self._make_live(target, since, "rolled back")

    def _make_live(self, number: int, since: datetime, why: str) -> None:
        replaced = self.current
        self.live.append(Live(number, since, why, replaced))
        others = sorted(self.history - {number, replaced}, reverse=True)
        kept = others[: self.kept_editions - (replaced is not None)]
        stays = {number} & self.history
        self.history = {*kept, *stays, *([] if replaced is None else [replaced])}

    def write_report(self) -> None:
        """The report of what is live is made."""
        assert self.current is not None
        self.report = ReportEntry(self.current, self.find_baseline(self.current))

    def measure(self) -> None:
        """Add up what people did while each kept edition was live; of the others it stays."""
        newest = max(event.time for event in self.prepared)
        kept = {*self.history, self.current}
        periods = [
            (live, min(newest, int(later.since.timestamp())) if later else newest)
            for live, later in zip(self.live, [*self.live[1:], None], strict=True)
        ]
        for live, end in periods:
            start = int(live.since.timestamp())
            if live.edition in kept and end > start:
                entry = self.editions[live.edition]
                self.outcomes[live.edition, live.since] = self._add_up(entry, start, end)

    def _add_up(self, entry: EditionEntry, start: int, end: int) -> dict[str, Sums]:
        known: dict[str, set[str]] = defaultdict(set)
        chosen: dict[str, set[str]] = defaultdict(set)
        interactions: dict[str, int] = defaultdict(int)
        for event in self.prepared:
            if event.time <= start:
                known[event.user].add(event.item)
            elif event.time <= end:
                chosen[event.user].add(event.item)
                interactions[event.user] += 1
        sums: dict[str, Sums] = defaultdict(Sums)
        for user, items in entry.lists.items():
            new = chosen[user] - known[user]
            arm = sums[entry.arms[user]]
            arm.users += 1
            arm.active += bool(new)
            arm.interactions += interactions[user]
            arm.new += len(new)
            arm.hits += len(new.intersection(items))
            arm.hit_users += bool(new.intersection(items))
        return dict(sums)


class People:
    """The people of a shop. Each has a taste, and at times chooses from their own list."""

    def __init__(self, chance: random.Random, users: int, items: int) -> None:
        self.chance = chance
        self.users = [f"u{number}" for number in range(users)]
        self.items = [f"i{number}" for number in range(items)]
        self.joined = users

    def act_until(self, start: int, end: int, account: Account) -> list[Event]:
        """What they do between these times, with the lists that are live then."""
        lists: Lists = {}
        if account.current is not None:
            lists = account.editions[account.current].lists
        had = defaultdict(set)
        for event in account.source:
            had[event.user].add(event.item)
        events = []
        for user in self.users:
            if self.chance.random() < 0.4:
                item = self.choose(user, lists.get(user, []), had[user])
                events.append(Event(user, item, 4.0, self.chance.randrange(start, end)))
        return events

    def start(self, end: int) -> list[Event]:
        """What each of them rated in the months until then."""
        return [event for user in self.users for event in self._rate(user, end - 10**7, end)]

    def join(self, start: int, end: int) -> list[Event]:
        """What somebody new rates between these times."""
        self.joined += 1
        self.users.append(f"u{self.joined}")
        return self._rate(self.users[-1], start, end)

    def _rate(self, user: str, start: int, end: int) -> list[Event]:
        had: set[str] = set()
        for _ in range(36):
            had.add(self.choose(user, [], had))
        return [
            Event(user, item, self.chance.choice([3.0, 4.0, 4.0, 5.0, 5.0]), time)
            for item in sorted(had)
            for time in [self.chance.randrange(start, end)]
        ]

    def choose(self, user: str, own_list: Sequence[str], had: set[str]) -> str:
        """An item of the list, or one that is to their taste and mostly new to them."""
        if own_list and self.chance.random() < 0.5:
            return self.chance.choice(own_list)
        taste = int(user[1:]) % TASTES
        fitting = [
            item
            for item in self.items
            if item not in had and (int(item[1:]) % TASTES == taste or self.chance.random() < 0.03)
        ]
        return self.chance.choice(fitting or self.items)
