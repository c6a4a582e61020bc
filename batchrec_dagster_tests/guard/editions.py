"""What is known of an edition, for tests that publish lists without a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from batchrec_dagster.storage.editions import Edition

# What every edition of lists for users says of itself.
DEFAULTS: Mapping[str, Any] = {
    "address": "shop",
    "number": 1,
    "version": "v",
    "made_at": "2026-05-01T03:00:00+00:00",
    "run": "run",
    "root_run": "run",
    "data_version": "data",
    "recipe": "aws-user-personalization-v2",
    "source": "ratings.csv",
    "measured_on": "interactions",
    "data_until": 0,
    "exclude_seen": True,
}


def make_edition(facts: Mapping[str, Any]) -> Edition:
    """The edition with these facts, by the names of its fields, and a default for the others."""
    version = facts.get("version", DEFAULTS["version"])
    return Edition.model_validate({**DEFAULTS, "made_by": (f"what made {version}",), **facts})
