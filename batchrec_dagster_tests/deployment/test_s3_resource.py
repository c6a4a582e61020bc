"""A team's own S3Resource is how the storage reaches S3: its keys, endpoint, region and profile."""

from __future__ import annotations

import os
import sys

import dagster as dg
import pytest

from batchrec_dagster.cli.project import load_storage
from batchrec_dagster.deployment import Deployment, DeploymentError
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster_tests.guard.builders import Project, declaration, definitions
from batchrec_dagster_tests.guard.servers.s3 import OWNER, REGION, S3Server

RESOURCES = """\
import functools
import dagster as dg
from dagster_aws.s3 import S3Resource

s3 = S3Resource(
    endpoint_url=dg.EnvVar("TEAM_ENDPOINT"),
    region_name="{region}",
    aws_access_key_id=dg.EnvVar("TEAM_KEY"),
    aws_secret_access_key=dg.EnvVar("TEAM_SECRET"),
)
by_profile = S3Resource(profile_name="lists", region_name="eu-west-1")
unsigned = S3Resource(use_unsigned_session=True)
not_s3 = 7

@functools.cache
def lazy() -> S3Resource:
    return by_profile
"""


@pytest.fixture
def team(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    for name in os.environ:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    (project.package / "resources.py").write_text(RESOURCES.format(region=REGION))
    monkeypatch.syspath_prepend(str(project.root))
    project.declare(declaration("shop", "ratings.csv"))
    return project


def test_its_keys_reach_the_bucket_and_are_not_shown(
    team: Project, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = s3.create_bucket()
    monkeypatch.setenv("BATCHREC_STORAGE", f"s3://{bucket}/batchrec")
    monkeypatch.setenv("BATCHREC_S3_RESOURCE", f"{team.package.name}.resources:s3")
    monkeypatch.setenv("TEAM_ENDPOINT", s3.endpoint)
    monkeypatch.setenv("TEAM_KEY", OWNER.access)
    monkeypatch.setenv("TEAM_SECRET", OWNER.secret)
    seen: list[bytes] = []

    @dg.asset(required_resource_keys={"batchrec_storage"})
    def reader(context) -> None:  # type: ignore[no-untyped-def]
        storage = context.resources.batchrec_storage
        seen.append(bytes(storage.store.get(storage.uri("x"))))

    with definitions(team) as defs:
        storage: StorageResource = (defs.resources or {})["batchrec_storage"]
        storage.store.put(storage.uri("x"), b"lists")
        assert OWNER.secret not in repr(storage.s3)
        assert dg.materialize([reader], resources={"batchrec_storage": storage}).success
    assert seen == [b"lists"]
    assert s3.client().get_object(Bucket=bucket, Key="batchrec/x")["Body"].read() == b"lists"
    # A command, which does not load the project.
    monkeypatch.chdir(team.root)
    monkeypatch.delitem(sys.modules, f"{team.package.name}.resources")
    storage = load_storage()
    assert storage.store.get(storage.uri("x")) == b"lists"


def test_a_function_of_the_project_makes_it(team: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BATCHREC_STORAGE", "s3://lists-eu/batchrec")
    monkeypatch.setenv("BATCHREC_S3_RESOURCE", f"{team.package.name}.resources:lazy")
    connection = Deployment.from_environment(os.environ).storage_resource.s3
    assert (connection.profile_name, connection.region_name) == ("lists", "eu-west-1")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("RES", "write the module and the name of the resource in it"),
        ("RES:missing", "it cannot be imported: .* has no attribute 'missing'"),
        ("nowhere.resources:s3", "it cannot be imported: No module named 'nowhere'"),
        ("RES:not_s3", "it is a int, not a dagster_aws"),
        ("RES:unsigned", "its use_unsigned_session is not supported"),
    ],
)
def test_what_is_no_s3_resource_is_refused(team: Project, name: str, reason: str) -> None:
    text = name.replace("RES", f"{team.package.name}.resources")
    with pytest.raises(DeploymentError, match=f"BATCHREC_S3_RESOURCE is '{text}': {reason}"):
        Deployment.from_environment({"BATCHREC_S3_RESOURCE": text})
