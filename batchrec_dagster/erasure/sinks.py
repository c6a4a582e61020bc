"""The sinks that the pipeline declares: PostgreSQL, DynamoDB, files."""

from __future__ import annotations

from dataclasses import dataclass

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.sinks import Sink, SinkContext


@dataclass(frozen=True)
class SinkRows:
    """What a sink has of the people."""

    key: str
    """The sink's key in the YAML."""
    sink: Sink
    context: SinkContext
    of_list: str = ""
    """What its name ends with, if it is of one of several lists."""
    consequence: str = "rows removed"

    @property
    def name(self) -> str:
        return f"sink {self.key}{self.of_list}"

    def count(self, people: People) -> Amount:
        return Amount(self.sink.count_users(people.ids, self.context), "users")

    def erase(self, people: People) -> int:
        return self.sink.erase_users(people.ids, self.context)
