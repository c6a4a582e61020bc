"""The asset similar_items: what goes with each item, as a published table."""

from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from batchrec_dagster.config import PublishedList, fingerprint
from batchrec_dagster.config.list_columns import SIMILAR_ITEM_COLUMN, name_published_column
from batchrec_dagster.config.similar_items import SimilarItems
from batchrec_dagster.errors import UserError
from batchrec_dagster.pipeline.asset_keys import asset_key
from batchrec_dagster.pipeline.assets.published_lists import (
    COLUMNS,
    PublicationConfig,
    describe_list_columns,
    describe_run,
    list_checks,
    list_warnings,
    published_metadata,
    roll_back,
    title_assets,
)
from batchrec_dagster.pipeline.declare_asset import (
    asset_options,
    build_cost_metadata,
    preview_metadata,
    sample_metadata,
    storage_links,
    table_metadata,
)
from batchrec_dagster.pipeline.run_step import (
    asset_step,
    get_personalize_work,
    materialization_with_checks,
)
from batchrec_dagster.reporting.markdown import escape, format_numbered_list
from batchrec_dagster.reporting.markdown import format_table as markdown_table
from batchrec_dagster.reporting.rules import RULE_COLUMNS, list_rule_rows
from batchrec_dagster.steps.batch_jobs import JobOutput, measure_job_seconds
from batchrec_dagster.steps.items import list_attribute_columns
from batchrec_dagster.steps.records import read_model
from batchrec_dagster.steps.work import PersonalizeWork

if TYPE_CHECKING:
    from batchrec_dagster.steps.similar_items import PublishedSimilarItems

CODE_VERSION = "1"
MODEL_ASSET = "similar_items_solution_version"

SIMILAR_ITEMS_COLUMNS = {
    "item_id": ("string", "The item whose list it is."),
    "rank": ("int", "1 goes with it best."),
    SIMILAR_ITEM_COLUMN: ("string", "The item that goes with it."),
    **{name: COLUMNS[name] for name in ("title", "image", "link")},
    "score": (
        "float",
        "Of items bought together: from 0 to 1, how much the people who had both are more than"
        " chance. Null: a recipe gives none.",
    ),
}


def similar_items(published: PublishedList, settings: SimilarItems) -> dg.AssetsDefinition:
    """The asset of the published lists of similar items."""
    pipeline = published.pipeline
    titles = title_assets(pipeline)
    has_model = not settings.is_bought_together

    @dg.asset(
        **asset_options(
            published,
            "similar_items",
            description=_describe(published, settings),
            kinds={"personalize", "parquet"} if has_model else {"parquet"},
            deps=[
                asset_key(pipeline, "interactions"),
                *([asset_key(pipeline, MODEL_ASSET)] if has_model else []),
                *titles,
                *([asset_key(pipeline, "items")] if _reads_items(published) else []),
            ],
            resources=["personalize"],
            storage_key=published.keys.table,
            code_version=f"{CODE_VERSION}-{fingerprint(settings.deciding_settings, *titles)}",
            io_manager="published_io",
            checks=list_checks(published),
            warnings=list_warnings(published),
        )
    )
    @asset_step
    def similar_items(
        context: dg.AssetExecutionContext, config: PublicationConfig
    ) -> dg.MaterializeResult[Any]:
        from batchrec_dagster.steps.retention import delete_unneeded_similar_items  # NumPy
        from batchrec_dagster.steps.similar_items import publish_similar_items

        work = get_personalize_work(pipeline, context)
        with work.list_lock(published, context.run.run_id) as lock:
            if config.roll_back_to:
                delete = partial(delete_unneeded_similar_items, work, published)
                return roll_back(work, published, context, config.roll_back_to, lock, delete)
            model = read_model(work.files, MODEL_ASSET) if has_model else None
            if has_model and model is None:
                raise UserError(f"there is no model: materialize {MODEL_ASSET} first")
            run = describe_run(context, config)
            lists = publish_similar_items(work, published, settings, model, run, lock)
        return materialization_with_checks(
            lists.checks,
            dg.MaterializeResult(
                data_version=dg.DataVersion(lists.edition.version),
                metadata=_build_metadata(work, published, lists),
            ),
        )

    return similar_items


def _describe(published: PublishedList, settings: SimilarItems) -> str:
    similarity = (
        "people had together, as batchrec counts them"
        if settings.is_bought_together
        else f"are similar, by the recipe {published.pipeline.similar_items_recipe}"
    )
    return (
        f"The published table: up to {settings.num_results} items for each item, which"
        f" {similarity}, as item_id, rank, {SIMILAR_ITEM_COLUMN} and score"
        f"{describe_list_columns(published)}."
    )


def _reads_items(published: PublishedList) -> bool:
    """Whether the lists depend on the categories and numbers of the items."""
    if published.pipeline.items is None:
        return False
    return published.settings.rules_read_items or bool(list_attribute_columns(published))


def _build_metadata(
    work: PersonalizeWork, published: PublishedList, lists: "PublishedSimilarItems"
) -> dict[str, Any]:
    """The metadata, of which Dagster's page shows the first ones at the top."""
    table, job = lists.table, lists.job
    counts = table.counts
    attributes = list_attribute_columns(published)
    numbers = work.pipeline.items.layout.numbers if work.pipeline.items else {}
    described = {
        name_published_column(name): (
            "double" if name in numbers else "string",
            f"The similar item's {name}; null where the items file has none.",
        )
        for name in attributes
    }
    rules = lists.edition.rules
    return {
        "preview": _preview(lists),
        "outcome": lists.outcome,
        **published_metadata(work.files_of(published), lists.edition),
        **(
            {"rules": dg.MetadataValue.md(markdown_table(RULE_COLUMNS, list_rule_rows(rules)))}
            if rules
            else {}
        ),
        **table_metadata(counts.rows, {**SIMILAR_ITEMS_COLUMNS, **described}, table.sample.columns),
        "items": counts.subjects,
        "similar_items": counts.items,
        "failed_items": counts.failed,
        **(
            {
                "batch_inference_job_arn": job.arn,
                "batch_inference_output": JobOutput(work.storage, job.description).folder,
                "inference_seconds": measure_job_seconds(job),
            }
            if job is not None
            else {}
        ),
        **build_cost_metadata("cost_usd", lists.cost, on_aws=work.ensure.on_aws),
        "sample": sample_metadata(table.sample),
        **storage_links("table", work.storage, lists.edition.uri),
    }


def _preview(lists: "PublishedSimilarItems") -> dg.MetadataValue[Any]:
    table = lists.table
    counts = (
        f"**{table.counts.subjects:,} items** have a list.",
        f"{table.counts.items:,} different items are in them.",
    )
    if not table.sample.height:
        return preview_metadata(*counts)
    item = table.sample.item(0, "item_id")
    first_list = table.sample.filter(item_id=item)
    names = [
        row.get("title") or row[SIMILAR_ITEM_COLUMN] for row in first_list.iter_rows(named=True)
    ]
    return preview_metadata(*counts, f"With item {escape(item)} goes:", format_numbered_list(names))
