"""Tests of the image and the services that deploy a project of `batchrec init`."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from batchrec_dagster.cli import main

pytestmark = pytest.mark.slow

OURS = ("code_location", "webserver", "daemon")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a new project with the module `deployed`."""
    folder = tmp_path_factory.mktemp("made") / "deployed"
    result = CliRunner().invoke(main, ["init", str(folder)])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def compose(project: Path) -> Any:
    return yaml.safe_load((project / "compose.yaml").read_text())


def test_each_service_is_pinned_unprivileged_watched_and_only_heard_here(compose: Any) -> None:
    for name, service in compose["services"].items():
        assert service["healthcheck"]["test"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name
        assert service["restart"] == "unless-stopped", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert compose["services"]["postgres"]["user"] == "postgres"
    image = compose["services"]["postgres"]["image"]
    assert re.fullmatch(r"\$\{POSTGRES_IMAGE:-postgres:\d+\.\d+-\w+\}", image)


def test_only_the_code_location_reaches_beyond_the_machine(compose: Any) -> None:
    networks = compose["networks"]
    assert networks["inside"] == {"internal": True}
    bridge_option = "com.docker.network.bridge.enable_ip_masquerade"
    assert networks["page"]["driver_opts"] == {bridge_option: "false"}
    networks_by_service = {
        name: service["networks"] for name, service in compose["services"].items()
    }
    assert networks_by_service == {
        "postgres": ["inside"],
        "daemon": ["inside"],
        "webserver": ["inside", "page"],
        "code_location": ["inside", "outside"],
    }


def test_no_secret_stands_in_a_file_that_git_takes(project: Path) -> None:
    files = [path for path in project.rglob("*") if path.is_file() and path.name != ".env"]
    assert ".env" in (project / ".gitignore").read_text().split()
    assert (project / ".env").stat().st_mode & 0o077 == 0
    for path in files:
        for match in re.finditer(
            r"(?im)^[^:=\n]*(password|secret|token)\w*\s*[:=][ \t]*(\S.*)$", path.read_text()
        ):
            reference_starts = ("${", "{env:", "#", "[{name: ")
            assert match[2].startswith(reference_starts), f"{path.name}: {match[0]}"


def test_the_image_is_pinned_and_not_root_and_has_nothing_but_the_project(
    project: Path, compose: Any
) -> None:
    dockerfile = (project / "Dockerfile").read_text()
    base = re.search(r"(?m)^ARG PYTHON=(python:3\.11\.\d+-slim-bookworm)$", dockerfile)
    assert base
    for name in OURS:  # pinned by digest, if .env has one
        arguments = compose["services"][name]["build"]["args"]
        assert arguments == {"PYTHON": f"${{PYTHON_IMAGE:-{base[1]}}}"}
    assert re.search(r"(?m)^USER 10001:10001$", dockerfile)
    assert dockerfile.count("pip install --constraint constraints.txt --find-links wheels") == 2
    everything, *admitted = [
        line
        for line in (project / ".dockerignore").read_text().splitlines()
        if not line.startswith("#")
    ]
    assert everything == "*"
    copied = {
        source
        for line in re.findall(r"(?m)^COPY (?!--)(.+) \S+$", dockerfile)
        for source in line.split()
    }
    assert {line.removeprefix("!") for line in admitted if line.startswith("!")} == copied
    assert {"deployed", "pyproject.toml", "wheels"} <= copied
    for source in copied:
        assert (project / source).exists()


def test_the_code_location_is_the_project(project: Path, compose: Any) -> None:
    environment = compose["services"]["code_location"]["environment"]
    module = environment["DAGSTER_MODULE_NAME"]
    assert (project / module.replace(".", "/")).with_suffix(".py").exists()
    workspace = yaml.safe_load((project / "deploy" / "workspace.yaml").read_text())
    (location,) = workspace["load_from"]
    assert location["grpc_server"]["location_name"] == environment["DAGSTER_LOCATION_NAME"]


@pytest.mark.parametrize("name", OURS)
def test_services_get_the_variables_that_their_files_read(
    project: Path, compose: Any, name: str
) -> None:
    service = compose["services"][name]
    command, environment = service["command"], service["environment"]
    assert Path(sys.executable).with_name(command[0]).exists()
    read = set(re.findall(r"env: (\w+)", (project / "deploy" / "dagster.yaml").read_text()))
    if "workspace.yaml" in command:
        read |= set(re.findall(r"env: (\w+)", (project / "deploy" / "workspace.yaml").read_text()))
    health = " ".join(service["healthcheck"]["test"])
    read |= set(re.findall(r"\$\$(\w+)", health))
    assert read <= environment.keys()


def test_only_the_code_location_has_settings_and_credentials(compose: Any) -> None:
    having = [name for name in compose["services"] if "env_file" in compose["services"][name]]
    assert having == ["code_location"]
    options: dict[str, Any] = compose["services"]["webserver"]["environment"]
    assert [key for key in options if key.startswith(("AWS_", "BATCHREC_"))] == [
        "BATCHREC_ALLOWED_HOSTS"
    ]


def test_the_webserver_stands_behind_the_guard(compose: Any) -> None:
    command = compose["services"]["webserver"]["command"]
    assert command[:3] == ["batchrec", "ui", "--no-daemon"]
    main([*command[1:3], "--help"], standalone_mode=False)
