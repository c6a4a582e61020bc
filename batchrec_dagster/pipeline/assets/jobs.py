"""How jobs are named, and what is said of them."""

from collections.abc import Mapping

import dagster as dg

from batchrec_dagster.local_personalize.learning.hyperparameters import FEATURES
from batchrec_dagster.pipeline.settings import fingerprint
from batchrec_dagster.resources.ensure import Ensured


def stem(name: str, version: str, context: dg.AssetExecutionContext, *, afresh: bool) -> str:
    """What the name of a job starts with: the pipeline and the data it takes.

    Told to work afresh, a run asks for a job of its own; started again after a failure, it finds
    that one.
    """
    # A name of 32 characters, a number of three digits: the whole stays within Personalize's 63.
    start = f"{name}-{version[:12]}"
    if not afresh:
        return start
    return f"{start}-{(context.run.root_run_id or context.run.run_id)[:8]}"


def lasted(ensured: Ensured) -> float:
    """Seconds from when it was created to when it was done, whichever run that was in."""
    told = ensured.description
    seconds: float = (told["lastUpdatedDateTime"] - told["creationDateTime"]).total_seconds()
    return seconds


def solution_name(dataset_group: str, recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """A solution cannot be changed, so that other settings mean another solution."""
    return f"{dataset_group}-{fingerprint(recipe, hyperparameters)[:8]}"


def solution_config(hyperparameters: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """CreateSolution's `solutionConfig`, with each hyperparameter where Personalize wants it."""
    features = {key: text for key, text in hyperparameters.items() if key in FEATURES}
    algorithm = {key: text for key, text in hyperparameters.items() if key not in FEATURES}
    config = {"algorithmHyperParameters": algorithm}
    return {**config, "featureTransformationParameters": features} if features else config


def outcome(ensured: Ensured, done: str) -> str:
    """`imported` when this run had it done, else that it was done already."""
    return done if ensured.created else f"unchanged: not {done} again"
