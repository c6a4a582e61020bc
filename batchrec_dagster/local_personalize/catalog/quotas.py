"""How many resources and running jobs the service allows, as AWS does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from batchrec_dagster.personalize.schemas import FILTER_HISTORY

QUOTAS_VARIABLE = "BATCHREC_LOCAL_PERSONALIZE_QUOTAS"


@dataclass(frozen=True)
class Quotas:
    """AWS's default quotas, but ten times the dataset groups: each pipeline has one.

    Lower them to test what a pipeline does when one is used up.
    """

    running_dataset_import_jobs: int = 5
    running_solution_versions: int = 20
    running_batch_inference_jobs: int = 5
    running_batch_segment_jobs: int = 5
    pending_data_deletion_jobs_per_group: int = 5
    schemas: int = 500
    dataset_groups: int = 50
    solutions_per_group: int = 10
    filters_per_group: int = 30
    filter_interactions: int = FILTER_HISTORY
    """How many of the latest interactions, of each user and event type, a filter considers."""

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Quotas:
        """Return the defaults, changed by texts such as `schemas=20`.

        Raises ValueError for a text that is not the name of a quota, `=` and a whole number.
        """
        names = {field.name for field in fields(cls)}
        changes = {}
        for text in texts:
            name, _, number = text.partition("=")
            if name not in names or not (number.isascii() and number.isdigit()):
                raise ValueError(
                    f"{text!r} is not NAME=NUMBER, where NAME is one of {', '.join(sorted(names))}"
                )
            changes[name] = int(number)
        return cls(**changes)
