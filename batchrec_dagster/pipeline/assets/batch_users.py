"""batch_users: whom Personalize recommends to."""

import dagster as dg
import polars as pl

from batchrec_dagster.pipeline.assets.specs import column_schema, described, sample
from batchrec_dagster.pipeline.settings import Pipeline, fingerprint
from batchrec_dagster.preparation.local import distinct_users

CODE_VERSION = "1"
COLUMNS = {
    "userId": ("string", "The user's id."),
    "filterValues": ("struct", "What stands for the placeholders of recommendations.filter."),
}


def batch_users(pipeline: Pipeline) -> dg.AssetsDefinition:
    """The asset."""
    filter_values = pipeline.recommendations.line_filter_values
    # A job takes the values from its input, the same for every user here.
    values = [pl.lit(value).alias(name) for name, value in filter_values.items()]

    @dg.asset(
        **described(
            pipeline,
            description="Every user of the interactions, once: the input of the batch inference.",
            kinds={"json"},
            storage_key=pipeline.places.batch_users,
            code_version=_with(CODE_VERSION, filter_values),
            io_manager="json_lines_io",
        ),
    )
    def batch_users(interactions: pl.LazyFrame) -> dg.MaterializeResult[pl.DataFrame]:
        users = distinct_users(interactions)
        if values:
            users = users.with_columns(filterValues=pl.struct(values))
        version = fingerprint(users.get_column("userId").to_list())
        return dg.MaterializeResult(
            value=users,
            data_version=dg.DataVersion(_with(version, filter_values)),
            metadata={
                "dagster/row_count": users.height,
                "dagster/column_schema": column_schema(COLUMNS, users.columns),
                "filter_values": filter_values,
                "sample": sample(users.select("userId").head(5)),
            },
        )

    return batch_users


def _with(version: str, filter_values: dict[str, str]) -> str:
    return f"{version}-{fingerprint(filter_values)}" if filter_values else version
