"""The ``inspect`` command."""

import json
from pathlib import Path

import click

from visionward.cli.command import Command
from visionward.cli.model_options import demo_option, pair_options, resolve_pair
from visionward.cli.wrapping import echo_lines


@click.command(cls=Command)
@pair_options
@demo_option
@click.option("--template", is_flag=True, help="Print the text file's chat template and nothing else.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def inspect(model: Path | None, mmproj: Path | None, demo: bool, template: bool, as_json: bool) -> None:
    """Show what is in a model's files.

    Shapes, tensor types, sizes, licence, chat template, the policy in force, and whether the two files belong together.
    One file is enough. Only the headers are read.

    \b
    Examples:
        visionward inspect --model models
        visionward inspect --model guard-text-Q4_K_M.gguf
        visionward inspect --demo --template
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    if template and as_json:
        raise click.UsageError("--template and --json exclude each other")
    if demo or (model is None and mmproj is None) or (model is not None and model.is_dir()):
        model, mmproj = resolve_pair(model, mmproj, demo=demo)

    from visionward.cli.inspect_text import summary_lines  # noqa: PLC0415 - the native library is not needed for --help
    from visionward.demonstration import DEMO_NOTICE  # noqa: PLC0415
    from visionward.diagnose.pair_summary import summarize_pair, to_dict  # noqa: PLC0415

    if template and model is None:
        raise click.UsageError("--template needs the text file: give --model")
    summary = summarize_pair(model, mmproj)
    if template:
        own = summary.text.template.source if summary.text is not None else None
        if own is None:
            raise click.ClickException("the text file has no chat template")
        click.echo(own)
    elif as_json:
        click.echo(json.dumps(to_dict(summary)))
    else:
        if any(half is not None and half.file.demonstration for half in (summary.text, summary.mmproj)):
            echo_lines([f"Note: {DEMO_NOTICE}", ""])
        echo_lines(summary_lines(summary))
