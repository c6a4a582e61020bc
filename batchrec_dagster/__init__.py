"""Batch recommendations with Amazon Personalize, as Dagster assets: what other projects import."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchrec_dagster.pipeline.component import BatchRecommendations
    from batchrec_dagster.pipeline.declare_asset import PipelineAsset
    from batchrec_dagster.pipeline.other_locations import published, resources

__all__ = ["BatchRecommendations", "PipelineAsset", "published", "resources"]

_MODULES = {
    "BatchRecommendations": "batchrec_dagster.pipeline.component",
    "PipelineAsset": "batchrec_dagster.pipeline.declare_asset",
    "published": "batchrec_dagster.pipeline.other_locations",
    "resources": "batchrec_dagster.pipeline.other_locations",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the Spark job and local_personalize need no Dagster."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """So that `dg list components` finds them."""
    return [*globals(), *__all__]
