"""`batchrec verify-aws`: asks Amazon Personalize what only an AWS account can tell.

The file of answers is the only state, and is written after each answer. It has the name of all
resources in Personalize and files in the storage, so that a later call can continue or delete them.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version as version_of
from logging import Logger
from pathlib import Path
from typing import Any

from botocore.exceptions import ClientError

from batchrec_dagster.config import fingerprint
from batchrec_dagster.deployment.resources import PersonalizeResource
from batchrec_dagster.doctor import aws_questions as questions
from batchrec_dagster.doctor.aws_trial import Trial
from batchrec_dagster.personalize import ensure as api
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.teardown import delete, plan_teardown
from batchrec_dagster.reporting.markdown import escape, format_code_block
from batchrec_dagster.steps.training import now
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.object_store import split_uri


class VerifyError(Exception):
    """The file of answers cannot be used, or the cost exceeds the budget. The message says why."""


@dataclass(frozen=True)
class Verification:
    """The answers so far, and the deployment that is asked."""

    file: Path
    """The file of answers."""
    personalize: PersonalizeResource
    ensure: api.Ensure
    state: dict[str, Any]
    """The content of the file."""
    glue_job: str | None = None
    """The name of a Glue job whose last runs to report."""

    @classmethod
    def open(
        cls, file: Path, personalize: PersonalizeResource, log: Logger, glue_job: str | None = None
    ) -> Verification:
        """The verification in the file, or a new one if there is no file.

        Raises VerifyError if the file is damaged or of another deployment.
        """
        storage, prices = personalize.storage.uri(""), personalize.read_prices()
        state: dict[str, Any] = {
            "deployment": fingerprint(personalize.endpoint, storage, personalize.role_arn),
            "pipeline": f"verify-aws-{secrets.token_hex(4)}",
            "batchrec": version_of("batchrec-dagster"),
            "personalize": "Amazon" if personalize.on_aws else "local",
            "region": personalize.client.meta.region_name,
            "started": f"{now():%FT%TZ}",
            "estimate": prices.summarize(questions.estimate_costs(prices)),
            "stage": questions.ASKING,
            "answers": {},
        }
        if file.exists():
            try:
                stored_state = json.loads(file.read_text(encoding="utf-8"))
                is_same_deployment = stored_state["deployment"] == state["deployment"]
            except (ValueError, LookupError, TypeError) as error:
                raise VerifyError(f"{file} is damaged ({error}): move it away") from error
            if not is_same_deployment:
                raise VerifyError(
                    f"{file} has another deployment's answers: go back to its settings"
                    " (BATCHREC_STORAGE, BATCHREC_PERSONALIZE, BATCHREC_ROLE_ARN), or set --output"
                )
            state = stored_state
        ensure = personalize.ensure(log, {api.PIPELINE_TAG: state["pipeline"]})
        return cls(file, personalize, ensure, state, glue_job)

    def run(self) -> None:
        """Ask the questions that have no answer yet, and delete everything.

        Raises PersonalizeError, StorageError or botocore's errors if Personalize cannot be asked.
        A later call continues.
        """
        self._save()
        if self.state["stage"] == questions.ASKING:
            self._ask()
            self._delete_resources()
            self._save(stage=questions.NAMES)
        if self.state["stage"] == questions.NAMES:
            self._ask()
            self.delete()
        self._ask()

    def delete(self) -> None:
        """Delete everything. Later calls ask for nothing but the bill."""
        self._delete_resources()
        self._save(stage=questions.DELETED, ended=f"{now():%FT%TZ}")

    @property
    def trial(self) -> Trial:
        """The resources of which the questions are asked."""
        start = self.state["started"]
        end = self.state.get("ended", f"{now():%FT%TZ}")
        days = (date.fromisoformat(start[:10]), date.fromisoformat(end[:10]))
        return Trial(self.state["pipeline"], self.personalize, self.ensure, days, self.glue_job)

    def _delete_resources(self) -> None:
        delete(self.ensure, plan_teardown(self.ensure, self.state["pipeline"]))
        store = self.personalize.storage.store
        for file in store.list(self.personalize.storage.uri(f"{self.state['pipeline']}/")):
            store.delete(file.uri)

    def _save(self, **changes: object) -> None:
        self.state.update(changes)
        durable.write(self.file, [(json.dumps(self.state, indent=2) + "\n").encode()])
        durable.write(self.file.with_suffix(".md"), [format_summary(self.state).encode()])

    def _ask(self) -> None:
        """Ask the questions of this stage that have no answer yet, and save each answer."""
        answers = self.state["answers"]
        for question in questions.QUESTIONS:
            previous_answer = answers.get(question.name, {"status": "pending"})
            if question.stage != self.state["stage"] or previous_answer["status"] != "pending":
                continue
            self.ensure.log.info(f"asking: {question.text}")
            answer = self._anonymize(self._find_answer(question))
            context = {"question": question.text, "at": f"{now():%FT%TZ}"}
            answers[question.name] = {**context, **answer}
            self._save()

    def _find_answer(self, question: questions.Question) -> dict[str, Any]:
        """The question's status, and its answer or the reason why it has none."""
        try:
            return {"status": "answered", "answer": question.ask(self.trial)}
        except questions.UnansweredError as error:
            return {"status": error.status, "reason": str(error)}
        except (PersonalizeError, ClientError) as error:
            return {"status": "refused", "reason": questions.explain_refusal(error)}
        except (ValueError, LookupError, TypeError) as error:
            # An answer in an unexpected form is an answer too, and the other questions are still to
            # be asked.
            return {"status": "unexpected", "reason": repr(error)}

    def _anonymize(self, answer: Mapping[str, Any]) -> dict[str, Any]:
        """The answer without the account's number and the bucket's name.

        Users send the file to others.
        """
        bucket, _ = split_uri(self.personalize.storage.uri(""))
        account = self.ensure.role_arn.split(":")[4]
        text = json.dumps(answer, default=str)
        text = text.replace(account, "ACCOUNT")
        text = text.replace(f"s3://{bucket}", "s3://BUCKET")
        text = text.replace(f":::{bucket}", ":::BUCKET")
        anonymous: dict[str, Any] = json.loads(text)
        return anonymous


def format_summary(state: Mapping[str, Any]) -> str:
    """The answers as Markdown."""
    lines = [
        f"# Answers of Personalize ({state['personalize']}, {state['region']})",
        f"batchrec {state['batchrec']}, started {state['started']}; {state['estimate']}.",
    ]
    for name, record in state["answers"].items():
        lines.append(f"## {escape(record['question'])}")
        lines.append(f"`{name}`: {record['status']}, {record['at']}")
        answer = record.get("answer")
        lines.append(
            format_code_block(json.dumps(answer, indent=2)) if answer else escape(record["reason"])
        )
    return "\n\n".join(lines) + "\n"
