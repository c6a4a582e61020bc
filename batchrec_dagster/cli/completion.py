"""`batchrec completion`, and what completes the names of pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what lets a shell complete commands.

    Commands, options and the names of pipelines.

    \b
    Examples:
      eval "$(batchrec completion bash)"       # now; add it to ~/.bashrc for always
      eval "$(batchrec completion zsh)"        # to ~/.zshrc, after compinit
      batchrec completion fish > ~/.config/fish/completions/batchrec.fish
    """
    from click.shell_completion import get_completion_class

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "batchrec", "_BATCHREC_COMPLETE").source())


def pipelines(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """The names of the declared pipelines that begin so, for `shell_complete` of an option."""
    from batchrec_dagster.cli.project import ProjectError, declared_pipelines, find_project

    try:
        found = declared_pipelines(find_project())
    except ProjectError:
        return []
    return sorted(name for name in found if name.startswith(incomplete))


def files(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Leave it to the shell to complete a path, for `shell_complete` of an option."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
