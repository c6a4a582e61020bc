"""Tests that messages, logs, metadata and stored files have none of a pipeline's secrets."""

from __future__ import annotations

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import Project, declaration, definitions, write_ratings
from batchrec_dagster_tests.guard.servers.inbox import ALERTS, ON_FAILURE, Inbox, tick
from batchrec_dagster_tests.guard.servers.s3 import OWNER, S3Server


def test_no_secret_is_in_logs_metadata_messages_or_storage(
    project: Project,
    s3: S3Server,
    inbox: Inbox,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    bucket = s3.create_bucket()
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SHOP_DATABASE_URL", "postgresql://shop:planted-password@@127.0.0.1/shop")
    project.environment |= {
        "BATCHREC_STORAGE": f"s3://{bucket}/batchrec",
        "AWS_ENDPOINT_URL_S3": s3.endpoint,
    }
    source = write_ratings(project.root / "ratings.csv")
    project.declare(
        declaration(
            "shop",
            source,
            alerts=ALERTS,
            # The database's URL is wrong, so that the step fails with a message about the URL.
            sinks={"postgres": {"url_env": "SHOP_DATABASE_URL"}},
        )
    )
    home = project.root / "dagster-home"
    home.mkdir()
    with dg.instance_for_test(temp_dir=str(home)) as instance, definitions(project) as defs:
        cursor = tick(defs, ON_FAILURE, instance, None).cursor
        result = defs.resolve_job_def("shop_refresh").execute_in_process(
            instance=instance, raise_on_error=False
        )
        assert not result.success
        assert [e.step_key for e in result.all_events if e.is_step_failure] == [
            "shop__recommendations_in_postgres"
        ]
        tick(defs, ON_FAILURE, instance, cursor)
        stored_bytes = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    store = s3.store()
    objects = store.list(f"s3://{bucket}/")
    assert objects
    secrets = [OWNER.secret, "planted-password", "planted-path"]
    places = {
        "Dagster's storage": stored_bytes,
        "the log": "".join(capfd.readouterr()).encode(),
        "the message": "".join(inbox.texts).encode(),
        **{file.uri: store.get(file.uri) for file in objects},
    }
    assert places["the message"]
    assert b"shop__recommendations_in_postgres" in stored_bytes
    leaks = [
        (place, secret)
        for secret in secrets
        for place, text in places.items()
        if secret.encode() in text
    ]
    assert leaks == []
