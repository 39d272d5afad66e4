"""The options that say which model to use and where to run it, shared by the commands."""

import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import click
from click.core import ParameterSource

Command = TypeVar("Command", bound=Callable[..., Any])

EXISTING_FILE = click.Path(exists=True, dir_okay=False, readable=True, path_type=Path)

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]i?B|B)", re.IGNORECASE)
_UNITS = {"b": 1} | {
    f"{prefix}{infix}b": base**power
    for power, prefix in enumerate("kmgt", 1)
    for infix, base in (("", 1000), ("i", 1024))
}

_MISSING = (
    "no model was given: use --model TEXT.gguf --mmproj MMPROJ.gguf (or VISIONWARD_MODEL and VISIONWARD_MMPROJ){demo}"
)


def pair_options(command: Command) -> Command:
    """``--model`` and ``--mmproj``, which may come from the environment."""
    for name, variable, what in (("--mmproj", "VISIONWARD_MMPROJ", "mmproj"), ("--model", "VISIONWARD_MODEL", "text")):
        command = click.option(
            name,
            metavar=f"{what.upper()}.gguf",
            type=click.Path(path_type=Path),
            envvar=variable,
            show_envvar=True,
            help=f"The {what} file of the pair.",
        )(command)
    return command


def demo_option(command: Command) -> Command:
    """``--demo``."""
    return click.option(
        "--demo", is_flag=True, help="Use the packaged demonstration guard: a toy, no safety classifier."
    )(command)


def device_options(command: Command) -> Command:
    """``--threads`` and ``--gpu-layers``."""
    command = click.option(
        "--gpu-layers",
        metavar="N",
        type=click.IntRange(0, 9999),
        help="Decoder layers on the GPU; 0 for the CPU alone.  [default: all, where there is a GPU]",
    )(command)
    return click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(1, 512),
        help="CPU threads.  [default: the number of physical cores]",
    )(command)


def kernels_option(command: Command) -> Command:
    """``--kernels``."""
    return click.option(
        "--kernels",
        type=click.Choice(["plain", "packed"]),
        default="plain",
        show_default=True,
        help="packed copies the text file's weights for ggml's faster CPU kernels, where `visionward doctor` sees them "
        "work: slower to load.",
    )(command)


def _byte_count(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    match = _SIZE.fullmatch(value.strip())
    size = 0 if match is None else int(Decimal(match[1]) * _UNITS[match[2].lower()])
    if size < 1:
        raise click.BadParameter(f"{value!r} is no amount of memory, expected one such as 9GiB or 9.5GB.")
    return size


def vision_options(command: Command) -> Command:
    """``--vision-backend``, ``--onnx-tower``, ``--onnx-provider`` and ``--memory-limit``."""
    command = click.option(
        "--memory-limit",
        metavar="SIZE",
        callback=_byte_count,
        help="What the process may take, such as 9GiB: auto keeps to it, and to a container's limit; an image whose "
        "decoding would not is refused.",
    )(command)
    command = click.option(
        "--onnx-provider",
        metavar="NAME",
        default="CPUExecutionProvider",
        show_default=True,
        help="What ONNX Runtime computes with, by its own name.",
    )(command)
    command = click.option(
        "--onnx-tower",
        metavar="TOWER.onnx",
        type=click.Path(path_type=Path),
        envvar="VISIONWARD_ONNX_TOWER",
        show_envvar=True,
        help="The tower that `visionward export-onnx` wrote.  [default: one beside the mmproj file that belongs to it]",
    )(command)
    return click.option(
        "--vision-backend",
        type=click.Choice(["auto", "ggml", "onnx", "openvino"]),
        default="auto",
        show_default=True,
        help="What encodes images. auto takes the fastest that is installed, has an exported tower, and fits.",
    )(command)


def context_option(command: Command) -> Command:
    """``--n-ctx``."""
    return click.option(
        "--n-ctx",
        metavar="N",
        type=click.IntRange(1, 131072),
        default=4096,
        show_default=True,
        help="Tokens that a prompt may have.",
    )(command)


def force_option(command: Command) -> Command:
    """``--force``."""
    return click.option(
        "--force",
        is_flag=True,
        help="Replace an output that exists. Inputs, and files of another kind, never are.",
    )(command)


def resolve_pair(
    model: Path | None, mmproj: Path | None, *, demo: bool = False, has_demo: bool = True
) -> tuple[Path, Path]:
    """The two files to use: given, or the toy's if it was asked for, so that nobody gets its verdict unawares."""
    if demo:
        refuse_with_demo()
        from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415 - heavy, and not needed for --help

        pair = demo_pair()
        return pair.text, pair.mmproj
    if model is None and mmproj is None:
        raise click.UsageError(_MISSING.format(demo=", or --demo for the demonstration guard" if has_demo else ""))
    if model is None or mmproj is None:
        missing = "--model TEXT.gguf" if model is None else "--mmproj MMPROJ.gguf"
        raise click.UsageError(f"{missing} is missing: a model is two files, which one conversion wrote")
    return model, mmproj


def refuse_with_demo() -> None:
    """Refuse ``--model`` or ``--mmproj`` next to ``--demo``; those of the environment do not count."""
    context = click.get_current_context()
    for name in ("model", "mmproj"):
        if context.get_parameter_source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--demo and --{name} exclude each other")
