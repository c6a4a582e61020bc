"""Tests of the fixture for other people's pipelines, in a project like theirs."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = """
    import boto3
    import pytest

    pytest_plugins = ["batchrec_dagster.testing"]


    def make_group(client):
        return client.create_dataset_group(name="films")["datasetGroupArn"]


    @pytest.mark.parametrize("turn", [1, 2])
    def test_each_test_has_its_own_personalize(local_personalize, turn):
        assert local_personalize.client.list_dataset_groups()["datasetGroups"] == []
        assert local_personalize.keys() == []
        make_group(local_personalize.client)
        uri = local_personalize.put("in/users.json", b"{}")
        assert uri == local_personalize.uri("in/users.json")
        assert uri == f"s3://{local_personalize.bucket}/in/users.json"


    def test_storage(local_personalize):
        local_personalize.put("a/1", b"one")
        local_personalize.put("b/2", b"two")
        assert local_personalize.get("a/1") == b"one"
        assert local_personalize.keys() == ["a/1", "b/2"]
        assert local_personalize.keys("b/") == ["b/2"]
        with pytest.raises(Exception, match="a/2"):
            local_personalize.get("a/2")


    def test_other_programs_reach_the_same_personalize(local_personalize, monkeypatch):
        arn = make_group(local_personalize.client)
        for name, value in local_personalize.environment.items():
            monkeypatch.setenv(name, value)
        other = boto3.Session().client("personalize")
        assert other.meta.endpoint_url == local_personalize.endpoint_url
        (group,) = other.list_dataset_groups()["datasetGroups"]
        assert group["datasetGroupArn"] == arn


    def test_it_reads_the_bucket_and_works(local_personalize):
        client = local_personalize.client
        group = make_group(client)
        schema = client.create_schema(name="s", schema=SCHEMA)["schemaArn"]
        wait(lambda: client.describe_dataset_group(datasetGroupArn=group)["datasetGroup"])
        dataset = client.create_dataset(
            name="d", datasetGroupArn=group, schemaArn=schema, datasetType="Interactions"
        )["datasetArn"]
        wait(lambda: client.describe_dataset(datasetArn=dataset)["dataset"])
        rows = "".join(f"u{n % 50},i{n % 7},{1_600_000_000 + n}\\n" for n in range(1000))
        uri = local_personalize.put("i.csv", b"USER_ID,ITEM_ID,TIMESTAMP\\n" + rows.encode())
        job = client.create_dataset_import_job(
            jobName="j",
            datasetArn=dataset,
            dataSource={"dataLocation": uri},
            roleArn=local_personalize.role_arn,
        )
        wait(lambda: client.describe_dataset_import_job(**arn_of(job))["datasetImportJob"])


    def arn_of(job):
        return {"datasetImportJobArn": job["datasetImportJobArn"]}


    def wait(describe):
        for _ in range(30_000):
            if describe()["status"] == "ACTIVE":
                return
            time.sleep(0.01)
        raise AssertionError(describe())
"""


def test_a_project_that_uses_the_fixture(tmp_path: Path) -> None:
    schema = (
        "import json, time\n"
        "SCHEMA = json.dumps({'type': 'record', 'name': 'Interactions',"
        " 'namespace': 'com.amazonaws.personalize.schema', 'version': '1.0', 'fields': ["
        "{'name': 'USER_ID', 'type': 'string'}, {'name': 'ITEM_ID', 'type': 'string'},"
        " {'name': 'TIMESTAMP', 'type': 'long'}]})\n"
    )
    (tmp_path / "test_pipeline.py").write_text(schema + textwrap.dedent(TESTS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--strict-markers"]
    nobody = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    result = subprocess.run(
        [*command, "-W", "error::pytest.PytestUnhandledThreadExceptionWarning", str(tmp_path)],
        cwd=tmp_path,
        env=nobody,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 passed" in result.stdout


def test_the_package_itself_needs_no_pytest() -> None:
    code = (
        "import sys; sys.modules['pytest'] = None;"
        "import batchrec_dagster.definitions, batchrec_dagster.cli;"
        "batchrec_dagster.cli.main(['local-personalize', '--help'])"
    )
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "--port" in result.stdout
