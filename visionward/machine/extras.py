"""Libraries of visionward's extras, which may be missing: looked for before they are imported."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

from visionward.errors import MissingExtraError
from visionward.machine.frozen import frozen_program
from visionward.machine.shell import pip_command

# Top-level module -> (package, the extra that installs it).
EXTRAS = {
    "scipy": ("scipy", "compare"),
    "sklearn": ("scikit-learn", "compare"),
    "matplotlib": ("matplotlib", "compare"),
    "pyarrow": ("pyarrow", "parquet"),
    "ray": ("ray", "ray"),
    "watchfiles": ("watchfiles", "watch"),
    "openai": ("openai", "compare"),
    "rich": ("rich", "compare"),
    "openvino": ("openvino", "openvino"),
    "pillow_heif": ("pillow-heif", "heif"),
    "starlette": ("starlette", "serve"),
    "uvicorn": ("uvicorn", "serve"),
    "prometheus_client": ("prometheus-client", "serve"),
}


def require(*modules: str) -> Any:
    """Import modules of extras; the first one is returned.

    Args:
        modules: names with or without a package in front: ``rich``, ``scipy.stats``.

    Raises:
        MissingExtraError: if one cannot be imported. The message names all that are missing, and the command that
            installs them.
    """
    missing = [name for name in _top_level(modules) if find_spec(name) is None]
    if missing:
        raise MissingExtraError(_sentence(missing))
    try:
        first, *_ = [import_module(module) for module in modules]
    except ImportError as cause:
        # Installed, but broken or without something that it needs.
        names = ", ".join(modules)
        raise MissingExtraError(f"{names} cannot be imported ({cause}): {_command(_top_level(modules))}") from cause
    return first


def _top_level(modules: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(module.partition(".")[0] for module in modules))


def _sentence(missing: list[str]) -> str:
    packages = [EXTRAS[name][0] for name in missing]
    listed = packages[0] if len(packages) == 1 else f"{', '.join(packages[:-1])} and {packages[-1]}"
    return f"{listed} {'is' if len(packages) == 1 else 'are'} not installed: {_command(missing)}"


def _command(modules: list[str]) -> str:
    extras = ",".join(dict.fromkeys(EXTRAS[name][1] for name in modules))
    if frozen_program():
        return f"freeze this program again in an environment with visionward[{extras}]"
    return pip_command("install", f"visionward[{extras}]")
