"""The asset of published lists: lists for users, lists of similar items, or segments."""

from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.items_and_users import ItemIds
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
from batchrec_dagster.pipeline.record_night import record_unchanged
from batchrec_dagster.pipeline.results import to_dagster
from batchrec_dagster.pipeline.run_history import DagsterRuns, find_root_run, find_run_start
from batchrec_dagster.pipeline.run_step import get_personalize_work
from batchrec_dagster.steps.items import list_attribute_columns
from batchrec_dagster.steps.model_records import ModelRecord, read_model
from batchrec_dagster.steps.publish import read_checks, summarize_edition
from batchrec_dagster.steps.rollback import roll_back
from batchrec_dagster.steps.run_facts import RunFacts
from batchrec_dagster.steps.work import PersonalizeWork
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


def published_lists(published: PublishedList) -> PipelineAsset:
    """Declare the asset of the published lists."""
    pipeline = published.pipeline

    @asset_of(
        published,
        published.asset,
        description=describe_asset(published),
        kinds={"parquet"} if published.model_asset is None else {"personalize", "parquet"},
        deps=list_upstream_assets(published),
        on_personalize=True,
        storage_key=published.keys.table,
        code_version=f"{CODE_VERSION}-{fingerprint(*list_own_settings(published))}",
        io_manager="published_io",
        checks=list_checks(published),
        warnings=list_warnings(published),
    )
    def publish_lists(
        context: dg.AssetExecutionContext, config: PublicationConfig
    ) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.lists import make_lists  # NumPy

        work = get_personalize_work(pipeline, context)
        with work.list_lock(published, context.run.run_id) as lock:
            if config.roll_back_to:
                return publish_older_lists(work, published, context, config.roll_back_to, lock)
            model = require_model(work, published)
            run = RunFacts(
                context.run.run_id,
                find_root_run(context),
                find_run_start(context),
                config.publish_anyway,
            )
            result = make_lists(work, published, model, run, lock)
            if result.edition.root_run != run.root_run:
                record_unchanged(context, work.files_of(published))
        names = {spec.name for spec in context.assets_def.check_specs}
        return to_dagster(
            build_metadata(work, published, result, model),
            result.edition.version,
            [finding for finding in result.findings if finding.name in names],
        )

    return publish_lists


def list_own_settings(published: PublishedList) -> list[Any]:
    """Return the settings that decide the lists' content, without settings of upstream assets."""
    pipeline = published.pipeline
    if published.subject == "segment":
        return [pipeline.segments, pipeline.has_titles]
    if published.subject == "item" and pipeline.similar_items is not None:
        return [pipeline.similar_items.deciding_settings, pipeline.has_titles]
    return [
        published.settings,
        published.experiment,
        *pipeline.popularity_settings,
        pipeline.has_titles,
    ]


def list_upstream_assets(published: PublishedList) -> list[dg.AssetKey]:
    """Return the assets that the lists are made from."""
    pipeline, settings, rules = published.pipeline, published.settings, published.settings.rules
    is_of_users = published.subject == "user"
    is_read = {
        published.model_asset or "": published.model_asset is not None,
        "batch_users": is_of_users,
        "interactions": True,
        "item_titles": pipeline.has_titles,
        "items": settings.rules_read_items or bool(list_attribute_columns(published)),
        "users": isinstance(settings.newcomers, PopularBy)
        or (rules is not None and rules.reads_users),
        # Outcomes of earlier lists are read before new lists are made.
        "recommendation_outcomes": is_of_users,
    }
    assets = [asset_key(published, asset) for asset, is_input in is_read.items() if is_input]
    declared: list[ItemIds | None] = [rules.block] if rules is not None else []
    if published.subject == "item" and pipeline.similar_items is not None:
        declared.append(pipeline.similar_items.items)
    return assets + [
        dg.AssetKey(key) for items in declared if items is not None for key in items.upstream
    ]


def require_model(work: PersonalizeWork, published: PublishedList) -> ModelRecord | None:
    """Return the model of the lists; None for items bought together.

    Raises UserError if the lists need a model and there is none.
    """
    if published.model_asset is None:
        return None
    model = read_model(work.files, published.model_asset)
    if model is None:
        raise UserError(f"there is no model: materialize {published.model_asset} first")
    return model


def publish_older_lists(
    work: PersonalizeWork,
    published: PublishedList,
    context: dg.AssetExecutionContext,
    to: str,
    lock: Lock,
) -> dg.MaterializeResult[Any]:
    """Publish the lists of an older edition again, with its checks. Raises UserError.

    to: an edition's number, or PREVIOUS.
    lock: the list's lock.
    """
    from batchrec_dagster.steps.retention import delete_unneeded  # NumPy

    runs = DagsterRuns(context.instance)
    root_run = find_root_run(context)
    restoration = roll_back(work, published, to, root_run, runs, lock, context.log)
    delete_unneeded(work, published)
    table = work.files_of(published).editions
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
            **build_edition_metadata(work.files_of(published), edition),
            "table": work.storage.where(table.uri),
        },
        edition.version,
        read_checks(edition, names),
    )
