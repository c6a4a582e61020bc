"""The sinks, which are the places that people read the lists from.

Each kind of sink has one module and one class. To add a sink, write its class in a module here and
give it a field, and so a YAML key, in `Sinks`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from batchrec_dagster.sinks.dynamodb import DynamoDbSink
from batchrec_dagster.sinks.export import ExportSink
from batchrec_dagster.sinks.postgres import PostgresSink
from batchrec_dagster.sinks.sink import Sink, SinkContext, SinkResult


class Sinks(BaseModel):
    """The places that people read the lists from; every refresh writes the lists to each place."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    postgres: PostgresSink | None = Field(
        default=None, description="A PostgreSQL table, replaced whole with each refresh."
    )
    dynamodb: DynamoDbSink | None = Field(
        default=None, description="A DynamoDB table with an item for each user."
    )
    export: ExportSink | None = Field(
        default=None, description="A CSV or JSON Lines file, for example for a mailing tool."
    )

    @property
    def declared(self) -> dict[str, Sink]:
        """The declared sinks by their YAML keys."""
        return {key: sink for key, sink in self if sink is not None}


__all__ = ["Sink", "SinkContext", "SinkResult", "Sinks"]
