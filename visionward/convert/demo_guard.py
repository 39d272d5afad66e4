"""The demonstration guard, which comes with visionward as a checkpoint and is converted at first use."""

import atexit
import contextlib
import hashlib
import shutil
import tempfile
import time
from functools import lru_cache
from importlib import resources
from pathlib import Path

from visionward.convert.conversion import ConvertedPair, convert_checkpoint
from visionward.demonstration import DEMO_GUARD_NAME
from visionward.errors import CheckpointError, ModelFileError, OutputError
from visionward.formats.mmproj_format import FORMAT_VERSION
from visionward.formats.pair_files import PairFiles
from visionward.machine.packages import installed_version
from visionward.paths import cache_folder

_FOLDER = "demo_guard"

# Conversion takes seconds. An older unfinished folder was left by a killed process.
_ABANDONED_AFTER_S = 3600.0

_UNFINISHED = ".converting-"


def _fingerprint(checkpoint: Path) -> str:
    """A hash of the checkpoint's files, so that a changed checkpoint of the same version is converted again."""
    digest = hashlib.sha256()
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _pair_in(folder: Path) -> ConvertedPair | None:
    """The pair in a folder; None if it is incomplete or damaged."""
    texts = list(folder.glob(f"{DEMO_GUARD_NAME}-text-*.gguf"))
    mmprojs = list(folder.glob(f"mmproj-{DEMO_GUARD_NAME}-*.gguf"))
    if not (texts and mmprojs):
        return None
    try:
        PairFiles.open(texts[0], mmprojs[0]).check_checksums()
    except ModelFileError:
        return None
    return ConvertedPair(texts[0], mmprojs[0])


def _remove_abandoned(cache: Path) -> None:
    for folder in cache.glob(f"{_UNFINISHED}*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(folder)


def _convert_into(checkpoint: Path, final: Path, text_type: str, mmproj_type: str) -> ConvertedPair:
    """Convert into a temporary folder and rename it, so that the final folder is always complete."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final.parent)
    temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=final.parent))
    try:
        convert_checkpoint(checkpoint, temporary, text_type=text_type, mmproj_type=mmproj_type, name=DEMO_GUARD_NAME)
        # A damaged or incomplete pair in the cache would be refused at every start.
        if _pair_in(final) is None:
            shutil.rmtree(final, ignore_errors=True)
        with contextlib.suppress(OSError):
            temporary.rename(final)
    finally:
        # Still there if another process was faster. That process wrote the same files.
        shutil.rmtree(temporary, ignore_errors=True)
    pair = _pair_in(final)
    if pair is None:
        raise OutputError(f"{final}: the converted demonstration guard could not be written here")
    return pair


@lru_cache
def demo_pair(text_type: str = "f16", mmproj_type: str = "f16") -> ConvertedPair:
    """The two files of the demonstration guard, which are converted into the user's cache if they are not there.

    If the cache cannot be written, a temporary folder is used that is removed at exit.

    Raises:
        CheckpointError: if this installation does not contain the checkpoint.
        OutputError: if the files cannot be written.
    """
    with resources.as_file(resources.files("visionward").joinpath(_FOLDER)) as found:
        # In a program that Nuitka built it is no Path, but its text is the path.
        checkpoint = Path(str(found))
        if not (checkpoint / "config.json").is_file():
            raise CheckpointError(
                "this installation of visionward does not contain the checkpoint of the demonstration guard"
            )
        types = f"v{FORMAT_VERSION}-{text_type}-{mmproj_type}"
        key = f"{installed_version('visionward') or 'uninstalled'}-{_fingerprint(checkpoint)}-{types}".lower()
        final = cache_folder() / DEMO_GUARD_NAME / key
        try:
            return _pair_in(final) or _convert_into(checkpoint, final, text_type, mmproj_type)
        except OSError:
            # A read-only home folder or a full disk: the model is small enough to be converted at every start.
            temporary = Path(tempfile.mkdtemp(prefix="visionward-"))
            atexit.register(shutil.rmtree, temporary, ignore_errors=True)
            return _convert_into(checkpoint, temporary / key, text_type, mmproj_type)
