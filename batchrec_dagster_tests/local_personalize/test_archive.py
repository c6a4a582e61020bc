"""A home is exported to a file and imported from it; a bad file leaves nothing behind."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from batchrec_dagster.local_personalize.api import archive
from batchrec_dagster.local_personalize.api.archive import ArchiveError, export_home, import_home
from batchrec_dagster.local_personalize.api.command import local_personalize
from batchrec_dagster.local_personalize.jobs.worker import Worker
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.local_personalize.support import (
    Local,
    build_taste_rows,
    describe,
    encode_user_lines,
)

pytestmark = pytest.mark.slow

EMPTY = json.dumps({"format": 1, "resources": [], "tags": {}}).encode()
Row = dict[str, Any]


@pytest.fixture(scope="module")
def trained_home(tmp_path_factory: pytest.TempPathFactory) -> tuple[Local, str]:
    """A home with a version, whose ARN is the second."""
    local = Local(tmp_path_factory.mktemp("trained"))
    local.client = local.open_client(region="eu-west-1", account="123456789012")
    group, _ = local.import_rows(build_taste_rows())
    local.client.tag_resource(resourceArn=group, tags=[{"tagKey": "team", "tagValue": "a"}])
    return local, local.wait_until_active(local.create_version(local.create_solution(group)))


def test_an_imported_home_is_as_trained(trained_home: tuple[Local, str], tmp_path: Path) -> None:
    local, version = trained_home
    file = tmp_path / "trained.tar"
    home = str(local.root / "home")
    result = CliRunner().invoke(local_personalize, ["--home", home, "--export", str(file)])
    assert result.exit_code == 0, result.output
    new_home = str(tmp_path / "again")
    result = CliRunner().invoke(local_personalize, ["--home", new_home, "--import", str(file)])
    assert result.output == "Start it with --region eu-west-1 --account 123456789012\n"
    personalize = StartedPersonalize(tmp_path / "new", start_from=file)
    try:
        client = personalize.client
        (group,) = client.list_dataset_groups()["datasetGroups"]
        for arn in (version, group["datasetGroupArn"]):
            assert describe(client, arn) == local.describe(arn)
        tags = client.list_tags_for_resource(resourceArn=group["datasetGroupArn"])["tags"]
        assert tags == [{"tagKey": "team", "tagValue": "a"}]
        personalize.put("users.json", encode_user_lines(["u1"]))
        job = client.create_batch_inference_job(
            jobName="batch",
            solutionVersionArn=version,
            roleArn=personalize.role_arn,
            jobInput={"s3DataSource": {"path": personalize.uri("users.json")}},
            jobOutput={"s3DataDestination": {"path": personalize.uri("out/")}},
        )["batchInferenceJobArn"]
        while (status := describe(client, job)["status"]) not in ("ACTIVE", "CREATE FAILED"):
            time.sleep(0.01)
        assert status == "ACTIVE"
        (line,) = personalize.get("out/users.json.out").decode().splitlines()
        expected = local.recommend(version, ["u1"])["u1"]
        assert json.loads(line)["output"]["recommendedItems"] == expected
    finally:
        personalize.close()


def test_an_unfinished_home_is_not_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Worker, "wake", lambda worker: None)  # nobody does the work
    local = Local(tmp_path)
    local.client.create_dataset_group(name="films")
    with pytest.raises(ArchiveError, match=r"1 jobs in .* are not finished, such as .*films"):
        export_home(tmp_path / "home", tmp_path / "file")
    with pytest.raises(ArchiveError, match="has no catalogue"):
        export_home(tmp_path, tmp_path / "file")
    with pytest.raises(ArchiveError, match="is not empty: import into a new folder"):
        import_home(tmp_path / "file", tmp_path / "home")
    assert not (tmp_path / "file").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    local = Local(tmp_path)
    local.client.list_dataset_groups()
    command = ["--home", str(tmp_path / "home"), "--export"]
    (tmp_path / "file").touch()
    for target, reason in (
        ("nowhere/file", f"there is no folder {tmp_path}/nowhere: create it."),
        ("file/in_it", f"[Errno 20] Not a directory: '{tmp_path}/file/in_it."),
    ):
        result = CliRunner().invoke(local_personalize, [*command, str(tmp_path / target)])
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: {reason}")
    # No folder can be created in /proc, not even by root.
    for option in ((), ("--import", str(tmp_path / "file"))):
        result = CliRunner().invoke(local_personalize, ["--home", "/proc/nowhere/home", *option])
        assert result.exit_code == 1
        assert result.output.startswith(
            "Error: [Errno 2] No such file or directory: '/proc/nowhere"
        )


@dataclass
class HomeExport:
    """What an exported file has, to be changed and written again."""

    rows: list[Row]
    tags: dict[str, Any]
    files: dict[str, bytes]
    members: list[tuple[tarfile.TarInfo, bytes]] = field(default_factory=list)
    """Further members, after the files."""

    def find_row(self, kind: str) -> Row:
        return next(row for row in self.rows if row["kind"] == kind)

    def add(self, name: str, data: bytes = b"x", **headers: str) -> None:
        member = tarfile.TarInfo(name)
        member.pax_headers = headers
        self.members.append((member, data))

    def build_model_path(self, name: str) -> str:
        """The path of a file of the model, as the archive has it."""
        return f"{self.find_row('SolutionVersion')['state']['model']}/{name}"

    @property
    def data_folder(self) -> str:
        path: str = self.find_row("Dataset")["state"]["files"][0]["path"]
        return path

    def write(self, path: Path) -> Path:
        content = {"format": 1, "resources": self.rows, "tags": self.tags}
        plain = [("catalog.json", json.dumps(content).encode()), *self.files.items()]
        return _archive(path, *plain, *self.members)


@pytest.fixture(scope="module")
def exported_file(trained_home: tuple[Local, str]) -> Path:
    local, _ = trained_home
    path = local.root / "exported.tar"
    export_home(local.root / "home", path)
    return path


@pytest.fixture
def export(exported_file: Path) -> HomeExport:
    with tarfile.open(exported_file) as archive:
        members = [member for member in archive if member.isfile()]
        files = {member.name: archive.extractfile(member) for member in members}
        contents = {name: file.read() for name, file in files.items() if file}
    catalog = json.loads(contents.pop("catalog.json"))
    return HomeExport(catalog["resources"], catalog["tags"], contents)


def _archive(path: Path, *members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            entry = tarfile.TarInfo(member) if isinstance(member, str) else member
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def _require_refusal(file: Path, reason: str) -> str:
    """The message with which an import of the file is refused, which leaves nothing behind."""
    below = file.parent / "below"
    below.mkdir()
    before = sorted(path.name for path in file.parent.iterdir())
    with pytest.raises(ArchiveError, match=reason) as error:
        import_home(file, below / "home")
    assert list(below.iterdir()) == []
    assert sorted(path.name for path in file.parent.iterdir()) == before
    return str(error.value)


def _link(kind: bytes) -> tarfile.TarInfo:
    link = tarfile.TarInfo("models/m")
    link.type, link.linkname = kind, "/etc"
    return link


@pytest.mark.attack
@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([], "does not start with catalog.json"),
        ([("models/m/manifest.json", b"{}"), ("catalog.json", EMPTY)], "does not start with"),
        ([("catalog.json", b"{")], "catalog.json is not the catalogue"),
        ([("catalog.json", b"[" * 100_000)], "catalog.json is not the catalogue"),
        ([("catalog.json", b'{"format": 9, "resources": [], "tags": {}}')], "has format 9"),
        ([("catalog.json", EMPTY), ("../evil", b"x")], "'../evil' does not belong"),
        ([("catalog.json", EMPTY), ("models/../../evil", b"x")], "does not belong"),
        ([("catalog.json", EMPTY), ("/tmp/evil", b"x")], "does not belong"),
        ([("catalog.json", EMPTY), ("catalog.sqlite", b"x")], "does not belong"),
        ([("catalog.json", EMPTY), ("models/m/manifest.json", b"x")], "does not belong"),
        ([("catalog.json", EMPTY), ("datasets/d", b"x")], "does not belong"),
        ([("catalog.json", EMPTY), ("catalog.json", EMPTY)], "does not belong"),
        ([("catalog.json", EMPTY), (_link(tarfile.SYMTYPE), b"")], "'models/m' is not a plain"),
        ([("catalog.json", EMPTY), (_link(tarfile.LNKTYPE), b"")], "'models/m' is not a plain"),
        ([("catalog.json", EMPTY), (_link(tarfile.FIFOTYPE), b"")], "'models/m' is not a plain"),
    ],
)
def test_a_bad_file_leaves_nothing(
    tmp_path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], reason: str
) -> None:
    _require_refusal(_archive(tmp_path / "file.tar", *members), reason)


# --- what would run by itself ---


@pytest.mark.attack
@pytest.mark.parametrize(
    ("kind", "change", "status"),
    [
        ("SolutionVersion", {"status": "CREATE PENDING", "unfinished": True}, "CREATE PENDING"),
        ("SolutionVersion", {"status": "CREATE PENDING"}, "CREATE PENDING"),
        ("SolutionVersion", {"status": "CREATE STOPPING"}, "CREATE STOPPING"),
        ("Solution", {"unfinished": True}, "ACTIVE, with an update that is not finished"),
        ("Dataset", {"status": "DELETE IN_PROGRESS"}, "DELETE IN_PROGRESS"),
        ("DatasetGroup", {"owner": "../../somebody"}, "ACTIVE, with an update"),
        ("DatasetImportJob", {"status": "SOMETHING"}, "SOMETHING"),
        ("Dataset", {"status": None}, "without a status"),
        ("Schema", {"status": "CREATE PENDING"}, "CREATE PENDING"),
    ],
)
def test_an_unfinished_resource_is_refused_by_name(
    export: HomeExport, tmp_path: Path, kind: str, change: Row, status: str
) -> None:
    row = export.find_row(kind)
    row.update(change)
    message = _require_refusal(export.write(tmp_path / "file.tar"), f"{row['arn']} is {status}")
    assert "only finished resources are imported, so that no job starts by itself" in message
    assert "Export the home again when its jobs have ended" in message


@pytest.mark.attack
def test_an_imported_batch_job_does_not_run(export: HomeExport, tmp_path: Path) -> None:
    version = export.find_row("SolutionVersion")
    body = {
        "jobName": "thief",
        "solutionVersionArn": version["arn"],
        "jobInput": {"s3DataSource": {"path": "s3://test-bucket/secret.json"}},
        "jobOutput": {"s3DataDestination": {"path": "s3://test-bucket/public/"}},
        "roleArn": "arn:aws:iam::000000000000:role/any",
        "numResults": 25,
    }
    arn = version["arn"].rpartition(":")[0] + ":batch-inference-job/thief"
    job = {"kind": "BatchInferenceJob", "arn": arn, "parent": version["arn"], "body": body}
    pending = {"status": "CREATE PENDING", "unfinished": True, "state": {}}
    export.rows.append(version | job | pending)
    file = export.write(tmp_path / "file.tar")
    (tmp_path / "new").mkdir()
    with pytest.raises(ArchiveError, match="batch-inference-job/thief is CREATE PENDING"):
        StartedPersonalize(tmp_path / "new", start_from=file)
    assert list((tmp_path / "new").iterdir()) == []
    export.rows[-1] |= {"status": "ACTIVE", "unfinished": False}
    personalize = StartedPersonalize(
        tmp_path / "new", start_from=export.write(tmp_path / "finished.tar")
    )
    try:
        personalize.put("secret.json", encode_user_lines(["u1"]))
        assert describe(personalize.client, arn)["status"] == "ACTIVE"
        assert personalize.keys("public/") == []
    finally:
        personalize.close()


def test_failed_and_stopped_resources_are_imported(export: HomeExport, tmp_path: Path) -> None:
    export.find_row("SolutionVersion")["status"] = "CREATE STOPPED"
    export.find_row("DatasetImportJob")["status"] = "CREATE FAILED"
    assert import_home(export.write(tmp_path / "file.tar"), tmp_path / "home")


@pytest.mark.attack
def test_automatic_training_is_off_in_an_imported_home(
    export: HomeExport, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    solution, version = export.find_row("Solution"), export.find_row("SolutionVersion")
    solution["body"]["performAutoTraining"] = True
    solution["state"] = {"next_training": 0.0, "first_training": time.time()}
    version["created"] = 0.0
    with caplog.at_level(logging.WARNING):
        personalize = StartedPersonalize(
            tmp_path / "new", start_from=export.write(tmp_path / "file.tar")
        )
    assert f"for 1 solutions such as {solution['arn']}: turn it on" in caplog.text
    try:
        assert not describe(personalize.client, solution["arn"])["performAutoTraining"]
        versions = personalize.client.list_solution_versions(solutionArn=solution["arn"])
        assert [entry["solutionVersionArn"] for entry in versions["solutionVersions"]] == [
            version["arn"]
        ]
        personalize.client.update_solution(solutionArn=solution["arn"], performAutoTraining=True)
    finally:
        personalize.close()


# --- rows that this service does not write ---


def _set(kind: str, *path: str | int, value: Any) -> Callable[[HomeExport], None]:
    def change(export: HomeExport) -> None:
        place: Any = export.find_row(kind)
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return change


@pytest.mark.attack
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("Dataset", "kind", value="Campaign"), "is not the catalogue"),
        (_set("Dataset", "more", value=1), "is not the catalogue"),
        (_set("Dataset", "arn", value=3), "expected string"),
        (_set("Dataset", "arn", value="arn:aws:personalize:../..:1:dataset/a"), "its ARN is not"),
        (_set("Dataset", "arn", value="arn:aws:personalize:r:1:dataset/../a"), "its ARN is not"),
        (_set("Dataset", "arn", value="arn:aws:personalize:r:1:schema/a"), "not one of a Dataset"),
        (_set("Dataset", "region", value="us-east-1"), "of another region"),
        (_set("Dataset", "parent", value="\x1b[2J"), "has no ARN"),
        (_set("Dataset", "unfinished", value=0), "wrong type"),
        (_set("Dataset", "created", value=float("inf")), "times"),
        (_set("Dataset", "created", value=float("nan")), "times"),
        (_set("Dataset", "updated", value="1"), "times"),
        (_set("Dataset", "body", value=[]), "wrong type"),
        (_set("Dataset", "body", "name", value="\x1b]0;title"), "at 'name' failed"),
        (_set("Dataset", "state", value=[]), "is not valid"),
        (_set("Dataset", "state", value={}), "lacks 'files'"),
        (_set("Dataset", "state", "files", 0, "path", value="../../evil"), "is not the path"),
        (_set("Dataset", "state", "files", 0, "path", value="datasets/.."), "is not the path"),
        (_set("Dataset", "state", "files", 0, "path", value="models/m"), "is not the path"),
        (_set("Dataset", "state", "files", 0, "path", value="datasets/m"), "does not belong"),
        (_set("SolutionVersion", "state", "model", value="models/../../m"), "is not the path"),
        (_set("SolutionVersion", "state", "model", value=None), "expected string"),
        (_set("SolutionVersion", "state", "previous", value="/etc"), "is not the path"),
        (_set("SolutionVersion", "state", "metrics", value={"ndcg": "1"}), "not numbers"),
        (_set("SolutionVersion", "body", "recipeArn", value="arn:x"), "has no recipe"),
        (_set("SolutionVersion", "body", "name", value="\ud800"), "at 'name' failed"),
        (
            _set("DatasetImportJob", "body", "dataSource", "dataLocation", value="/etc/passwd"),
            "at 'dataSource.dataLocation' failed",
        ),
        (
            _set("DatasetImportJob", "body", "dataSource", "dataLocation", value="s3://b/../x"),
            "not allowed in a storage URI",
        ),
        (lambda export: export.rows.append(export.rows[0]), "is there twice"),
        (lambda export: export.tags.update({"arn": []}), "its tags are not valid"),
        (lambda export: export.tags.update({export.rows[0]["arn"]: {"a": 1}}), "its tags"),
    ],
)
def test_a_row_that_no_home_has_is_refused(
    export: HomeExport, tmp_path: Path, change: Callable[[HomeExport], None], reason: str
) -> None:
    change(export)
    assert _require_refusal(export.write(tmp_path / "file.tar"), reason).isprintable()


# --- files that nobody owns, and sizes ---


@pytest.mark.attack
@pytest.mark.parametrize(
    "name",
    [
        "{model}/evil.so",
        "{model}/evil.npy/evil.npy",
        "{model}/held-out/more/a.npy",
        "{model}/.npy",
        "{data}/other.parquet",
        "{data}/interactions/rows.parquet",
        "models/nobody/manifest.json",
        "batches/job/0",
        "owners/1-2.owner",
    ],
)
def test_a_file_that_no_resource_owns_is_refused(
    export: HomeExport, tmp_path: Path, name: str
) -> None:
    model = export.build_model_path("")[:-1]
    export.add(name.format(model=model, data=export.data_folder))
    _require_refusal(export.write(tmp_path / "file.tar"), "does not belong to any resource")


@pytest.mark.parametrize(
    "missing_path", ["{model}/manifest.json", "{data}/rows.parquet", "{model}/", "{data}/"]
)
def test_a_file_that_a_resource_needs_is_missed(
    export: HomeExport, tmp_path: Path, missing_path: str
) -> None:
    model = export.build_model_path("")[:-1]
    missing_path = missing_path.format(model=model, data=export.data_folder)
    export.files = {
        name: data for name, data in export.files.items() if not name.startswith(missing_path)
    }
    _require_refusal(export.write(tmp_path / "file.tar"), "it lacks .* which arn:aws:personalize:")


@pytest.mark.attack
def test_files_in_great_numbers_are_refused(
    export: HomeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 50)
    for number in range(51):
        export.add(export.build_model_path(f"{number}.npy"), b"")
    _require_refusal(export.write(tmp_path / "file.tar"), "has more than 50 files")


@pytest.mark.attack
def test_a_file_that_comes_twice_is_refused(export: HomeExport, tmp_path: Path) -> None:
    export.add(export.build_model_path("manifest.json"))
    _require_refusal(export.write(tmp_path / "file.tar"), "manifest.json' is there twice")


def _build_sparse_member(name: str, size: int) -> bytes:
    """A member in GNU's old format: a file of this size without any data."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[386:410] = b"%011o\0%011o\0" % (size, 0)
    block[483:495] = b"%011o\0" % size
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


SPARSE = 50_000_000


@pytest.mark.attack
@pytest.mark.parametrize(
    "headers",
    [
        {"GNU.sparse.map": f"0,1,{SPARSE},0", "GNU.sparse.size": f"{SPARSE}"},
        {
            "GNU.sparse.size": f"{SPARSE}",
            "GNU.sparse.numblocks": "1",
            "GNU.sparse.offset": f"{SPARSE}",
            "GNU.sparse.numbytes": "0",
        },
        {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": f"{SPARSE}"},
        None,
    ],
    ids=["0.1", "0.0", "1.0", "old"],
)
def test_a_sparse_member_is_refused(
    export: HomeExport, tmp_path: Path, headers: dict[str, str] | None
) -> None:
    name = export.build_model_path("zeros.npy")
    export.files = dict(list(export.files.items())[:1])
    if headers is None:
        plain = export.write(tmp_path / "plain.tar")
        file = tmp_path / "file.tar"
        with tarfile.open(plain) as archive:
            archive.getmembers()
            end = archive.offset
        short = f"models/{name.split('/')[1]}"
        export.find_row("SolutionVersion")["state"]["model"] = short
        file.write_bytes(
            plain.read_bytes()[:end] + _build_sparse_member("models/zeros", SPARSE) + bytes(1024)
        )
        plain.unlink()
    else:
        data = b"1\n%d\n0\n" % SPARSE
        export.add(name, data.ljust(512, b"\0"), **headers)
        file = export.write(tmp_path / "file.tar")
    _require_refusal(file, "is not a plain file")
    assert file.stat().st_size < SPARSE / 100


@pytest.mark.attack
def test_a_large_header_is_not_read(export: HomeExport, tmp_path: Path) -> None:
    export.add(export.build_model_path("a.npy"), comment="1" * 1_000_000)
    _require_refusal(export.write(tmp_path / "file.tar"), "header that is too large")


@pytest.mark.attack
def test_bytes_are_counted_whatever_the_headers_say(
    export: HomeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = export.write(tmp_path / "file.tar")
    monkeypatch.setattr(tarfile.TarFile, "extractfile", lambda *_: io.BytesIO(bytes(10**7)))
    monkeypatch.setattr(archive, "_read_catalog", lambda *_: _encode_catalog(export))
    _require_refusal(file, "its files are larger than itself")


def _encode_catalog(export: HomeExport) -> bytes:
    content = {"format": 1, "resources": export.rows, "tags": export.tags}
    return json.dumps(content).encode()


@pytest.mark.attack
def test_rows_that_unfold_are_refused(
    export: HomeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = io.BytesIO()
    pq.write_table(pa.table({"ITEM_ID": np.zeros(5_000_000, np.int8)}), rows)
    export.files[f"{export.data_folder}/rows.parquet"] = rows.getvalue()
    assert len(rows.getvalue()) < 100_000
    file = export.write(tmp_path / "file.tar")
    message = _require_refusal(file, "would unfold to 5000000 rows")
    assert "BATCHREC_MAX_FILE_GB" in message
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "many")
    with pytest.raises(ArchiveError, match="'many': set a number above 0"):
        import_home(file, tmp_path / "home")
    monkeypatch.setenv("BATCHREC_MAX_FILE_GB", "1")
    assert import_home(file, tmp_path / "home")


@pytest.mark.attack
def test_rows_that_are_no_parquet_are_refused(export: HomeExport, tmp_path: Path) -> None:
    export.files[f"{export.data_folder}/rows.parquet"] = b"PAR1" * 100
    _require_refusal(export.write(tmp_path / "file.tar"), "rows.parquet' is not Parquet")


@pytest.mark.attack
def test_a_large_catalogue_is_neither_imported_nor_exported(
    trained_home: tuple[Local, str],
    export: HomeExport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archive, "MAX_CATALOG_BYTES", 1000)
    _require_refusal(export.write(tmp_path / "file.tar"), "catalog.json has more than 1000 bytes")
    with pytest.raises(ArchiveError, match="1000 at most can be imported"):
        export_home(trained_home[0].root / "home", tmp_path / "again.tar")


# --- what a model contains ---


@pytest.mark.attack
def test_indices_out_of_range_fail_the_job_and_not_the_process(
    export: HomeExport, tmp_path: Path
) -> None:
    manifest = json.loads(export.files[export.build_model_path("manifest.json")])
    name = next(name for name in manifest["files"] if name.endswith(".indices.npy"))
    wild = io.BytesIO()
    indices = np.load(io.BytesIO(export.files[export.build_model_path(name)]))
    np.save(wild, np.full_like(indices, 2**31 - 1))
    data = wild.getvalue()
    manifest["files"][name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    export.files[export.build_model_path(name)] = data
    export.files[export.build_model_path("manifest.json")] = json.dumps(manifest).encode()
    personalize = StartedPersonalize(
        tmp_path / "new", start_from=export.write(tmp_path / "file.tar")
    )
    try:
        personalize.put("users.json", encode_user_lines(["u1"]))
        job = personalize.client.create_batch_inference_job(
            jobName="wild",
            solutionVersionArn=export.find_row("SolutionVersion")["arn"],
            roleArn=personalize.role_arn,
            jobInput={"s3DataSource": {"path": personalize.uri("users.json")}},
            jobOutput={"s3DataDestination": {"path": personalize.uri("out/")}},
        )["batchInferenceJobArn"]
        while (description := describe(personalize.client, job))["status"] not in (
            "ACTIVE",
            "CREATE FAILED",
        ):
            time.sleep(0.01)
        assert description["status"] == "CREATE FAILED"
        assert f"damaged: {name} has the index 2147483647" in description["failureReason"]
    finally:
        personalize.close()


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no archive" * 1000)
    result = CliRunner().invoke(
        local_personalize,
        ["--home", str(tmp_path / "home"), "--import", str(tmp_path / "file")],
    )
    assert result.exit_code == 1
    assert "cannot be imported" in result.output
    assert not (tmp_path / "home").exists()
