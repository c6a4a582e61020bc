"""`batchrec open` and `batchrec ui`, and what keeps a project from loading."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import yaml

from batchrec_dagster.cli.dagster_home import open_dagster_instance, use_dagster_home
from batchrec_dagster.cli.declared_pipelines import (
    NO_PIPELINES,
    UnknownNameError,
    make_undeclared_error,
    read_pipeline_name,
    read_pipelines,
)
from batchrec_dagster.cli.project import (
    Project,
    enter_project,
    enter_project_if_any,
    load_storage,
)
from batchrec_dagster.reporting.views.plain import (
    fit_terminal,
    format_program,
    shorten_path,
)
from batchrec_dagster.storage.extras import require
from batchrec_dagster.web import allowed_hosts

if TYPE_CHECKING:
    import dagster as dg


def find_project_errors(project: Project) -> list[str]:
    """A line for each error that keeps the project from loading; empty if it loads.

    The project's own definitions are only checked if all of its pipelines load.
    """
    return find_pipeline_errors(project) or find_definitions_errors(project)


def find_pipeline_errors(project: Project) -> list[str]:
    """A line for each error that keeps a pipeline of the project from loading."""
    return load_definitions(project)[1]


def load_definitions(project: Project) -> tuple[dg.Definitions | None, list[str]]:
    """The project's pipelines, or a line for each error that keeps one from loading."""
    import dagster as dg

    from batchrec_dagster.pipeline.declaration_errors import DeclarationError
    from batchrec_dagster.pipeline.loading import load_pipelines

    try:
        definitions = load_pipelines(project.defs.parent)
        dg.Definitions.validate_loadable(definitions)
    except DeclarationError as error:
        return None, str(error).splitlines()
    except Exception as error:  # A Python file in defs/ can raise anything.
        return None, [f"{project.defs}: {type(error).__name__}: {error}"]
    return definitions, []


def find_definitions_errors(project: Project) -> list[str]:
    """A line about what keeps the project's own definitions from loading; empty if they load.

    They do not load if, for example, two resources have the same key.
    """
    import importlib
    import warnings
    from importlib.util import find_spec

    import dagster as dg

    module = project.definitions_module
    with warnings.catch_warnings():
        # A command's reader cannot change that a few of Dagster's classes are new.
        for notice in (dg.BetaWarning, dg.PreviewWarning):
            warnings.simplefilter("ignore", notice)
        try:
            if find_spec(module) is None:
                return []
            for value in vars(importlib.import_module(module)).values():
                # A function under `@dg.definitions` has become an object with this attribute.
                definitions = value() if hasattr(value, "load_fn") else value
                if isinstance(definitions, dg.Definitions):
                    dg.Definitions.validate_loadable(definitions)
        except Exception as error:  # A project's own code can raise anything.
            first_line = str(error).strip().partition("\n")[0]
            return [f"{module}: {type(error).__name__}: {first_line}"]
    return []


def warn_of_errors() -> None:
    """Print to stderr the errors that keep the project from loading.

    Its lists grow old, which nobody would notice otherwise. Without a project there is nothing to
    load.
    """
    from batchrec_dagster.reporting.views.plain import escape_invisible

    project = enter_project_if_any()
    errors = [] if project is None else find_pipeline_errors(project)
    if errors:
        lines = fit_terminal("\n".join(map(escape_invisible, errors)), indentation="  ")
        click.echo(
            f"The project does not load, so nothing is refreshed until it is fixed:\n{lines}",
            err=True,
        )


@click.command("open", short_help="Open the report or Dagster's web page in a browser.")
@click.argument("what", type=click.Choice(["report", "ui"]), default="report")
@click.option("--pipeline", metavar="NAME")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Of the web page. Default: that of `batchrec ui` here, or 3000.",
)
def open_page(what: str, pipeline: str | None, port: int | None) -> None:
    """Open the newest report, or Dagster's web page if it runs, and print where it is.

    Without NAME, the report that was written last.

    \b
    Examples:
      batchrec open
      batchrec open report --pipeline shop
      batchrec open ui
    """
    import webbrowser
    from urllib.parse import urlsplit

    from batchrec_dagster.cli.page_address import DEFAULT_ADDRESS, find_page

    if what == "ui":
        page = urlsplit(find_page(use_dagster_home()) or DEFAULT_ADDRESS)
        port = port or page.port or 3000
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                raise click.ClickException(
                    f"nothing answers on port {port}. Start Dagster's web page with:"
                    f" {format_program()} ui"
                )
        address = f"http://127.0.0.1:{port}"
        click.echo(address)
    else:
        report = _find_report(pipeline)
        address = report.as_uri()
        click.echo(shorten_path(report))
    if not webbrowser.open(address):
        click.echo("There is no browser to open it with on this machine.", err=True)


def _find_report(pipeline: str | None) -> Path:
    """The path of the pipeline's newest report.

    pipeline: None for the newest report of all pipelines.

    Raises click.ClickException if there is none on this machine.
    """
    from batchrec_dagster.reporting.insight.tables import find_published
    from batchrec_dagster.storage.layout import ListFiles, ListKeys

    storage = load_storage()
    if pipeline is not None and pipeline != read_pipeline_name(pipeline):
        lists = [ListFiles(storage, ListKeys(pipeline))]
    else:
        lists = find_published(storage, pipeline)
    reports = [storage.store.head(files.uri(files.keys.report)) for files in lists]
    existing_reports = [report for report in reports if report is not None]
    newest = max(existing_reports, key=lambda report: report.last_modified, default=None)
    if newest is None:
        declared = read_pipelines(enter_project())
        if pipeline is not None and pipeline not in declared:
            raise make_undeclared_error(pipeline, declared)
        if not declared:
            raise UnknownNameError(f"no report yet. {NO_PIPELINES}")
        name = pipeline or next(iter(declared))
        raise UnknownNameError(f"no report yet. Make one: {format_program()} run {name}")
    path = storage.store.local_path(newest.uri)
    if path is None:
        copy = f"aws s3 cp {newest.uri} report.html"
        raise click.ClickException(f"the report is in S3. Copy it: {copy}")
    return path


@click.command(short_help="Open Dagster's web page, with its daemon.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=3000, show_default=True)
@click.option(
    "-w",
    "--workspace",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="The file that names the code locations. Repeat for more. Default: workspace.yaml of this"
    " folder; without one, the project here.",
)
@click.option(
    "--daemon/--no-daemon",
    default=True,
    show_default=True,
    help="Also run Dagster's daemon: schedules, sensors and queued runs.",
)
@allowed_hosts
def ui(
    host: str, port: int, workspace: tuple[Path, ...], daemon: bool, allowed_hosts: frozenset[str]
) -> None:
    """Serve Dagster's web page until Ctrl-C, and run its schedules and sensors.

    Use this, not `dagster dev` or `dagster-webserver`: those execute what any web page in the same
    browser sends them. The page has no login: anyone who reaches it can start and stop runs.

    \b
    Examples:
      batchrec ui
      batchrec ui --port 3001
      batchrec ui --no-daemon --host 0.0.0.0 --allowed-hosts dagster.example.com
    """
    require("serve", "batchrec ui")
    from batchrec_dagster.cli.dagster_ui import serve_ui
    from batchrec_dagster.cli.page_address import recorded_page

    # Opening the instance makes the databases of a new home, before several processes need them.
    with open_dagster_instance(), ExitStack() as stack:
        files = workspace or [stack.enter_context(_default_workspace())]
        stack.enter_context(recorded_page(use_dagster_home(), host, port))
        serve_ui(files, host, port, allowed_hosts, daemon=daemon)


@contextmanager
def _default_workspace() -> Iterator[Path]:
    """The file workspace.yaml of this folder, else one for the project here while the block runs.

    Raises ProjectError if there is neither.
    """
    file = Path("workspace.yaml")
    if file.is_file():
        yield file
        return
    from batchrec_dagster.storage.durable import temporary_folder

    with temporary_folder() as folder:
        made = folder / "workspace.yaml"
        made.write_text(format_workspace(enter_project()), encoding="utf-8")
        yield made


def format_workspace(project: Project) -> str:
    """The text of a workspace.yaml with the project alone, as `dg dev` loads it."""
    location = {
        "module_name": project.definitions_module,
        "working_directory": str(project.code),
        "location_name": project.location_name,
    }
    return yaml.safe_dump({"load_from": [{"python_module": location}]}, sort_keys=False)
