"""A home is exported to a file and imported from it; a bad file leaves nothing behind."""

from __future__ import annotations

import io
import json
import tarfile
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from batchrec_dagster.local_personalize.api.archive import ArchiveError, export_home, import_home
from batchrec_dagster.local_personalize.api.command import local_personalize
from batchrec_dagster.local_personalize.jobs.worker import Worker
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.local_personalize.support import Local, describe, taste_rows, user_lines

pytestmark = pytest.mark.slow

GOOD = {"format": 1, "resources": [], "tags": {}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Local, str]:
    """A home with a version, whose ARN is the second."""
    local = Local(tmp_path_factory.mktemp("trained"))
    local.client = local.another_client(region="eu-west-1", account="123456789012")
    group, _ = local.imported(taste_rows())
    local.client.tag_resource(resourceArn=group, tags=[{"tagKey": "team", "tagValue": "a"}])
    return local, local.active(local.version(local.solution(group)))


def test_an_imported_home_is_as_trained(trained: tuple[Local, str], tmp_path: Path) -> None:
    local, version = trained
    file, home = tmp_path / "trained.tar", str(local.root / "home")
    done = CliRunner().invoke(local_personalize, ["--home", home, "--export", str(file)])
    assert done.exit_code == 0, done.output
    again = str(tmp_path / "again")
    done = CliRunner().invoke(local_personalize, ["--home", again, "--import", str(file)])
    assert done.output == "Start it with --region eu-west-1 --account 123456789012\n"
    started = StartedPersonalize(tmp_path / "new", start_from=file)
    try:
        client = started.client
        (group,) = client.list_dataset_groups()["datasetGroups"]
        for arn in (version, group["datasetGroupArn"]):
            assert describe(client, arn) == local.describe(arn)
        tags = client.list_tags_for_resource(resourceArn=group["datasetGroupArn"])["tags"]
        assert tags == [{"tagKey": "team", "tagValue": "a"}]
        started.put("users.json", user_lines(["u1"]))
        job = client.create_batch_inference_job(
            jobName="batch",
            solutionVersionArn=version,
            roleArn=started.role_arn,
            jobInput={"s3DataSource": {"path": started.uri("users.json")}},
            jobOutput={"s3DataDestination": {"path": started.uri("out/")}},
        )["batchInferenceJobArn"]
        while (status := describe(client, job)["status"]) not in ("ACTIVE", "CREATE FAILED"):
            time.sleep(0.01)
        assert status == "ACTIVE"
        (line,) = started.get("out/users.json.out").decode().splitlines()
        expected = local.recommended(version, ["u1"])["u1"]
        assert json.loads(line)["output"]["recommendedItems"] == expected
    finally:
        started.close()


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
    for target, said in (
        ("nowhere/file", f"there is no folder {tmp_path}/nowhere: create it."),
        ("file/in_it", f"[Errno 20] Not a directory: '{tmp_path}/file/in_it."),
    ):
        done = CliRunner().invoke(local_personalize, [*command, str(tmp_path / target)])
        assert done.exit_code == 1
        assert done.output.startswith(f"Error: {said}")
    # /proc takes no folder, not even from root.
    for option in ((), ("--import", str(tmp_path / "file"))):
        done = CliRunner().invoke(local_personalize, ["--home", "/proc/nowhere/home", *option])
        assert done.exit_code == 1
        assert done.output.startswith("Error: [Errno 2] No such file or directory: '/proc/nowhere")


def _archive(path: Path, *members: tuple[str | tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for member, data in members:
            entry = tarfile.TarInfo(member) if isinstance(member, str) else member
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def _link(kind: bytes) -> tarfile.TarInfo:
    link = tarfile.TarInfo("models/m")
    link.type, link.linkname = kind, "/etc"
    return link


def _naming(path: str, kind: str = "SolutionVersion") -> bytes:
    row = {
        **dict.fromkeys(("parent", "status", "owner")),
        **{"arn": "arn:aws:personalize:r:1:solution/s/v", "region": "r", "kind": kind},
        **{"body": {}, "state": {"model": path}, "unfinished": False},
        **{"created": 1.0, "updated": 1.0, "seq": 1},
    }
    return json.dumps(GOOD | {"resources": [row]}).encode()


CATALOG = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([], "has no catalog.json"),
        ([("catalog.json", b"{")], "catalog.json is not the catalogue"),
        ([("catalog.json", b'{"format": 9, "resources": []}')], "has format 9"),
        ([("catalog.json", _naming("models/m", "Campaign"))], "is not the catalogue"),
        ([("catalog.json", CATALOG), ("../evil", b"x")], "'../evil' does not belong"),
        ([("catalog.json", CATALOG), ("models/../../evil", b"x")], "does not belong"),
        ([("catalog.json", CATALOG), ("/tmp/evil", b"x")], "does not belong"),
        ([("catalog.json", CATALOG), ("catalog.sqlite", b"x")], "does not belong"),
        ([(_link(tarfile.SYMTYPE), b"")], "'models/m' is not a plain file"),
        ([(_link(tarfile.LNKTYPE), b"")], "'models/m' is not a plain file"),
        ([("catalog.json", _naming("../../evil"))], r"lacks '\.\./\.\./evil'"),
        ([("catalog.json", _naming("models/.."))], r"lacks 'models/\.\.'"),
        ([("catalog.json", _naming("models/m"))], "lacks 'models/m'"),
    ],
)
def test_a_bad_file_leaves_nothing(
    tmp_path: Path, members: list[tuple[str | tarfile.TarInfo, bytes]], reason: str
) -> None:
    file = _archive(tmp_path / "file.tar", *members)
    (tmp_path / "below").mkdir()
    with pytest.raises(ArchiveError, match=reason):
        import_home(file, tmp_path / "below/home")
    assert list((tmp_path / "below").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["below", "file.tar"]


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no archive" * 1000)
    refused = CliRunner().invoke(
        local_personalize,
        ["--home", str(tmp_path / "home"), "--import", str(tmp_path / "file")],
    )
    assert refused.exit_code == 1
    assert "cannot be imported" in refused.output
    assert not (tmp_path / "home").exists()
