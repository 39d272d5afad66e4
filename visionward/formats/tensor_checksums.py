"""Checksums of the tensors of a GGUF file: computed on all cores, checked when a file is first loaded."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from visionward.errors import ModelFileError
from visionward.formats import mmproj_format as form
from visionward.formats.checked_files import is_remembered, marker_of, remember
from visionward.formats.format_version import check_format_version
from visionward.formats.gguf_header import GgufHeader, GgufTensor
from visionward.formats.gguf_values import text, whole
from visionward.machine.processor import usable_cores

# Called with the number of bytes of every piece that was read, from several threads. It may raise to stop.
Advance = Callable[[int], None]

_PIECE = 8 << 20


def has_checksums(header: GgufHeader) -> bool:
    """Whether a file of a pair has checksums. Every file that this version writes has them.

    Raises:
        ModelFileError: if the format version is unknown, or the checksum keys do not match it.
    """
    version = header.get(form.KEY_FORMAT_VERSION, whole(0, 2**32 - 1))
    if version != form.VERSION_WITHOUT_CHECKSUMS:
        check_format_version(header.path, version, form.FORMAT_VERSION, ModelFileError, "convert the model again")
    has = [header.has(key) for key in (form.KEY_HEADER_CHECKSUM, form.KEY_TENSOR_CHECKSUMS)]
    if has != [version == form.FORMAT_VERSION] * 2:
        raise ModelFileError(
            f"{header.path} is damaged: its checksum keys do not match its format version. Copy it again."
        )
    return all(has)


def stored_checksums(header: GgufHeader) -> dict[str, str]:
    """The checksums of the tensors that a file contains: name to SHA-256, in hexadecimal.

    Raises:
        ModelFileError: if the numbers of checksums and tensors differ.
    """
    checksums = [digest.decode("ascii", "replace") for digest in header.strings(form.KEY_TENSOR_CHECKSUMS)]
    if len(checksums) != len(header.tensors):
        raise ModelFileError(
            f"{header.path} is damaged: {len(checksums)} checksums for {len(header.tensors)} tensors. Copy it again."
        )
    return dict(zip(header.tensors, checksums, strict=True))


def computed_checksums(header: GgufHeader, advance: Advance | None = None) -> dict[str, str]:
    """The SHA-256 of every tensor's bytes, computed on all cores.

    Raises:
        ModelFileError: if the file cannot be read.
    """
    largest_first = sorted(header.tensors.values(), key=lambda tensor: -tensor.nbytes)
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            found = dict(pool.map(lambda tensor: (tensor.name, _digest(header.path, tensor, advance)), largest_first))
        except OSError as error:
            raise ModelFileError(f"{header.path} cannot be read: {error.strerror or error}.") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: found[name] for name in header.tensors}


def _digest(path: Path, tensor: GgufTensor, advance: Advance | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        left = tensor.nbytes
        while left:
            # The file was truncated while it was read. Its checksum will not match.
            piece = file.read(min(left, _PIECE))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()


def check_checksums(headers: Iterable[GgufHeader], advance: Advance | None = None, *, again: bool = False) -> None:
    """Check the tensors of files against their checksums, unless they were checked before.

    Args:
        headers: files of a pair. Those without checksums are skipped.
        advance: called with the number of bytes of every piece that was read. It may raise to stop.
        again: check even if they were checked before.

    Raises:
        ModelFileError: if a file is damaged.
    """
    for header in headers:
        if not has_checksums(header):
            continue
        digest = header.get(form.KEY_HEADER_CHECKSUM, text)
        marker = marker_of(header.path, digest)
        if not again and is_remembered(marker):
            continue
        compare_checksums(header, advance)
        # The file may have been changed while it was read.
        if marker == marker_of(header.path, digest):
            remember(marker)


def compare_checksums(header: GgufHeader, advance: Advance | None = None) -> None:
    """Read a file that has checksums, and compare its tensors with them.

    Raises:
        ModelFileError: if it is damaged.
    """
    computed = computed_checksums(header, advance)
    wrong = [name for name, digest in stored_checksums(header).items() if computed[name] != digest]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise ModelFileError(
            f"{header.path} is damaged: tensor {wrong[0]}{more} does not match its checksum. Copy it again."
        )
