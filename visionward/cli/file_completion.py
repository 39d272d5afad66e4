"""Completing the name of a file in a shell, for arguments that may be something else too."""

import click
from click.shell_completion import CompletionItem


def complete_file(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Have the shell complete the name of a file or folder."""
    return [CompletionItem(incomplete, type="file")]
