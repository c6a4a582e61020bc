"""Batch recommendations with Amazon Personalize, as Dagster assets: what other projects import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.component import BatchRecommendations

__all__ = ["BatchRecommendations"]


def __getattr__(name: str) -> Any:
    """Import the component on first use: the Spark job and local_personalize need no Dagster."""
    if name != "BatchRecommendations":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("batchrec_dagster.pipeline.component").BatchRecommendations
