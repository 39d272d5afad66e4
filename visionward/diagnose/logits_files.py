"""The .npz files of ``visionward logits``: preprocessed pixels in, logits and features out."""

import zipfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from visionward.errors import ImageError
from visionward.formats.regular_file import open_regular
from visionward.runtime.engine import LogitsResult
from visionward.runtime.images.preprocess import Tiles

_UNREADABLE = (ValueError, EOFError, OSError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError)


def read_tiles(path: Path) -> Tiles:
    """Tiles from ``pixel_values`` (tiles, 3, H, W) and ``aspect_ratio`` (tiles high, tiles wide).

    Further tiles are padding, as Transformers makes it: they must be zero and are left out.

    Raises:
        ImageError: if the file cannot be read or is not of that form.
    """
    pixels, ratio = _arrays(path)
    if pixels.ndim != 4 or pixels.dtype.kind != "f":
        raise ImageError(f"{path}: pixel_values is {pixels.dtype} {pixels.shape}, expected floats (tiles, 3, H, W).")
    if ratio.shape != (2,) or ratio.dtype.kind not in "iu" or (ratio < 1).any():
        raise ImageError(f"{path}: aspect_ratio is {ratio.tolist()}, expected two integers: tiles high, tiles wide.")
    high, wide = (int(value) for value in ratio)
    if len(pixels) < high * wide:
        raise ImageError(f"{path}: {len(pixels)} tiles, but an aspect ratio of {high} x {wide} takes {high * wide}.")
    if pixels[high * wide :].any():
        raise ImageError(f"{path}: the padding tiles, after the first {high * wide}, are not zero.")
    with np.errstate(over="ignore", invalid="ignore"):
        values = np.ascontiguousarray(pixels[: high * wide], np.float32)
    if not np.isfinite(values).all():
        raise ImageError(f"{path}: pixel_values are not all finite in float32.")
    return Tiles(values, (high, wide))


def _arrays(path: Path) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        file = open_regular(path)
    except _UNREADABLE as error:
        raise ImageError(f"{path}: cannot be read as an .npz file ({error}).") from error
    with file:
        return _arrays_of(path, file)


def _arrays_of(path: Path, file: BinaryIO) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        # Pickled objects are refused: they could run anything.
        content = np.load(file, allow_pickle=False)
    except _UNREADABLE as error:
        raise ImageError(f"{path}: cannot be read as an .npz file ({error}).") from error
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ImageError(f"{path}: a single array, expected an .npz file with pixel_values and aspect_ratio.")
    with content:
        missing = [name for name in ("pixel_values", "aspect_ratio") if name not in content.files]
        if missing:
            raise ImageError(f"{path}: missing {' and '.join(missing)}; found {', '.join(content.files) or 'nothing'}.")
        try:
            return content["pixel_values"], content["aspect_ratio"]
        except _UNREADABLE as error:
            raise ImageError(f"{path}: an array cannot be read ({error}).") from error


def holds_logits(path: Path) -> bool:
    """Whether a file is one that ``write_logits`` wrote."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "logits.npy" in archive.namelist()
    except _UNREADABLE:
        return False


def write_logits(file: BinaryIO, result: LogitsResult) -> None:
    """Write ``logits`` and, with an image, ``features`` and ``pixels``."""
    arrays = {"logits": result.logits, "features": result.features, "pixels": result.pixels}
    given: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
    np.savez(file, **given)
