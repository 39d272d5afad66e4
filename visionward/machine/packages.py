"""Installed versions of Python packages."""

import importlib.metadata


def installed_version(package: str) -> str | None:
    """The version of an installed distribution package, by its name on the package index; None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
