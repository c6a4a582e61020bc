"""Tests of docs/walkthrough.sh, which makes batch recommendations with the `aws` command alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.repeats import nightly
from batchrec_dagster_tests.guard.servers.forked_aws import forked_aws

pytestmark = pytest.mark.slow

SCRIPT = REPOSITORY / "docs" / "walkthrough.sh"
USERS, FILMS = 100, 5


@nightly("thirty commands")
def test_the_walkthrough_runs_unchanged(tmp_path: Path) -> None:
    personalize = StartedPersonalize(tmp_path, bucket="walkthrough")
    try:
        nobody = {name: value for name, value in os.environ.items() if "AWS" not in name}
        with forked_aws() as folder:
            result = subprocess.run(
                [SCRIPT, tmp_path / "storage"],
                env={
                    **nobody,
                    "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
                    "HOME": str(tmp_path),  # no configuration, no credentials
                    "AWS_ENDPOINT_URL_PERSONALIZE": personalize.endpoint_url,
                    "PAUSE": "0.1",
                },
                capture_output=True,
                text=True,
                timeout=300,
            )
        assert result.returncode == 0, result.stdout + result.stderr
        assert result.stderr == ""
        _check_recommendations(tmp_path / "storage", result.stdout)
        _check_segments(tmp_path / "storage", result.stdout)
        client = personalize.client
        assert client.list_dataset_groups()["datasetGroups"] == []
        assert client.list_schemas()["schemas"] == []
    finally:
        personalize.close()


def _check_recommendations(storage: Path, output: str) -> None:
    rows = (storage / "interactions.csv").read_text().splitlines()[1:]
    watched_pairs = {tuple(row.split(",")[:2]) for row in rows}
    lines = (storage / "recommendations" / "users.json.out").read_text().splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["input"]["userId"] for answer in answers] == [f"user{n}" for n in range(USERS)]
    hits = 0
    for number, answer in enumerate(answers):
        films = answer["output"]["recommendedItems"]
        assert len(set(films)) == FILMS
        assert not {(f"user{number}", film) for film in films} & watched_pairs
        hits += sum(int(film.removeprefix("film")) % 2 == number % 2 for film in films)
    assert hits > 0.9 * USERS * FILMS
    assert "\n".join(lines[:3]) in output
    metrics = json.loads(re.findall(r"^\{\n.*?^\}", output, re.DOTALL | re.MULTILINE)[0])
    assert 0 < metrics["precision_at_5"] <= 1


def _check_segments(storage: Path, output: str) -> None:
    lines = (storage / "segments" / "films.json.out").read_text().splitlines()
    for number, answer in enumerate(map(json.loads, lines)):
        assert answer["input"] == {"itemId": f"film{number}"}
        users = answer["output"]["usersList"]
        assert len(set(users)) == 10
        assert all(int(user.removeprefix("user")) % 2 == number for user in users)
    assert "\n".join(lines) in output
