"""How the parts of a model are put together: measured on users held out, careful with chance.

A held-out tenth of a small data set is a few dozen users, and the best of many choices on them is
mostly luck. So there are few choices, each has a default, and another is taken only when it beats
the default by more than half a standard error of the users' paired differences. A blend must beat
its best part by a whole one, else that part serves alone. Where users are few, each is asked at
several times of the history, which tells models apart as well as more users would; the error is
still of the users, by their means. What is popular is added last, to what was chosen: where
histories tell little, what everybody meets is the better guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix

from batchrec_dagster.local_personalize.learning import metrics
from batchrec_dagster.local_personalize.learning.components import Part
from batchrec_dagster.local_personalize.learning.histories import Histories, History
from batchrec_dagster.local_personalize.learning.interactions import Ids, Int32
from batchrec_dagster.local_personalize.learning.ranking import top
from batchrec_dagster.local_personalize.learning.split import Split, asked_often
from batchrec_dagster.local_personalize.learning.threads import ordered_map

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]

EASE, SEQUENCE, FACTORS, POPULARITY = "ease", "sequence", "factors", "popularity"

# The regression with more regularization: where users are many enough to tell, it stands for the
# other unless that is the better one.
SHRUNK = "ease-shrunk"

# Co-occurrence either way may stand for the sequence: where histories are short, or many moments
# alike, what went before tells as much as what followed, and half the pairs are too few.
EITHER = "either-way"

# Powers of recency, the default first.
POWERS: Mapping[str, Sequence[float]] = {
    EASE: (0.6, 0.3, 0.9, 1.2),
    SHRUNK: (0.6, 0.3, 0.9, 1.2),
    SEQUENCE: (0.9, 0.3, 0.6, 1.2),
    EITHER: (0.9, 0.3, 0.6, 1.2),
    FACTORS: (0.6, 0.0, 0.3, 0.9),
}

# Shares of the parts, each scaled to the same spread; the default first.
MIXES: Sequence[Mapping[str, float]] = (
    {EASE: 0.35, SEQUENCE: 0.55, FACTORS: 0.1},
    {EASE: 0.4, SEQUENCE: 0.6},
    {EASE: 0.6, SEQUENCE: 0.4},
    {EASE: 0.2, SEQUENCE: 0.8},
    {EASE: 0.3, SEQUENCE: 0.4, FACTORS: 0.3},
    {EASE: 0.5, SEQUENCE: 0.25, FACTORS: 0.25},
    {EASE: 0.7, FACTORS: 0.3},
    {SEQUENCE: 0.6, FACTORS: 0.4},
    {SEQUENCE: 0.3, FACTORS: 0.7},
)

# The share of what is popular, where it helps; smaller ones did harm where they seemed to help.
POPULAR = 0.6

# Enough to tell two models apart, and little work beside a training.
MOST_USERS = 2_000
CHUNK = 64


@dataclass(frozen=True)
class Choice:
    """What to blend: for each part that serves, its recency power and what its scores count."""

    powers: Mapping[str, float]
    shares: Mapping[str, float]
    ndcg: float  # at 25, mean over the users it was chosen on


@dataclass(frozen=True)
class Trial:
    """Parts trained without some users, and those users: what they met, and what they met next."""

    parts: Mapping[str, Part]
    inputs: History
    truth: csr_matrix  # (users, n_items), nonzero where there is something to find
    users: Int32  # (users,) who they are: the same user in two trials is one

    def chunks(self) -> Iterator[tuple[History, csr_matrix]]:
        """The users, a few at a time."""
        for start in range(0, len(self.inputs.lengths), CHUNK):
            stop = start + CHUNK
            yield self.inputs.slice(start, stop), self.truth[start:stop]


def trial(
    parts: Mapping[str, Part], held_out: Split, item_ids: Ids, *, again: bool = False
) -> Trial:
    """The trial of parts on the users of a split, as many as are needed.

    With `again`, what a user has met before may be something to find too.
    """
    users = held_out.users
    if len(users) > MOST_USERS:
        users = users[np.linspace(0, len(users) - 1, MOST_USERS).astype(np.int64)]
    inputs = Histories(held_out.inputs, item_ids).of(users)
    truth = Histories(held_out.truth, item_ids).of(users).weights(0.0)
    if not again:
        truth = (truth - truth.multiply(inputs.weights(0.0) > 0)).tocsr()
        truth.eliminate_zeros()
    some = (np.diff(truth.indptr) > 0) & (inputs.lengths > 0)
    inputs = Histories(held_out.inputs, item_ids).of(users[some])
    return Trial(parts, inputs, truth[some], users[some])


def trials(parts: Mapping[str, Part], held_out: Split, item_ids: Ids) -> list[Trial]:
    """The trial of parts on the users of a split, and on the same at earlier times if few."""
    return [trial(parts, one, item_ids) for one in asked_often(held_out)]


def choose(trials: Sequence[Trial], *, recency: bool) -> Choice:
    """The powers and shares to serve with; without recency, all of a history weighs alike."""
    names = [name for name in trials[0].parts if name != POPULARITY]
    if not any(len(run.inputs.lengths) for run in trials):
        power = POWERS[names[0]][0] if recency else 0.0
        return Choice({names[0]: power}, {names[0]: 1.0}, 0.0)
    options = {name: POWERS[name] if recency else (0.0,) for name in names}
    singles = {
        name: _ndcg(trials, [{(name, power): 1.0} for power in options[name]]) for name in names
    }
    at = {name: _pick(singles[name]) for name in names}
    powers = {name: options[name][at[name]] for name in names}
    alone = {name: singles[name][at[name]] for name in names}
    if SHRUNK in names:
        names.remove(SHRUNK if _better(alone[EASE], alone[SHRUNK], 0.5) else EASE)
    stands = {EASE: SHRUNK} if SHRUNK in names else {}
    best = max(names, key=lambda name: alone[name].mean())
    if POPULARITY in trials[0].parts:
        names.append(POPULARITY)
        powers[POPULARITY] = 0.0
    scales = {name: 1 / _spread(trials, name, powers[name]) for name in names}

    def blended(mixes: Sequence[Mapping[str, float]]) -> list[Float64]:
        return _ndcg(
            trials,
            [
                {(name, powers[name]): share * scales[name] for name, share in mix.items()}
                for mix in mixes
            ],
        )

    chosen: Mapping[str, float] = {best: 1.0}
    ndcg = alone[best]
    mixes = [mix for mix in (_renamed(mix, stands) for mix in MIXES) if set(mix) <= set(names)]
    if mixes and EITHER in names:
        others = [_renamed(mix, {SEQUENCE: EITHER}) for mix in mixes]
        either, forward = blended([others[0], mixes[0]])
        if _better(either, forward, 0.5):
            mixes = others
    if mixes:
        blends = blended(mixes)
        at_best = _pick(blends)
        if _better(blends[at_best], ndcg):
            chosen, ndcg = mixes[at_best], blends[at_best]
    if POPULARITY in names:
        mix = {
            **{name: (1 - POPULAR) * share for name, share in chosen.items()},
            POPULARITY: POPULAR,
        }
        [popular] = blended([mix])
        if _better(popular, ndcg, 0.5):
            chosen, ndcg = mix, popular
    return Choice(
        {name: powers[name] for name in chosen},
        {name: share * scales[name] for name, share in chosen.items()},
        float(ndcg.mean()),
    )


def _renamed(mix: Mapping[str, float], names: Mapping[str, str]) -> dict[str, float]:
    return {names.get(name, name): share for name, share in mix.items()}


def _pick(values: Sequence[Float64]) -> int:
    """The best on average, if better than the first by more than half an error; else the first."""
    best = max(range(len(values)), key=lambda i: values[i].mean())
    return best if _better(values[best], values[0], 0.5) else 0


def _better(ours: Float64, theirs: Float64, errors: float = 1.0) -> bool:
    """Whether the mean difference is more than so many standard errors of the paired ones."""
    difference = ours - theirs
    if len(difference) < 2:
        return False
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return bool(difference.mean() > errors * error)


def _ndcg(
    trials: Sequence[Trial], mixes: Sequence[Mapping[tuple[str, float], float]]
) -> list[Float64]:
    """For each mix {(part, power): factor} the NDCG at 25 of every user, mean over the trials."""
    needed = sorted({key for mix in mixes for key in mix})

    def measure(piece: tuple[Trial, History, csr_matrix]) -> Float64:
        run, history, truth = piece
        found = {key: run.parts[key[0]].score(history, key[1]) for key in needed}
        seen = history.weights(0.0).nonzero()
        sought = truth.toarray() > 0
        relevant = sought.sum(axis=1)
        out = np.empty((len(mixes), len(relevant)))
        for i, mix in enumerate(mixes):
            scores = np.zeros(sought.shape, dtype=np.float32)
            for key, factor in mix.items():
                scores += np.float32(factor) * found[key]
            scores[seen] = -np.inf
            items = top(scores, metrics.DEEPEST)
            hits = np.take_along_axis(sought, np.maximum(items, 0), axis=1) & (items >= 0)
            out[i] = metrics.ndcg(hits, relevant)
        return out

    pieces = ((run, *chunk) for run in trials for chunk in run.chunks())
    measured = np.concatenate(list(ordered_map(measure, pieces)), axis=1)
    _, user = np.unique(np.concatenate([run.users for run in trials]), return_inverse=True)
    times = np.bincount(user)
    return [np.bincount(user, weights=values) / times for values in measured]


def _spread(trials: Sequence[Trial], name: str, power: float) -> float:
    """The standard deviation of a part's scores over the items, mean over a trial's users."""
    run = next(run for run in trials if len(run.inputs.lengths))
    spreads = [run.parts[name].score(history, power).std(axis=1) for history, _ in run.chunks()]
    return float(np.concatenate(spreads).mean()) or 1.0


def temperature(score: Callable[[History], Float32], trials: Sequence[Trial]) -> float:
    """What to divide scores by so that their softmax gives what was met next its likeliest share.

    The shares are then about the chances that an item is met next; 1 when nobody can tell.
    """
    grid = np.geomspace(0.02, 5.0, 24)
    total = np.zeros(len(grid))
    for run in trials:
        for history, truth in run.chunks():
            scores = score(history)
            user, item = truth.nonzero()
            highest = scores.max(axis=1, keepdims=True)
            for i, value in enumerate(grid):
                logits = (scores - highest) / np.float32(value)
                sums = np.log(np.exp(logits).sum(axis=1, dtype=np.float64))
                total[i] += (logits[user, item] - sums[user]).sum()
    return float(grid[total.argmax()]) if total.any() else 1.0
