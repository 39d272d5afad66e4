"""Images that arrive in folders while a scan runs."""

from collections.abc import Iterator
from pathlib import Path

from visionward.errors import DataError
from visionward.machine.extras import require
from visionward.scan.image_files import image_items, images_in, images_of_text, is_image
from visionward.scan.inputs import Inputs
from visionward.scan.item import Item

# The first call of the watcher returns after this time, when it watches.
_FIRST_MS = 100


def watched_items(inputs: Inputs) -> Iterator[Item]:
    """The images that are in the folders, and then each one that is added or changed. It does not end.

    An image whose text changes is given again too. Changes are collected for a second or two, so that a file that is
    copied is usually whole; one that is not is judged again when it is.

    Raises:
        DataError: if an input is not a folder.
        MissingExtraError: if watchfiles is not installed.
    """
    watchfiles = require("watchfiles")
    for path in inputs.paths:
        if not path.is_dir():
            raise DataError(f"{path} is not a folder: only folders are watched")
    changes = watchfiles.watch(
        *inputs.paths,
        watch_filter=None,
        yield_on_timeout=True,
        rust_timeout=_FIRST_MS,
        raise_interrupt=True,
    )
    # Nothing is missed between reading the folders and watching them.
    changed = next(changes)
    yield from inputs
    while True:
        paths = sorted({Path(name) for kind, name in changed if kind != watchfiles.Change.deleted})
        for root in inputs.paths:
            yield from image_items(_images(root, paths), inputs.prompt_of)
        changed = next(changes)


def _images(root: Path, changed: list[Path]) -> Iterator[Path]:
    """The changed images of a folder, under the names that reading the folder gives them."""
    whole = root.resolve()
    for path in changed:
        if not path.is_absolute():
            path = path.absolute()  # noqa: PLW2901 - the same file
        if not path.is_relative_to(whole):
            continue
        part = path.relative_to(whole)
        if any(name.startswith(".") for name in part.parts):
            continue
        named = root / part
        if named.is_dir():
            # Files that came with a new folder are not reported by all systems.
            yield from images_in(named)
        elif is_image(named):
            yield named
        else:
            yield from images_of_text(named)
