"""The band of ``max_tiles="auto"``: scores of a first look, with one tile, that ask for a second one with all tiles.

A band is given as two numbers, or learnt by ``visionward compare`` and kept in a small JSON file.
"""

import json
import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from visionward.errors import DataError, ModelFileError, PolicyError
from visionward.formats.file_hash import file_hash
from visionward.formats.format_version import check_format_version
from visionward.formats.strict_json import read_json

_FORMAT = "visionward tile band"
_VERSION = 1
_MAX_FILE_BYTES = 1 << 16


@dataclass(frozen=True)
class LearntFrom:
    """What a band was learnt from: it holds for this model and these settings only.

    Attributes:
        text: hash of the text file.
        mmproj: hash of the mmproj file.
        exported_tower: whether an exported tower (ONNX) encoded the images, rather than ggml.
        policy: hash of the categories.
        threshold: P(unsafe) from which on a verdict is unsafe.
        samples: samples whose images take more than one tile.
        changed: those that one tile decides otherwise than all tiles.
        max_rate: with 95 % confidence, no larger share of decisions changes.
    """

    text: str
    mmproj: str
    exported_tower: bool
    policy: str
    threshold: float
    samples: int
    changed: int
    max_rate: float


@dataclass(frozen=True)
class TileBand:
    """Scores from ``low`` to ``high``, both included.

    Attributes:
        low: lower end, 0 to 1.
        high: upper end.
        learnt_from: what it was learnt from; None for a band that was given.

    Raises:
        DataError: if the ends are not numbers from 0 to 1 in this order.
    """

    low: float
    high: float
    learnt_from: LearntFrom | None = None

    def __post_init__(self) -> None:
        if not all(_is_number(end) for end in (self.low, self.high)) or not 0 <= self.low <= self.high <= 1:
            raise DataError(f"the band is {self.low} to {self.high}, expected two numbers from 0 to 1, the lower first")

    @classmethod
    def parse(cls, text: str) -> "TileBand":
        """From ``LOW,HIGH``, or the name of a file that ``visionward compare`` wrote.

        Raises:
            DataError: the text is neither, or the file is damaged or of another format.
        """
        low, comma, high = text.partition(",")
        try:
            ends = (float(low), float(high)) if comma else None
        except ValueError:
            ends = None
        return cls.read(Path(text)) if ends is None else cls(*ends)

    @classmethod
    def read(cls, path: Path) -> "TileBand":
        """From a file that ``write`` wrote.

        Raises:
            DataError: it cannot be read, or has another format or version.
        """
        found = read_json(path, DataError, _MAX_FILE_BYTES)
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise DataError(f"{path} is not a band of tiles, expected the file that `visionward compare` wrote")
        check_format_version(
            path, found.get("version"), _VERSION, DataError, "learn the band again with `visionward compare`"
        )
        try:
            learnt_from = LearntFrom(**_checked(found["learnt_from"]))
            return cls(found["low"], found["high"], learnt_from)
        except (KeyError, TypeError, DataError) as cause:
            raise DataError(f"{path} is damaged ({cause}): learn the band again with `visionward compare`") from cause

    def to_json(self) -> str:
        """The content of a file that ``read`` reads."""
        return json.dumps({"format": _FORMAT, "version": _VERSION, **asdict(self)}, indent=2, allow_nan=False) + "\n"

    def holds(self, score: float) -> bool:
        """Whether a score is in the band. NaN is."""
        return not (score < self.low or score > self.high)

    def check_verdict(self, threshold: float, policy: str) -> None:
        """Check that decisions outside the band are sure with a threshold and a policy.

        Args:
            threshold: a verdict is unsafe from this score on.
            policy: hash of the categories in force.

        Raises:
            PolicyError: if they are not.
        """
        if not self.low <= threshold <= self.high:
            raise PolicyError(
                f"the threshold {threshold:g} is outside the band {self.low:g} to {self.high:g} (--band): a score near "
                "it would get no second look"
            )
        learnt = self.learnt_from
        if learnt is not None and (learnt.threshold != threshold or learnt.policy != policy):
            other = "other categories" if learnt.threshold == threshold else f"the threshold {learnt.threshold:g}"
            raise PolicyError(f"the band was learnt with {other}: learn it again with `visionward compare`")

    def check_model(self, text: Path, mmproj: Path, *, exported_tower: bool) -> None:
        """Check that the band was learnt with a model.

        Args:
            text: the text file.
            mmproj: the mmproj file.
            exported_tower: whether an exported tower encodes the images.

        Raises:
            ModelFileError: if it was learnt with other files or another tower, or a file cannot be read.
        """
        learnt = self.learnt_from
        if learnt is None:
            return
        if (learnt.text, learnt.mmproj) != (file_hash(text), file_hash(mmproj)):
            raise ModelFileError(
                f"the band was not learnt with {text} and {mmproj}: learn it again with `visionward compare`"
            )
        if learnt.exported_tower != exported_tower:
            engine = "an ONNX tower" if learnt.exported_tower else "ggml's vision tower (--vision-backend ggml)"
            raise ModelFileError(f"the band was learnt with {engine}: use that, or learn the band again")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``LearntFrom`` with their types."""
    for field in fields(LearntFrom):
        value = values[field.name]
        right = _is_number(value) if field.type is float else type(value) is field.type
        if not right:
            raise DataError(f"{field.name} is {value!r}")
    return values
