"""Where visionward stores files of the user: what can be written again, choices, and model files.

The folders are those of the system. ``VISIONWARD_HOME`` puts all three into another folder. A program that brings
visionward along may set it in ``os.environ``, so that its files are apart from those of other programs.
"""

import os
from pathlib import Path

from platformdirs import PlatformDirs

HOME_VARIABLE = "VISIONWARD_HOME"

# Without the name of an author, which Windows would put in front.
_SYSTEM = PlatformDirs("visionward", appauthor=False)


def cache_folder() -> Path:
    r"""The folder of what is written again when it is missing, such as the demonstration guard and compiled towers.

    ``~/.cache/visionward`` on Linux, ``~/Library/Caches/visionward`` on macOS, ``%LOCALAPPDATA%\visionward\Cache`` on
    Windows; ``cache`` in VISIONWARD_HOME. It may not exist.
    """
    home = _home()
    return _SYSTEM.user_cache_path if home is None else home / "cache"


def config_folder() -> Path:
    r"""The folder of the user's choices, such as the default model.

    ``~/.config/visionward`` on Linux, ``~/Library/Application Support/visionward`` on macOS,
    ``%LOCALAPPDATA%\visionward`` on Windows; ``config`` in VISIONWARD_HOME. It may not exist.
    """
    home = _home()
    return _SYSTEM.user_config_path if home is None else home / "config"


def models_folder() -> Path:
    r"""The folder for model files, which are too large to lie in a program's own folder.

    ``~/.local/share/visionward/models`` on Linux, ``~/Library/Application Support/visionward/models`` on macOS,
    ``%LOCALAPPDATA%\visionward\models`` on Windows; ``models`` in VISIONWARD_HOME. It may not exist.
    """
    home = _home()
    return (_SYSTEM.user_data_path if home is None else home) / "models"


def _home() -> Path | None:
    value = os.environ.get(HOME_VARIABLE)
    return Path(value).expanduser().absolute() if value else None
