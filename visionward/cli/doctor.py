"""The ``doctor`` command."""

import dataclasses
import json
import sys

import click

from visionward.cli.command import Command
from visionward.cli.wrapping import echo_lines, is_terminal


@click.command(cls=Command)
@click.option("--fresh", is_flag=True, help="Test the kernels again instead of using the remembered result.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(fresh: bool, as_json: bool) -> None:
    """Report on this machine, the libraries and their kernels.

    Says what is missing and the command that installs it. ggml's CPU kernels are tested in child processes, so that one
    that crashes is only reported; the result is remembered for this library and processor. The kernels of every GPU and
    ONNX Runtime's providers for GPUs are tested in the same way, without being remembered. The report holds no names
    and no paths but the library's: paste it into a bug report.

    \b
    Example:
        visionward doctor --fresh
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    from visionward.cli.doctor_text import report_lines  # noqa: PLC0415 - not needed for --help
    from visionward.diagnose.system_report import system_report  # noqa: PLC0415

    def progress(text: str) -> None:
        if is_terminal(sys.stderr):
            click.echo(text, err=True)

    report = system_report(fresh=fresh, progress=progress)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), allow_nan=False))
    else:
        echo_lines(report_lines(report))
