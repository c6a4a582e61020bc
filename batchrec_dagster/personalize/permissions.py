"""What to do when AWS refuses a call: which permission lacks, on what; said alike everywhere.

AWS mostly names both itself; where it does not (a HEAD request has no body), they follow from the
call. Credentials that have expired or are unknown, and a wrong clock, are told apart from that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

_TOLD = re.compile(r"not authorized to perform: ([\w-]+:\w+)(?: on resource: \"?([^\s\"]+))?")
_DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationErrorException", "Forbidden"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
_UNKNOWN = {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}
_SIGNATURE = {"InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
_CLOCK = re.compile(r"RequestTimeTooSkewed|Signature expired|Signature not yet current")

_KEY = "batchrec_params"
_ROLE_READS = "s3:GetObject and s3:ListBucket"


def lacking(action: str, resource: str, told: str = "") -> str:
    """What to allow. `told` is AWS's own message, which knows better where it names something."""
    found = _TOLD.search(told)
    if found:
        action, resource = found[1], found[2] or resource
    return f"permission denied; allow these credentials {action} on {resource}"


def is_denied(error: ClientError) -> bool:
    """Whether a permission lacks, rather than anything else."""
    code = error.response["Error"]["Code"]
    return code in _DENIED or code == "403"


def credentials_trouble(code: str, told: str) -> str | None:
    """What is wrong with the credentials or the clock, where an error's code says so; else None."""
    if code in _EXPIRED:
        return (
            "the credentials have expired: log in again, or give this machine a role, whose"
            " credentials renew by themselves"
        )
    if code in _UNKNOWN:
        return "the credentials are not known there: look at AWS_PROFILE or AWS_ACCESS_KEY_ID"
    if code in _SIGNATURE:
        if _CLOCK.search(code) or _CLOCK.search(told):
            return "this machine's clock is wrong: set it by NTP"
        return "the secret does not belong to the access key: look at AWS_SECRET_ACCESS_KEY"
    return None


def explain_refusals(client: Any) -> None:
    """Have the errors of a boto3 client tell what to allow, on what. Not for S3, whose actions have
    other names than its operations."""
    service = client.meta.service_model.service_id.hyphenize()
    prefix = f"arn:{client.meta.partition}:{service}:{client.meta.region_name}"

    def remember(params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> None:
        context[_KEY] = params

    def explain(parsed: dict[str, Any], model: Any, context: Mapping[str, Any], **_: Any) -> None:
        error = parsed.get("Error")
        if not error:
            return
        code, told = error.get("Code", ""), error.get("Message", "")
        mend: str | None
        if code in _DENIED:
            resource = _resource(model.name, context.get(_KEY, {}), prefix)
            mend = lacking(f"{service}:{model.name}", resource, told)
        else:
            mend = credentials_trouble(code, told)
        if mend:
            error["Message"] = f"{mend} (AWS says: {told or code})"

    client.meta.events.register(f"before-parameter-build.{service}", remember)
    client.meta.events.register(f"after-call.{service}", explain)


def role_trouble(reason: str, description: Mapping[str, Any]) -> str | None:
    """The mend where Personalize may not do what a job asks of it in S3; None for other reasons.

    `description` is what Describe says of the job, or what Create was given.
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
        f" policy, and let personalize.amazonaws.com assume the role: batchrec doctor looks at each"
    )


def _resource(operation: str, params: Mapping[str, Any], prefix: str) -> str:
    """What a refused call was about, as policies name it; `*` for lists and what is not known."""
    verb, *words = re.findall("[A-Z][a-z]*", operation)
    kind = "-".join(words).lower()
    if verb == "List" or not words:
        return "*"
    if verb == "Create" and kind == "dataset":
        group = str(params["datasetGroupArn"]).replace("dataset-group/", "dataset/")
        return f"{group}/{params['datasetType']}"
    name = params.get("jobName") or params.get("name")
    if verb == "Create" and name and kind != "solution-version":
        return f"{prefix}:*:{kind}/{name}"
    member = words[0].lower() + "".join(words[1:])
    for about in (f"{member}Arn", "resourceArn", "solutionVersionArn", "solutionArn"):
        if about in params:
            return str(params[about])
    return "*"
