"""Tests of a batch inference job's answers for each recipe, and to odd requests."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from batchrec_dagster.local_personalize import batch_lines
from batchrec_dagster.storage import progress
from batchrec_dagster_tests.guard.servers.personalize import Films, Local


def _answer_lines(
    local: Local, version: str, lines: list[Any], job: str | None = None, **options: Any
) -> list[dict[str, Any]]:
    """Return a job's answers to input lines, which are JSON values or raw bytes."""
    job = job or f"batch-{uuid.uuid4().hex}"
    raw = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    local.store.put(f"s3://data/{job}/input.json", b"\n".join(raw))
    source, target = f"s3://data/{job}/input.json", f"s3://data/{job}/out/"
    local.wait_until_active(local.create_batch_job(version, source, target, jobName=job, **options))
    return [json.loads(line) for line in local.read_lines(f"s3://data/{job}/out/input.json.out")]


@pytest.mark.parametrize("lines_at_once", [3, 200_000])
def test_lines_of_all_kinds_are_answered_in_order(
    films: Films, monkeypatch: pytest.MonkeyPatch, lines_at_once: int
) -> None:
    """The lines have a byte order mark, CRLF, blank lines, latin-1, UTF-16 and a huge length."""
    monkeypatch.setattr(batch_lines, "LINES_AT_ONCE", lines_at_once)
    monkeypatch.setattr(batch_lines, "MAX_LINE_BYTES", 1000)
    version = films.train("aws-user-personalization-v2")
    good = b'{"userId":"u1"}'
    bad = [b'{"userId":"caf\xe9"}', b'{"userId":"' + b"x" * 5000 + b'"}', b'\xff\xfe{\0}\0"']
    lines = [b"\xef\xbb\xbf" + good, b"", bad[0], good + b"\r", b" \r", bad[1], good, bad[2], good]
    answers = _answer_lines(films, version, lines, numResults=5)
    reason = "User error: Required fields for the provided recipe are userId"
    assert [answer["error"] for answer in answers] == [
        None,
        reason,
        None,
        "User error: The line is longer than 1000 bytes",
        None,
        reason,
        None,
    ]
    first, *other_outputs = (answer["output"] for answer in answers[::2])
    for other in other_outputs:
        assert other["recommendedItems"] == first["recommendedItems"]
        # Matrix products of different sizes round differently.
        assert other["scores"] == pytest.approx(first["scores"], rel=1e-4)
    assert all(answer["output"] == {"recommendedItems": []} for answer in answers[1::2])


def test_options_without_effect_are_logged_once(
    films: Films, caplog: pytest.LogCaptureFixture
) -> None:
    version = films.train("aws-user-personalization-v2")
    config = {
        "itemExplorationConfig": {"explorationWeight": "0.3", "explorationItemAgeCutOff": "30"},
        "rankingInfluence": {"POPULARITY": 0.5, "FRESHNESS": 1.0},
    }
    lines = [{"userId": "u1"}, {"userId": "u2"}]
    with caplog.at_level("INFO"):
        job_with_config = _answer_lines(
            films, version, lines, "with-it", batchInferenceJobConfig=config
        )
    messages = [record.message for record in caplog.records if "without effect" in record.message]
    assert len(messages) == 1
    assert "itemExplorationConfig and rankingInfluence" in messages[0]
    assert job_with_config == _answer_lines(films, version, lines)
    jobs = films.client.list_batch_inference_jobs()["batchInferenceJobs"]
    (job,) = [job["batchInferenceJobArn"] for job in jobs if job["jobName"] == "with-it"]
    description = films.describe(job)
    assert description["batchInferenceJobConfig"] == config
    assert description["batchInferenceJobMode"] == "BATCH_INFERENCE"


def test_a_long_job_logs_its_progress(
    films: Films, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0.0)
    version = films.train("aws-user-personalization")
    with caplog.at_level("INFO"):
        _answer_lines(
            films, version, [{"userId": f"u{n}"} for n in range(2500)], "long", numResults=1
        )
    messages = [record.message for record in caplog.records if "lines of s3://" in record.message]
    counts = [
        line.partition("batch-inference-job/long: ")[2].split(" lines")[0] for line in messages
    ]
    assert (counts[999], counts[-2:]) == ("1,000 of 2,500", ["2,500 of 2,500", "2,500"])
    assert "a second, about" in messages[999]
