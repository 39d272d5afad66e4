"""Whether the nodes of a cluster can judge: versions, model files, the folder of the results, and images."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from visionward.errors import DataError, VisionwardError
from visionward.machine.packages import installed_version
from visionward.scan.item import image_bytes
from visionward.scan.options import ScanOptions
from visionward.scan.shards import Shards

# Of the first samples, every node reads so many images.
MAX_PROBES = 8


@dataclass(frozen=True)
class Expected:
    """What the driver has, and every node must have.

    Attributes:
        options: the model, and how it judges.
        settings: ``options.key`` on the driver.
        version: the versions of the driver.
        folder: of the results.
        images: some of the images.
    """

    options: ScanOptions
    settings: str
    version: str
    folder: str
    images: tuple[str | PathLike[str], ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """Why an image cannot be read.

    Attributes:
        reason: a sentence that names the image.
        is_missing: whether there is no such file or object. Other reasons may be those of the node.
    """

    reason: str
    is_missing: bool


@dataclass(frozen=True)
class NodeReport:
    """What a node found.

    Attributes:
        name: of the node.
        problem: why it cannot judge; None if it can, as far as it knows alone.
        images: for each image that was asked for, why it cannot be read; None if it can.
    """

    name: str
    problem: str | None
    images: tuple[Unreadable | None, ...]


def version_text() -> str:
    """The versions that results depend on."""
    names = ("visionward", "llama-cpp-python")
    return ", ".join(f"{name} {installed_version(name) or '(not installed)'}" for name in names)


def node_report(expected: Expected) -> NodeReport:
    """On a node: what it lacks."""
    return NodeReport(platform.node(), _problem(expected), tuple(map(_unreadable, expected.images)))


def _problem(expected: Expected) -> str | None:
    if version_text() != expected.version:
        return f"it has {version_text()}, and the driver {expected.version}: install the same on both"
    try:
        if expected.options.fresh_key() != expected.settings:
            return "it has other model files than the driver under the same names"
        Shards(Path(expected.folder)).check(expected.settings)
    except VisionwardError as error:
        return str(error)
    return None


def _unreadable(source: str | PathLike[str]) -> Unreadable | None:
    try:
        image_bytes(source)
    except DataError as error:
        return Unreadable(str(error), isinstance(error.__cause__, FileNotFoundError))
    return None


def problem_of(driver: NodeReport, nodes: Sequence[NodeReport]) -> str | None:
    """Why a node cannot judge, with its name; None if all can.

    A node cannot if it reads none of the images that the driver or another node reads. If none can be read anywhere,
    and not because there are none, credentials or the network are missing.
    """
    for node in nodes:
        if node.problem is not None:
            return f"node {node.name}: {node.problem}"
    readable = readable_images((driver, *nodes))
    for node in nodes:
        failed = [found for found in node.images if found is not None]
        if readable and all(node.images[number] is not None for number in readable):
            return f"node {node.name}: {_first(node, readable)}. The driver or another node can read it"
        if not readable and any(not found.is_missing for found in failed):
            reason = next(found.reason for found in failed if not found.is_missing)
            return f"node {node.name}: none of the first {len(failed)} images can be read: {reason}"
    return None


def _first(node: NodeReport, numbers: Sequence[int]) -> str:
    return next(found.reason for number in numbers if (found := node.images[number]) is not None)


def readable_images(reports: Sequence[NodeReport]) -> list[int]:
    """Numbers of the images that at least one node reads."""
    if not reports:
        return []
    return [number for number, found in enumerate(zip(*(one.images for one in reports), strict=True)) if None in found]
