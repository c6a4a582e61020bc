"""What the stack lets the runner do if it is asked to, beside the calls of the code."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from boto3.dynamodb import table as boto3_table
from botocore import xform_name
from dagster_aws.pipes.clients import glue as pipes_glue

from batchrec_dagster.pipeline import spark_on_aws as spark
from batchrec_dagster.sinks import dynamodb
from batchrec_dagster_tests.guard.oracles.template import read_actions, resolve_stack

EVERYTHING = {"Glue": "yes", "DynamoTable": "lists"}


def test_the_glue_job_has_the_version_that_the_code_was_tried_with() -> None:
    job = resolve_stack(**EVERYTHING)["GlueJob"]
    assert job["GlueVersion"] == spark.GLUE_VERSION


@pytest.mark.parametrize(
    ("parameter", "policy", "sources"),
    [
        ("DynamoTable", "RunnerTablePolicy", [dynamodb, boto3_table]),
        ("Glue", "RunnerGluePolicy", [spark, pipes_glue]),
    ],
)
def test_what_may_be_added_allows_the_calls_of_the_code(
    parameter: str, policy: str, sources: list[Any]
) -> None:
    """The stack makes the Glue job, so that the runner creates none. Tags need a permission."""
    text = "".join(inspect.getsource(source) for source in sources)
    call = r"(?:client|glue)\.(?:get_paginator\(\")?([a-z]+_[a-z_]+)[(\"]"
    operations_called = set(re.findall(call, text)) - {"create_job"}
    statement, *_ = resolve_stack(**{parameter: EVERYTHING[parameter]})[policy]["PolicyDocument"][
        "Statement"
    ]
    operations_allowed = {
        xform_name(action.partition(":")[2]) for action in read_actions(statement)
    }
    assert operations_allowed - {"tag_resource"} == operations_called - {"tag_resource"}
