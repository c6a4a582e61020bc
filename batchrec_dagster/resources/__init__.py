"""Dagster's face of what is outside: storage and Personalize."""

from batchrec_dagster.resources.personalize import PersonalizeResource
from batchrec_dagster.resources.storage import StorageResource

__all__ = ["PersonalizeResource", "StorageResource"]
