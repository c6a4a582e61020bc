"""The public API of batchrec: batch recommendations with Amazon Personalize, as Dagster assets."""

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
    """Import a public name on first use: the Spark job and local_personalize need no Dagster."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """Return the module's names with the public ones, so that `dg list components` finds them."""
    return [*globals(), *__all__]
