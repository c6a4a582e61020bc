"""What to allow when Personalize's own role may not read or write the bucket of a job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_ROLE_READS = "s3:GetObject and s3:ListBucket"


def explain_role_error(reason: str, description: Mapping[str, Any]) -> str | None:
    """The fix if Personalize may not do in S3 what a job needs; None for other reasons.

    description: Describe's answer for the job, or Create's arguments.
    """
    if not re.search(r"privilege|assume|access.?denied", reason, re.IGNORECASE):
        return None
    role = description.get("roleArn", "the role")
    places = [
        f"{actions} on {path}"
        for actions, path in (
            (_ROLE_READS, description.get("dataSource", {}).get("dataLocation")),
            (_ROLE_READS, description.get("jobInput", {}).get("s3DataSource", {}).get("path")),
            (
                "s3:PutObject",
                description.get("jobOutput", {}).get("s3DataDestination", {}).get("path"),
            ),
        )
        if path
    ]
    return (
        f"allow {' and '.join(places)} to {role}, and to personalize.amazonaws.com in the bucket's"
        f" policy, and let personalize.amazonaws.com assume the role, as"
        f" deploy/aws.yaml does. If all of that is allowed, deploy it with SourceConditions=no"
    )
