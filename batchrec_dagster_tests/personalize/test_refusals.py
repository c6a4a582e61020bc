"""Tests of the message for each error with which AWS refuses a call."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.compat import HTTPHeaders
from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import explain_role_error
from batchrec_dagster.storage.permissions import explain_refusals

GROUP = "arn:aws:personalize:eu-west-1:123456789012:dataset-group/shop"
DENIAL = "User: arn:aws:iam::1:user/me is not authorized to perform: "


class Body(BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def describe_refusal(code: str, message: str, operation: str, **arguments: Any) -> str:
    """Return the message of the error that a client raises for this answer."""
    client: Any = boto3.client(
        "personalize", "eu-west-1", aws_access_key_id="me", aws_secret_access_key="secret"
    )
    body = json.dumps({"__type": code, "message": message}).encode()
    client.meta.events.register(
        "before-send.personalize",
        lambda request, **_: AWSResponse(request.url, 400, HTTPHeaders(), Body(body)),
    )
    explain_refusals(client)
    with pytest.raises(ClientError) as error:
        getattr(client, operation)(**arguments)
    assert error.value.response["Error"]["Code"] == code
    return error.value.response["Error"]["Message"]


@pytest.mark.parametrize(
    ("operation", "arguments", "sentence"),
    [
        ("list_schemas", {}, "personalize:ListSchemas on *"),
        (
            "describe_dataset_group",
            {"datasetGroupArn": GROUP},
            f"personalize:DescribeDatasetGroup on {GROUP}",
        ),
        (
            "create_dataset",
            {"name": "x", "datasetGroupArn": GROUP, "datasetType": "ITEMS", "schemaArn": GROUP},
            "personalize:CreateDataset on"
            " arn:aws:personalize:eu-west-1:123456789012:dataset/shop/ITEMS",
        ),
        (
            "create_solution",
            {"name": "shop-1", "datasetGroupArn": GROUP},
            "personalize:CreateSolution on arn:aws:personalize:eu-west-1:*:solution/shop-1",
        ),
        (
            "create_solution_version",
            {"name": "shop-1", "solutionArn": "arn:x:solution/y"},
            "personalize:CreateSolutionVersion on arn:x:solution/y",
        ),
        (
            "get_solution_metrics",
            {"solutionVersionArn": "arn:x:solution/y/1"},
            "personalize:GetSolutionMetrics on arn:x:solution/y/1",
        ),
    ],
)
def test_a_refusal_names_the_action_and_the_resource(
    operation: str, arguments: dict[str, Any], sentence: str
) -> None:
    message = describe_refusal("AccessDeniedException", "no", operation, **arguments)
    assert message == f"permission denied; allow these credentials {sentence} (AWS says: no)"


def test_names_from_aws_take_precedence_over_guesses() -> None:
    denial = f"{DENIAL}iam:PassRole on resource: arn:aws:iam::1:role/r because no policy allows it"
    message = describe_refusal("AccessDeniedException", denial, "list_schemas")
    assert message.startswith(
        "permission denied; allow these credentials iam:PassRole on arn:aws:iam::1:role/r (AWS"
    )


def test_an_explicit_deny_is_told_from_a_missing_allow() -> None:
    denial = (
        f"{DENIAL}personalize:ListSchemas on resource: arn:x:schema/* with an explicit deny in a"
        " service control policy"
    )
    message = describe_refusal("AccessDeniedException", denial, "list_schemas")
    assert message.startswith(
        "permission denied: a policy denies personalize:ListSchemas on arn:x:schema/* explicitly"
    )


@pytest.mark.parametrize(
    ("code", "denial", "sentence"),
    [
        ("ExpiredTokenException", "expired", "the credentials have expired: log in again"),
        ("UnrecognizedClientException", "invalid", "AWS does not know the credentials"),
        ("InvalidSignatureException", "Signature expired: 2026…", "this machine's clock is wrong"),
        ("InvalidSignatureException", "does not match", "the secret does not match the access key"),
        ("InvalidInputException", "a name", "a name"),
    ],
)
def test_other_refusals_are_told_apart(code: str, denial: str, sentence: str) -> None:
    assert describe_refusal(code, denial, "list_schemas").startswith(sentence)


def test_a_failure_of_a_job_that_is_not_for_want_of_rights_gets_no_fix() -> None:
    assert explain_role_error("Invalid Data location.", {}) is None
    job = {"roleArn": "arn:r", "jobOutput": {"s3DataDestination": {"path": "s3://b/out/"}}}
    mend = explain_role_error("Amazon Personalize is unable to assume the role", job)
    assert mend is not None
    assert mend.startswith("allow s3:PutObject on s3://b/out/ to arn:r")
    assert "let personalize.amazonaws.com assume the role" in mend
