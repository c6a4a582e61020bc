"""What each component and each rule of the blend is worth: NDCG at 25 without it.

    python benchmarks/ablation.py [--folds 2] [--first 0] [--only SET ...] [--without NAME ...]

This is one step of a backward elimination. On each fold of each data set of quality.py, the
components are fitted once; then a blend is selected with all of them, and once without each
component or rule. The output is, for each of them, the paired difference of the held-out users'
NDCG to the blend with all, with its standard error, by data set and for the mean over the data
sets. The next step leaves out, with `--without`, the one whose absence costs the mean least. The
last column is then the loss of all that is left out together.

Components and rules are left out by means of `SelectionRules` (learning/model_selection.py), which
is made for this. Lists are measured without the items that a user already has, so what repeats are
worth is not measured here; nor are the features of items, which these data sets do not have.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from quality import data_sets, folds
from report import RESULTS, ROOT, table, write

from batchrec_dagster.local_personalize.learning.components import (
    EASE,
    EASE_HIGH_REG,
    FACTORS,
    FACTORS_HIGH_REG,
    POPULARITY,
    SEQUENCE,
    SYMMETRIC_COOC,
    USER_NEIGHBORS,
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
from batchrec_dagster.local_personalize.learning.train_blend import (
    MIN_VALIDATION_USERS,
    SECOND_HELD_OUT_SHARE,
    choose_options,
    uses_recency,
)
from batchrec_dagster.local_personalize.learning.validation import (
    make_validation_set,
    make_validation_sets,
)

Float64 = npt.NDArray[np.float64]

SEED = 0
ALL = "nothing"
EARLIER_STEPS = "what earlier steps left out"


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


VARIANTS = {
    "EASE": _without_components(EASE, EASE_HIGH_REG),
    "EASE with more regularization": _without_components(EASE_HIGH_REG),
    "co-occurrence, what follows": _without_components(SEQUENCE),
    "co-occurrence in either order": _without_components(SYMMETRIC_COOC),
    "factors": _without_components(FACTORS, FACTORS_HIGH_REG),
    "factors with more regularization": _without_components(FACTORS_HIGH_REG),
    "user neighbors": _without_components(USER_NEIGHBORS),
    "popularity": _without_components(POPULARITY),
    "popularity in blends": _without_rule(popularity_weights=()),
    "blends (single components are averaged)": _without_rule(blend_weights=()),
    "the mean of options (the best one)": _without_rule(tolerances=(0.0,)),
    "a narrower mean if the best is better": _without_rule(tolerances=(1.0,)),
    "small weights leave the mean": _without_rule(least_weight=0.0),
    "recency exponents to choose from": Variant(one_exponent=True),
    "doubt about exponents (the best one)": _without_rule(exponent_tolerance=0.0),
    "newer items for co-occurrence in blends": _without_rule(recent_in_blends=False),
    "counts of items that users had again": _without_rule(count_exponent=0.0),
    "earlier cutoffs of held-out users": Variant(earlier_cutoffs=False),
    "a second split where users are few": Variant(second_split=False),
}


@dataclass(frozen=True)
class Training:
    """The components that a training of one fold has fitted, to select blends from."""

    splits: Sequence[Split]
    """The splits of the training data that blends are selected on: one, or two of few users."""

    options: Options
    """The components that the training selects from, with their recency exponents."""

    fits: Sequence[FittedComponents]
    """For each of the splits, its components without the held-out users."""

    final: FittedComponents
    """The components of all training data."""

    recency: bool
    """Whether recent interactions may weigh more."""

    def ndcg(self, variant: Variant, fold: Split) -> tuple[Float64, dict[str, float]]:
        """(users,) NDCG at 25 of the fold's held-out users, and the weights of the components."""
        options = {
            name: exponents[:1] if variant.one_exponent else exponents
            for name, exponents in self.options.items()
            if name not in variant.components
        }
        count = len(self.splits) if variant.second_split else 1
        sets = []
        for fitted, held_out in zip(self.fits[:count], self.splits[:count], strict=True):
            scorers = fitted.select(options).scorers
            if variant.earlier_cutoffs:
                sets += make_validation_sets(scorers, held_out, fitted.item_ids)
            else:
                sets.append(make_validation_set(scorers, held_out, fitted.item_ids))
        rules: SelectionRules = replace(ALL_RULES, **variant.rules)
        blend = select_blend(sets, recency=self.recency, options=options, rules=rules)
        return evaluate(self.final.blend(blend, 1.0), fold).ndcg(), dict(blend.weights)


def fit(train: Interactions) -> Training:
    """What `train_blend.train_blend` fits for these interactions, of all components."""
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
    return Training(splits, options, fits, final, uses_recency({}, held_out.train))


def _ignore(line: str) -> None:
    """A log that nobody reads."""


def variants_of_step(without: Sequence[str], candidates: Sequence[str]) -> dict[str, Variant]:
    """What to measure, by name: all, what earlier steps left out, and that with each candidate."""
    base = Variant()
    for name in without:
        base = base.combine(VARIANTS[name])
    steps = {name: base.combine(VARIANTS[name]) for name in candidates if name not in without}
    return {ALL: Variant(), **({EARLIER_STEPS: base} if without else {}), **steps}


def measure(
    data: Interactions, numbers: range, variants: Mapping[str, Variant]
) -> Iterator[tuple[str, Float64]]:
    """For each of the folds and each variant: its name and the users' (users,) NDCG."""
    for fold in folds(data, numbers.stop)[numbers.start :]:
        training = fit(fold.train)
        for name, variant in variants.items():
            values, weights = training.ndcg(variant, fold)
            print(f"  {name}: {values.mean():.4f} {_describe(weights)}", flush=True)
            yield name, values


def _describe(weights: Mapping[str, float]) -> str:
    return " ".join(f"{name}={weight:.3g}" for name, weight in weights.items())


def summarize(ndcg: Mapping[str, Mapping[str, Float64]]) -> dict[str, dict[str, Any]]:
    """For each variant and data set: NDCG, its difference to ALL, and the standard error.

    `ndcg` has, by data set and variant, the (users,) NDCG of all folds. The entry "mean" is over
    the data sets, each counts the same.
    """
    summary: dict[str, dict[str, Any]] = {}
    for name in next(iter(ndcg.values())):
        by_set = {}
        for data_set, values in ndcg.items():
            difference = values[name] - values[ALL]
            by_set[data_set] = {
                "ndcg_at_25": float(values[name].mean()),
                "difference": float(difference.mean()),
                "standard_error": float(difference.std(ddof=1) / np.sqrt(len(difference))),
                "users": len(difference),
            }
        errors = np.array([facts["standard_error"] for facts in by_set.values()])
        mean = float(np.mean([facts["ndcg_at_25"] for facts in by_set.values()]))
        difference_of_mean = float(np.mean([facts["difference"] for facts in by_set.values()]))
        summary[name] = {
            **by_set,
            "mean": {
                "ndcg_at_25": mean,
                "difference": difference_of_mean,
                "standard_error": float(np.sqrt((errors**2).sum()) / len(errors)),
                "relative": difference_of_mean / (mean - difference_of_mean),
            },
        }
    return summary


def lines(summary: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """The rows of the table, the least loss of the mean first."""
    order = sorted(summary, key=lambda name: -summary[name]["mean"]["difference"])
    rows = []
    for name in order:
        row = {"without": name}
        for data_set, facts in summary[name].items():
            row[data_set] = (
                f"{facts['ndcg_at_25']:.4f}"
                if name == ALL
                else f"{facts['difference']:+.4f} ± {facts['standard_error']:.4f}"
            )
        row["of the mean"] = f"{summary[name]['mean']['relative']:+.1%}"
        rows.append(row)
    return rows


def main() -> None:
    """Measure one step of the elimination on the data sets that are present."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--folds", type=int, default=2, choices=range(1, 11), metavar="1-10")
    parser.add_argument("--first", type=int, default=0, help="leave out the folds before this one")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--only", nargs="*", help="data sets, by name")
    parser.add_argument("--without", nargs="*", default=[], choices=[*VARIANTS], metavar="NAME")
    parser.add_argument("--try", nargs="*", dest="tried", choices=[*VARIANTS], metavar="NAME")
    parser.add_argument("--out", type=Path, default=RESULTS / "ablation.json")
    args = parser.parse_args()
    variants = variants_of_step(args.without, args.tried or list(VARIANTS))
    numbers = range(args.first, min(10, args.first + args.folds))
    facts = {"first": args.first, "folds": args.folds, "without": args.without}
    ndcg: dict[str, dict[str, Float64]] = {}
    for data_set, frame in data_sets(args.data.resolve()):
        if args.only and data_set not in args.only:
            continue
        began = time.monotonic()
        by_variant: dict[str, list[Float64]] = {}
        for name, values in measure(Interactions.from_frame(frame), numbers, variants):
            by_variant.setdefault(name, []).append(values)
        ndcg[data_set] = {name: np.concatenate(parts) for name, parts in by_variant.items()}
        # After each data set, because all of them take long.
        summary = summarize(ndcg)
        print(table(f"\n{data_set}: {time.monotonic() - began:.0f} s", lines(summary)), flush=True)
        write(args.out, {**facts, "variants": summary})
    if not ndcg:
        raise SystemExit(f"no data set in {args.data}")


if __name__ == "__main__":
    main()
