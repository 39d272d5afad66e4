"""The ``visionward`` command."""

import os

import click

from visionward.cli.command import start_logging
from visionward.cli.error_group import ErrorGroup

_COMMANDS = {
    "demo": ("visionward.cli.demo", "Classify the packaged samples with a small demonstration guard."),
    "classify": ("visionward.cli.classify", "Say whether an image and a conversation are safe."),
    "serve": ("visionward.cli.serve", "Serve OpenAI's API."),
    "scan": ("visionward.cli.scan", "Judge many images."),
    "use": ("visionward.cli.use", "Choose the default model, or show it."),
    "cache": ("visionward.cli.cache", "List the cache, or remove files."),
    "completion": ("visionward.cli.completion", "Print a completion script."),
    "doctor": ("visionward.cli.doctor", "Report on this machine, the libraries and their kernels."),
    "convert": (
        "visionward.cli.convert",
        "Convert a Hugging Face checkpoint into GGUF and ONNX files.",
    ),
    "quantize": ("visionward.cli.quantize", "Quantize one of a pair's files."),
    "imatrix": (
        "visionward.cli.imatrix",
        "Compute an importance matrix for `visionward quantize`.",
    ),
    "export-onnx": (
        "visionward.cli.export_onnx",
        "Export the vision tower as ONNX, which is faster on CPUs.",
    ),
    "inspect": ("visionward.cli.inspect", "Show what is in a model's files."),
    "verify": (
        "visionward.cli.verify",
        "Check that a model's files are intact, and that it sees images.",
    ),
    "bench": ("visionward.cli.bench", "Measure times and memory."),
    "compare": ("visionward.cli.compare", "Compare the accuracy, size and speed of models."),
    "logits": ("visionward.cli.logits", "Write the logits of every position."),
}
_SUBJECTS = {
    "Classify": ("demo", "classify", "scan", "serve", "use"),
    "Make model files": ("convert", "quantize", "imatrix", "export-onnx"),
    "Check": ("doctor", "inspect", "verify", "cache", "completion"),
    "Measure": ("bench", "compare", "logits"),
}


def _show_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from visionward.machine.packages import installed_version  # noqa: PLC0415 - importing it takes long

        click.echo(f"visionward {installed_version('visionward') or '(not installed)'}")
        ctx.exit()


@click.group(
    cls=ErrorGroup,
    lazy=_COMMANDS,
    subjects=_SUBJECTS,
    invoke_without_command=True,
    epilog="Exit codes: 2 for an error, 130 for an interrupt.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.option("--verbose", "-v", is_flag=True, help="Show what the native libraries log, and tracebacks of errors.")
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """Classify images and conversations with Llama Guard 3 11B Vision, locally.

    \b
    Examples:
        visionward demo
        visionward classify --demo photo.jpg "What is this?"
        visionward classify --model models photo.jpg "What is this?"
        visionward COMMAND --help
    """  # noqa: D301 - click's own mark for text that must not be rewrapped
    if verbose:
        start_logging()
    if os.environ.get("NO_COLOR"):
        ctx.color = False
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


if __name__ == "__main__":
    cli()
