"""Hooks for PyInstaller, which finds them through the entry point ``pyinstaller40``: a plain build works.

PyInstaller runs the hook of a package that the program imports. The rooms of visionward that a program does not import
are left out.
"""

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """The folders with hooks."""
    return [str(Path(__file__).parent)]
