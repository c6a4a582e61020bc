"""What the pipelines do on AWS is what the runner's policy lets them, no less and no more; and each
permission that lacks is named, with the resource and what to do."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster.local_personalize.service import LocalPersonalize
from batchrec_dagster.resources.personalize import LOCAL_ROLE_ARN
from batchrec_dagster_tests.aws_door import Door, Permission, personalize_door, s3_door
from batchrec_dagster_tests.s3_server import S3Server, s3_server
from batchrec_dagster_tests.support import (
    declaration,
    definitions,
    module_project,
    write_ratings,
)
from batchrec_dagster_tests.template import ACCOUNT, BUCKET, REGION, actions, runner_statements

# What the runner may do though no run of these tests does it.
BESIDE = {
    "personalize:StopSolutionVersionCreation": "a run that is cancelled stops its training",
    "s3:AbortMultipartUpload": "an upload that breaks off is cleared away",
    "s3:GetBucketPolicy": "batchrec doctor",
    "iam:GetRole": "batchrec doctor",
    "servicequotas:ListServiceQuotas": "batchrec doctor",
}
STEPS = (
    *("raw_ratings", "interactions", "batch_users", "raw_items", "items", "item_titles"),
    *("personalize_dataset", "solution_version", "recommendations"),
    *("segment_solution_version", "user_segments", "recommendation_report", "teardown"),
)
ITEMS = {
    "source": "items.csv",
    "columns": {"item": "movieId", "title": "title", "categories": {"GENRES": "genres"}},
}


@dataclass
class Account:
    """A pipeline whose S3 and Personalize lie behind doors."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance
    s3: Door
    personalize: Door

    def permit(self, statements: list[dict[str, Any]]) -> None:
        for door in (self.s3, self.personalize):
            door.permitted = lambda permission: any(_allows(s, permission) for s in statements)

    def take_away(self, action: str | None) -> None:
        for door in (self.s3, self.personalize):
            door.permitted = lambda permission: permission.action != action

    def asked(self) -> list[Permission]:
        """What was asked since this was last called."""
        found = self.s3.asked + self.personalize.asked
        self.s3.asked, self.personalize.asked = [], []
        return found

    def run(self, step: str) -> str:
        """Run one step: what it says where it fails, nothing where it does not."""
        if step == "teardown":
            config = {"ops": {"shop__teardown": {"config": {"delete": True, "storage": True}}}}
            result = self.definitions.resolve_job_def("shop_teardown").execute_in_process(
                instance=self.instance, run_config=config, raise_on_error=False
            )
        else:
            result = self.definitions.resolve_job_def("shop_refresh").execute_in_process(
                instance=self.instance,
                asset_selection=[dg.AssetKey(["shop", step])],
                raise_on_error=False,
            )
        said = []
        for event in result.all_events:
            error = event.step_failure_data.error if event.is_step_failure else None
            while error is not None:
                said.append(error.message)
                error = error.cause
        assert bool(said) != result.success
        return "\n".join(said)


def _allows(statement: dict[str, Any], permission: Permission) -> bool:
    return permission.action in actions(statement) and fnmatchcase(
        permission.resource, statement["Resource"]
    )


def policy(bucket: str) -> list[dict[str, Any]]:
    """The runner's, of the template, for this bucket and the local Personalize's account."""
    text = json.dumps(runner_statements())
    for there, here in (
        (BUCKET, bucket),
        (ACCOUNT, "000000000000"),
        (REGION, "us-east-1"),
        ("<PersonalizeRole.Arn>", LOCAL_ROLE_ARN),
    ):
        text = text.replace(there, here)
    statements: list[dict[str, Any]] = json.loads(text)
    return statements


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def account(root: Path, s3: S3Server, bucket: str) -> Iterator[Account]:
    project = module_project(root)
    write_ratings(root / "ratings.csv")
    lines = [f"{item},Title {item},{'even' if item % 2 == 0 else 'odd'}" for item in range(1, 81)]
    (root / "items.csv").write_text("\n".join(["movieId,title,genres", *lines]) + "\n")
    project.declare(declaration("shop", "ratings.csv", items=ITEMS, segments={"items": ["1", "2"]}))
    with ExitStack() as opened, pytest.MonkeyPatch.context() as patch:
        service = LocalPersonalize(root / "personalize", s3.store(), region="us-east-1")
        opened.callback(service.close)
        personalize = opened.enter_context(personalize_door(service))
        front = opened.enter_context(s3_door(s3.endpoint))
        instance = opened.enter_context(dg.DagsterInstance.ephemeral())
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
        defs = opened.enter_context(definitions(project))
        yield Account(defs, instance, front, personalize)


@pytest.fixture(scope="module")
def needed(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> dict[str, list[Permission]]:
    """What each step asks for that none before it did, in order; by the template's policy alone."""
    bucket, found = s3.new_bucket(), dict[str, list[Permission]]()
    with account(tmp_path_factory.mktemp("needed"), s3, bucket) as own:
        own.permit(policy(bucket))
        for step in STEPS:
            assert own.run(step) == ""
            known = {permission.action for each in found.values() for permission in each}
            new: dict[str, Permission] = {}
            for permission in own.asked():
                if permission.action not in known:
                    new.setdefault(permission.action, permission)
            found[step] = list(new.values())
    return found


def test_the_runners_policy_is_what_the_pipelines_do(needed: dict[str, list[Permission]]) -> None:
    done = {permission.action for permissions in needed.values() for permission in permissions}
    permitted = {action for statement in runner_statements() for action in actions(statement)}
    assert done <= permitted
    assert permitted - done == BESIDE.keys()


def test_each_permission_that_is_taken_away_is_named_with_the_resource_and_the_mend(
    needed: dict[str, list[Permission]], tmp_path: Path, s3: S3Server
) -> None:
    tried = 0
    with account(tmp_path, s3, s3.new_bucket()) as own:
        for step in STEPS:
            for action, _ in needed[step]:
                own.take_away(action)
                own.asked()
                said = own.run(step)
                (resource, *_) = [one.resource for one in own.asked() if one.action == action]
                allow = rf"permission denied; allow these credentials .*?{action} on (\S+)"
                named = re.search(allow, said)
                assert named, f"{action} in {step}: {said}"
                assert _same(named[1], resource), f"{action} in {step}: {said}"
                tried += 1
            own.take_away(None)
            assert own.run(step) == "", step
    assert tried == len([one for permissions in needed.values() for one in permissions])


def _same(named: str, resource: str) -> bool:
    """The account is not known to who is refused: then it is a star."""
    return fnmatchcase(resource, named.rstrip(".,;"))
