"""Tests of the output of `batchrec forget`. The guard tests its effects."""

from __future__ import annotations

import re

import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster_tests.guard.builders import Project
from batchrec_dagster_tests.guard.first_run import DECLARATION, FirstRun
from batchrec_dagster_tests.texts import assert_texts

pytestmark = pytest.mark.slow


def test_the_output_of_forget_is_the_committed_text(
    first_run: FirstRun, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    first_run.copy_to(project)
    monkeypatch.chdir(project.root)
    for name, value in project.process_environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BATCHREC_POLL_SECONDS", "0.02")

    def forget(arguments: str) -> tuple[str, str]:
        text = CliRunner().invoke(main, ["forget", *arguments.split()]).output
        text = text.replace(str(project.root), "PROJECT")
        return f"forget {arguments}", re.sub(r"[-0-9]{10}T[0-9]{6}Z", "TIME", text)

    # A person without any data is left out from now on, too.
    texts = [forget("7 --dry-run"), forget("7 --yes"), forget("nobody --yes")]
    # On Amazon Personalize, the command says which data stay there and what the next refresh costs.
    with monkeypatch.context() as context:
        context.setattr(PersonalizeResource, "on_aws", property(lambda _: True))
        texts.append(("forget 9 --dry-run, on AWS", forget("9 --dry-run")[1]))
    project.declare({**DECLARATION, "solution": {"retrain": {"every_days": 7}}})
    texts.append(("forget 9 --dry-run, trained weekly", forget("9 --dry-run")[1]))
    assert_texts("forget", texts)
