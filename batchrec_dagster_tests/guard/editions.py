"""The metadata of an edition, for tests that publish lists without a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What every edition of lists for users says of itself.
DEFAULTS: Mapping[str, Any] = {
    "edition": 1,
    "version": "v",
    "made_at": "2026-05-01T03:00:00+00:00",
    "run_id": "run",
    "root_run": "run",
    "run_cost_usd": 0.0,
    "rows": 0,
    "users": 0,
    "items": 0,
    "failed_users": 0,
    "data_version": "data",
    "recipe": "aws-user-personalization-v2",
    "metrics": {},
    "recent_popularity": {},
    "evidence": {},
    "source": "ratings.csv",
    "settings": {},
    "checks": [],
    "sizes": {},
    "measured_on": "interactions",
    "success": [],
    "data_until": 0,
    "exclude_seen": True,
}


def complete_about(about: Mapping[str, Any]) -> dict[str, Any]:
    """These metadata of an edition, with a default for what they do not say."""
    version = about.get("version", DEFAULTS["version"])
    return {**DEFAULTS, "made_by": [f"what made {version}"], **about}
