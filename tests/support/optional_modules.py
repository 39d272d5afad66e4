"""PyInstaller's options that leave out what a development environment has and a user's has not."""

from visionward.machine.extras import EXTRAS

_NAMES = (*EXTRAS, "torch", "transformers", "pandas", "IPython", "skimage", "hypothesis", "pytest", "mypy")
WITHOUT_OPTIONAL = [option for name in _NAMES for option in ("--exclude-module", name)]
