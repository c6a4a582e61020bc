"""`batchrec init`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click

from batchrec_dagster.cli.terminal import format_program, shorten_path

_PYPROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"

[project]
name = "{module}"
version = "0.1.0"
requires-python = "{requires_python}"
dependencies = ["batchrec-dagster[{extras}]~={version}"]

[tool.setuptools.packages.find]
include = ["{module}", "{module}.*"]

[tool.setuptools.package-data]
"*" = ["**/*.yaml"]

[tool.dg]
directory_type = "project"

[tool.dg.project]
root_module = "{module}"
code_location_name = "{module}"
"""
DEFINITIONS_MODULE = '''\
"""What Dagster loads: the pipelines under defs/."""

from pathlib import Path

import dagster as dg
from batchrec_dagster.definitions import load


@dg.definitions
def defs() -> dg.Definitions:
    return load(Path(__file__).parent)
'''
_WORKSPACE = """\
load_from:
  - python_module:
      module_name: {module}.definitions
      working_directory: .
      location_name: {module}
"""
_DAGSTER_YAML = """\
# batchrec's commands copy it into Dagster's home, .batchrec/dagster, when they make that.
telemetry: {enabled: false}
nux: {enabled: false}
# Also each state of each job in Personalize, which the page of a run shows with the level Debug.
python_logs: {python_log_level: DEBUG}

# A run that does not start in time, or goes on for longer than its job may, is marked as failed.
run_monitoring:
  enabled: true
  start_timeout_seconds: 600

# Old ticks of schedules and sensors are of no use to anybody.
retention:
  schedule: {purge_after_days: 90}
  sensor: {purge_after_days: {skipped: 7, failure: 30, success: 90}}
"""
_ENV = """\
# Settings of the deployment, which `batchrec check` checks. Default: everything is in .batchrec.
# BATCHREC_STORAGE=s3://bucket/prefix
# BATCHREC_PERSONALIZE=aws
# BATCHREC_ROLE_ARN=arn:aws:iam::123456789012:role/personalize
"""
_GITIGNORE = ".batchrec/\n.env\n.venv/\n*.egg-info/\n__pycache__/\n"
DISTRIBUTION = "batchrec-dagster"
# What the commands of the project's README need.
EXTRAS = "local,report,serve"
_DECLARE = (
    "batchrec new shop --ratings ORDERS.csv   # declare a pipeline: {module}/defs/shop/defs.yaml"
)
_DECLARED = "batchrec check                           # whether all pipelines load"
_README = """\
# {name}

Nightly lists of recommendations, by batchrec. Work in this folder:

    {declare}
    batchrec run shop                        # make its lists
    batchrec open                            # the report
    batchrec ui                              # Dagster: runs, schedules, sensors

Settings of the deployment are in .env, those of a pipeline in its defs.yaml.

## On another machine

No package registry has batchrec yet. `make wheel` in its folder makes a file of it. With that file
in a folder such as ~/wheels:

    python3 -m venv .venv
    . .venv/bin/activate
    pip install --find-links ~/wheels -e .

Where batchrec is installed already, `pip install -e .` is enough.
"""


@click.command(short_help="Make a project for pipelines.")
@click.option(
    "--example",
    is_flag=True,
    help="Add a web shop to look at and change: its orders, clicks, products and customers as CSV"
    " files of generated data, and its pipeline, which runs at once.",
)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def init(folder: Path, example: bool) -> None:
    """Make the folder DIR: a Dagster project with a place for pipelines and their settings.

    For a Dagster project that you already have, this is not needed: `dg scaffold defs
    batchrec_dagster.BatchRecommendations NAME` adds a pipeline to it. Never overwrites a file.

    \b
    Examples:
      batchrec init lists
      cd lists
      batchrec new shop --ratings ../orders.csv
      batchrec run shop
      batchrec open
      batchrec init lists --example
    """
    from batchrec_dagster.config.json_schema import render_declaration_schema

    folder = folder.expanduser().absolute()
    module = _choose_module_name(folder.name)
    files = {
        "pyproject.toml": _format_pyproject(module),
        f"{module}/__init__.py": "",
        f"{module}/definitions.py": DEFINITIONS_MODULE,
        # Dagster's own commands cannot load a folder without a Python file or a component.
        f"{module}/defs/__init__.py": "",
        "workspace.yaml": _WORKSPACE.format(module=module),
        "dagster.yaml": _DAGSTER_YAML,
        ".env": _ENV,
        ".gitignore": _GITIGNORE,
        "defs.schema.json": render_declaration_schema(),
        "README.md": _README.format(
            name=folder.name, declare=_DECLARED if example else _DECLARE.format(module=module)
        ),
        **(make_example_shop(module) if example else {}),
    }
    try:
        if folder.exists() and any(folder.iterdir()):
            raise click.ClickException(f"{shorten_path(folder)} is not empty: name a new folder")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {folder}: {error.strerror}") from error
    click.echo(f"Made {shorten_path(folder)}. Next:")
    click.echo(f"  cd {shlex.quote(str(shorten_path(folder)))}")
    command = "run shop" if example else "new shop --ratings FILE"
    click.echo(f"  {format_program(folder)} {command}")


def _format_pyproject(module: str) -> str:
    """The text of a pyproject.toml that names the installed version of batchrec."""
    from importlib.metadata import metadata

    installed = metadata(DISTRIBUTION)
    return _PYPROJECT.format(
        module=module,
        requires_python=installed["Requires-Python"],
        extras=EXTRAS,
        version=installed["Version"],
    )


def make_example_shop(module: str) -> dict[str, str]:
    """The texts of the example's files, by their paths in the project."""
    from batchrec_dagster.samples import SHOP_PIPELINE
    from batchrec_dagster.samples.shop import generate_shop

    schema = "# yaml-language-server: $schema=../../../defs.schema.json\n"
    return {
        f"{module}/defs/shop/defs.yaml": schema + SHOP_PIPELINE.read_text(encoding="utf-8"),
        **{
            f"data/{name}.csv": table.write_csv()
            for name, table in generate_shop()._asdict().items()
        },
        # A product that the shop called back.
        "data/blocked.csv": "sku\nP-016\n",
    }


def _choose_module_name(folder_name: str) -> str:
    """A name for the project's Python module, made of the folder's name.

    It gets the word `lists` if it would not be an identifier, or if an installed module has it.
    """
    from importlib.util import find_spec

    module = re.sub(r"\W", "_", folder_name.lower(), flags=re.ASCII).strip("_") or "lists"
    if not module[0].isalpha():
        return f"lists_{module}"
    if find_spec(module) is not None:
        return f"{module}_lists"
    return module
