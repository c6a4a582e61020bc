"""What the report shows besides what every report does."""

from __future__ import annotations

from pydantic import Field

from batchrec_dagster.config.settings import Settings


class ReportSettings(Settings):
    """What the report shows besides what every report does."""

    people: list[str] = Field(
        default_factory=list,
        description="The ids of users whom the report always shows with their history and list,"
        " next to its sample of 200.",
        examples=[["C-0001"]],
    )
