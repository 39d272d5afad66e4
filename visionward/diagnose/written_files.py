"""What visionward has written on its own account, and can write again: list it, and remove it."""

import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from visionward.demonstration import DEMO_GUARD_NAME
from visionward.errors import OutputError
from visionward.formats.checked_files import CHECKED_FOLDER
from visionward.formats.onnx_format import data_path, is_tower
from visionward.paths import cache_folder, models_folder
from visionward.runtime.ggml.kernel_probe import KERNELS_FOLDER
from visionward.runtime.vision.compiled_cache import COMPILED_FOLDER

# Hidden files and folders are unfinished. Writing takes seconds: older ones were left by killed processes.
_ABANDONED_AFTER_S = 3600.0
TOWERS = "towers"
_OTHER = "other"
# The folders of the cache: their names, and what is in them.
_FOLDERS = {
    DEMO_GUARD_NAME: "the demonstration guard, converted at first use",
    KERNELS_FOLDER: "results of the kernel probe",
    COMPILED_FOLDER: "vision towers, compiled by ONNX Runtime or OpenVINO at first use",
    CHECKED_FOLDER: "which model files matched their checksums",
}


@dataclass(frozen=True)
class WrittenFiles:
    """Files with one purpose.

    Attributes:
        name: how they are named on the command line.
        purpose: what they are for, as a phrase.
        paths: the files, and folders with everything in them.
        nbytes: their size.
    """

    name: str
    purpose: str
    paths: tuple[Path, ...]
    nbytes: int


def written_files(model_folders: Iterable[Path] = ()) -> tuple[WrittenFiles, ...]:
    """Everything in the cache folder, by purpose, and ONNX towers. What a process is writing now is left out.

    Args:
        model_folders: folders with model files besides ``models_folder()``. Only ONNX towers in them are listed.

    Raises:
        OSError: if a folder cannot be read.
    """
    cache = cache_folder()
    found = [_written(name, purpose, _inside(cache / name)) for name, purpose in _FOLDERS.items()]
    others = [path for path in _inside(cache) if path.name not in _FOLDERS]
    folders = dict.fromkeys(folder.absolute() for folder in (models_folder(), *model_folders))
    towers = [path for folder in folders for path in _towers(folder)]
    return (
        *found,
        _written(_OTHER, "files of other versions of visionward", others),
        _written(TOWERS, "ONNX towers beside the default model and in the folder for models", towers),
    )


def remove(written: WrittenFiles) -> None:
    """Remove the files.

    Raises:
        OutputError: if one of them cannot be removed.
    """
    for path in written.paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            continue  # another process removed it
        except OSError as error:
            raise OutputError(
                f"{error.filename or path} cannot be removed ({error.strerror or error}): end the programs that use "
                "visionward, and try again"
            ) from error


def _written(name: str, purpose: str, paths: Iterable[Path]) -> WrittenFiles:
    kept = tuple(path for path in paths if not _is_being_written(path))
    return WrittenFiles(name, purpose, kept, sum(map(_nbytes, kept)))


def _is_being_written(path: Path) -> bool:
    try:
        return path.name.startswith(".") and time.time() - path.lstat().st_mtime <= _ABANDONED_AFTER_S
    except FileNotFoundError:
        return True


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _towers(folder: Path) -> Iterator[Path]:
    """The towers in a folder, and their data files."""
    for path in sorted(folder.glob("vision-*.onnx")):
        if is_tower(path):
            yield path
            if data_path(path).is_file():
                yield data_path(path)


def _nbytes(path: Path) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(map(_nbytes, path.iterdir()))
        return path.lstat().st_size
    except FileNotFoundError:
        return 0  # another process removed it
