"""Uploads the code that Spark runs on AWS, under the hash of its content."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import dagster_pipes

from batchrec_dagster.preparation import spark
from batchrec_dagster.storage.resource import StorageResource

SCRIPT = Path(spark.__file__).with_name("job.py")
ROOT = SCRIPT.parents[2]
# Those that the Spark package imports of this project.
MODULES = (
    "__init__.py",
    "personalize/__init__.py",
    "personalize/schemas.py",
    "preparation/__init__.py",
    "preparation/layout.py",
    "preparation/rules.py",
    "preparation/sources/__init__.py",
    "preparation/sources/formats.py",
    "preparation/sources/limits.py",
)


class SparkCode(NamedTuple):
    """URIs of the script, and of the zip with the modules that it imports."""

    script: str
    modules: str


def upload_code(storage: StorageResource) -> SparkCode:
    """Upload the code unless it is there. Raises StorageError."""
    script, modules = SCRIPT.read_bytes(), zipped()
    version = hashlib.sha256(script + modules).hexdigest()[:16]
    code = SparkCode(
        storage.uri(f"code/spark-{version}/preparation.py"),
        storage.uri(f"code/spark-{version}/modules.zip"),
    )
    for uri, content in zip(code, (script, modules), strict=True):
        if storage.store.head(uri) is None:
            storage.store.put(uri, content)
    return code


def zipped() -> bytes:
    """The modules as a zip; the same bytes for the same modules."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in sorted(_modules()):
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), zipfile.ZIP_DEFLATED)
    return packed.getvalue()


def _modules() -> Iterator[tuple[str, Path]]:
    package = SCRIPT.parent
    for path in [*(ROOT / module for module in MODULES), *package.glob("*.py")]:
        yield f"batchrec_dagster/{path.relative_to(ROOT).as_posix()}", path
    for path in Path(dagster_pipes.__file__).parent.glob("*.py"):
        yield f"dagster_pipes/{path.name}", path
