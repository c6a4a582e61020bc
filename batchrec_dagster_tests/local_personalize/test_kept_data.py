"""The files of an import, and jobs on lost, damaged or old ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from batchrec_dagster_tests.local_personalize.support import Local, csv_bytes, taste_rows

pytestmark = pytest.mark.slow

POPULARITY = "aws-popularity-count"


@pytest.fixture
def imports(local: Local) -> Path:
    """The folder that imports are kept in."""
    return local.root / "home" / "datasets"


def test_interactions_are_stored_as_arrays(local: Local, imports: Path) -> None:
    local.imported(taste_rows())
    [folder] = imports.iterdir()
    assert {path.name for path in folder.iterdir()} == {"rows.parquet", "interactions"}
    assert {path.stem for path in (folder / "interactions").glob("*.npy")} == {
        "users",
        "items",
        "timestamps",
        *(f"{whose}_id_{what}" for whose in ("user", "item") for what in ("bytes", "ends")),
    }


@pytest.mark.parametrize("name", ["users.npy", "item_id_bytes.npy", "manifest.json"])
@pytest.mark.parametrize("lost", [True, False], ids=["lost", "damaged"])
def test_lost_or_damaged_arrays_fail_the_job(
    local: Local, imports: Path, name: str, lost: bool
) -> None:
    group, dataset = local.imported(taste_rows())
    [folder] = imports.iterdir()
    path = folder / "interactions" / name
    if lost:
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-3])
    failed = local.wait(local.version(local.solution(group, POPULARITY)))
    assert failed["status"] == "CREATE FAILED"
    reason = failed["failureReason"]
    assert reason.startswith(f"Create failed. The data of {dataset} cannot be read: ")
    assert name in reason
    assert reason.endswith("Import it again (force_import).")
    local.active(local.import_job(dataset, "s3://data/interactions.csv", "again"))
    version = local.version(local.solution(group, POPULARITY, name="again"))
    assert local.recommended(local.active(version), ["u1"])["u1"]
    assert folder not in imports.iterdir()


def test_lost_data_fail_a_batch_job(local: Local, imports: Path) -> None:
    group, dataset = local.imported(taste_rows())
    version = local.active(local.version(local.solution(group, POPULARITY)))
    [folder] = imports.iterdir()
    shutil.rmtree(folder)
    local.store.put("s3://data/users.json", b'{"userId":"u1"}\n')
    failed = local.wait(local.batch_job(version))
    assert failed["failureReason"].startswith(
        f"Create failed. The data of {dataset} cannot be read: "
    )


def test_increments_and_imports_of_an_earlier_version_are_read(local: Local, imports: Path) -> None:
    group, dataset = local.imported(taste_rows())
    [folder] = imports.iterdir()
    rows = (folder / "rows.parquet").read_bytes()
    shutil.rmtree(folder)
    folder.write_bytes(rows)  # which kept the rows alone
    new = [(f"u{n % 60}", "a-new-one", 1_700_000_000 + n) for n in range(1000)]
    local.store.put("s3://data/new.csv", csv_bytes(new))
    local.active(local.import_job(dataset, "s3://data/new.csv", "add", importMode="INCREMENTAL"))
    version = local.active(local.version(local.solution(group, POPULARITY)))
    items = local.recommended(version, ["u1"], numResults=500)["u1"]
    assert items[0] == "a-new-one"
    assert set(items[1:]) == {item for _, item, _ in taste_rows()}
