"""What a run knows of the assets around those that it materializes.

`AssetExecutionContext.repository_def` has no value in `execute_in_process` and `dg.materialize`,
where a job runs without its code location. The job itself knows the graph that it was selected
from, but no public API shows it.
"""

from dagster import AssetExecutionContext
from dagster._check import CheckError
from dagster._core.definitions.assets.graph.asset_graph import AssetGraph, AssetNode

__all__ = ["AssetNode", "get_asset_graph"]


def get_asset_graph(context: AssetExecutionContext) -> AssetGraph:
    """The graph of all assets that were defined next to the one that runs."""
    try:
        return context.repository_def.asset_graph
    except CheckError:
        graph = context.job_def.asset_layer.asset_graph
    # The graph of a job has what it selects, and the direct neighbours of that, which it does not
    # make. A job of a part of another job was selected from that one's graph.
    while graph.source_asset_graph is not graph:
        graph = graph.source_asset_graph
    return graph
