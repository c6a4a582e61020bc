"""The declarations of a code location's pipelines, stored in the metadata of their first assets.

A pipeline is declared in YAML, built by Python code (`@dg.component_instance`), or built by a
team's own component, which may build many pipelines. In all cases the pipeline has a first asset,
so the declaration is found wherever the definitions end up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.declaration_errors import Origin

# The metadata key of the pipeline's name, on every asset of a pipeline.
PIPELINE = "batchrec/pipeline"
# The metadata key of the storage key of an asset's value, which its IO manager reads.
STORAGE_KEY = "batchrec/storage_key"
# The metadata key of the declaration, on the first asset. The value is a Python object, like
# dagster-dbt's manifest. Dagster's page shows only the name of the object's class.
DECLARATION = "batchrec/declaration"


class DeclaredPipeline(NamedTuple):
    """A pipeline, and the origin of its declaration."""

    pipeline: Pipeline
    origin: Origin


def mark_declaration(
    asset: dg.AssetsDefinition, pipeline: Pipeline, origin: Origin
) -> dg.AssetsDefinition:
    """Return a pipeline's first asset with the pipeline's declaration in its metadata."""
    metadata = {DECLARATION: DeclaredPipeline(pipeline, origin)}
    return asset.map_asset_specs(lambda spec: spec.merge_attributes(metadata=metadata))


def find_declared_pipelines(assets: Iterable[object] | None) -> list[DeclaredPipeline]:
    """Return the pipelines that are declared in the metadata of these assets, in the assets' order.

    assets: the assets of Definitions or of a repository.
    """
    return [
        spec.metadata[DECLARATION]
        for asset in assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.specs
        if DECLARATION in spec.metadata
    ]
