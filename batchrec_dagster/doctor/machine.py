"""This machine and the storage: Dagster's home, the embedded Personalize's, disk space, objects."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import dagster as dg
from botocore.exceptions import BotoCoreError, ClientError
from sqlalchemy.exc import ArgumentError

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor.findings import Finding, failed, make_client, ok, unknown, warning
from batchrec_dagster.local_personalize.api.client import QUOTAS_VARIABLE, Quotas
from batchrec_dagster.storage import durable
from batchrec_dagster.storage.durable import exclusive
from batchrec_dagster.storage.object_store import StorageError, split_uri
from batchrec_dagster.storage.permissions import credentials_trouble, partition
from batchrec_dagster.storage.resource import StorageResource

GB = 10**9
# FULL: too little for a run; NEARLY_FULL: a few nights of a large pipeline.
FULL, NEARLY_FULL = 1 * GB, 5 * GB


def check_machine(deployment: Deployment) -> Iterator[Finding]:
    yield from _check_dagster_home(deployment.dagster_home, deployment.home / "dagster")
    yield _check_writable("home", deployment.home, "BATCHREC_HOME")
    if deployment.embedded:
        catalog = deployment.home / "personalize" / "catalog.sqlite"
        finding = _check_embedded_home(catalog)
        yield finding
        if finding.status == "ok" and catalog.exists():
            yield from _check_embedded_quotas(catalog, Quotas.parse(deployment.quotas))
    yield from _check_free_space(deployment)


def _check_dagster_home(home: Path | None, default: Path) -> Iterator[Finding]:
    check = "dagster home"
    if home is None:
        yield warning(
            check,
            f"DAGSTER_HOME is not set: batchrec's commands use {default}, but Dagster's own forget"
            " their runs",
            f"set DAGSTER_HOME={default}, or another folder that contains a dagster.yaml",
        )
        if not (home := default).is_dir():
            return
    yield _check_writable(check, home, "DAGSTER_HOME", create=False)
    if not home.is_dir():
        return
    if not (home / "dagster.yaml").exists():
        yield warning(
            check,
            f"there is no {home / 'dagster.yaml'}: Dagster uses its defaults",
            "copy dagster.yaml there, or deploy/dagster.yaml for PostgreSQL",
        )
    try:
        with exclusive(home), _set_dagster_home(home):
            opened_instance = dg.DagsterInstance.from_config(str(home))
        with opened_instance as instance:
            runs, storage = instance.get_runs_count(), type(instance.run_storage).__name__
    except Exception as error:  # Database drivers and broken files raise anything.
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        if isinstance(error.__cause__ or error, (ValueError, ArgumentError)):
            # SQLAlchemy's message repeats a part of a URL that it cannot read.
            reason = "the URL or a port of its database cannot be read; write % codes in passwords"
        yield failed(
            "dagster storage",
            f"Dagster cannot open its storage: {reason}",
            f"check {home / 'dagster.yaml'}, and that its database is running",
        )
    else:
        yield ok("dagster storage", f"{runs} runs in {storage}")


@contextmanager
def _set_dagster_home(home: Path) -> Iterator[None]:
    """DAGSTER_HOME is this folder, as batchrec's commands have it: its dagster.yaml may say so."""
    previous_home = os.environ.get("DAGSTER_HOME")
    os.environ["DAGSTER_HOME"] = str(home)
    try:
        yield
    finally:
        if previous_home is None:
            del os.environ["DAGSTER_HOME"]
        else:
            os.environ["DAGSTER_HOME"] = previous_home


def _check_writable(check: str, folder: Path, setting: str, *, create: bool = True) -> Finding:
    fix = f"create it and let user {os.geteuid()} write there, or set {setting} to another folder"
    try:
        if create:
            durable.make_folders(folder, 0o700)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        return failed(check, f"{setting} {folder} is not writable: {error.strerror}", fix)
    if folder.stat().st_mode & 0o007:
        return warning(
            check,
            f"{setting} {folder} is writable, and open to every user of this machine",
            f"chmod 700 {folder}; to share it with its group alone: chmod 770",
        )
    return ok(check, f"{setting} {folder} is writable")


def _check_embedded_home(catalog: Path) -> Finding:
    """Check the locks by which processes share it: some network file systems have none."""
    check, home = "embedded personalize", catalog.parent
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with exclusive(home / "doctor.lock"):
            pass
        (home / "doctor.lock").unlink()
    except OSError as error:
        return failed(
            check,
            f"{home} does not support file locks: {error.strerror}",
            "set BATCHREC_HOME to a folder on a local disk",
        )
    if not catalog.exists():
        return ok(check, f"{home} supports file locks and is still empty")
    try:
        with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
            ((result,),) = connection.execute("PRAGMA quick_check(1)")
    except sqlite3.Error as error:
        result = str(error)
    if result != "ok":
        return failed(
            check,
            f"the catalogue {catalog} is damaged: {result}",
            f"move {home} away: the next run imports and trains again",
        )
    return ok(check, f"{home} supports file locks, and its catalogue is intact")


def _check_embedded_quotas(catalog: Path, quotas: Quotas) -> Iterator[Finding]:
    """What is used of the quotas: in all, or in the dataset group that has most."""
    with closing(sqlite3.connect(f"{catalog.as_uri()}?mode=ro", uri=True)) as connection:
        resource_counts = dict(
            connection.execute(
                "SELECT kind, MAX(number) FROM (SELECT kind, COUNT(*) AS number FROM resources"
                " GROUP BY kind, parent) GROUP BY kind"
            )
        )
    for what, kind, name in (
        ("dataset groups", "DatasetGroup", "dataset_groups"),
        ("schemas", "Schema", "schemas"),
        ("solutions in a dataset group", "Solution", "solutions_per_group"),
        ("filters in a dataset group", "Filter", "filters_per_group"),
    ):
        quota: int = getattr(quotas, name)
        message = f"{resource_counts.get(kind, 0)} of {quota} used"
        if resource_counts.get(kind, 0) < quota:
            yield ok(f"quota of {what}", message)
        else:
            fix = (
                "delete what you no longer need (NAME_teardown), or set"
                f" {QUOTAS_VARIABLE}={name}={2 * quota or 1}"
            )
            yield warning(f"quota of {what}", f"{message}: there is no room for a new one", fix)


def _check_free_space(deployment: Deployment) -> Iterator[Finding]:
    """One finding for each disk."""
    folders = {"BATCHREC_HOME": deployment.home, "temporary files": Path(tempfile.gettempdir())}
    if not deployment.storage.startswith("s3://"):
        folders["BATCHREC_STORAGE"] = Path(deployment.storage)
    if deployment.dagster_home:
        folders["DAGSTER_HOME"] = deployment.dagster_home
    devices = set()
    for purpose, folder in folders.items():
        existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
        device = existing.stat().st_dev
        if device in devices:
            continue
        devices.add(device)
        free = shutil.disk_usage(existing).free
        message = f"{free / GB:,.1f} GB free for {purpose} ({existing})"
        fix = "free some space, or use a folder on a larger disk"
        if free < FULL:
            yield failed("disk", message, fix)
        elif free < NEARLY_FULL:
            yield warning("disk", message, fix)
        else:
            yield ok("disk", message)


# Seconds: AWS refuses requests from a clock this far off; 30 s is more than network delay.
REFUSED, SUSPECT = 300, 30


def check_storage(deployment: Deployment) -> Iterator[Finding]:
    if deployment.storage.startswith("s3://"):
        findings = list(_check_bucket(deployment))
    else:
        findings = [_check_storage_folder(Path(deployment.storage).absolute(), deployment.home)]
    yield from findings
    if any(finding.status == "failed" for finding in findings):
        return
    storage: StorageResource = deployment.storage_resource
    yield from _check_objects(storage)


def _check_storage_folder(folder: Path, home: Path) -> Finding:
    """Whether this user can write there, and nobody else can read it: it has raw histories."""
    check = "storage folder"
    in_closed_home = folder.is_relative_to(home) and not home.stat().st_mode & 0o007
    if folder.is_dir() and in_closed_home:
        return ok(check, f"BATCHREC_STORAGE {folder} is in BATCHREC_HOME, which is closed")
    return _check_writable(check, folder, "BATCHREC_STORAGE")


def _check_objects(storage: StorageResource) -> Iterator[Finding]:
    """Write, read and delete a small object, as a pipeline does."""
    uri = storage.uri(f"doctor-{uuid.uuid4().hex}")

    def check_lease() -> None:
        if storage.store.create(uri, b"another's"):
            raise StorageError(
                f"{uri} already existed, yet the storage created it again; use a storage that"
                " supports If-None-Match: without it, two runs can do the same work at once"
            )

    steps: dict[str, Callable[[], object]] = {
        "write": lambda: storage.store.put(uri, b"x"),
        "lease": check_lease,
        "list": lambda: storage.store.list(uri),
        "read": lambda: storage.store.get(uri),
        "delete": lambda: storage.store.delete(uri),
    }
    for name, step in steps.items():
        try:
            step()
        except StorageError as error:
            message, _, fix = str(error).partition("; ")
            yield failed(f"storage {name}", message, fix or "fix what the message names")
            if name == "write":
                return
        else:
            yield ok(f"storage {name}", storage.where(uri).rpartition("/")[0])


def _check_bucket(deployment: Deployment) -> Iterator[Finding]:
    bucket, _ = split_uri(deployment.storage)
    check = "bucket"
    try:
        answer: Any = make_client(deployment, "s3").head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    except BotoCoreError as error:
        yield failed(
            check,
            f"cannot reach s3://{bucket}: {error}",
            "check the network, AWS_ENDPOINT_URL_S3, AWS_PROFILE and the credentials",
        )
        return
    metadata = answer["ResponseMetadata"]
    headers, status = metadata["HTTPHeaders"], metadata["HTTPStatusCode"]
    yield check_clock(headers.get("date"), datetime.now(UTC))
    region = headers.get("x-amz-bucket-region")
    trouble = credentials_trouble(answer.get("Error", {}).get("Code", ""), "")
    if trouble:
        yield failed(check, f"s3://{bucket} rejects these credentials", trouble)
    elif status == 404:
        yield failed(check, f"there is no bucket {bucket}", "create it, or fix BATCHREC_STORAGE")
    elif region and deployment.region and region != deployment.region:
        yield failed(
            check,
            f"{bucket} is in {region}, but AWS_REGION is {deployment.region}",
            "use a bucket in the same region: Personalize reads no other",
        )
    elif status == 403:
        yield unknown(
            check,
            f"no permission to check {bucket}",
            f"allow these credentials s3:ListBucket on"
            f" arn:{partition(deployment.region)}:s3:::{bucket}",
        )
    elif status >= 400:
        yield failed(
            check,
            f"s3://{bucket} answers HTTP {status}",
            "check the endpoint and the bucket's name",
        )
    else:
        yield ok(check, f"{bucket} exists{f', in {region}' if region else ''}")


def check_clock(date: str | None, now: datetime) -> Finding:
    """Compare this machine's clock with the Date header of a server's answer."""
    if date is None:
        return unknown("clock", "the server sent no Date header", "compare it with `ntpdate -q`")
    seconds_off = (now - parsedate_to_datetime(date)).total_seconds()
    direction = "ahead" if seconds_off > 0 else "behind"
    message = f"this machine's clock is {abs(seconds_off):.0f} s {direction}"
    fix = "set it by NTP (chrony, systemd-timesyncd)"
    if abs(seconds_off) >= REFUSED:
        return failed("clock", f"{message}: AWS refuses its requests", fix)
    if abs(seconds_off) >= SUSPECT:
        return warning("clock", message, fix)
    return ok("clock", "agrees with the server's")
