"""The state of a list's experiment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.reporting.insight.outcomes import NO_EXPERIMENT, describe_result
from batchrec_dagster.steps.outcomes.experiments import ExperimentResult, summarize_experiment
from batchrec_dagster.steps.outcomes.outcomes import read_sums


@dataclass(frozen=True)
class ExperimentState:
    """The state of a list's experiment."""

    pipeline: str
    published: str | None
    """The name of the experiment in the published lists; None if there is no experiment."""
    result: ExperimentResult | None
    """The result of the newest measured experiment; None if nothing is measured."""

    @property
    def sentences(self) -> Iterator[str]:
        """The state in sentences."""
        if self.result is not None:
            yield from describe_result(self.result)
        if self.published and (self.result is None or self.result.name != self.published):
            yield (
                f"The published lists are of the experiment {self.published}, of which nothing is"
                " measured yet."
            )
        elif self.result is None:
            yield NO_EXPERIMENT


def read_experiment(files: ListFiles) -> ExperimentState:
    """Return the state of the list's experiment.

    Raises UserError.
    """
    edition = files.editions.live()
    experiment = None if edition is None else edition.experiment
    return ExperimentState(
        files.keys.address,
        None if experiment is None else experiment["name"],
        summarize_experiment(read_sums(files)),
    )
