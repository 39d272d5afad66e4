"""The options for the model and for what computes it, shared by the commands."""

import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import click
from click.core import ParameterSource

from visionward.cli.byte_count import byte_count
from visionward.cli.default_model import read_default_model
from visionward.cli.model_folder import find_pair
from visionward.names import AUTO_PROVIDER, DEFAULT_N_CTX, OPENVINO_CPU, KernelsChoice, VisionBackendChoice

if TYPE_CHECKING:
    from visionward.formats.tile_band import TileBand

Command = TypeVar("Command", bound=Callable[..., Any])


class RegularFile(click.Path):
    """An existing regular file: a pipe or a device could hang, or have no end.

    Args:
        instead: what to do with a pipe, for the error.
    """

    def __init__(self, instead: str = "save its output in one first") -> None:
        super().__init__(exists=True, dir_okay=False, readable=True, path_type=Path)
        self._instead = instead

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path."""
        path: Any = super().convert(value, param, ctx)
        if not path.is_file():
            self.fail(
                f"{click.format_filename(path)!r} is a pipe or a device, but only regular files are read: "
                f"{self._instead}",
                param,
                ctx,
            )
        return path


EXISTING_FILE = RegularFile()

_MISSING = (
    "no model was given: name its folder with --model DIR or VISIONWARD_MODEL, or choose a default model with "
    "`visionward use DIR`{demo}"
)


def pair_options(command: Command) -> Command:
    """``--model`` and ``--mmproj``, which may come from the environment."""
    command = click.option(
        "--mmproj",
        metavar="MMPROJ.gguf",
        type=click.Path(path_type=Path),
        envvar="VISIONWARD_MMPROJ",
        show_envvar=True,
        help="The mmproj file, if --model is a text file or its folder has several.",
    )(command)
    return click.option(
        "--model",
        metavar="DIR|TEXT.gguf",
        type=click.Path(path_type=Path),
        envvar="VISIONWARD_MODEL",
        show_envvar=True,
        help="The model's folder, as `visionward convert` writes it, or its text file.  [default: the one that "
        "`visionward use` chose]",
    )(command)


def demo_option(command: Command) -> Command:
    """``--demo``."""
    return click.option(
        "--demo",
        is_flag=True,
        help="Use the demonstration guard: a toy model for checking the installation, not a safety classifier.",
    )(command)


def device_options(command: Command) -> Command:
    """``--threads`` and ``--gpu-layers``."""
    command = click.option(
        "--gpu-layers",
        metavar="N",
        type=click.IntRange(0, 9999),
        help="Decoder layers on the GPU; 0 for the CPU alone.  [default: as many as its memory holds]",
    )(command)
    return click.option(
        "--threads",
        metavar="N",
        type=click.IntRange(1, 512),
        help="CPU threads.  [default: the number of physical cores]",
    )(command)


def placement_options(command: Command) -> Command:
    """``--device`` and ``--vision-device``."""
    command = click.option(
        "--vision-device",
        metavar="NAME",
        help="The device of the vision tower, if ggml runs it.  [default: the one of --device]",
    )(command)
    return click.option(
        "--device",
        metavar="NAME",
        help="CPU, or a GPU that `visionward doctor` lists, such as CUDA0; several with commas between them share the "
        "decoder.  [default: the best GPU with enough memory, or the CPU]",
    )(command)


def kernels_option(command: Command, default: KernelsChoice) -> Command:
    """``--kernels``."""
    return click.option(
        "--kernels",
        metavar="NAME",
        type=click.Choice(get_args(KernelsChoice)),
        default=default,
        show_default=True,
        help="plain: read the text file's weights where they are mapped. packed: copy them for ggml's other CPU "
        "kernels: loading takes longer, and the copy takes memory. auto: packed if the AMX kernels work here, are "
        "faster and memory holds the copy, else plain (docs/kernels.md).",
    )(command)


def _installed(_ctx: click.Context, _parameter: click.Parameter, backend: str) -> str:
    """Refuse an engine of an extra that is not installed, before a model is loaded for it."""
    if backend == "openvino" and find_spec(backend) is None:
        from visionward.machine.extras import require  # noqa: PLC0415 - for this error

        require(backend)
    return backend


def vision_options(command: Command) -> Command:
    """``--vision-backend``, ``--onnx-tower``, ``--onnx-provider``, ``--openvino-device`` and ``--memory-limit``."""
    command = click.option(
        "--memory-limit",
        metavar="SIZE",
        callback=byte_count,
        help="Maximum memory of the process, such as 9GiB. `--vision-backend auto` keeps to it and to a container's "
        "limit; an image whose decoding would exceed it is refused.",
    )(command)
    command = click.option(
        "--openvino-device",
        metavar="NAME",
        default=OPENVINO_CPU,
        show_default=True,
        help="OpenVINO's device: CPU, GPU or NPU, or AUTO for the first that there is of GPU, NPU and CPU.",
    )(command)
    command = click.option(
        "--onnx-provider",
        metavar="NAME",
        default=AUTO_PROVIDER,
        show_default=True,
        help="ONNX Runtime's execution provider; auto takes CUDA, CoreML or DirectML if the installed build has it and "
        "it computes the whole tower, else the CPU.",
    )(command)
    command = click.option(
        "--onnx-tower",
        metavar="TOWER.onnx",
        type=click.Path(path_type=Path),
        envvar="VISIONWARD_ONNX_TOWER",
        show_envvar=True,
        help="The vision tower that `visionward export-onnx` wrote.  [default: the one beside the mmproj file]",
    )(command)
    return click.option(
        "--vision-backend",
        metavar="NAME",
        type=click.Choice(get_args(VisionBackendChoice)),
        default="auto",
        show_default=True,
        callback=_installed,
        help="The engine of the vision tower: ggml, onnx, openvino, or auto, the fastest that is installed, has an "
        "exported tower and fits into memory.",
    )(command)


def context_option(command: Command) -> Command:
    """``--n-ctx``."""
    return click.option(
        "--n-ctx",
        metavar="N",
        type=click.IntRange(1, 131072),
        default=DEFAULT_N_CTX,
        show_default=True,
        help="Context length: the maximum number of tokens of a prompt.",
    )(command)


def _tile_limit(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    if not re.fullmatch("[1-9][0-9]?", value):
        raise click.BadParameter(f"{value!r} is neither a number of tiles nor auto.")
    return int(value)


def _band(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> "TileBand | None":
    if value is None:
        return None
    from visionward.formats.tile_band import TileBand  # noqa: PLC0415 - not needed for --help

    return TileBand.parse(value)


def tile_options(command: Command) -> Command:
    """``--max-tiles`` and ``--band``."""
    command = click.option(
        "--band",
        metavar="LOW,HIGH|FILE",
        callback=_band,
        help="With --max-tiles auto: the lowest and the highest P(unsafe) of a first look that need a second one, or "
        "the file that `visionward compare` wrote.",
    )(command)
    return click.option(
        "--max-tiles",
        metavar="N|auto",
        callback=_tile_limit,
        help="Cut an image into at most N tiles: less time, less detail (docs/tiles.md). auto: judge with one tile, "
        "and again with all tiles if the score is in the --band.  [default: the model's number, 4]",
    )(command)


def engine_options(command: Command, kernels: KernelsChoice = "auto") -> Command:
    """All options of loading and computing that a guard takes, under the names of ``EngineOptions``.

    Args:
        command: gets the options.
        kernels: the default of ``--kernels``.
    """
    with_kernels = partial(kernels_option, default=kernels)
    for option in (context_option, tile_options, vision_options, with_kernels, placement_options, device_options):
        command = option(command)
    return command


def force_option(command: Command) -> Command:
    """``--force``."""
    return click.option(
        "--force",
        is_flag=True,
        help="Replace existing outputs. Inputs and files of another type are never replaced.",
    )(command)


def resolve_pair(
    model: Path | None, mmproj: Path | None, *, demo: bool = False, has_demo: bool = True
) -> tuple[Path, Path]:
    """The two files to use: those that were given, the demonstration guard's if asked for, or the default model's.

    Raises:
        click.UsageError: if there is no model, half a model, or a folder with several.
        ModelFileError: if the default model is gone, or a folder has damaged files alone.
    """
    if demo:
        refuse_with_demo()
        from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415 - heavy, and not needed for --help

        pair = demo_pair()
        return pair.text, pair.mmproj
    if model is None and mmproj is None:
        default = read_default_model()
        if default is None:
            raise click.UsageError(_MISSING.format(demo=", or use the demonstration guard: --demo" if has_demo else ""))
        return default
    if model is None or mmproj is None:
        if model is not None and model.is_dir():
            return find_pair(model)
        if model is not None and not model.exists():
            raise click.UsageError(f"{model} does not exist")
        missing = "--model TEXT.gguf" if model is None else "--mmproj MMPROJ.gguf"
        raise click.UsageError(f"{missing} is missing: a model is a folder, or two files that one conversion wrote")
    if not model.is_dir():
        return model, mmproj
    # A folder on the command line is the whole model, whatever the environment names beside it.
    from_command_line = [_source(name) == ParameterSource.COMMANDLINE for name in ("model", "mmproj")]
    return find_pair(model, None if from_command_line == [True, False] else mmproj)


def _source(name: str) -> ParameterSource | None:
    return click.get_current_context().get_parameter_source(name)


def refuse_with_demo() -> None:
    """Refuse ``--model`` or ``--mmproj`` next to ``--demo``; those of the environment do not count."""
    for name in ("model", "mmproj"):
        if _source(name) == ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--demo and --{name} exclude each other")
