"""`batchrec schema`."""

import click


@click.command(short_help="Print the JSON schema of a defs.yaml.")
def schema() -> None:
    """Print the JSON schema of a defs.yaml, by which editors complete and check it.

    \b
    Examples:
      batchrec schema > defs.schema.json
      batchrec schema | jq '.["$defs"].Ratings.properties.source.description'

    \b
    An editor with the YAML language server finds it by a line in the file:
      # yaml-language-server: $schema=PATH
    """
    from batchrec_dagster.pipeline.json_schema import declaration_schema_text

    click.echo(declaration_schema_text(), nl=False)
