"""The `batchrec init` command."""

from __future__ import annotations

import re
import secrets
import shlex
from importlib.util import find_spec
from pathlib import Path

import click

from batchrec_dagster.reporting.views.plain import format_program, shorten_path

# The files of a new project. A file that ends in .jinja is a template. The folder `module` gets the
# name of the project's module.
TEMPLATES = Path(__file__).parent / "new_project"
DISTRIBUTION = "batchrec-dagster"
# The extras that the commands in the project's README need.
EXTRAS = "local,serve"


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

    You do not need this for a Dagster project that you already have: `dg scaffold defs
    batchrec_dagster.BatchRecommendations NAME` adds a pipeline to it. Never overwrites a file.

    \b
    Examples:
      batchrec init lists
      cd lists
      batchrec new shop --ratings ../orders.csv
      batchrec run shop
      batchrec open
      batchrec init lists --example
    """  # noqa: D301
    folder = folder.expanduser().absolute()
    module = _choose_module_name(folder.name)
    files = make_project(folder.name, module, example=example)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise click.ClickException(f"{shorten_path(folder)} is not empty: name a new folder")
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        # This file has a password, and users add other secrets.
        (folder / ".env").chmod(0o600)
    except OSError as error:
        raise click.ClickException(f"cannot write {folder}: {error.strerror}") from error
    click.echo(f"Made {shorten_path(folder)}. Next:")
    click.echo(f"  cd {shlex.quote(str(shorten_path(folder)))}")
    command = "run shop" if example else "new shop --ratings FILE"
    click.echo(f"  {format_program(folder)} {command}")


def make_project(name: str, module: str, *, example: bool) -> dict[str, str]:
    """Return the texts of a project's files, by path.

    name: the name of the project in its README.
    module: the name of the project's Python module.
    example: whether to add the example shop.
    """
    from importlib.metadata import metadata

    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from batchrec_dagster.config.json_schema import render_declaration_schema

    installed = metadata(DISTRIBUTION)
    values = {
        "name": name,
        "module": module,
        "example": example,
        "requires_python": installed["Requires-Python"],
        "extras": EXTRAS,
        "version": installed["Version"],
        "password": secrets.token_hex(24),
    }
    templates = Environment(  # noqa: S701, no file is a page
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
    )
    files = {"defs.schema.json": render_declaration_schema()}
    for path in sorted(TEMPLATES.rglob("*")):
        if path.is_file():
            file = path.relative_to(TEMPLATES).as_posix()
            is_template = file.endswith(".jinja")
            text = templates.get_template(file).render(values) if is_template else path.read_text()
            files[re.sub("^module/", f"{module}/", file).removesuffix(".jinja")] = text
    return files | (make_example_shop(module) if example else {})


def make_example_shop(module: str) -> dict[str, str]:
    """Return the texts of the example shop's files, by path in the project."""
    from batchrec_dagster.samples import SHOP_PIPELINE
    from batchrec_dagster.samples.shop import generate_shop

    schema = "# yaml-language-server: $schema=../../../defs.schema.json\n"
    return {
        f"{module}/defs/shop/defs.yaml": schema + SHOP_PIPELINE.read_text(encoding="utf-8"),
        **{
            f"data/{name}.csv": table.write_csv()
            for name, table in generate_shop()._asdict().items()
        },
        # A product that the shop recalled.
        "data/blocked.csv": "sku\nP-016\n",
    }


def _choose_module_name(folder_name: str) -> str:
    """Return a name for the project's Python module, based on the folder's name.

    The word `lists` is added if the name would not be an identifier, or if an installed module
    already has it.
    """
    module = re.sub(r"\W", "_", folder_name.lower(), flags=re.ASCII).strip("_") or "lists"
    if not module[0].isalpha():
        return f"lists_{module}"
    if find_spec(module) is not None:
        return f"{module}_lists"
    return module
