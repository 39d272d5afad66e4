"""The default model: the pair that `visionward use` chose, kept in the user's configuration folder."""

import json
from pathlib import Path

from visionward.errors import ModelFileError
from visionward.paths import config_folder

_MAX_BYTES = 2**16
_FORMAT_VERSION = 1
_KEYS = ("text", "mmproj")


def default_model_file() -> Path:
    """Where the choice is kept."""
    return config_folder() / "default_model.json"


def read_default_model() -> tuple[Path, Path] | None:
    """The text file and the mmproj file of the default model; None if none was chosen.

    Raises:
        ModelFileError: if the choice cannot be read, or a file of it is missing.
    """
    from visionward.formats.format_version import check_format_version  # noqa: PLC0415 - not needed for --help
    from visionward.formats.strict_json import read_json  # noqa: PLC0415

    file = default_model_file()
    if not file.exists():
        return None
    content = read_json(file, ModelFileError, _MAX_BYTES)
    if isinstance(content, dict):
        version = content.get("format_version", _FORMAT_VERSION)
        check_format_version(file, version, _FORMAT_VERSION, ModelFileError, "choose the default model again")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), str) for key in _KEYS):
        raise ModelFileError(f"{file} is not what `visionward use` writes: choose the default model again")
    text, mmproj = (Path(content[key]) for key in _KEYS)
    for path in (text, mmproj):
        if not path.is_file():
            raise ModelFileError(
                f"{path}, part of the default model, does not exist: choose another with `visionward use DIR`, or "
                "none with `visionward use --none`"
            )
    return text, mmproj


def write_default_model(text: Path, mmproj: Path) -> None:
    """Make a pair the default model, by its absolute paths.

    Raises:
        OutputError: if the configuration folder cannot be written.
    """
    from visionward.formats.output_file import PartFile, describe  # noqa: PLC0415 - not needed for --help

    file = default_model_file()
    chosen = {"format_version": _FORMAT_VERSION} | {
        key: str(path.absolute()) for key, path in zip(_KEYS, (text, mmproj), strict=True)
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part = PartFile(file)
        try:
            part.file.write(json.dumps(chosen, indent=1).encode())
            part.close()
            part.commit()
        finally:
            part.discard()
    except OSError as error:
        raise describe(error, file) from error


def clear_default_model() -> None:
    """Have no default model."""
    from visionward.formats.output_file import describe  # noqa: PLC0415 - not needed for --help

    file = default_model_file()
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise describe(error, file) from error
