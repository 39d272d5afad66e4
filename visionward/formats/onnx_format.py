"""The format of the vision tower as ONNX: inputs, output, metadata and checksums (docs/onnx-tower.md)."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, get_args

from visionward.errors import ModelFileError
from visionward.formats.checked_files import is_remembered, marker_of, remember
from visionward.formats.format_version import check_format_version
from visionward.formats.mmproj_format import MmprojConfig, VisionConfig
from visionward.formats.regular_file import open_regular
from visionward.formats.tensor_checksums import Advance
from visionward.names import OnnxWeightType

if TYPE_CHECKING:
    from onnx import ModelProto

FORMAT_VERSION = 3
PIXELS = "pixel_values"
RATIO_ID = "aspect_ratio_id"
FEATURES = "features"

# Element types of the weights, the preferred ones first: float16 is almost exact and half the size of float32.
WEIGHT_TYPES: tuple[str, ...] = get_args(OnnxWeightType)

_KEY_VERSION = "visionward.format_version"
_KEY_TEXT_HASH = "visionward.text_hash"
_KEY_TOWER_HASH = "visionward.tower_hash"
_KEY_WEIGHT_TYPE = "visionward.weight_type"
_KEY_VISION = "visionward.vision"
_KEY_WIDTH = "visionward.text.embedding_length"
_KEY_DATA_BYTES = "visionward.data_bytes"
_KEYS = (_KEY_TEXT_HASH, _KEY_TOWER_HASH, _KEY_WEIGHT_TYPE, _KEY_VISION, _KEY_WIDTH, _KEY_DATA_BYTES)
# The data file ends with three checksums: of the graph, so that a damaged graph or one of another export is found; of
# all norms, biases and scales, because rounding to 8 bits could hide a damaged number among them; and of all weights,
# which is checked when the tower is loaded for the first time.
_DIGEST_BYTES = hashlib.sha256().digest_size
CHECKSUM_BYTES = 3 * _DIGEST_BYTES
_PIECE = 8 << 20
_MAX_DIGITS = 13
# A graph has half a megabyte. A larger file is not a tower, and is not read.
_MAX_GRAPH_BYTES = 32 * 2**20


@dataclass(frozen=True)
class TowerIdentity:
    """The metadata of an ONNX tower.

    Attributes:
        text_hash: the text hash of the pair that it belongs to.
        tower_hash: the hash of the tower, as ``mmproj_file.tower_hash`` computes it.
        weight_type: one of ``WEIGHT_TYPES``.
        vision: the tower's shape, as JSON.
        width: width of the features, after the projector.
        data_bytes: size of the data file, which holds the weights.
    """

    text_hash: str
    tower_hash: str
    weight_type: str
    vision: str
    width: int
    data_bytes: int

    @classmethod
    def of(cls, config: MmprojConfig, tower_hash: str, weight_type: str, data_bytes: int) -> "TowerIdentity":
        """The identity of a tower that is made from an mmproj file."""
        return cls(
            config.text_hash,
            tower_hash,
            weight_type,
            vision_json(config.vision),
            config.cross_attention.embedding_length,
            data_bytes,
        )

    def belongs(self, config: MmprojConfig, tower_hash: str) -> bool:
        """Whether this tower belongs to an mmproj file. The type of the weights does not matter."""
        return self == self.of(config, tower_hash, self.weight_type, self.data_bytes)

    def metadata(self) -> dict[str, str]:
        """The metadata properties of the ONNX model."""
        return {
            _KEY_VERSION: str(FORMAT_VERSION),
            _KEY_TEXT_HASH: self.text_hash,
            _KEY_TOWER_HASH: self.tower_hash,
            _KEY_WEIGHT_TYPE: self.weight_type,
            _KEY_VISION: self.vision,
            _KEY_WIDTH: str(self.width),
            _KEY_DATA_BYTES: str(self.data_bytes),
        }


def vision_json(vision: VisionConfig) -> str:
    """The tower's shape as one line of JSON, without the settings of preprocessing."""
    fields = asdict(vision)
    for name in ("image_mean", "image_std"):
        del fields[name]
    return json.dumps(fields, sort_keys=True)


def data_path(path: Path) -> Path:
    """The file that holds an ONNX tower's weights."""
    return path.with_name(path.name + ".data")


def checksums(graph: bytes, data: BinaryIO, nbytes: int) -> bytes:
    """The end of the data file: checksums of the ONNX file, of the vectors in the data file, and of all weights.

    Args:
        graph: the content of the ONNX file.
        data: the data file.
        nbytes: bytes of the weights, which are at its beginning.
    """
    from onnx import load_model_from_string  # noqa: PLC0415 - as in _parse

    vectors = _vectors_digest(load_model_from_string(graph), data)
    return hashlib.sha256(graph).digest() + vectors + _weights_digest(data, nbytes)


def check_weights(path: Path, advance: Advance | None = None, *, again: bool = False) -> None:
    """Check all weights of an ONNX tower against their checksum, unless they were checked before.

    Args:
        path: the ONNX file. ``read_identity`` checks its graph and vectors.
        advance: called with the number of bytes of every piece that was read. It may raise to stop.
        again: check even if they were checked before.

    Raises:
        ModelFileError: if a weight is damaged.
    """
    data = data_path(path)
    try:
        with open_regular(data) as file:
            weights = file.seek(-CHECKSUM_BYTES, os.SEEK_END)
            stored = file.read(CHECKSUM_BYTES)
            marker = marker_of(data, stored.hex())
            if not again and is_remembered(marker):
                return
            if _weights_digest(file, weights, advance) != stored[-_DIGEST_BYTES:]:
                raise ModelFileError(f"{data} is damaged: export it again.")
    except OSError as error:
        raise ModelFileError(f"{data} cannot be read: {error.strerror or error}.") from error
    # The file may have been changed while it was read.
    if marker == marker_of(data, stored.hex()):
        remember(marker)


def _weights_digest(data: BinaryIO, nbytes: int, advance: Advance | None = None) -> bytes:
    digest = hashlib.sha256()
    data.seek(0)
    while nbytes and (piece := data.read(min(nbytes, _PIECE))):
        digest.update(piece)
        nbytes -= len(piece)
        if advance is not None:
            advance(len(piece))
    return digest.digest()


def read_identity(path: Path) -> TowerIdentity:
    """Read the metadata of an ONNX tower, and check its graph, its vectors and the size of its data file.

    Raises:
        ModelFileError: if a file is missing or damaged, or is not a vision tower that this version reads.
    """
    content = _read_graph(path)
    model = _parse(path, content)
    found = {entry.key: entry.value for entry in model.metadata_props}
    version = found.get(_KEY_VERSION)
    if version is None:
        raise ModelFileError(f"{path} is an ONNX file, but not a vision tower that visionward exported.")
    number = int(version) if version.isdecimal() and len(version) <= _MAX_DIGITS else version
    check_format_version(path, number, FORMAT_VERSION, ModelFileError, "export it again")
    if found.get(_KEY_WEIGHT_TYPE) == "int4":
        raise ModelFileError(
            f"{path} has int4 weights, which are not supported because their features are 13 to 20 % off: export it "
            "again as int8."
        )
    missing = [key for key in _KEYS if key not in found]
    if missing or found[_KEY_WEIGHT_TYPE] not in WEIGHT_TYPES:
        raise ModelFileError(
            f"{path} has invalid metadata ({', '.join(missing) or _KEY_WEIGHT_TYPE}): export it again."
        )
    try:
        width, data_bytes = int(found[_KEY_WIDTH]), int(found[_KEY_DATA_BYTES])
    except ValueError as error:
        raise ModelFileError(f"{path} has invalid metadata ({error}): export it again.") from error
    data = data_path(path)
    # protobuf returns bytes if a value is not UTF-8.
    locations = {
        str(entry.value)
        for weight in model.graph.initializer
        for entry in weight.external_data
        if entry.key == "location"
    }
    if locations != {data.name}:
        raise ModelFileError(
            f"{path} was renamed: its weights are in {', '.join(sorted(locations))}. Undo the renaming, or export it "
            "again."
        )
    stored = data.stat().st_size if data.is_file() else None
    if stored != data_bytes:
        absent = "is not a regular file" if data.exists() else "is missing"
        state = absent if stored is None else f"has {stored} bytes, expected {data_bytes}"
        raise ModelFileError(f"{data}, which has the weights of {path.name}, {state}: export it again.")
    _check_graph(path, content, model)
    return TowerIdentity(
        text_hash=found[_KEY_TEXT_HASH],
        tower_hash=found[_KEY_TOWER_HASH],
        weight_type=found[_KEY_WEIGHT_TYPE],
        vision=found[_KEY_VISION],
        width=width,
        data_bytes=data_bytes,
    )


def is_tower(path: Path) -> bool:
    """Whether a file is a tower that visionward exported, of any version. Its weights are not read."""
    try:
        model = _parse(path, _read_graph(path))
    except ModelFileError:
        return False
    return any(entry.key == _KEY_VERSION for entry in model.metadata_props)


def _check_graph(path: Path, content: bytes, model: "ModelProto") -> None:
    data = data_path(path)
    try:
        with open_regular(data) as file:
            file.seek(-CHECKSUM_BYTES, os.SEEK_END)
            graph_digest, vectors_digest = file.read(_DIGEST_BYTES), file.read(_DIGEST_BYTES)
            if hashlib.sha256(content).digest() != graph_digest:
                raise ModelFileError(f"{path} is damaged, or {data.name} belongs to another export: export it again.")
            if _vectors_digest(model, file) != vectors_digest:
                raise ModelFileError(f"{data} is damaged: export it again.")
    except (KeyError, OverflowError, MemoryError) as error:
        raise ModelFileError(
            f"{path} is damaged: a weight has no valid position in {data.name} ({error}). Export it again."
        ) from error
    except OSError as error:
        raise ModelFileError(f"{data} cannot be read: {error.strerror or error}.") from error


def _vectors_digest(model: "ModelProto", data: BinaryIO) -> bytes:
    digest = hashlib.sha256()
    for weight in model.graph.initializer:
        if weight.external_data and len(weight.dims) == 1:
            place = {entry.key: str(entry.value) for entry in weight.external_data}
            offset, length = (_decimal(place[key]) for key in ("offset", "length"))
            data.seek(offset)
            digest.update(data.read(length))
    return digest.digest()


def _decimal(text: str) -> int:
    # No file is so large, and int() is slow with very many digits.
    if not text.isdecimal() or len(text) > _MAX_DIGITS:
        raise KeyError(text)
    return int(text)


def _read_graph(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = b"" if size > _MAX_GRAPH_BYTES else file.read(size)
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}.") from error
    if not content:
        raise ModelFileError(f"{path} is not a vision tower: its size is {size:,} bytes.")
    return content


def _parse(path: Path, content: bytes) -> "ModelProto":
    # Importing onnx takes long, and most guards have no ONNX tower.
    from google.protobuf.message import DecodeError  # noqa: PLC0415
    from onnx import load_model_from_string  # noqa: PLC0415

    try:
        return load_model_from_string(content)
    except (DecodeError, ValueError) as error:
        raise ModelFileError(f"{path} is not an ONNX file, or is damaged: export it again.") from error
