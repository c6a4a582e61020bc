"""Advice for calls that AWS denies: the missing permission, and the resource it is for.

AWS's message mostly names the permission and the resource. If it does not, the call tells them: the
answer to a HEAD request, for example, has no body. Expired credentials, unknown credentials and a
wrong clock get their own messages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from botocore.exceptions import (
    BotoCoreError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
)

_NAMED = re.compile(r"not authorized to perform: ([\w-]+:\w+)(?: on resource: \"?([^\s\"]+))?")
_DENIED = {"AccessDenied", "AccessDeniedException", "AuthorizationErrorException", "Forbidden"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException"}
_UNKNOWN = {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}
_SIGNATURE = {"InvalidSignatureException", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
_CLOCK = re.compile(r"RequestTimeTooSkewed|Signature expired|Signature not yet current")

_KEY = "batchrec_params"


def find_partition(region: str | None) -> str:
    """Return the AWS partition of a region, as ARNs name it: aws, aws-cn or aws-us-gov."""
    prefix = re.match(r"(cn|us-gov)-", region or "")
    return f"aws-{prefix[1]}" if prefix else "aws"


def explain_missing_permission(action: str, resource: str, message: str) -> str:
    """Return a sentence that says which action to allow on which resource.

    message: AWS's own message. If it names a permission or a resource, they replace the arguments.
    """
    named = _NAMED.search(message)
    if named:
        action, resource = named[1], named[2] or resource
    if "explicit deny" in message:
        return (
            f"permission denied: a policy denies {action} on {resource} explicitly, which no Allow"
            " overrides. Take that statement out for these credentials"
        )
    return f"permission denied; allow these credentials {action} on {resource}"


def explain_credentials_error(code: str, message: str) -> str | None:
    """Return the fix for the credentials or the clock; None if the error is about neither."""
    if code in _EXPIRED:
        return (
            "the credentials have expired: log in again, or give this machine a role, whose"
            " credentials renew automatically"
        )
    if code in _UNKNOWN:
        return "AWS does not know the credentials: check AWS_PROFILE or AWS_ACCESS_KEY_ID"
    if code in _SIGNATURE:
        if _CLOCK.search(code) or _CLOCK.search(message):
            return "this machine's clock is wrong: set it with NTP"
        return "the secret does not match the access key: check AWS_SECRET_ACCESS_KEY"
    return None


def explain_missing_settings(error: BotoCoreError) -> str | None:
    """Return which of AWS's variables to set; None unless botocore lacks a setting."""
    if isinstance(error, NoRegionError):
        return (
            "no AWS region is set: set AWS_REGION, such as eu-west-1 (for a local Personalize, that"
            " of its --region), or the region of the profile"
        )
    if isinstance(error, ProfileNotFound):
        return f"{error}: set AWS_PROFILE to one that `aws configure list-profiles` lists"
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return (
            f"{error}: set AWS_PROFILE, or both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"
            " give this machine a role"
        )
    return None


def explain_refusals(client: Any) -> None:
    """Make the errors of a boto3 client say which action to allow on which resource.

    This is not for S3, whose actions have other names than its operations.
    """
    service = client.meta.service_model.service_id.hyphenize()
    prefix = f"arn:{client.meta.partition}:{service}:{client.meta.region_name}"

    def remember(params: Mapping[str, Any], context: dict[str, Any], **_: Any) -> None:
        context[_KEY] = params

    def explain(parsed: dict[str, Any], model: Any, context: Mapping[str, Any], **_: Any) -> None:
        error = parsed.get("Error")
        if not error:
            return
        code, message = error.get("Code", ""), error.get("Message", "")
        fix: str | None
        if code in _DENIED:
            resource = _find_resource(model.name, context.get(_KEY, {}), prefix)
            fix = explain_missing_permission(f"{service}:{model.name}", resource, message)
        else:
            fix = explain_credentials_error(code, message)
        if fix:
            error["Message"] = f"{fix} (AWS says: {message or code})"

    client.meta.events.register(f"before-parameter-build.{service}", remember)
    client.meta.events.register(f"after-call.{service}", explain)


def _find_resource(operation: str, params: Mapping[str, Any], prefix: str) -> str:
    """Return the resource of a denied call, as policies name it.

    Return `*` for List operations, and if the resource is not known.
    """
    verb, *words = re.findall("[A-Z][a-z]*", operation)
    kind = "-".join(words).lower()
    if verb == "List" or not words:
        return "*"
    if verb == "Create" and kind == "dataset":
        group = str(params["datasetGroupArn"]).replace("dataset-group/", "dataset/")
        return f"{group}/{params['datasetType']}"
    name = params.get("jobName") or params.get("name")
    if verb == "Create" and name and kind != "solution-version":
        created = f"{prefix}:*:{kind}/{name}"
        # A policy must allow CreateSolution on the recipe as well.
        return f"{created} and {params['recipeArn']}" if "recipeArn" in params else created
    member = words[0].lower() + "".join(words[1:])
    for parameter in (f"{member}Arn", "resourceArn", "solutionVersionArn", "solutionArn"):
        if parameter in params:
            return str(params[parameter])
    return "*"
