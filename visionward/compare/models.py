"""The models that are compared: GGUF pairs, with or without an ONNX tower, and endpoints."""

import hashlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias
from urllib.parse import urlsplit

from visionward.compare.sample_text import visible
from visionward.errors import DataError, ModelFileError
from visionward.formats.onnx_format import data_path
from visionward.formats.regular_file import open_regular
from visionward.formats.tile_band import TileBand
from visionward.runtime.engine_options import EngineOptions

EndpointStyle: TypeAlias = Literal["guard", "zero-shot"]
# Finds the text file, the mmproj file and the ONNX tower (None without one) in a folder.
FindFiles: TypeAlias = Callable[[Path], tuple[Path, Path, Path | None]]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]*")
_PEEK = 1 << 20
# A file's name may have a semicolon.
_SETTING = re.compile(r";\s*(?=[a-z_]+=)")


@dataclass(frozen=True)
class GuardFiles:
    """A GGUF pair.

    Attributes:
        name: its name in the report.
        text: the text file.
        mmproj: the mmproj file.
        tower: the ONNX tower with which ONNX Runtime encodes images; None for ggml and the mmproj file.
        max_tiles: the maximum number of tiles of an image, or ``auto``; None for the model's.
        band: of ``auto``.

    Raises:
        OptionError: if ``max_tiles`` and ``band`` do not go together.
    """

    name: str
    text: Path
    mmproj: Path
    tower: Path | None = None
    max_tiles: int | Literal["auto"] | None = None
    band: TileBand | None = None

    def __post_init__(self) -> None:
        EngineOptions(max_tiles=self.max_tiles, band=self.band)

    @classmethod
    def parse(cls, value: str, find: FindFiles | None = None) -> "GuardFiles":
        """From ``[NAME=]TEXT.gguf,MMPROJ.gguf[,TOWER.onnx][;max_tiles=N][;band=LOW,HIGH]``, or a folder for the files.

        The default name is that of the text file, followed by that of the tower if there is one, and by the settings.

        Args:
            value: what to parse.
            find: finds the files in a folder; None if there may be no folder.

        Raises:
            DataError: the value has another form.
            OptionError: if a setting is out of range, or two do not go together.
        """
        value, *settings = (part.strip() for part in _SETTING.split(value))
        max_tiles, band = _tile_settings(settings)
        name, equals, rest = value.partition("=")
        files = rest if equals and _NAME.fullmatch(name) else value
        if find is not None and Path(files.strip()).is_dir():
            text, mmproj, tower = find(Path(files.strip()))
        else:
            text, mmproj, tower = _named_files(files, value)
        # What cannot be printed must not end a comparison when its report is printed.
        own = visible(" ".join([text.stem, *([] if tower is None else [tower.stem]), *settings]), None)
        return cls(name.strip() if files is rest else own, text, mmproj, tower, max_tiles, band)

    @property
    def setting(self) -> str:
        """What differs from the default in how it judges; empty if nothing."""
        if self.band is not None:
            return f"max_tiles auto, band {self.band.low:.3g} to {self.band.high:.3g}"
        return "" if self.max_tiles is None else f"max_tiles {self.max_tiles}"

    @property
    def size(self) -> int:
        """Size of all its files in bytes.

        Raises:
            ModelFileError: if one cannot be read.
        """
        return sum(map(file_size, self.files))

    @property
    def files(self) -> tuple[Path, ...]:
        """The text file, the mmproj file, and those of the tower."""
        return self.text, self.mmproj, *self.tower_files

    @property
    def tower_files(self) -> tuple[Path, ...]:
        """Graph and weights of the ONNX tower; empty without one."""
        return () if self.tower is None else (self.tower, data_path(self.tower))

    def identity(self) -> str:
        """A hash that changes if one of the files or settings does."""
        # Left out if they were not given, so that comparisons begun before these settings existed go on.
        settings = [] if self.max_tiles is None else [f"max_tiles {self.max_tiles} {self.band}"]
        return _digest(" ".join([*map(file_identity, self.files), *settings]))


def _named_files(files: str, value: str) -> tuple[Path, Path, Path | None]:
    pair, tower = files, None
    if files.strip().lower().endswith(".onnx"):
        pair, _, last = files.rpartition(",")
        tower = Path(last.strip())
    text, comma, mmproj = pair.rpartition(",")
    if not comma or not text.strip() or not mmproj.strip():
        raise DataError(f"{value!r} is not a pair, expected [NAME=]TEXT.gguf,MMPROJ.gguf[,TOWER.onnx] or [NAME=]DIR")
    return Path(text.strip()), Path(mmproj.strip()), tower


@dataclass(frozen=True)
class Endpoint:
    """A model behind an OpenAI-compatible chat API.

    Attributes:
        name: its name in the report.
        url: of the API, including its version (``http://127.0.0.1:8000/v1``).
        model: its name in the API.
        style: ``guard`` for a Llama Guard, ``zero-shot`` for a general model that is told the policy.
    """

    name: str
    url: str
    model: str
    style: EndpointStyle

    @classmethod
    def parse(cls, value: str, style: EndpointStyle) -> "Endpoint":
        """From ``NAME=URL,MODEL``.

        Raises:
            DataError: the value has another form.
        """
        name, equals, rest = value.partition("=")
        url, comma, model = rest.partition(",")
        parts = urlsplit(url.strip())
        if not equals or not comma or not model.strip() or not _NAME.fullmatch(name.strip()):
            raise DataError(f"{value!r} is not an endpoint, expected NAME=URL,MODEL")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise DataError(
                f"the URL of endpoint {name.strip()} is {url.strip()!r}, expected http://... or https://..."
            )
        if parts.username is not None or parts.password is not None:
            raise DataError(f"the URL of endpoint {name.strip()} has a password; use an environment variable")
        return cls(name.strip(), url.strip().rstrip("/"), model.strip(), style)

    def identity(self) -> str:
        """A hash of URL, model and style."""
        return _digest(f"{self.url} {self.model} {self.style}")


def _tile_settings(settings: Iterable[str]) -> tuple[int | Literal["auto"] | None, TileBand | None]:
    found: dict[str, str] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name not in ("max_tiles", "band"):
            raise DataError(f"unknown setting {name!r} behind a pair; choose max_tiles or band")
        if name in found:
            raise DataError(f"the setting {name} is given twice")
        found[name] = value
    tiles = found.get("max_tiles")
    if tiles is not None and tiles != "auto" and not re.fullmatch("[1-9][0-9]?", tiles):
        raise DataError(f"max_tiles is {tiles!r}, expected a number of tiles or auto")
    band = None if "band" not in found else TileBand.parse(found["band"])
    return (None if tiles is None else "auto" if tiles == "auto" else int(tiles)), band


Model: TypeAlias = GuardFiles | Endpoint


def check_names(models: Iterable[Model]) -> None:
    """Check that names are unique.

    Raises:
        DataError: if two models have the same name.
    """
    seen: set[str] = set()
    for model in models:
        if model.name in seen:
            raise DataError(f"two models are named {model.name!r}: rename one of them, NAME=TEXT.gguf,MMPROJ.gguf")
        seen.add(model.name)


def file_identity(path: Path) -> str:
    """A hash of size, modification time, first and last megabyte: quick even for files of many gigabytes.

    Raises:
        ModelFileError: if it cannot be read.
    """
    size, changed = _stat(path)
    try:
        with open_regular(path) as file:
            head = file.read(_PEEK)
            file.seek(max(0, size - _PEEK))
            tail = file.read(_PEEK)
    except OSError as cause:
        raise ModelFileError(f"{path}: {cause.strerror or cause}") from cause
    return hashlib.sha256(f"{size} {changed}\0".encode() + head + tail).hexdigest()[:32]


def file_size(path: Path) -> int:
    """Size of a file in bytes.

    Raises:
        ModelFileError: if it cannot be read.
    """
    return _stat(path)[0]


def _stat(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as cause:
        raise ModelFileError(f"{path}: {cause.strerror or cause}") from cause
    return found.st_size, found.st_mtime_ns


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
