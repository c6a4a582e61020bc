"""Service quotas. Source: developer guide, "Amazon Personalize endpoints and quotas"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quotas:
    """How many there may be; lower them to test how a pipeline bears it."""

    running_dataset_import_jobs: int = 5
    running_solution_versions: int = 20
    running_batch_inference_jobs: int = 5
    running_batch_segment_jobs: int = 5
    schemas: int = 500
    dataset_groups: int = 5
    solutions_per_group: int = 10
    filters_per_group: int = 30
