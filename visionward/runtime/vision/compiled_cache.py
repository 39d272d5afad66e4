"""Compiled vision towers in the user's cache, so that a later process loads a tower without compiling it again.

An entry is a folder with the files that an engine wrote, and their SHA-256 checksums. It is for one tower, engine,
version, processor and setting (docs/onnx-tower.md). A damaged entry is written again, never used.
"""

import contextlib
import hashlib
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

from visionward.errors import ModelFileError
from visionward.formats.checked_files import is_remembered, marker_of, remember
from visionward.formats.onnx_format import CHECKSUM_BYTES, data_path
from visionward.formats.tensor_checksums import Advance
from visionward.machine.file_systems import is_in_memory
from visionward.machine.processor import read_processor
from visionward.paths import cache_folder
from visionward.quantities import size_text

T = TypeVar("T")

# Begins a stage of the loading, given its name: the callback for bytes that are done, which may raise to end it.
Begin: TypeAlias = Callable[[str], Advance]

# The folder of the entries in the cache.
COMPILED_FOLDER = "compiled"
# Each has a gigabyte or two.
MAX_ENTRIES = 3
# Smaller towers compile in no time.
MIN_TOWER_BYTES = 100 * 2**20
# An entry with the weights as they were and as they are packed.
_ENTRY_SIZE = 2
# Increase it when a session's options change.
_FORMAT = "1"
_CHECKSUMS = "SHA256SUMS"
_PART = ".part"
_PIECE = 8 << 20
# Writing takes seconds: older unfinished folders were left by killed processes.
_ABANDONED_AFTER_S = 600.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Compiling:
    """What compiles a tower.

    Attributes:
        engine: its name, for file names.
        version: its version.
        settings: everything else that its result depends on, besides the tower and the processor.
    """

    engine: str
    version: str
    settings: tuple[str, ...] = ()


def load_or_compile(
    tower: Path,
    by: Compiling,
    *,
    load: Callable[[Path], T],
    compile_into: Callable[[Path | None], T],
    begin: Begin,
) -> T:
    """A tower from the cache; if it is not there, compile it, and keep the result for the next process.

    Without space on the disk or a writable cache, the tower is compiled and not kept, with a warning. While another
    process writes the same entry, it is not written a second time.

    Args:
        tower: the ONNX file.
        by: what compiles it.
        load: loads an entry's folder; raises ModelFileError if the engine refuses it.
        compile_into: compiles the tower, and writes the result into a folder, unless that is None.
        begin: called when a result is written, with the name of the stage; in all, it has the bytes of the tower.

    Raises:
        ModelFileError: if the engine cannot compile the tower.
    """
    data = data_path(tower)
    if data.stat().st_size < MIN_TOWER_BYTES:
        return compile_into(None)
    entry = _entry(data, by)
    if _is_intact(entry):
        with contextlib.suppress(ModelFileError):
            loaded = load(entry)
            with contextlib.suppress(OSError):
                os.utime(entry)  # the least recently used entries are removed first
            return loaded
    folder = _begin(entry, _ENTRY_SIZE * data.stat().st_size)
    if folder is None:
        return compile_into(None)
    try:
        advance = begin("compiling ONNX tower")
        compiled = compile_into(folder)
        _finish(folder, entry)
        advance(data.stat().st_size)
    except ModelFileError as error:
        # If the tower is damaged, this fails too.
        compiled = compile_into(None)
        _warn(entry, f"{by.engine} could not write it")
        _log.info("%s", error)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return compiled


def no_report(_stage: str) -> Advance:
    """Reports nothing."""
    return lambda _nbytes: None


def _entry(data: Path, by: Compiling) -> Path:
    with data.open("rb") as file:
        file.seek(-CHECKSUM_BYTES, os.SEEK_END)
        of_tower = hashlib.sha256(file.read()).hexdigest()
    parts = (_FORMAT, of_tower, by.engine, by.version, read_processor().identity, *by.settings)
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()
    return cache_folder() / COMPILED_FOLDER / f"{by.engine}-{of_tower[:16]}-{key[:16]}"


def _is_intact(entry: Path) -> bool:
    """Whether an entry is complete and its files match their checksums, which are computed only once for each file."""
    try:
        lines = (entry / _CHECKSUMS).read_text(encoding="utf-8").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if not expected or expected.keys() != {path.name for path in entry.iterdir()} - {_CHECKSUMS}:
            return False
        for name, digest in expected.items():
            marker = marker_of(entry / name, digest)
            if not is_remembered(marker):
                if _digest(entry / name) != digest:
                    _log.warning("the compiled tower %s is damaged and is written again", entry)
                    return False
                remember(marker)
    except (OSError, UnicodeDecodeError, ModelFileError):
        return False
    return True


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _begin(entry: Path, needed: int) -> Path | None:
    """A folder to write an entry into; None if there is no place, or another process is writing the entry."""
    folder = entry.with_name(f".{entry.name}.{secrets.token_hex(4)}{_PART}")
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        for other in entry.parent.glob(f".*{_PART}"):
            if time.time() - other.stat().st_mtime > _ABANDONED_AFTER_S:
                shutil.rmtree(other, ignore_errors=True)
            elif other.name.startswith(f".{entry.name}."):
                return None
        if is_in_memory(entry.parent):
            _log.info("compiled vision towers are not kept in %s, whose files take memory", entry.parent)
            return None
        free = shutil.disk_usage(entry.parent).free
        if free < needed:
            _warn(entry, f"it needs up to {size_text(needed)}, and the disk has {size_text(free)} free")
            return None
        folder.mkdir()
    except OSError as error:
        _warn(entry, error.strerror or str(error))
        return None
    return folder


def _finish(folder: Path, entry: Path) -> None:
    """Give a written folder its checksums and its final name, and remove the entries that it replaces."""
    try:
        digests = {path.name: _digest(path) for path in sorted(folder.iterdir())}
        if not digests:
            _warn(entry, "the engine wrote nothing")
            return
        lines = [f"{digest}  {name}\n" for name, digest in digests.items()]
        (folder / _CHECKSUMS).write_text("".join(lines), encoding="utf-8")
        for path in folder.iterdir():
            _flush(path)
        shutil.rmtree(entry, ignore_errors=True)  # one that was damaged
        folder.replace(entry)
        for name, digest in digests.items():
            remember(marker_of(entry / name, digest))
        with contextlib.suppress(OSError):  # another process may remove them too
            _remove_replaced(entry)
    except (OSError, ModelFileError) as error:
        _warn(entry, str(error))


def _warn(entry: Path, reason: str) -> None:
    _log.warning("the compiled vision tower is not kept in %s: %s", entry.parent, reason)


def _flush(path: Path) -> None:
    with path.open("rb") as file, contextlib.suppress(OSError):
        os.fsync(file.fileno())


def _remove_replaced(entry: Path) -> None:
    """Remove other entries of the same tower and engine, and the least recently used ones above the limit."""
    of_tower = entry.name.rpartition("-")[0]
    others = [path for path in entry.parent.iterdir() if path != entry and not path.name.startswith(".")]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    replaced = [path for path in others if path.name.rpartition("-")[0] == of_tower]
    for path in {*replaced, *others[MAX_ENTRIES - 1 :]}:
        _log.info("removing the compiled tower %s", path)
        shutil.rmtree(path, ignore_errors=True)
