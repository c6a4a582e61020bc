"""The runner's policy lets the pipelines do what they do on AWS, no less and no more.

Each permission that is missing is named, with the resource and what to do.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import dagster as dg
import pytest

from batchrec_dagster.deployment.resources import LOCAL_ROLE_ARN
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.steps import retention
from batchrec_dagster.storage import lease
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.deployment.template import (
    ACCOUNT,
    BUCKET,
    REGION,
    Statement,
    list_runner_statements,
    read_actions,
    resolve_stack,
)
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    module_project,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.aws_door import (
    Door,
    Permission,
    personalize_door,
    s3_door,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.teardown import tear_down

# The runner may do this too, though no run of these tests does it.
BESIDE = {
    "personalize:StopSolutionVersionCreation": "a run that is cancelled stops its training",
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


@dataclass
class Account:
    """A pipeline whose S3 and Personalize lie behind doors.

    role: the door to S3 that Personalize itself goes through.
    """

    project: Project
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    s3: Door
    personalize: Door
    role: Door

    def permit_statements(self, runner: list[Statement], role: list[Statement]) -> None:
        self.s3.is_permitted = self.personalize.is_permitted = lambda permission: _allow(
            runner, permission
        )
        self.role.is_permitted = lambda permission: _allow(role, permission)

    def take_away(self, action: str | None) -> None:
        for door in (self.s3, self.personalize):
            door.is_permitted = lambda permission: permission.action != action

    def take_requests(self) -> list[Permission]:
        """The permissions that were needed since this was last called."""
        # A step without permission to delete its lease does all the rest, and warns.
        permissions = self.personalize.permissions_needed + self.s3.permissions_needed
        self.s3.permissions_needed, self.personalize.permissions_needed = [], []
        return permissions

    def run(self, step: str) -> str:
        """Run one step: what it says where it fails, else what it warns of."""
        if step == "teardown":
            command = tear_down(self.project, "shop", self.instance, "--storage")
            return f"{command.output}{command.exception}" if command.exit_code else ""
        result = self.definitions.resolve_job_def("shop_refresh").execute_in_process(
            instance=self.instance,
            asset_selection=[dg.AssetKey(["shop", step])],
            raise_on_error=False,
        )
        messages = []
        for event in result.all_events:
            error = event.step_failure_data.error if event.is_step_failure else None
            while error is not None:
                messages.append(error.message)
                error = error.cause
        assert bool(messages) != result.success
        if result.success:
            messages = [
                entry.user_message
                for entry in self.instance.all_logs(result.run_id)
                if entry.level == logging.WARNING
            ]
        return "\n".join(messages)


def _allow(statements: list[Statement], permission: Permission) -> bool:
    return any(
        permission.action in read_actions(statement)
        and fnmatchcase(permission.resource, statement["Resource"])
        for statement in statements
    )


def fill_in_account(bucket: str, statements: list[Statement]) -> list[Statement]:
    """The template's statements, for this bucket and the local Personalize's account."""
    text = json.dumps(statements)
    for placeholder, value in (
        (BUCKET, bucket),
        (ACCOUNT, "000000000000"),
        (REGION, "us-east-1"),
        ("<PersonalizeRole.Arn>", LOCAL_ROLE_ARN),
    ):
        text = text.replace(placeholder, value)
    statements_filled: list[Statement] = json.loads(text)
    return statements_filled


def read_role_statements() -> list[Statement]:
    """The statements of what Personalize may do by its role."""
    (policy,) = resolve_stack()["PersonalizeRole"]["Policies"]
    statements: list[Statement] = policy["PolicyDocument"]["Statement"]
    return statements


@contextmanager
def account(root: Path, s3: S3Server, bucket: str) -> Iterator[Account]:
    project = module_project(root)
    write_ratings(root / "ratings.csv")
    lines = [f"{item},Title {item},{'even' if item % 2 == 0 else 'odd'}" for item in range(1, 81)]
    (root / "items.csv").write_text("\n".join(["movieId,title,genres", *lines]) + "\n")
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items=ITEMS,
            segments={"items": ["1", "2"]},
            solution={"retrain": {"every_days": 7}},
        )
    )
    with ExitStack() as exit_stack, pytest.MonkeyPatch.context() as patch:
        role = exit_stack.enter_context(s3_door(s3.endpoint))
        store = ObjectStore({}, s3.session, role.url)
        service = LocalPersonalize(root / "personalize", store, region="us-east-1")
        exit_stack.callback(service.close)
        personalize = exit_stack.enter_context(personalize_door(service))
        front = exit_stack.enter_context(s3_door(s3.endpoint))
        instance = exit_stack.enter_context(dg.DagsterInstance.ephemeral())
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        project.environment = s3.environment() | {
            "AWS_ENDPOINT_URL_S3": front.url,
            "BATCHREC_STORAGE": f"s3://{bucket}/batchrec",
            "BATCHREC_PERSONALIZE": personalize.url,
        }
        for name, value in project.environment.items():
            patch.setenv(name, value)
        # This Personalize stands for Amazon's, where no models are given up.
        patch.setattr(retention, "expire_models", lambda *_: None)
        # Each run stands for a process that has ended before the next one.
        patch.setattr(lease, "is_process_alive", lambda pid: False)
        defs = exit_stack.enter_context(definitions(project))
        yield Account(project, defs, instance, front, personalize, role)


@dataclass(frozen=True)
class NeededActions:
    """The actions that a run needs.

    steps: for each step, in order, the actions that no step before it needed.
    role: the actions that Personalize needs by its role.
    """

    steps: dict[str, list[str]]
    role: set[str]


@pytest.fixture(scope="module")
def needed_actions(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> NeededActions:
    """The actions that a run needs which may do all that the template's policies allow."""
    bucket = s3.create_bucket()
    steps = dict[str, list[str]]()
    actions_so_far = set[str]()
    with account(tmp_path_factory.mktemp("needed"), s3, bucket) as own:
        own.permit_statements(
            fill_in_account(bucket, list_runner_statements()),
            fill_in_account(bucket, read_role_statements()),
        )
        for step in STEPS:
            assert own.run(step) == ""
            step_actions = dict.fromkeys(permission.action for permission in own.take_requests())
            steps[step] = [action for action in step_actions if action not in actions_so_far]
            actions_so_far |= step_actions.keys()
        return NeededActions(
            steps, {permission.action for permission in own.role.permissions_needed}
        )


def list_actions(statements: list[Statement]) -> set[str]:
    return {action for statement in statements for action in read_actions(statement)}


def test_the_runners_policy_is_what_the_pipelines_do(needed_actions: NeededActions) -> None:
    actions_done = {action for step in needed_actions.steps.values() for action in step}
    assert actions_done <= list_actions(list_runner_statements())
    assert list_actions(list_runner_statements()) - actions_done == BESIDE.keys()


def test_the_roles_policy_is_what_personalize_does(needed_actions: NeededActions) -> None:
    # The developer guide asks for the listing, which the local one does not do for single objects.
    assert list_actions(read_role_statements()) - needed_actions.role == {"s3:ListBucket"}
    assert needed_actions.role <= list_actions(read_role_statements())


@pytest.mark.slow
def test_each_permission_that_is_taken_away_is_named_with_the_resource_and_the_fix(
    needed_actions: NeededActions, tmp_path: Path, s3: S3Server
) -> None:
    with account(tmp_path, s3, s3.create_bucket()) as own:
        for step in STEPS:
            for action in needed_actions.steps[step]:
                own.take_away(action)
                own.take_requests()
                message = own.run(step)
                (resource, *_) = [
                    permission.resource
                    for permission in own.take_requests()
                    if permission.action == action
                ]
                allow = rf"permission denied; allow these credentials .*?{action} on (\S+)"
                match = re.search(allow, message)
                assert match, f"{action} in {step}: {message}"
                assert _names_resource(match[1], resource), f"{action} in {step}: {message}"
            own.take_away(None)
            assert own.run(step) == "", step


def _names_resource(resource_pattern: str, resource: str) -> bool:
    """Whether a message names this resource; the account may be a star, as AWS does not tell it."""
    return fnmatchcase(resource, resource_pattern.rstrip(".,;"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("action", "step", "place"),
    [
        ("s3:GetObject", "personalize_dataset", "transformed/interactions/interactions.csv"),
        ("s3:PutObject", "recommendations", "curated/batch_inference/shop-"),
    ],
)
def test_what_the_role_of_personalize_lacks_is_named(
    needed_actions: NeededActions, tmp_path: Path, s3: S3Server, action: str, step: str, place: str
) -> None:
    assert action in needed_actions.role
    bucket = s3.create_bucket()
    with account(tmp_path, s3, bucket) as own:
        own.role.is_permitted = lambda permission: permission.action != action
        messages = [own.run(earlier_step) for earlier_step in STEPS[: STEPS.index(step) + 1]]
    assert not any(messages[:-1])
    assert f"{action} and s3:ListBucket on s3://{bucket}" in messages[-1] or (
        f"{action} on s3://{bucket}/batchrec/shop/{place}" in messages[-1]
    )
    assert f"batchrec/shop/{place}" in messages[-1]
    assert f"to {LOCAL_ROLE_ARN}, and to personalize.amazonaws.com in the bucket's" in messages[-1]
