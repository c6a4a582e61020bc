"""The `batchrec` command. Thin: each command has its module."""

import click

from batchrec_dagster.commands.show import show
from batchrec_dagster.local_personalize.command import local_personalize


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="batchrec-dagster")
def main() -> None:
    """Batch recommendations with Amazon Personalize, as Dagster assets."""


for command in (show, local_personalize):
    main.add_command(command)


if __name__ == "__main__":
    main()
