"""Divides users into the arms of an experiment; what it shows, and how many users one needs.

Users are divided by hashes of nothing but texts, so a user's arm is the same each night, in every
run and on every engine. Source: Kohavi, Tang, Xu, "Trustworthy Online Controlled Experiments"
(2020), ch. 4.

All editions of the experiment are taken together: a user counts with each day on which they had its
lists, in one group over all editions, so that the interval knows that it is the same user.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from batchrec_dagster.config.recommendations import Experiment
from batchrec_dagster.reporting.outcomes import Rate

MODEL, CONTROL = "model", "control"
# Enough groups for a t distribution near the normal one, few enough to store for each edition.
GROUPS = 100


def arm(user: str, experiment: Experiment) -> str:
    """The user's arm: MODEL or CONTROL."""
    return CONTROL if _place(user, _salt(experiment)) < experiment.control_share else MODEL


def arms(users: pl.Series, experiment: Experiment) -> pl.Series:
    """The arm of each user, as `arm`."""
    control = _places(users, _salt(experiment)) < experiment.control_share
    return pl.Series("arm", np.where(control, CONTROL, MODEL))


def groups(users: pl.Series) -> pl.Series:
    """The group of each user, 0 to GROUPS - 1, independent of any experiment's arms."""
    return pl.Series("group", (_places(users, "groups") * GROUPS).astype(np.int32))


def _salt(experiment: Experiment) -> str:
    return f"{experiment.name}\0{experiment.salt}"


def _places(users: pl.Series, salt: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.fromiter((_place(user, salt) for user in users), np.float64, len(users))


def _place(user: str, salt: str) -> float:
    """A number from 0 to below 1, uniform over users."""
    digest = blake2b(f"{salt}\0{user}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


LIFTS = (0.01, 0.02, 0.05, 0.1, 0.2)
# Arms as uneven as in one of a thousand divisions by chance are a sign of a fault.
UNEVEN = 0.001
# Groups of users that an arm needs: what varies between fewer says little.
FEWEST = 10


@dataclass(frozen=True)
class Effect:
    """What a user does in a day, in each arm. lift: model / control - 1; None if one is 0."""

    measure: str
    model: Rate
    control: Rate
    difference: Rate
    lift: Rate | None


@dataclass(frozen=True)
class ExperimentResult:
    """The newest experiment. control, control_share: its settings; since: as of Period;
    model_users, control_users: of its newest edition; uneven: whether the arms' sizes differ by
    more than chance; effects: the main measure first; none if an arm has too few users."""

    name: str
    control: str
    control_share: float
    since: str
    start: datetime
    end: datetime
    editions: int
    model_users: int
    control_users: int
    uneven: bool
    effects: list[Effect]


@dataclass(frozen=True)
class ExperimentPlan:
    """How many users an experiment takes that lasts as long as the measured periods.

    interactions: of a user in a day; users: on the lists; days: measured; needed: (lift, users);
    smallest: the lift that the users there are can show.
    """

    interactions: float
    users: int
    days: float
    control_share: float
    needed: Sequence[tuple[float, int]]
    smallest: float


def experiment_result(sums: pl.DataFrame) -> ExperimentResult | None:
    """The result of the newest experiment in the outcomes' sums; None if there is none."""
    own = sums.filter(pl.col("experiment") != "")
    if own.is_empty():
        return None
    newest = own.sort("start", "edition").row(-1, named=True)
    same = [pl.col(name) == newest[name] for name in ("experiment", "since")]
    own = own.filter(*same)
    experiment = Experiment.model_validate_json(newest["experiment"])
    last = own.filter(start=newest["start"]).group_by("arm").agg(pl.col("users").sum())
    sizes = {arm: int(users) for arm, users in last.iter_rows()}
    model, control = sizes.get(MODEL, 0), sizes.get(CONTROL, 0)
    from scipy import stats  # half a second, for experiments alone

    chance = stats.binomtest(control, model + control, experiment.control_share).pvalue
    return ExperimentResult(
        experiment.name,
        experiment.control,
        experiment.control_share,
        newest["since"],
        datetime.fromtimestamp(int(own["start"].min()), UTC),  # type: ignore[arg-type]
        datetime.fromtimestamp(int(own["end"].max()), UTC),  # type: ignore[arg-type]
        own.get_column("name").n_unique(),
        model,
        control,
        bool(chance < UNEVEN),
        [*_effects(own, experiment)],
    )


def _effects(own: pl.DataFrame, experiment: Experiment) -> list[Effect]:
    measures = {"interactions": "interactions"}
    if experiment.control != "none":
        measures["hits"] = "new interactions on the list"
    found = []
    for column, measure in measures.items():
        model, control = (_per_day(own.filter(arm=arm), column) for arm in (MODEL, CONTROL))
        if model is None or control is None:
            return []
        if not min(model.degrees, control.degrees) >= FEWEST - 1:
            return []
        more = lift(model, control)
        found.append(
            Effect(
                measure,
                rate(model),
                rate(control),
                rate(difference(model, control)),
                None if more is None else rate(more),
            )
        )
    return found


def plan(sums: pl.DataFrame, control_share: float) -> ExperimentPlan | None:
    """For the next experiment, from the newest kind of periods; None if nobody did anything."""
    if sums.is_empty():
        return None
    of_kind = sums.filter(pl.col("since") == sums.sort("start")["since"][-1])
    measured = _per_day(of_kind, "interactions")
    if measured is None or not measured.value or not measured.variance > 0:
        return None
    periods = of_kind.unique(["name", "start"])
    days = float((periods["end"] - periods["start"]).sum()) / 86_400
    users = float((of_kind["users"] * (of_kind["end"] - of_kind["start"])).sum()) / 86_400 / days
    needed = [(each, users_needed(measured, users, each, control_share)) for each in LIFTS]
    least, most = needed[0]
    return ExperimentPlan(
        measured.value, round(users), days, control_share, needed, least * math.sqrt(most / users)
    )


def _per_day(sums: pl.DataFrame, column: str) -> RateEstimate | None:
    """The column's mean of a user in a day."""
    groups = (
        sums.with_columns(days=pl.col("users") * (pl.col("end") - pl.col("start")) / 86_400)
        .group_by("group")
        .agg(pl.col(column, "days").sum())
        .sort("group")
    )
    return ratio(groups.get_column(column), groups.get_column("days"))


def rate(estimate: RateEstimate) -> Rate:
    """The estimate without its variance."""
    return Rate(estimate.value, estimate.low, estimate.high)


LEVEL = 0.95
POWER = 0.8


@dataclass(frozen=True)
class RateEstimate:
    """A rate, or a difference of rates, and its 95% interval, from sums over groups of users.

    variance: of `value`; nan if unknown, as with one group; degrees: of freedom of the variance.

    A user's actions depend on each other, within a night and over nights, so intervals must count
    users and not actions. Users are hashed into groups that stay the same; what varies between the
    groups is the uncertainty, whatever depends on what within them. It takes a few numbers for each
    group and no random numbers, so the same data give the same intervals.

    Sources: delete-a-group jackknife: Kott, "The delete-a-group jackknife", Journal of Official
    Statistics 17 (2001). Shares: Korn and Graubard, "Confidence intervals for proportions with
    small expected number of positive counts estimated from survey data", Survey Methodology 24
    (1998). Differences of two arms: Welch, Biometrika 34 (1947), with Satterthwaite's degrees of
    freedom.
    """

    value: float
    low: float
    high: float
    variance: float = math.nan
    degrees: float = math.nan


def ratio(of: ArrayLike, to: ArrayLike) -> RateEstimate | None:
    """Sum of `of` divided by the sum of `to`, with a t interval; None if `to` has nothing.

    of, to: sums over the users of each group, in the same order of groups.
    """
    above, below = np.asarray(of, np.float64), np.asarray(to, np.float64)
    above, below = above[below > 0], below[below > 0]
    if not len(below):
        return None
    value = float(above.sum() / below.sum())
    degrees = len(below) - 1
    if not degrees:
        return RateEstimate(value, -math.inf, math.inf)
    without = (above.sum() - above) / (below.sum() - below)
    variance = float(degrees / len(below) * ((without - value) ** 2).sum())
    return _interval(value, variance, degrees)


def share(of: ArrayLike, to: ArrayLike, users: float) -> Rate | None:
    """As `ratio` for a value from 0 to 1, with an interval within that, also where it is 0 or 1.

    users: how many users it was measured on.
    """
    from scipy import special  # of an extra

    found = ratio(of, to)
    if found is None:
        return None
    value, variance = min(max(found.value, 0.0), 1.0), found.variance
    size = users
    if variance > 0 and 0 < value < 1:
        factor = special.ndtri((1 + LEVEL) / 2) / special.stdtrit(found.degrees, (1 + LEVEL) / 2)
        # The users of a simple random sample with this variance.
        size = value * (1 - value) / variance * factor**2
    hits = value * size
    low = special.betaincinv(hits, size - hits + 1, (1 - LEVEL) / 2) if value > 0 else 0.0
    high = special.betaincinv(hits + 1, size - hits, (1 + LEVEL) / 2) if value < 1 else 1.0
    return Rate(value, float(low), float(high))


def difference(first: RateEstimate, second: RateEstimate) -> RateEstimate:
    """first - second, of different users."""
    variance, degrees = _sum(first.variance, first.degrees, second.variance, second.degrees)
    return _interval(first.value - second.value, variance, degrees)


def lift(first: RateEstimate, second: RateEstimate) -> RateEstimate | None:
    """first / second - 1, of different users; None unless both are above 0.

    The interval is one of the logarithm (delta method), so it stays above -1.
    """
    if first.value <= 0 or second.value <= 0:
        return None
    variance, degrees = _sum(
        first.variance / first.value**2,
        first.degrees,
        second.variance / second.value**2,
        second.degrees,
    )
    log = _interval(math.log(first.value / second.value), variance, degrees)
    low, high = (math.expm1(min(end, 700.0)) for end in (log.low, log.high))
    return RateEstimate(math.expm1(log.value), low, high, variance, degrees)


def users_needed(measured: RateEstimate, users: float, effect: float, control_share: float) -> int:
    """How many users, in both arms, an experiment needs to find a lift of `effect` four times of
    five (a power of 80%, two-sided, 5%), if it lasts as long as what was measured.

    measured: the mean of `users` users. effect: 0.05 is 5%. Source: Kohavi et al., ch. 17.
    """
    from scipy import special  # of an extra

    quantiles = float(special.ndtri((1 + LEVEL) / 2) + special.ndtri(POWER))
    of_one_user = measured.variance * users
    arms = 1 / control_share + 1 / (1 - control_share)
    return math.ceil(quantiles**2 * of_one_user * arms / (effect * measured.value) ** 2)


def _interval(value: float, variance: float, degrees: float) -> RateEstimate:
    from scipy import special  # of an extra

    half = (
        float(special.stdtrit(degrees, (1 + LEVEL) / 2)) * math.sqrt(variance) if variance else 0.0
    )
    half = math.inf if math.isnan(half) else half
    return RateEstimate(value, value - half, value + half, variance, degrees)


def _sum(
    first: float, first_degrees: float, second: float, second_degrees: float
) -> tuple[float, float]:
    """The variance of a difference, and its degrees of freedom."""
    variance = first + second
    parts = first**2 / first_degrees + second**2 / second_degrees
    return variance, variance**2 / parts if parts > 0 else min(first_degrees, second_degrees)
