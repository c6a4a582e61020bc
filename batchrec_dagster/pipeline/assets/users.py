"""The asset users: what is known of them, which Personalize imports."""

from dataclasses import replace
from typing import Any

import dagster as dg
import polars as pl

from batchrec_dagster.config import Pipeline, fingerprint
from batchrec_dagster.personalize.schemas import USER_ID
from batchrec_dagster.pipeline.assets.raw import raw_users
from batchrec_dagster.pipeline.declare_asset import (
    PREPARED,
    asset_options,
    preview_metadata,
    table_metadata,
)
from batchrec_dagster.pipeline.run_step import (
    NOT_PREPARED_AGAIN,
    SUPPRESSED_USERS,
    asset_step,
    get_work,
    materialization_with_checks,
    reusable_result,
)
from batchrec_dagster.preparation.user_attributes import UsersLayout
from batchrec_dagster.reporting.markdown import format_table
from batchrec_dagster.steps.checks import SOURCE_WITHOUT_ERASED, check_source_without_erased
from batchrec_dagster.steps.raw_files import RawRecord, delete_copies
from batchrec_dagster.steps.user_attributes import read_users_file
from batchrec_dagster.steps.work import Work
from batchrec_dagster.storage.suppressed_users import SuppressionList

CODE_VERSION = "1"
# The most frequent values of a category are shown, if this many users have them. So none of them
# says something of a single person.
SHOWN_VALUES, LEAST_USERS = 3, 10


def user_assets(pipeline: Pipeline) -> list[dg.AssetsDefinition]:
    """The assets of what is known of users; none if the pipeline declares no users."""
    settings = pipeline.users
    if settings is None:
        return []
    layout = replace(settings.layout, null_values=pipeline.ratings.all_null_values)
    return [raw_users(pipeline, settings, layout), users(pipeline, layout)]


def users(pipeline: Pipeline, layout: UsersLayout) -> dg.AssetsDefinition:
    """The asset of what Personalize, filters and conditions know of the users."""
    key = pipeline.keys.users

    @dg.asset(
        **asset_options(
            pipeline,
            "users",
            description="What is known of each user, such as country and consent: the CSV file that"
            " Personalize imports, for models and filters, and that conditions on users read.",
            kinds={"polars", "csv"},
            inputs=["raw_users"],
            stage=PREPARED,
            storage_key=key,
            code_version=f"{CODE_VERSION}-{fingerprint(layout)}",
            io_manager="users_io",
            warnings={SOURCE_WITHOUT_ERASED: "The source has no rows of people who were erased."},
        )
    )
    @asset_step
    def users(context: dg.AssetExecutionContext, raw_users: RawRecord) -> Any:
        work = get_work(pipeline, context)
        suppressed = SuppressionList(work.files).read()
        result = reusable_result(
            context,
            lambda: _read_users_version(work, key),
            NOT_PREPARED_AGAIN,
            suppressed.version,
        )
        if result is None:
            parsed = read_users_file(raw_users, work.storage, layout, suppressed)
            table, erased = parsed.good, len(parsed.erased)
            result = materialization_with_checks(
                [check_source_without_erased(parsed.erased_rows, erased)],
                dg.MaterializeResult(
                    value=table,
                    data_version=dg.DataVersion(fingerprint(table.write_csv())),
                    metadata={
                        "preview": preview_metadata(
                            f"**{table.height:,} users**.", _describe_values(table)
                        ),
                        "empty": {
                            name: table.get_column(name).null_count() for name in layout.columns[1:]
                        },
                        **table_metadata(
                            table.height,
                            _describe_columns(layout),
                        ),
                        **({SUPPRESSED_USERS: suppressed.version} if suppressed else {}),
                        **({"erased_users_in_source": erased} if erased else {}),
                    },
                ),
            )
        yield result
        _delete_copies_of_erased(context, work, raw_users, result)

    return users


def _read_users_version(work: Work, key: str) -> str:
    """The version of the users file in the storage."""
    return fingerprint(bytes(work.storage.store.get(work.storage.uri(key))).decode())


def _delete_copies_of_erased(
    context: dg.AssetExecutionContext,
    work: Work,
    raw: RawRecord,
    result: dg.MaterializeResult[Any],
) -> None:
    """Delete the copy of the source if it has rows of users who were erased.

    result: of the users that were made of the copy.
    """
    pipeline = work.pipeline
    if pipeline.users is None or all(check.passed for check in result.check_results or []):
        return
    key = pipeline.keys.record("raw_users")
    delete_copies(pipeline.users.rows, raw, work.storage, pipeline.project, key)
    context.log.info("deleted the copy of the source: it has rows of erased people")


def _describe_values(table: pl.DataFrame) -> str:
    """How many users have a value in each column, and the most frequent values of categories."""
    rows = []
    for column in table.iter_columns():
        if column.name == USER_ID:
            continue
        frequent = ""
        if column.dtype == pl.String:
            counts = (
                column.drop_nulls().value_counts(sort=True).filter(pl.col("count") >= LEAST_USERS)
            )
            frequent = ", ".join(
                f"{value} ({count:,})" for value, count in counts.head(SHOWN_VALUES).iter_rows()
            )
        rows.append([column.name, f"{column.null_count():,}", frequent])
    return format_table(["column", "users without", "most frequent values"], rows)


def _describe_columns(layout: UsersLayout) -> dict[str, tuple[str, str]]:
    """The type and the description of each column."""
    return {
        USER_ID: ("string", "The user's id, as in the ratings."),
        **dict.fromkeys(layout.categories, ("string", "Its values. Several are separated by |.")),
        **dict.fromkeys(layout.numbers, ("double", "A number.")),
    }
