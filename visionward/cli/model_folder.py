"""Finding the one model in a folder: a text file and the mmproj file of the same conversion."""

import logging
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from visionward.errors import ModelFileError

_log = logging.getLogger(__name__)


def find_pair(folder: Path, mmproj: Path | None = None) -> tuple[Path, Path]:
    """The text file and the mmproj file in a folder. Files of other kinds and of other programs are left out.

    A GGUF file that cannot be read is left out with a warning if there is a pair without it.

    ONNX towers need not be found here: the guard takes those beside the mmproj file that belong to it.

    Args:
        folder: where `visionward convert` wrote them.
        mmproj: the mmproj file, if it is known; then only the text file is looked for.

    Raises:
        click.UsageError: if there is none, or more than one.
        ModelFileError: if there is no pair, and a GGUF file is damaged.
    """
    from visionward.formats.mmproj_format import MMPROJ_ARCHITECTURE  # noqa: PLC0415 - not needed for --help
    from visionward.formats.text_format import TEXT_ARCHITECTURE  # noqa: PLC0415

    unreadable: list[ModelFileError] = []
    files = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    texts = dict(_hashes(files, TEXT_ARCHITECTURE, unreadable))
    mmprojs = dict(_hashes(files if mmproj is None else [mmproj], MMPROJ_ARCHITECTURE, unreadable))
    pairs = [(text, partner) for text in texts for partner in mmprojs if texts[text] == mmprojs[partner]]
    if not pairs and unreadable:
        raise unreadable[0]
    for sentence in dict.fromkeys(map(str, unreadable)):
        _log.warning("a file is left out: %s", sentence)
    if len(pairs) > 1:
        raise click.UsageError(_choice(folder, pairs))
    if not pairs:
        raise click.UsageError(_why_none(folder, texts, mmprojs))
    return pairs[0]


def find_files(folder: Path) -> tuple[Path, Path, Path | None]:
    """The pair in a folder, and the ONNX tower that belongs to it; None if there is none.

    Of several towers it is the one that the guard prefers.

    Raises:
        click.UsageError: if there is no pair, or more than one.
        ModelFileError: if there is no pair, and a GGUF file is damaged.
    """
    from visionward.formats.gguf_header import GgufHeader  # noqa: PLC0415 - not needed for --help
    from visionward.formats.mmproj_file import read_mmproj_config  # noqa: PLC0415
    from visionward.runtime.vision.vision_backend import preferred_towers  # noqa: PLC0415

    text, mmproj = find_pair(folder)
    header = GgufHeader(mmproj)
    towers = preferred_towers(header, read_mmproj_config(header))
    return text, mmproj, towers[0][0] if towers else None


def _why_none(folder: Path, texts: Iterable[Path], mmprojs: Iterable[Path]) -> str:
    missing = [kind for kind, found in (("text file", texts), ("mmproj file", mmprojs)) if not found]
    if missing:
        return (
            f"{folder} has no {' and no '.join(missing)} that `visionward convert` wrote; to convert a checkpoint into "
            f"it: visionward convert CHECKPOINT {shlex.quote(str(folder))}"
        )
    return f"{_names(texts)} and {_names(mmprojs)} do not belong together: use the two files of one conversion"


def _choice(folder: Path, pairs: list[tuple[Path, Path]]) -> str:
    """Name the files of several pairs, and how to choose."""
    texts, mmprojs = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    kinds = [
        f"{len(files)} {kind}s ({_names(files)})"
        for kind, files in (("text file", texts), ("mmproj file", mmprojs))
        if len(files) > 1
    ]
    text, mmproj = (shlex.quote(str(path)) for path in pairs[0])
    return f"{folder} has {' and '.join(kinds)}; choose, for example: --model {text} --mmproj {mmproj}"


def _names(paths: Iterable[Path]) -> str:
    return ", ".join(path.name for path in paths)


def _hashes(paths: Iterable[Path], architecture: str, unreadable: list[ModelFileError]) -> Iterator[tuple[Path, str]]:
    """The files of an architecture that `visionward convert` wrote, with the content hash that both halves share."""
    from visionward.formats.gguf_header import GgufHeader  # noqa: PLC0415 - not needed for --help
    from visionward.formats.mmproj_format import KEY_TEXT_HASH  # noqa: PLC0415

    for path in paths:
        try:
            header = GgufHeader(path)
            kind = header.get("general.architecture", str) if header.has("general.architecture") else None
            if kind == architecture and header.has(KEY_TEXT_HASH):
                yield path, header.get(KEY_TEXT_HASH, str)
        except ModelFileError as error:
            unreadable.append(error)
