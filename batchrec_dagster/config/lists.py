"""Several lists of one model: a newsletter, a home page."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from batchrec_dagster.config.batch_users import BatchUsers
from batchrec_dagster.config.experiment import Experiment
from batchrec_dagster.config.gate import Gate
from batchrec_dagster.config.recommendations import RecommendationSettings
from batchrec_dagster.config.retention import Retention
from batchrec_dagster.sinks import Sinks
from batchrec_dagster.storage.layout import SEGMENTS, SIMILAR_ITEMS


class ListSettings(RecommendationSettings):
    """A list: what each user gets, who gets it, where it goes. It has all settings of
    `recommendations`, and those blocks of the pipeline that may differ from list to list."""

    description: str | None = Field(default=None, description="What the list is for.")
    users: BatchUsers | None = Field(
        default=None, description="Who gets this list. Default: the pipeline's batch_users."
    )
    gate: Gate | None = Field(
        default=None,
        description="When this list is published. Default: the pipeline's gate. max_shrink is the"
        " pipeline's alone, as the data are compared once, before anything is imported.",
    )
    retention: Retention | None = Field(
        default=None,
        description="How many editions of this list are kept. Default: the pipeline's retention."
        " models is the pipeline's alone.",
    )
    experiment: Experiment | None = Field(
        default=None, description="An experiment on the users of this list."
    )
    sinks: Sinks = Field(default_factory=Sinks, description="Where this list is used.")

    @property
    def recommendations(self) -> RecommendationSettings:
        """What each user gets."""
        settings = {
            name: getattr(self, name)
            for name in self.model_fields_set & RecommendationSettings.model_fields.keys()
        }
        return RecommendationSettings.model_construct(**settings)


def _check_names(lists: Mapping[str, ListSettings]) -> Mapping[str, ListSettings]:
    for name in lists:
        if name in (SIMILAR_ITEMS, SEGMENTS):
            raise ValueError(
                f"{name} is no name of a list of users: declare the block {name}, or"
                " give the list another name"
            )
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,31}", name):
            raise ValueError(
                f"{name!r} is no name of a list: write a small letter, then small letters,"
                " digits and _, at most 32 in all"
            )
    return lists


NamedLists = Annotated[dict[str, ListSettings], AfterValidator(_check_names)]
"""The settings of each list, by its name."""
