"""What each component and each rule of the blend is worth: a backward elimination by NDCG at 25.

    python benchmarks/ablation.py [--steps N] [--only SET ...] [--without NAME ...]

On some folds of each data set of quality.py, the components are fitted once. Then blends are
selected with all of them, and without each component or rule. The one whose absence costs the mean
over the data sets least is left out, and the others are measured again, until the loss of all that
is left out would exceed 1 % of the mean. If several cost the same but for 0.5 % of the mean, which
is less than the standard error, the one with the most code is left out. What costs more than 2 % in
a step is not measured again. Each step is confirmed on other folds, which take no part in the
choice: it is not taken if the loss exceeds 1 % there.

The output of a step is, for each candidate, the loss of all that is then left out: the paired
difference of the held-out users' NDCG to the blend with all, with its standard error, by data set
and for the mean over the data sets, in which each counts the same. `--steps 1` is what each
component and rule is worth where all others stay.

Components and rules are left out by means of `SelectionRules` (learning/model_selection.py), which
is made for this. Lists are measured without the items that a user already has, so what repeats are
worth is not measured here; nor are the features of items, which these data sets do not have.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quality import data_sets, folds
from report import RESULTS, ROOT, table, write

from batchrec_dagster.local_personalize.learning import model_selection
from batchrec_dagster.local_personalize.learning.components import (
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
)
from batchrec_dagster.local_personalize.learning.evaluation import Split, evaluate, split
from batchrec_dagster.local_personalize.learning.fit_components import (
    ComponentFitter,
    FittedComponents,
)
from batchrec_dagster.local_personalize.learning.interactions import Interactions
from batchrec_dagster.local_personalize.learning.model_selection import (
    ALL_RULES,
    Options,
    SelectionRules,
    select_blend,
)
from batchrec_dagster.local_personalize.learning.threads import ordered_map
from batchrec_dagster.local_personalize.learning.train_blend import (
    MIN_VALIDATION_USERS,
    SECOND_HELD_OUT_SHARE,
    choose_options,
    uses_recency,
)
from batchrec_dagster.local_personalize.learning.validation import (
    Candidates,
    Key,
    ScoredUsers,
    ValidationSet,
    make_validation_set,
    make_validation_sets,
)

Float64 = npt.NDArray[np.float64]
Ndcg = Mapping[str, Float64]  # (users,) of all folds, by data set

SEED = 0
LARGEST_LOSS = 0.01  # of the mean
SAME_LOSS = 0.005  # of the mean; candidates that differ by less cost the same
HOPELESS_LOSS = 0.02  # of the mean; candidates that cost more are not measured again
CHOICE_FOLDS = range(2, 6)
CONFIRMATION_FOLDS = range(6, 10)
USERS = 350  # of a data set's folds, only so many are measured as have so many held-out users


@dataclass(frozen=True)
class Variant:
    """What a selection leaves out."""

    components: frozenset[str] = frozenset()
    """The names of the components that are neither tried alone nor in a blend."""

    rules: Mapping[str, Any] = field(default_factory=dict)
    """The fields of SelectionRules that have another value."""

    one_exponent: bool = False
    """Whether each component has its default recency exponent."""

    earlier_cutoffs: bool = True
    """Whether few held-out users are also cut off earlier in their history."""

    second_split: bool = True
    """Whether a second split is fitted where few users are held out."""

    def combine(self, other: Variant) -> Variant:
        """What leaves out both."""
        return Variant(
            self.components | other.components,
            {**self.rules, **other.rules},
            self.one_exponent or other.one_exponent,
            self.earlier_cutoffs and other.earlier_cutoffs,
            self.second_split and other.second_split,
        )


def _without_components(*names: str) -> Variant:
    return Variant(components=frozenset(names))


def _without_rule(**values: Any) -> Variant:
    return Variant(rules=values)


# The one with the most code first.
VARIANTS = {
    "factors": _without_components(FACTORS, FACTORS_HIGH_REG),
    "co-occurrence with what followed": _without_components(SEQUENCE),
    "earlier cutoffs of held-out users": Variant(earlier_cutoffs=False),
    "co-occurrence in either order": _without_components(SYMMETRIC_COOC),
    "the second split, where users are few": Variant(second_split=False),
    "blends, so that single components are averaged": _without_rule(blend_weights=()),
    "popularity": _without_components(POPULARITY),
    "newer items for co-occurrence in blends": _without_rule(recent_in_blends=False),
    "factors with more regularization": _without_components(FACTORS_HIGH_REG),
    "popularity in blends": _without_rule(popularity_weights=()),
    "recency exponents to choose from": Variant(one_exponent=True),
    "the mean of options, so that the best one is taken": _without_rule(tolerance=0.0),
}


# What is nothing on its own when the other one was left out.
BELONGS_TO = {
    "popularity in blends": "popularity",
}


# What was measured, by the truth and the number of validation sets.
_memories: dict[tuple[int, int], tuple[object, dict[Any, Any]]] = {}


class _RememberedUsers(ScoredUsers):
    """Users whose NDCG with a single component is measured once for all selections."""

    def __init__(self, sets: Sequence[ValidationSet]) -> None:
        super().__init__(sets)
        # The truth is kept with the memory, so that its id is not given to another object.
        truth = sets[0].truth
        key = id(truth), len(sets)
        _, self._memory = _memories.setdefault(key, (truth, {}))

    def ndcg(self, name: str, exponents: Sequence[float]) -> list[Float64]:
        keys = [("ndcg", name, exponent) for exponent in exponents]
        exponents_to_measure = [
            exponent for _, _, exponent in keys if ("ndcg", name, exponent) not in self._memory
        ]
        if exponents_to_measure:
            values = super().ndcg(name, exponents_to_measure)
            self._memory.update(
                zip([("ndcg", name, e) for e in exponents_to_measure], values, strict=True)
            )
        return [self._memory[key] for key in keys]

    def candidates(self, keys: Sequence[Key]) -> list[Candidates]:
        key = "candidates", *keys
        if key not in self._memory:
            self._memory[key] = super().candidates(keys)
        return list(self._memory[key])

    def spread(self, name: str, exponent: float) -> float:
        key = "spread", name, exponent
        if key not in self._memory:
            self._memory[key] = super().spread(name, exponent)
        return float(self._memory[key])


@dataclass(frozen=True)
class Training:
    """The components that a training of one fold has fitted, to select blends from."""

    fold: Split
    """What it is trained and measured on."""

    options: Options
    """The components that the training selects from, with their recency exponents."""

    sets: Sequence[Sequence[ValidationSet]]
    """The validation sets of each split that blends are selected on: one split, or two of few
    users."""

    sets_without_cutoffs: Sequence[ValidationSet]
    """For each of the splits, the validation set without earlier cutoffs."""

    final: FittedComponents
    """The components of all training data."""

    recency: bool
    """Whether recent interactions may weigh more."""

    ndcg_by_blend: dict[Any, Float64] = field(default_factory=dict)
    """What was measured already."""

    def ndcg(self, variant: Variant) -> Float64:
        """(users,) NDCG at 25 of the fold's held-out users."""
        options = {
            name: exponents[:1] if variant.one_exponent else exponents
            for name, exponents in self.options.items()
            if name not in variant.components
        }
        count = len(self.sets) if variant.second_split else 1
        sets = [part for parts in self.sets[:count] for part in parts]
        if not variant.earlier_cutoffs:
            sets = list(self.sets_without_cutoffs[:count])
        sets = [
            replace(part, scorers={name: part.scorers[name] for name in options}) for part in sets
        ]
        rules: SelectionRules = replace(ALL_RULES, **variant.rules)
        blend = select_blend(sets, recency=self.recency, options=options, rules=rules)
        key = (
            *blend.weights.items(),
            *blend.recency_exponents.items(),
        )
        if key not in self.ndcg_by_blend:
            model = self.final.blend(blend, 1.0)
            self.ndcg_by_blend[key] = evaluate(model, self.fold).ndcg()
        return self.ndcg_by_blend[key]


def fit(fold: Split) -> Training:
    """What `train_blend.train_blend` fits for the fold, of all components."""
    train = fold.train
    held_out = split(train, SEED)
    if held_out is None:
        raise SystemExit("too few users to hold some out")
    splits = [held_out]
    if len(held_out.users) < MIN_VALIDATION_USERS:
        second = split(train, SEED, without=held_out.users, share=SECOND_HELD_OUT_SHARE)
        splits += [second] if second else []
    options = choose_options(held_out)
    names = list(options)
    fits = [ComponentFitter(part.train, {}, SEED, _ignore).fit(names, {}) for part in splits]
    final = ComponentFitter(train, {}, SEED, _ignore, start=fits[0]).fit(names, {})
    parts = list(zip(fits, splits, strict=True))
    return Training(
        fold,
        options,
        [
            make_validation_sets(components.scorers, part, components.item_ids)
            for components, part in parts
        ],
        [
            make_validation_set(components.scorers, part, components.item_ids)
            for components, part in parts
        ],
        final,
        uses_recency({}, held_out.train),
    )


def _ignore(line: str) -> None:
    """A log that nobody reads."""


def fit_sets(
    folder: Path, names: Sequence[str] | None, numbers: range
) -> dict[str, list[Training]]:
    """The trainings of each data set, on as many of the folds as have USERS held-out users."""
    trainings: dict[str, list[Training]] = {}
    for name, frame in data_sets(folder):
        if names and name not in names:
            continue
        began = time.monotonic()
        trainings[name] = []
        users = 0
        for fold in folds(Interactions.from_frame(frame), numbers.stop)[numbers.start :]:
            if users < USERS:
                trainings[name].append(fit(fold))
                users += len(fold.users)
        seconds = time.monotonic() - began
        print(f"{name}: {len(trainings[name])} folds, {users} users, {seconds:.0f} s", flush=True)
    if not trainings:
        raise SystemExit(f"no data set in {folder}")
    return trainings


def measure(trainings: Mapping[str, Sequence[Training]], variant: Variant) -> Ndcg:
    """The users' NDCG at 25 of each data set."""
    ndcg = {}
    for name, trainings_of_set in trainings.items():
        by_fold = ordered_map(lambda training: training.ndcg(variant), trainings_of_set)
        ndcg[name] = np.concatenate(list(by_fold))
    return ndcg


def compare(ndcg: Ndcg, with_all: Ndcg) -> dict[str, dict[str, Any]]:
    """For each data set: NDCG, its difference to that with all, and the standard error.

    The entry "mean" is over the data sets, each counts the same.
    """
    by_set: dict[str, dict[str, Any]] = {}
    for data_set, values in ndcg.items():
        difference = values - with_all[data_set]
        by_set[data_set] = {
            "ndcg_at_25": float(values.mean()),
            "difference": float(difference.mean()),
            "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
            "users": len(difference),
        }
    errors = np.array([facts["standard_error"] for facts in by_set.values()])
    mean = float(np.mean([facts["ndcg_at_25"] for facts in by_set.values()]))
    difference_of_mean = float(np.mean([facts["difference"] for facts in by_set.values()]))
    mean_with_all = mean - difference_of_mean
    by_set["mean"] = {
        "ndcg_at_25": mean,
        "difference": difference_of_mean,
        "standard_error": float(np.sqrt((errors**2).sum()) / len(errors)),
        "relative": difference_of_mean / mean_with_all,
        "relative_error": float(np.sqrt((errors**2).sum()) / len(errors)) / mean_with_all,
    }
    return by_set


def choose_candidate(step: Mapping[str, Mapping[str, Any]]) -> str:
    """The candidate with the least loss; of those that cost the same, that with the most code."""
    best = max(facts["mean"]["relative"] for facts in step.values())
    return next(
        name
        for name in VARIANTS
        if name in step and step[name]["mean"]["relative"] >= best - SAME_LOSS
    )


def eliminate(
    choice: Mapping[str, Sequence[Training]],
    confirmation: Mapping[str, Sequence[Training]],
    without: Sequence[str],
    steps: int,
) -> list[dict[str, Any]]:
    """The steps of the elimination.

    Each has the candidates with their losses, the one that was chosen, its loss on the other folds,
    and whether it was left out.

    choice: the trainings that steps are chosen on.
    confirmation: the trainings that a step must not cost too much on either.
    without: what earlier steps left out.
    steps: how many steps there are at most.
    """
    with_all = measure(choice, Variant())
    confirmation_with_all = measure(confirmation, Variant())
    base = Variant()
    for name in without:
        base = base.combine(VARIANTS[name])
    candidates = {name: variant for name, variant in VARIANTS.items() if name not in without}
    steps_taken: list[dict[str, Any]] = []
    while candidates and len(steps_taken) < steps:
        step = {
            name: compare(measure(choice, base.combine(variant)), with_all)
            for name, variant in candidates.items()
        }
        name = choose_candidate(step)
        if step[name]["mean"]["relative"] < -LARGEST_LOSS:
            print(table("\nnothing costs less than 1 %", lines(step)), flush=True)
            break
        variant_of_step = base.combine(candidates[name])
        confirmation_losses = compare(measure(confirmation, variant_of_step), confirmation_with_all)
        is_left_out = confirmation_losses["mean"]["relative"] >= -LARGEST_LOSS
        steps_taken.append(
            {
                "candidates": step,
                "chosen": name,
                "confirmation": confirmation_losses,
                "left_out": is_left_out,
            }
        )
        print(table(f"\nstep {len(steps_taken)}", lines(step)), flush=True)
        title = f"{name}, on other folds: {'' if is_left_out else 'not '}left out"
        print(table(title, lines({name: confirmation_losses})), flush=True)
        if is_left_out:
            base = variant_of_step
        candidates = {
            other: variant
            for other, variant in candidates.items()
            if other != name
            and not (is_left_out and name == BELONGS_TO.get(other))
            and step[other]["mean"]["relative"] > -HOPELESS_LOSS
        }
    return steps_taken


def lines(losses: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows of a table of losses."""
    rows = []
    for name, by_set in losses.items():
        row = {"without": name}
        for data_set, facts in by_set.items():
            row[data_set] = (
                f"{facts['ndcg_at_25']:.4f} {facts['difference'] * 1e4:+.0f} "
                f"± {facts['standard_error'] * 1e4:.0f}"
            )
        mean = by_set["mean"]
        row["of the mean"] = f"{mean['relative']:+.2%} ± {mean['relative_error']:.2%}"
        rows.append(row)
    return rows


def main() -> None:
    """Eliminate on the data sets that are present."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", help="data sets, by name")
    parser.add_argument("--without", nargs="*", default=[], choices=[*VARIANTS], metavar="NAME")
    parser.add_argument("--steps", type=int, default=len(VARIANTS))
    parser.add_argument("--out", type=Path, default=RESULTS / "ablation.json")
    args = parser.parse_args()
    model_selection.ScoredUsers = _RememberedUsers  # type: ignore[misc]
    folder = args.data.resolve()
    choice = fit_sets(folder, args.only, CHOICE_FOLDS)
    confirmation = fit_sets(folder, args.only, CONFIRMATION_FOLDS)
    steps = eliminate(choice, confirmation, args.without, args.steps)
    write(args.out, {"without": args.without, "steps": steps})


if __name__ == "__main__":
    main()
