"""The ``completion`` command."""

import click
from click.shell_completion import get_completion_class

from visionward.cli.command import Command

_PROGRAM = "visionward"
# The variable that click reads, by its own rule.
_VARIABLE = "_VISIONWARD_COMPLETE"


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a completion script.

    The script lets a shell complete commands, options, values and file names. Each example is the command that installs
    it for new terminals. Bash must be 4.4 or newer. For zsh, ~/.zshrc must have called compinit before.

    \b
    Examples:
        visionward completion bash >> ~/.bashrc
        visionward completion zsh >> ~/.zshrc
        visionward completion fish > ~/.config/fish/completions/visionward.fish
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.cli.main import cli  # noqa: PLC0415 - which imports this module

    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"this version of click has no completion for {shell}")
    click.echo(made(cli, {}, _PROGRAM, _VARIABLE).source())
