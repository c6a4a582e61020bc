"""`batchrec check` checks the sinks: real PostgreSQL and folders, and moto's DynamoDB."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import boto3
import pytest

from batchrec_dagster.checking.findings import Finding
from batchrec_dagster.checking.pipelines import check_connections
from batchrec_dagster.config import Pipeline
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.sinks import postgres_table as postgres_sink
from batchrec_dagster_tests.guard.builders import Project, declaration
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.sink_tables import build_large_table

URL_ENV = "SHOP_DB"


def find_pipeline_finding(
    project: Project, monkeypatch: pytest.MonkeyPatch, sink: str, **settings: Any
) -> Finding:
    """The finding about the pipeline's only sink."""
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv", sinks={sink: settings}))
    storage = Deployment.from_environment(os.environ).storage_resource
    findings = check_connections(pipeline, storage, project.root)
    (finding,) = (finding for finding in findings if finding.check == f"shop {sink}")
    return finding


def check_postgres(project: Project, monkeypatch: pytest.MonkeyPatch, url: str) -> Finding:
    monkeypatch.setenv(URL_ENV, url)
    return find_pipeline_finding(project, monkeypatch, "postgres", url_env=URL_ENV)


def test_a_writable_postgres_passes_and_stays_unchanged(
    project: Project, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, url: str
) -> None:
    finding = check_postgres(project, monkeypatch, url)
    assert finding.status == "ok"
    assert finding.message.startswith("public.recommendations in test_")
    tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"
    assert postgres.query(tables, url=url) == [(0,)]
    target = postgres_sink.PostgresTarget(url, "recommendations", pipeline="shop")
    postgres_sink.replace_lists(build_large_table(2).lazy(), target)
    assert check_postgres(project, monkeypatch, url).status == "ok"
    assert postgres.query("SELECT count(*) FROM recommendations", url=url) == [(10,)]
    assert postgres.query(tables, url=url) == [(1,)]


def test_a_postgres_that_refuses_fails_without_showing_the_password(
    project: Project, monkeypatch: pytest.MonkeyPatch, postgres: PostgresServer, url: str
) -> None:
    reader = f"reader_{url.rpartition('_')[2]}"
    postgres.query(f"CREATE ROLE {reader} LOGIN PASSWORD 'planted'", url=url)
    reader_url = url.replace("owner:owner-secret", f"{reader}:planted")
    fix = "the user needs CREATE on the schema, and to own the table where there is one"
    finding = check_postgres(project, monkeypatch, reader_url)
    assert "permission denied for schema public" in finding.message
    assert finding.fix == fix

    postgres_sink.replace_lists(
        build_large_table(2).lazy(), postgres_sink.PostgresTarget(url, "recommendations")
    )
    postgres.query(f"GRANT ALL ON SCHEMA public TO {reader}", url=url)
    finding = check_postgres(project, monkeypatch, reader_url)
    assert (finding.status, finding.fix) == ("failed", fix)

    finding = check_postgres(project, monkeypatch, url.replace("owner-secret", "planted-wrong"))
    assert "password authentication failed" in finding.message
    assert "planted" not in str(finding)
    nobody = f"postgresql://owner:planted@127.0.0.1:{free_ports(1)[0]}/shop"
    finding = check_postgres(project, monkeypatch, nobody)
    assert "refused" in finding.message
    assert "runs" in finding.fix
    assert "planted" not in str(finding)
    finding = check_postgres(project, monkeypatch, "")
    assert "the environment variable SHOP_DB is not set" in finding.message


@pytest.mark.slow
def test_a_dynamodb_table_is_described(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    from moto import mock_aws  # takes long, and `make test-fast` does without

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        finding = find_pipeline_finding(project, monkeypatch, "dynamodb", table="lists")
        assert finding.status == "failed"
        assert "there is no DynamoDB table lists: create it with aws" in finding.message
        client: Any = boto3.Session().client("dynamodb")
        arn = client.create_table(
            TableName="lists",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
        )["TableDescription"]["TableArn"]
        finding = find_pipeline_finding(project, monkeypatch, "dynamodb", table="lists")
        assert finding.status == "warning"
        assert finding.fix.startswith("aws dynamodb update-time-to-live --table-name lists")
        time_to_live = {"Enabled": True, "AttributeName": "expires_at"}
        client.update_time_to_live(TableName="lists", TimeToLiveSpecification=time_to_live)
        assert find_pipeline_finding(project, monkeypatch, "dynamodb", table="lists").status == "ok"
        assert client.list_tags_of_resource(ResourceArn=arn)["Tags"] == []
        tags = [{"Key": "batchrec:lists-of", "Value": "other in s3://there/"}]
        client.tag_resource(ResourceArn=arn, Tags=tags)
        finding = find_pipeline_finding(project, monkeypatch, "dynamodb", table="lists")
        assert finding.message.startswith("the DynamoDB table lists has the lists of other in s3")
        assert finding.fix.startswith("or, if these are to take their place")


def test_an_export_folder_is_checked_by_writing(
    project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    export_folder = tmp_path / "exports"
    export_folder.mkdir()
    finding = find_pipeline_finding(project, monkeypatch, "export", path="exports/new/lists.csv")
    assert (finding.status, finding.message) == (
        "ok",
        f"{export_folder / 'new/lists.csv'} can be written",
    )
    assert list(export_folder.iterdir()) == []
    (export_folder / "new").write_text("a file where a folder should be")
    finding = find_pipeline_finding(project, monkeypatch, "export", path="exports/new/lists.csv")
    assert finding.status == "failed"
    assert finding.message.startswith(
        f"cannot make the folder {export_folder / 'new'}: Not a directory"
    )
