"""The installed program, for tests that start it in a process of its own."""

import os
import sys
from pathlib import Path

SCRIPT = Path(sys.executable).with_name("visionward.exe" if sys.platform == "win32" else "visionward")
COMMAND = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, "-m", "visionward.cli.main"]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment and more."""
    return {**os.environ, **variables}
