"""What declares each pipeline of a code location: its first asset carries it in its metadata.

Pipelines are declared in YAML, made by Python (`@dg.component_instance`), or by a component of the
team that makes thirty of them. All of them have this asset, wherever their definitions end up.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import dagster as dg

from batchrec_dagster.config import Pipeline
from batchrec_dagster.pipeline.declaration_errors import Origin

# The metadata of every asset that names its pipeline.
PIPELINE = "batchrec/pipeline"
# The metadata of the first asset. Its value is an object, as dagster-dbt's manifest is: Dagster's
# page shows the name of its class alone.
DECLARATION = "batchrec/declaration"


class DeclaredPipeline(NamedTuple):
    """A pipeline, and what declares it."""

    pipeline: Pipeline
    origin: Origin


def mark_declaration(
    asset: dg.AssetsDefinition, pipeline: Pipeline, origin: Origin
) -> dg.AssetsDefinition:
    """The first asset of a pipeline, with what declares the pipeline."""
    metadata = {DECLARATION: DeclaredPipeline(pipeline, origin)}
    return asset.map_asset_specs(lambda spec: spec.merge_attributes(metadata=metadata))


def find_declared_pipelines(assets: Iterable[object] | None) -> list[DeclaredPipeline]:
    """The pipelines that have these assets, in the assets' order.

    assets: those of Definitions or of a repository.
    """
    return [
        spec.metadata[DECLARATION]
        for asset in assets or ()
        if isinstance(asset, dg.AssetsDefinition)
        for spec in asset.specs
        if DECLARATION in spec.metadata
    ]
