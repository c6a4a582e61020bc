"""batch_users: the users to recommend to, as the input of a batch inference job."""

from pathlib import Path
from typing import Any

import dagster as dg

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.config.interactions import BatchUsers
from batchrec_dagster.personalize.batch_files import USER_FIELD, UsersFiles
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.pipeline.declare_asset import PREPARED, asset
from batchrec_dagster.pipeline.reuse import PREPARED_BEFORE, MadeOf
from batchrec_dagster.pipeline.ui import preview, sample, table_facts
from batchrec_dagster.preparation.sources.source import hide_query
from batchrec_dagster.steps.batch_users import find_batch_users
from batchrec_dagster.storage.io_managers import Stored
from batchrec_dagster.storage.object_store import StorageError
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster.storage.user_stats import interactions_version

CODE_VERSION = "2"
COLUMNS = {
    USER_FIELD: ("string", "The user's id."),
    "filterValues": ("struct", "The values of the placeholders of recommendations.filter."),
}


def batch_users(pipeline: Pipeline, project: Path = Path()) -> dg.AssetsDefinition:
    """The asset; a relative path of a list starts at the project's folder."""
    declared = pipeline.batch_users
    filter_values = pipeline.recommendations.line_filter_values
    version = f"{CODE_VERSION}-{fingerprint(declared)}"
    of_interactions = [("interactions", USER_ID)] if declared.source is None else []
    lineage = {USER_FIELD: of_interactions, "filterValues": []}

    @asset(
        pipeline,
        description=f"The users who get a list, as JSON Lines, the input of a batch inference"
        f" job. {_who(declared)}, each once.",
        kinds={"json"},
        stage=PREPARED,
        storage_key=pipeline.places.batch_users,
        code_version=f"{version}-{fingerprint(filter_values)}" if filter_values else version,
        io_manager="batch_users_io",
        deps=[pipeline.asset_key("interactions")],
    )
    def batch_users(
        context: dg.AssetExecutionContext, storage: StorageResource
    ) -> dg.MaterializeResult[Any]:
        made_of = _made_of(pipeline, context, storage)
        users = UsersFiles(storage.store, storage.uri(pipeline.places.batch_users))
        if declared.source is None and (
            same := made_of.earlier(users.version, Stored(users.uri), PREPARED_BEFORE)
        ):
            return same
        found = find_batch_users(pipeline, storage, project)
        table = found.users
        return dg.MaterializeResult(
            value=table,
            data_version=dg.DataVersion(found.version),
            metadata={
                "preview": preview(f"**{table.height:,} users** get a list."),
                **table_facts(pipeline, table.height, COLUMNS, lineage, table.columns),
                "users": table.height,
                "filter_values": filter_values,
                "sample": sample(table.select(USER_FIELD).head(5)),
                **made_of.metadata(found.version),
            },
        )

    return batch_users


def _made_of(
    pipeline: Pipeline, context: dg.AssetExecutionContext, storage: StorageResource
) -> MadeOf:
    try:
        return MadeOf(
            context, (interactions_version(storage, storage.uri(pipeline.places.interactions)),)
        )
    except StorageError:
        return MadeOf(context, ())  # find_batch_users says what is wrong.


def _who(declared: BatchUsers) -> str:
    if declared.source is not None:
        return f"Every user of {hide_query(declared.source)}"
    since = "" if declared.active_since is None else f" since {declared.active_since}"
    return f"Every user of the interactions{since}"
