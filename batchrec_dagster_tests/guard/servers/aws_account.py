"""A pipeline that runs as on AWS, with servers (doors) that check its permissions."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import Project, definitions, module_project
from batchrec_dagster_tests.guard.oracles.template import (
    ACCOUNT,
    BUCKET,
    REGION,
    Statement,
    list_runner_statements,
    read_actions,
    resolve_stack,
)
from batchrec_dagster_tests.guard.servers.aws_door import (
    Door,
    Permission,
    personalize_door,
    s3_door,
)
from batchrec_dagster_tests.guard.servers.personalize import ROLE
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.teardown import tear_down

RESOURCE_TAG = "aws:ResourceTag/"


@dataclass
class Account:
    """A pipeline `shop`, with doors in front of its S3 and Personalize."""

    project: Project
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    s3: Door
    personalize: Door
    role: Door
    """The door through which Personalize itself reaches S3."""

    def permit_template(self, bucket: str) -> None:
        """Permit only the actions that the CloudFormation template's policies allow."""
        runner = _fill_in_account(bucket, list_runner_statements())
        role = _fill_in_account(bucket, read_role_statements())
        self.s3.is_permitted = self.personalize.is_permitted = lambda permission: _allow(
            runner, permission
        )
        self.role.is_permitted = lambda permission: _allow(role, permission)

    def take_away(self, action: str | None) -> None:
        """Permit the runner every action except this one; None permits all."""
        for door in (self.s3, self.personalize):
            door.is_permitted = lambda permission: permission.action != action

    def take_requests(self) -> list[Permission]:
        """Return the permissions that were needed since the last call of `take_requests`."""
        permissions = self.personalize.permissions_needed + self.s3.permissions_needed
        self.s3.permissions_needed, self.personalize.permissions_needed = [], []
        return permissions

    def run(self, step: str) -> str:
        """Run one step, and return its error messages if it fails, or else its warnings.

        The warnings of a teardown are not returned.
        """
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
            # A step that lacks a permission to delete does all its other work, and warns.
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
        and _has_tags(permission, statement.get("Condition", {}).get("StringEquals", {}))
        for statement in statements
    )


def _has_tags(permission: Permission, condition: dict[str, str]) -> bool:
    """Return whether the resource has the tags that the condition requires."""
    required = {
        key.removeprefix(RESOURCE_TAG): value
        for key, value in condition.items()
        if key.startswith(RESOURCE_TAG)
    }
    return required.items() <= dict(permission.tags).items()


def _fill_in_account(bucket: str, statements: list[Statement]) -> list[Statement]:
    """Return the template's statements with this bucket and the local Personalize's account."""
    text = json.dumps(statements)
    for placeholder, value in (
        (BUCKET, bucket),
        (ACCOUNT, "000000000000"),
        (REGION, "us-east-1"),
        ("<PersonalizeRole.Arn>", ROLE),
    ):
        text = text.replace(placeholder, value)
    statements_filled: list[Statement] = json.loads(text)
    return statements_filled


def read_role_statements() -> list[Statement]:
    """Return the policy statements of Personalize's role."""
    (policy,) = resolve_stack()["PersonalizeRole"]["Policies"]
    statements: list[Statement] = policy["PolicyDocument"]["Statement"]
    return statements


@contextmanager
def open_account(
    root: Path, s3: S3Server, bucket: str, declaration: dict[str, Any]
) -> Iterator[Account]:
    """Yield an account where the pipeline can run, with a new project in the folder."""
    project = module_project(root)
    project.declare(declaration)
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        role = stack.enter_context(s3_door(s3.endpoint))
        store = ObjectStore({}, s3.session, role.url)
        service = LocalPersonalize(root / "personalize", store, region="us-east-1")
        stack.callback(service.close)
        personalize = stack.enter_context(personalize_door(service))
        front = stack.enter_context(s3_door(s3.endpoint))
        instance = stack.enter_context(dg.DagsterInstance.ephemeral())
        for name in os.environ:
            if name.startswith("AWS_"):
                patch.delenv(name)
        project.environment = s3.environment() | {
            "AWS_ENDPOINT_URL_S3": front.url,
            "AWS_ENDPOINT_URL_PERSONALIZE": personalize.url,
            "BATCHREC_STORAGE": f"s3://{bucket}/batchrec",
            "BATCHREC_PERSONALIZE": "aws",
            "BATCHREC_ROLE_ARN": ROLE,
            "BATCHREC_BUSY_SECONDS": "0.2",
            "BATCHREC_POLL_SECONDS": "0.02",
        }
        for name, value in project.environment.items():
            patch.setenv(name, value)
        defs = stack.enter_context(definitions(project))
        yield Account(project, defs, instance, front, personalize, role)
