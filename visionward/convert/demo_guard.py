"""The demonstration guard that is packaged with visionward, converted at first use."""

import atexit
import contextlib
import hashlib
import shutil
import tempfile
import time
from functools import lru_cache
from importlib import resources
from pathlib import Path

from platformdirs import user_cache_dir

from visionward.convert.conversion import ConvertedPair, convert_checkpoint
from visionward.demonstration import DEMO_GUARD_NAME
from visionward.errors import CheckpointError, ModelFileError
from visionward.formats.mmproj_format import FORMAT_VERSION
from visionward.formats.output_file import OutputError
from visionward.formats.pair_files import PairFiles
from visionward.machine.packages import installed_version

_FOLDER = "demo_guard"

# Conversion takes seconds; what is older than this was left by a killed process.
_ABANDONED_AFTER_S = 3600.0

_UNFINISHED = ".converting-"


def _fingerprint(checkpoint: Path) -> str:
    """A hash of the checkpoint's files, so that another checkpoint of the same version is converted anew."""
    digest = hashlib.sha256()
    for path in sorted(path for path in checkpoint.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _pair_in(folder: Path) -> ConvertedPair | None:
    """The pair in a folder; None if it is not complete or, read in full the first time, not as it was written."""
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
    """Convert aside and rename, so that the final folder is complete whenever it exists."""
    final.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(final.parent)
    aside = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=final.parent))
    try:
        convert_checkpoint(checkpoint, aside, text_type=text_type, mmproj_type=mmproj_type, name=DEMO_GUARD_NAME)
        # What lost a file, or was damaged since, would be refused for ever: only this program knows what it is.
        if _pair_in(final) is None:
            shutil.rmtree(final, ignore_errors=True)
        with contextlib.suppress(OSError):
            aside.rename(final)
    finally:
        # Gone after the rename, unless another process was faster: its folder holds the same files.
        shutil.rmtree(aside, ignore_errors=True)
    pair = _pair_in(final)
    if pair is None:
        raise OutputError(f"{final}: the converted demo guard could not be put here")
    return pair


@lru_cache
def demo_pair(text_type: str = "f16", mmproj_type: str = "f16") -> ConvertedPair:
    """The demonstration guard's two files, converted into the user's cache directory if they are not there, whole.

    Where that directory cannot be written, a temporary one is used that is removed at exit.

    Raises:
        CheckpointError: if this installation comes without the checkpoint.
        OutputError: if the files can be written nowhere.
    """
    with resources.as_file(resources.files("visionward").joinpath(_FOLDER)) as checkpoint:
        if not (checkpoint / "config.json").is_file():
            raise CheckpointError("this installation of visionward comes without the demo guard's checkpoint")
        kind = f"v{FORMAT_VERSION}-{text_type}-{mmproj_type}"
        key = f"{installed_version('visionward') or 'uninstalled'}-{_fingerprint(checkpoint)}-{kind}".lower()
        final = Path(user_cache_dir("visionward")) / DEMO_GUARD_NAME / key
        try:
            return _pair_in(final) or _convert_into(checkpoint, final, text_type, mmproj_type)
        except OSError:
            # Read-only home, full disk, a file in the way: the demo is small enough to be converted every time.
            temporary = Path(tempfile.mkdtemp(prefix="visionward-"))
            atexit.register(shutil.rmtree, temporary, ignore_errors=True)
            return _convert_into(checkpoint, temporary / key, text_type, mmproj_type)
