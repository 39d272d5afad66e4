"""Checking that a model's files are unchanged, and that the loaded model sees the image."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, ModelFileError
from visionward.formats.mmproj_file import tower_hash
from visionward.formats.onnx_format import CHECKSUM_BYTES, check_weights, data_path, read_identity
from visionward.formats.pair_files import PairFiles
from visionward.formats.tensor_checksums import has_checksums
from visionward.progress import OnProgress, ProgressCounter
from visionward.runtime.engine import Engine
from visionward.runtime.vision.vision_backend import towers_beside

# A smaller difference of the logits is rounding. The two pictures here changed the logits of the demonstration guard by
# 0.2, and those of random models by 0.1 to 0.7.
MIN_DIFFERENCE = 0.01


@dataclass(frozen=True)
class VerifiedFile:
    """A file that was read in full.

    Attributes:
        path: the file.
        nbytes: its size.
        checksums: whether it has checksums, which then were right.
    """

    path: Path
    nbytes: int
    checksums: bool


def verify_files(
    text: Path, mmproj: Path, tower: Path | None = None, on_progress: OnProgress | None = None
) -> tuple[VerifiedFile, ...]:
    """Read every byte of a model's files, and compare them with their checksums.

    Args:
        text: the text file.
        mmproj: the mmproj file of the same conversion.
        tower: an ONNX tower that belongs to it; every one beside it that does, unless given.
        on_progress: called with the progress of reading them, in bytes.

    Raises:
        ModelFileError: if a file is missing, damaged or of another kind, or they do not belong together.
    """
    pair = PairFiles.open(text, mmproj)
    towers = _towers(pair, tower)
    total = pair.nbytes + sum(data_path(path).stat().st_size - CHECKSUM_BYTES for path in towers)
    advance = ProgressCounter(on_progress, "checking files", total, "bytes").advance
    pair.check_checksums(advance, again=True)
    files = [_verified(file.path, has_checksums(file)) for file in (pair.text, pair.mmproj)]
    for path in towers:
        check_weights(path, advance, again=True)
        files += [_verified(part, checksums=True) for part in (path, data_path(path))]
    return tuple(files)


def _towers(pair: PairFiles, named: Path | None) -> list[Path]:
    """The ONNX tower that was named, or those that a guard could choose by itself."""
    if named is None:
        return [path for path, _ in towers_beside(pair.mmproj, pair.config)]
    if not read_identity(named).belongs(pair.config, tower_hash(pair.mmproj)):
        raise ModelFileError(
            f"{named} and {pair.mmproj.path} do not belong together: use the ONNX tower of the same conversion."
        )
    return [named]


def _verified(path: Path, checksums: bool) -> VerifiedFile:
    return VerifiedFile(path, path.stat().st_size, checksums)


def picture_difference(engine: Engine) -> float:
    """How much the logits differ between two pictures: the norm of the difference over that of the logits.

    Raises:
        ComputeError: if they are the same, so that a verdict would not depend on the image.
    """
    tokens = [engine.model.image_token_id, *engine.model.encode("What is on this picture?")]
    one, other = (engine.logits(tokens, picture).logits[-1] for picture in _pictures(engine.config.vision.tile_size))
    difference = float(np.linalg.norm(one - other) / np.linalg.norm(one))
    if not difference >= MIN_DIFFERENCE:
        raise ComputeError(
            f"two different pictures change the logits by no more than {difference:.1e}: the model does not see the "
            "image. Convert it again."
        )
    return difference


def _pictures(side: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Noise, and a large disc in one corner, (side, side, 3)."""
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    rows, columns = np.indices((side, side))
    disc = np.full((side, side, 3), (250, 240, 20), np.uint8)
    disc[(rows - side / 3) ** 2 + (columns - side / 3) ** 2 < (side / 4) ** 2] = (10, 20, 200)
    return noise, disc
