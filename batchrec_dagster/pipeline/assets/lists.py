"""The asset of published lists: lists for users, lists of similar items, or segments."""

from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from batchrec_dagster.config import ListTable, fingerprint
from batchrec_dagster.config.lists import PopularBy
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.assets.list_descriptions import (
    build_edition_metadata,
    build_metadata,
    describe_asset,
    list_checks,
    list_warnings,
)
from batchrec_dagster.pipeline.declare_asset import PipelineAsset, asset_of
from batchrec_dagster.pipeline.open_step import open_step
from batchrec_dagster.pipeline.results import to_dagster
from batchrec_dagster.pipeline.run_history import DagsterRuns
from batchrec_dagster.steps.context import StepContext
from batchrec_dagster.steps.data.items import list_attribute_columns
from batchrec_dagster.steps.lists.publish import read_checks, summarize_edition
from batchrec_dagster.steps.lists.rollback import roll_back
from batchrec_dagster.steps.records import ModelRecord, read_model
from batchrec_dagster.storage.lock import Lock

CODE_VERSION = "1"


class PublicationConfig(dg.Config):
    """Options of one run, from the Launchpad or the command line."""

    publish_anyway: bool = Field(
        default=False, description="Publish even if the quality gate fails."
    )
    roll_back_to: str = Field(
        default="",
        description="Publish older lists again instead of new ones: an edition's number, or"
        " previous.",
    )


def build_list_asset(published: ListTable) -> PipelineAsset:
    """Declare the asset of a table of lists: for users, of similar items, or of segments."""
    pipeline = published.pipeline

    @asset_of(
        published,
        published.asset,
        description=describe_asset(published),
        kinds={"parquet"} if published.model_asset is None else {"personalize", "parquet"},
        deps=list_upstream_assets(published),
        on_personalize=True,
        storage_key=published.keys.table,
        code_version=f"{CODE_VERSION}-{fingerprint(*published.content_settings)}",
        io_manager="published_io",
        checks=list_checks(published),
        warnings=list_warnings(published),
    )
    def publish_lists(
        context: dg.AssetExecutionContext, config: PublicationConfig
    ) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.lists.make import make_lists  # NumPy

        step = open_step(pipeline, context, publish_anyway=config.publish_anyway)
        with step.list_lock(published) as lock:
            if config.roll_back_to:
                return publish_older_lists(step, published, context, config.roll_back_to, lock)
            model = require_model(step, published)
            result = make_lists(step, published, model, lock)
        names = {spec.name for spec in context.assets_def.check_specs}
        return to_dagster(
            build_metadata(step, published, result, model),
            result.edition.version,
            [finding for finding in result.findings if finding.name in names],
        )

    return publish_lists


def list_upstream_assets(published: ListTable) -> list[dg.AssetKey]:
    """Return the assets that the lists are made from."""
    pipeline, settings, rules = published.pipeline, published.settings, published.settings.rules
    is_read = {
        published.model_asset or "": published.model_asset is not None,
        "batch_users": published.is_for_people,
        "interactions": True,
        "item_titles": pipeline.has_titles,
        "items": settings.rules_read_items or bool(list_attribute_columns(published)),
        "users": isinstance(settings.newcomers, PopularBy)
        or (rules is not None and rules.reads_users),
        # Outcomes of earlier lists are read before new lists are made.
        "recommendation_outcomes": published.is_for_people,
    }
    assets = [asset_key(published, asset) for asset, is_input in is_read.items() if is_input]
    return assets + [
        dg.AssetKey(key)
        for items in published.declared_items
        if items is not None
        for key in items.upstream
    ]


def require_model(step: StepContext, published: ListTable) -> ModelRecord | None:
    """Return the model of the lists; None for items bought together.

    Raises UserError if the lists need a model and there is none.
    """
    if published.model_asset is None:
        return None
    model = read_model(step.files, published.model_asset)
    if model is None:
        raise UserError(f"there is no model: materialize {published.model_asset} first")
    return model


def publish_older_lists(
    step: StepContext,
    published: ListTable,
    context: dg.AssetExecutionContext,
    to: str,
    lock: Lock,
) -> dg.MaterializeResult[Any]:
    """Publish the lists of an older edition again, with its checks. Raises UserError.

    to: an edition's number, or PREVIOUS.
    lock: the list's lock.
    """
    from batchrec_dagster.steps.lists.retention import delete_unneeded  # NumPy

    runs = DagsterRuns(context.instance)
    restoration = roll_back(step, published, to, runs, lock, context.log)
    delete_unneeded(step, published)
    table = step.files_of(published).editions
    edition, lists = table.read()
    names = [spec.name for spec in context.assets_def.check_specs]
    outcome = "; ".join([f"rolled back to {summarize_edition(edition)}", *restoration.notes])
    return to_dagster(
        {
            "outcome": outcome,
            "dagster/row_count": lists.select(pl.len()).collect(engine="streaming").item(),
            "items": edition.counts.items,
            "made_at": edition.made_at.isoformat(),
            "solution_version_arn": edition.solution_version_arn,
            "users": edition.users,
            "users_dropped": edition.users_dropped or None,
            **build_edition_metadata(step.files_of(published), edition),
            "table": step.storage.where(table.uri),
        },
        edition.version,
        read_checks(edition, names),
    )
