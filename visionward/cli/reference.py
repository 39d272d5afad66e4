"""The help texts as one Markdown page: ``python -m visionward.cli.reference > docs/cli.md``."""

import click

from visionward.cli.main import cli

_WIDTH = 100
_HEADER = """\
# The command line

This page is made from the help texts: `python -m visionward.cli.reference > docs/cli.md`. A test keeps it up to date.
"""


def reference() -> str:
    """The page."""
    root = _context(cli, "visionward")
    sections = [_HEADER, _section(root)]
    for name in cli.list_commands(root):
        command = cli.get_command(root, name)
        if command is not None:
            sections.append(_section(_context(command, f"visionward {name}")))
    return "\n".join(sections)


def _context(command: click.Command, name: str) -> click.Context:
    names = ["-h", "--help"]
    return command.context_class(
        command, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH, help_option_names=names
    )


def _section(context: click.Context) -> str:
    return f"## {context.info_name}\n\n```text\n{context.get_help()}\n```\n"


if __name__ == "__main__":
    click.echo(reference(), nl=False)
