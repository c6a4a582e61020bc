"""`batchrec completion` and `batchrec schema`: completion in shells and in editors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@click.command(short_help="Print a script that makes a shell complete batchrec's commands.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print a script that makes a shell complete commands, options and pipelines.

    \b
    Examples:
      eval "$(batchrec completion bash)"       # this session; add it to ~/.bashrc to keep it
      eval "$(batchrec completion zsh)"        # in ~/.zshrc, after compinit
      batchrec completion fish > ~/.config/fish/completions/batchrec.fish
    """
    from click.shell_completion import get_completion_class

    complete = get_completion_class(shell)
    assert complete is not None
    click.echo(complete(context.find_root().command, {}, "batchrec", "_BATCHREC_COMPLETE").source())


@click.command(short_help="Print the JSON schema of defs.yaml.")
def schema() -> None:
    """Print the JSON schema of defs.yaml. Editors complete and check the file with it.

    \b
    Examples:
      batchrec schema > defs.schema.json
      batchrec schema | jq '.["$defs"].Ratings.properties.source.description'

    \b
    An editor with the YAML language server finds it by this line in the file:
      # yaml-language-server: $schema=PATH
    """
    from batchrec_dagster.config.json_schema import declaration_schema_text

    click.echo(declaration_schema_text(), nl=False)


def pipelines(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The declared pipelines with this prefix, for `shell_complete` of an option."""
    from batchrec_dagster.cli.project import ProjectError, declared_pipelines, find_project

    try:
        found = declared_pipelines(find_project())
    except ProjectError:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


def files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Let the shell complete a path, for `shell_complete` of an option."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
