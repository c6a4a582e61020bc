"""What a Spark job tells by Dagster Pipes, and why it failed where it tells nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from dagster_aws.pipes import PipesS3MessageReader

from batchrec_dagster.object_store import StorageError, split_uri
from batchrec_dagster.resources.storage import StorageResource

# Seconds between two looks for messages in S3.
INTERVAL = 3


class Messages:
    """Beside a Pipes message reader: keeps what the job says of its outcome, which the clients give
    away only when it went well."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.outcome: dict[str, Any] = {}

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[Any]:
        handle = handler.handle_message

        def heard(message: Any) -> None:
            if message["method"] == "report_custom_message":
                self.outcome |= message["params"]["payload"]
            handle(message)

        handler.handle_message = heard
        with super().read_messages(handler) as params:  # type: ignore[misc]
            yield params

    def done(self) -> Mapping[str, Any]:
        if "done" not in self.outcome:
            raise dg.Failure("the Spark job ended without telling what came out of it")
        done: Mapping[str, Any] = self.outcome["done"]
        return done


class LocalMessages(Messages, dg.PipesTempFileMessageReader):
    """Messages through a file of this machine."""


class S3Messages(Messages, PipesS3MessageReader):
    """Messages under a prefix of the storage's, which is empty again at the end."""

    def __init__(self, storage: StorageResource, prefix: str) -> None:
        bucket, self._key = split_uri(storage.uri(prefix))
        super().__init__(interval=INTERVAL, bucket=bucket, client=storage.client("s3"))
        self._storage, self._prefix = storage, prefix

    @contextmanager
    def get_params(self) -> Iterator[Any]:
        with super().get_params() as params:
            try:
                yield {**params, "key_prefix": self._key}
            finally:
                for found in self._storage.store.list(f"{self._storage.uri(self._prefix)}/"):
                    self._storage.store.delete(found.uri)


@contextmanager
def explained(reader: Messages, why: Callable[[], str]) -> Iterator[None]:
    """Make a dg.Failure of what goes wrong: as the job told it, else with what `why` gives."""
    try:
        yield
    except dg.Failure:
        raise
    except StorageError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except (ClientError, BotoCoreError) as error:
        raise dg.Failure(f"the Spark job was not run: {error}", allow_retries=False) from error
    except Exception as error:
        told = reader.outcome.get("error")
        raise dg.Failure(told or f"the Spark job failed: {why()}", allow_retries=False) from error
