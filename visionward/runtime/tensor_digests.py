"""The digests of a GGUF file's tensors: computed on all cores, and compared when the file is loaded the first time."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from visionward.runtime import mmproj_format as form
from visionward.runtime.checked_files import is_remembered, marker_of, remember
from visionward.runtime.errors import ModelFileError
from visionward.runtime.gguf_header import GgufHeader, StoredTensor
from visionward.runtime.gguf_values import text, whole
from visionward.runtime.processor import usable_cores

# Is told how many bytes were read since it was last told; may raise to end the reading.
Advance = Callable[[int], None]

_PIECE = 8 << 20


def is_sealed(header: GgufHeader) -> bool:
    """Whether a file of a pair has digests, as every one has that this version writes.

    Raises:
        ModelFileError: if it is of an unknown format version, or has lost its digests.
    """
    version = header.get(form.KEY_FORMAT_VERSION, whole(0, 2**32 - 1))
    if version not in (form.UNSEALED_VERSION, form.FORMAT_VERSION):
        raise ModelFileError(
            f"{header.path} has format version {version}, this visionward reads {form.FORMAT_VERSION}: convert it "
            "again."
        )
    has = [header.has(key) for key in (form.KEY_HEADER_DIGEST, form.KEY_TENSOR_DIGESTS)]
    if has != [version == form.FORMAT_VERSION] * 2:
        raise ModelFileError(f"{header.path} is damaged: its digests do not fit its format version. Copy it again.")
    return all(has)


def stored_digests(header: GgufHeader) -> dict[str, str]:
    """What a sealed file says of its tensors: name to SHA-256, in hexadecimal digits.

    Raises:
        ModelFileError: if it has another number of digests than of tensors.
    """
    digests = [digest.decode("ascii", "replace") for digest in header.strings(form.KEY_TENSOR_DIGESTS)]
    if len(digests) != len(header.tensors):
        raise ModelFileError(
            f"{header.path} is damaged: it has {len(digests)} digests for {len(header.tensors)} tensors. Copy it again."
        )
    return dict(zip(header.tensors, digests, strict=True))


def computed_digests(header: GgufHeader, advance: Advance | None = None) -> dict[str, str]:
    """The SHA-256 of every tensor's bytes, read now, on all cores.

    Raises:
        ModelFileError: if the file cannot be read.
    """
    largest_first = sorted(header.tensors.values(), key=lambda tensor: -tensor.nbytes)
    with ThreadPoolExecutor(usable_cores()) as pool:
        try:
            digests = dict(pool.map(lambda tensor: (tensor.name, _digest(header.path, tensor, advance)), largest_first))
        except OSError as error:
            raise ModelFileError(f"{header.path} cannot be read: {error.strerror or error}.") from error
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {name: digests[name] for name in header.tensors}


def _digest(path: Path, tensor: StoredTensor, advance: Advance | None) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        left = tensor.nbytes
        while left:
            # Fewer bytes than asked for: the file was cut meanwhile, and so its digest is another.
            piece = file.read(min(left, _PIECE))
            if not piece:
                break
            digest.update(piece)
            left -= len(piece)
            if advance is not None:
                advance(len(piece))
    return digest.hexdigest()


def check_digests(headers: Iterable[GgufHeader], advance: Advance | None = None, *, again: bool = False) -> None:
    """Check the tensors of sealed files against their digests, unless that was done before.

    Args:
        headers: files of a pair; those that are not sealed are passed over.
        advance: is told how many bytes were read.
        again: whatever is remembered.

    Raises:
        ModelFileError: if a file is damaged.
    """
    for header in headers:
        if not is_sealed(header):
            continue
        digest = header.get(form.KEY_HEADER_DIGEST, text)
        marker = marker_of(header.path, digest)
        if not again and is_remembered(marker):
            continue
        compare_digests(header, advance)
        # What was written to meanwhile is not what was read.
        if marker == marker_of(header.path, digest):
            remember(marker)


def compare_digests(header: GgufHeader, advance: Advance | None = None) -> None:
    """Read a file that has digests, and compare its tensors with them.

    Raises:
        ModelFileError: if it is damaged.
    """
    computed = computed_digests(header, advance)
    wrong = [name for name, digest in stored_digests(header).items() if computed[name] != digest]
    if wrong:
        more = f" and {len(wrong) - 1} more tensors have" if len(wrong) > 1 else " has"
        raise ModelFileError(
            f"{header.path} is damaged: tensor {wrong[0]}{more} another digest than the file says. Copy it again."
        )
