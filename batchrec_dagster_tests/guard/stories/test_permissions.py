"""Tests that the template's policies allow exactly the actions that pipelines need on AWS.

A message about a missing permission names the permission and the resource.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from batchrec_dagster_tests.guard.builders import declaration, write_ratings
from batchrec_dagster_tests.guard.oracles.template import (
    Statement,
    list_runner_statements,
    read_actions,
)
from batchrec_dagster_tests.guard.repeats import nightly, repeats
from batchrec_dagster_tests.guard.servers.aws_account import (
    Account,
    open_account,
    read_role_statements,
)
from batchrec_dagster_tests.guard.servers.personalize import ROLE
from batchrec_dagster_tests.guard.servers.s3 import S3Server

pytestmark = pytest.mark.slow

# The runner may do these actions too, though no run of these tests does them.
BESIDE = {
    "personalize:CreateDataDeletionJob": "the erasure of people",
    "personalize:DescribeDataDeletionJob": "the erasure of people",
    "personalize:ListDataDeletionJobs": "the erasure of people",
    "s3:AbortMultipartUpload": "an upload that breaks off is cleared away",
}
STEPS = (
    *("raw_ratings", "interactions", "batch_users", "raw_items", "items", "item_titles"),
    *("personalize_dataset", "solution_version", "recommendations"),
    *("segment_solution_version", "user_segments", "recommendation_outcomes"),
    *("recommendation_report", "teardown"),
)
ITEMS = {
    "source": "items.csv",
    "columns": {"item": "movieId", "title": "title", "categories": {"GENRES": "genres"}},
}


@contextmanager
def account(root: Path, s3: S3Server, bucket: str) -> Iterator[Account]:
    write_ratings(root / "ratings.csv")
    lines = [f"{item},Title {item},{'even' if item % 2 == 0 else 'odd'}" for item in range(1, 81)]
    (root / "items.csv").write_text("\n".join(["movieId,title,genres", *lines]) + "\n")
    settings = declaration(
        "shop",
        "ratings.csv",
        items=ITEMS,
        segments={"items": ["1", "2"]},
        solution={"retrain": {"every_days": 7}},
    )
    with open_account(root, s3, bucket, settings) as opened_account:
        yield opened_account


@dataclass(frozen=True)
class NeededActions:
    """The actions that a run needs."""

    steps: dict[str, list[str]]
    """The actions of each step, in order, that no earlier step needed."""
    role: set[str]
    """The actions that Personalize needs by its role."""
    refusals: dict[str, str]
    """The messages of steps that lacked a permission."""


@pytest.fixture(scope="module")
def needed_actions(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> NeededActions:
    """Return the needed actions of a run that may do everything that the policies allow."""
    bucket = s3.create_bucket()
    steps = dict[str, list[str]]()
    refusals = dict[str, str]()
    actions_so_far = set[str]()
    with account(tmp_path_factory.mktemp("needed"), s3, bucket) as opened_account:
        opened_account.permit_template(bucket)
        for step in STEPS:
            if message := opened_account.run(step):
                refusals[step] = message
            step_actions = dict.fromkeys(
                permission.action for permission in opened_account.take_requests()
            )
            steps[step] = [action for action in step_actions if action not in actions_so_far]
            actions_so_far |= step_actions.keys()
        return NeededActions(
            steps,
            {permission.action for permission in opened_account.role.permissions_needed},
            refusals,
        )


def list_actions(statements: list[Statement]) -> set[str]:
    return {action for statement in statements for action in read_actions(statement)}


def test_the_runners_policy_is_what_the_pipelines_do(needed_actions: NeededActions) -> None:
    assert needed_actions.refusals == {}
    actions_done = {action for step in needed_actions.steps.values() for action in step}
    assert actions_done <= list_actions(list_runner_statements())
    assert list_actions(list_runner_statements()) - actions_done <= BESIDE.keys()


@pytest.mark.parametrize("storage", ["another", ""])
def test_the_runner_deletes_nothing_that_another_deployment_made(
    tmp_path: Path, s3: S3Server, storage: str
) -> None:
    bucket = s3.create_bucket()
    with account(tmp_path, s3, bucket) as opened_account:
        opened_account.permit_template(bucket)
        client = s3.session().client("personalize", endpoint_url=opened_account.personalize.url)
        arns = []
        for name, owner in (("other", storage), ("own", bucket)):
            value = f"s3://{owner}/batchrec/"
            group = client.create_dataset_group(
                name=name, tags=[{"tagKey": "batchrec:storage", "tagValue": value}] if owner else []
            )
            arns.append(group["datasetGroupArn"])
        other_arn, own_arn = arns
        with pytest.raises(ClientError, match="DeleteDatasetGroup"):
            client.delete_dataset_group(datasetGroupArn=other_arn)
        client.delete_dataset_group(datasetGroupArn=own_arn)


def test_the_roles_policy_is_what_personalize_does(needed_actions: NeededActions) -> None:
    # The developer guide requires the listing. The local Personalize lists no single objects.
    assert list_actions(read_role_statements()) - needed_actions.role == {"s3:ListBucket"}
    assert needed_actions.role <= list_actions(read_role_statements())


@nightly("each step once more")
def test_each_permission_that_is_taken_away_is_named_with_the_resource(
    needed_actions: NeededActions, tmp_path: Path, s3: S3Server
) -> None:
    pairs = [(step, action) for step in STEPS for action in needed_actions.steps[step]]
    # All actions are tested at night, and a few that differ between steps for each commit.
    chosen = random.Random(0).sample(pairs, min(len(pairs), repeats(len(pairs), 3)))
    with account(tmp_path, s3, s3.create_bucket()) as opened_account:
        for step in STEPS:
            for action in needed_actions.steps[step]:
                if (step, action) not in chosen:
                    continue
                opened_account.take_away(action)
                opened_account.take_requests()
                message = opened_account.run(step)
                resource = next(
                    permission.resource
                    for permission in opened_account.take_requests()
                    if permission.action == action
                )
                assert action in message, f"{step}: {message}"
                # The account may be a star, because AWS does not always tell the account.
                names = [word.strip(".,;:()") for word in re.split(r"\s", message)]
                assert any(fnmatchcase(resource, name) for name in names), f"{step}: {message}"
            opened_account.take_away(None)
            assert opened_account.run(step) == "", step


@pytest.mark.parametrize(
    ("action", "step", "place"),
    [
        ("s3:GetObject", "personalize_dataset", "transformed/interactions/interactions.csv"),
        ("s3:PutObject", "recommendations", "curated/batch_inference/"),
    ][: repeats(2, 1)],
)
def test_permissions_missing_from_personalizes_role_are_named(
    needed_actions: NeededActions, tmp_path: Path, s3: S3Server, action: str, step: str, place: str
) -> None:
    assert action in needed_actions.role
    bucket = s3.create_bucket()
    with account(tmp_path, s3, bucket) as opened_account:
        opened_account.role.is_permitted = lambda permission: permission.action != action
        messages = [
            opened_account.run(earlier_step) for earlier_step in STEPS[: STEPS.index(step) + 1]
        ]
    assert not any(messages[:-1])
    for words in (action, f"s3://{bucket}/batchrec/shop/{place}", ROLE):
        assert words in messages[-1]
