"""Installed versions of Python packages."""

import importlib.metadata
import re

_NAME = re.compile(r"[\w.-]+")
_OF_AN_EXTRA = re.compile(r"\bextra\s*==")


def installed_version(package: str) -> str | None:
    """The version of an installed distribution package, by its name on the package index; None if there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def requirements(package: str) -> dict[str, str]:
    """Names of the packages that an installed one requires, and the requirements, without those of its extras.

    Empty if the package runs from its sources, without being installed.
    """
    try:
        lines = importlib.metadata.requires(package) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {name[0]: line for line in lines if not _OF_AN_EXTRA.search(line) and (name := _NAME.match(line))}
