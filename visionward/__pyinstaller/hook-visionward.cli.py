"""The commands, which are imported by name when they are used."""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("visionward.cli")
