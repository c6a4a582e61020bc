"""The places that sinks wrote lists to: PostgreSQL, DynamoDB, files."""

from __future__ import annotations

from dataclasses import dataclass

from batchrec_dagster.erasure.people import People
from batchrec_dagster.erasure.place import Amount
from batchrec_dagster.sinks import SinkContext
from batchrec_dagster.steps.sinks import count_sinks, write_sinks_again
from batchrec_dagster.storage.editions import Editions


@dataclass(frozen=True)
class SinkPlaces:
    """Wherever a list was written. It is written again, without the people."""

    table: Editions
    context: SinkContext
    of_list: str = ""
    """What its name ends with, if it is of one of several lists."""
    consequence: str = "written again without them"

    @property
    def name(self) -> str:
        return f"sinks{self.of_list}"

    def count(self, people: People) -> Amount:
        return Amount(count_sinks(self.context), "places", is_of_people=False)

    def erase(self, people: People) -> int:
        if self.table.live() is None:
            return 0
        _, lists = self.table.read()
        return len([*write_sinks_again(lists, self.context)])
