"""Errors in declarations, and publications, alerts and file records without a whole run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import patch

import dagster as dg
import pyarrow as pa

from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.editions.nights import Night
from batchrec_dagster.pipeline.automation import list_alerts
from batchrec_dagster.pipeline.declaration_errors import DeclarationError
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.layout import ListKeys, PipelineKeys
from batchrec_dagster_tests.guard.builders import Project, definitions
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition


@dataclass(frozen=True)
class Refusal:
    """An error in a declaration, as the user sees it when the project loads."""

    file: Path
    line: int
    """The line in the file, from 1 on; 0 for a pipeline that Python code makes."""
    setting: str
    """The path of the setting, such as `gate.max_drop`; empty if the file is not YAML."""
    message: str


def find_refusals(project: Project) -> list[Refusal]:
    """Load the project, and return the errors in its declarations; none if all pipelines load."""
    try:
        with definitions(project):
            return []
    except DeclarationError as error:
        lines = str(error).splitlines()
    matches = [_REFUSAL.fullmatch(line) for line in lines]
    return [
        Refusal(Path(match["file"]), int(match["line"] or 0), match["setting"] or "", match["text"])
        for match in matches
        if match is not None
    ]


_REFUSAL = re.compile(
    r"(?P<file>[^:]+?)(?:, line (?P<line>\d+))?: (?:(?P<setting>[\w.]+): )?(?P<text>.+)"
)


def publish_lists(project: Project, address: str, time: datetime) -> None:
    """Publish the next edition of a list, without a run.

    address: the list's address, such as `shop/home`.
    time: the time of the publication.
    """
    storage = Storage(root=str(project.storage), s3=S3Connection())
    files = ListFiles(storage, ListKeys(address))
    number = files.editions.next_number()
    facts = {"number": number, "version": f"v{number}", "made_at": time.isoformat()}
    with temporary_folder() as folder, ListWriter(folder / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["1"], "rank": [1], "item_id": [f"i{number}"]}))
        writer.finish(make_edition(facts))
        files.editions.publish(folder / "lists.parquet", 7, ALONE)


def record_unchanged_night(project: Project, address: str, time: datetime) -> None:
    """Record a night that found nothing new to publish, without a run.

    address: the list's address, such as `shop/home`.
    time: the time at which the night's run ended.
    """
    files = ListFiles(Storage(root=str(project.storage), s3=S3Connection()), ListKeys(address))
    night = Night(run=f"run at {time}", ended="unchanged", time=time, steps=("recommendations",))
    files.editions.add_night(night)


@contextmanager
def look_at(time: datetime) -> Iterator[None]:
    """Set the clock of the sensor that alerts about lists to this time, during the block."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return time.astimezone(tz or UTC)

    with patch.object(list_alerts, "datetime", Clock):
        yield


def list_files_taken_in(defs: dg.Definitions, name: str) -> list[str]:
    """Return the names of the ratings files that the pipeline's last run took in."""
    storage = (defs.resources or {})["batchrec_storage"].opened
    uri = storage.uri(PipelineKeys(name).record("raw_ratings"))
    record = json.loads(storage.store.get(uri))
    return [file["source"].rpartition("/")[2] for file in record["files"]]
