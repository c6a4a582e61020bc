"""Names and configurations of what steps create in Personalize."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from batchrec_dagster.config import fingerprint
from batchrec_dagster.personalize.api import Description, ResourceKind
from batchrec_dagster.personalize.prices import Cost
from batchrec_dagster.personalize.recipes import (
    EVENT_VALUE_THRESHOLD,
    EVENT_WEIGHTS,
    FEATURES,
    SHORT_NAMES,
)
from batchrec_dagster.personalize.resources import Ensure, ReadyResource, StartedResource

# How many digits of the version of the data are in the name of a solution version.
DATA_DIGITS = 8


def build_version_stem(
    pipeline: str, data_version: str, recipe: str, force_run: str | None = None
) -> str:
    """What the name of a solution version starts with: the pipeline, its data and the recipe.

    force_run: id of a run that forces a training of its own; its retries find that version.
    """
    # A pipeline of 32 characters, a number of four digits: the whole stays within Personalize's 63.
    stem = f"{pipeline}-{data_version[:DATA_DIGITS]}-{SHORT_NAMES[recipe]}"
    return f"{stem}-{force_run[:6]}" if force_run else stem


def measure_job_seconds(job: ReadyResource) -> float:
    """How many seconds the job took, in whichever run that was."""
    times = job.description
    seconds: float = (times["lastUpdatedDateTime"] - times["creationDateTime"]).total_seconds()
    return seconds


def build_solution_name(dataset_group: str, recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """The name of the solution for these settings.

    Other settings need another solution, because a solution cannot be changed.
    """
    return f"{dataset_group}-{fingerprint_solution(recipe, hyperparameters)}"


def fingerprint_solution(recipe: str, hyperparameters: Mapping[str, str]) -> str:
    """What the name of the solution for these settings ends with."""
    return fingerprint(recipe, hyperparameters)[:8]


def build_solution_config(hyperparameters: Mapping[str, str]) -> dict[str, Any]:
    """CreateSolution's `solutionConfig`, with each hyperparameter where Personalize wants it."""
    not_of_algorithm = {*FEATURES, EVENT_WEIGHTS, EVENT_VALUE_THRESHOLD}
    algorithm = {key: text for key, text in hyperparameters.items() if key not in not_of_algorithm}
    config: dict[str, Any] = {"algorithmHyperParameters": algorithm}
    features = {key: text for key, text in hyperparameters.items() if key in FEATURES}
    if features:
        config["featureTransformationParameters"] = features
    threshold = hyperparameters.get(EVENT_VALUE_THRESHOLD)
    if EVENT_WEIGHTS in hyperparameters:
        minimum = {} if threshold is None else {"eventValueThreshold": float(threshold)}
        weights = json.loads(hyperparameters[EVENT_WEIGHTS]).items()
        events = [{"eventType": kind, "weight": weight, **minimum} for kind, weight in weights]
        config["eventsConfig"] = {"eventParametersList": events}
    elif threshold is not None:
        config["eventValueThreshold"] = threshold
    return config


def describe_outcome(job: ReadyResource, action: str) -> str:
    """`imported` if this run did it, else `unchanged: not imported again`.

    Of a request whose answer was lost it says `adopted`.
    action: what the job does, as a participle: imported.
    """
    if job.adopted:
        return f"adopted: {action} by a request of which no answer came"
    return action if job.created else f"unchanged: not {action} again"


@dataclass(frozen=True)
class JobRequest:
    """A job that serves this request: that of an earlier run, or a new one."""

    ensure: Ensure
    kind: ResourceKind
    stem: str
    """What the job's name starts with. It says what the job is made from."""
    create: Callable[[str], Mapping[str, Any]]
    """Returns Create's arguments for a name, besides the name and tags."""
    usable: Callable[[Description], bool]
    """Returns False for a job to reject, for example if its results are gone."""
    within: Mapping[str, str]
    """List's filter, for example a dataset."""
    cost: Cost
    """What a new job costs."""
    among_others: bool = False
    """Whether jobs for other requests are in use at the same time, and do not replace it."""

    def find(self) -> str | None:
        """The ARN of the job that `start` would adopt; None if it would create a new one."""
        return self.ensure.find(
            self.kind, self.stem, self.usable, among_others=self.among_others, **self.within
        )

    def start(self) -> StartedResource:
        """The job, which is created unless there is one."""
        return self.ensure.start(
            self.kind,
            self.stem,
            self.create,
            self.usable,
            among_others=self.among_others,
            **self.within,
        )
