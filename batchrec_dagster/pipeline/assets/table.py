"""The table of a pipeline's assets, from which the component builds Dagster's assets."""

from collections.abc import Sequence

from batchrec_dagster.config import ListTable, Pipeline
from batchrec_dagster.pipeline.assets.items import item_assets
from batchrec_dagster.pipeline.assets.lists import build_list_asset
from batchrec_dagster.pipeline.assets.prepared import batch_users, interactions
from batchrec_dagster.pipeline.assets.raw import raw_ratings
from batchrec_dagster.pipeline.assets.reports import recommendation_outcomes, recommendation_report
from batchrec_dagster.pipeline.assets.sinks import sink_assets
from batchrec_dagster.pipeline.assets.training import (
    personalize_dataset,
    segment_solution_version,
    similar_items_solution_version,
    solution_version,
)
from batchrec_dagster.pipeline.assets.users import user_assets
from batchrec_dagster.pipeline.declare_asset import PipelineAsset


def list_assets(
    pipeline: Pipeline, *, report: bool = True, sinks: bool = True
) -> list[PipelineAsset]:
    """Return the pipeline's assets, from the raw files to the lists, segments, reports and sinks.

    report: whether to include the outcomes and reports.
    sinks: whether to include the declared sinks.
    """
    recipe, user_lists = pipeline.similar_items_recipe, pipeline.user_lists
    assets = [
        raw_ratings(pipeline),
        interactions(pipeline),
        *item_assets(pipeline),
        *user_assets(pipeline),
        personalize_dataset(pipeline),
        solution_version(pipeline),
        *_list_batch_users(pipeline),
    ]
    if report:
        # Outcomes come first, because new lists wait for the outcomes of earlier lists.
        assets += map(recommendation_outcomes, user_lists)
    if pipeline.segments is not None:
        assets.append(segment_solution_version(pipeline, pipeline.segments))
    if recipe is not None:
        assets.append(similar_items_solution_version(pipeline, recipe))
    assets += map(build_list_asset, pipeline.published_lists())
    if report:
        assets += [_show_checks(published, assets) for published in user_lists]
    if sinks:
        for published in pipeline.published_lists():
            assets += sink_assets(published)
    return assets


def _list_batch_users(pipeline: Pipeline) -> list[PipelineAsset]:
    """Return an asset for each list with its own users, and one that all other lists share."""
    own_users = [published for published in pipeline.user_lists if published.has_own_users]
    sharing = [published for published in pipeline.user_lists if not published.has_own_users]
    return [*map(batch_users, [*sharing[:1], *own_users])]


def _show_checks(published: ListTable, assets: Sequence[PipelineAsset]) -> PipelineAsset:
    """Declare the asset of the report, which shows the checks of the assets behind its list."""
    folders = [[published.pipeline.name], published.asset_key("recommendations")[:-1]]
    checks = [
        check for asset in assets if asset.spec.key.path[:-1] in folders for check in asset.checks
    ]
    return recommendation_report(published, checks)
