"""What a scan's inputs are: folders, images and tables."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from visionward.errors import DataError
from visionward.scan.image_files import PromptOf, image_items, images_in
from visionward.scan.item import Item
from visionward.scan.remote_files import images_at
from visionward.scan.tables import TABLES, table_items, table_length


@dataclass(frozen=True)
class Inputs:
    """Folders, images and tables, read again by every iteration.

    Attributes:
        paths: the inputs. A file that is not a table is an image.
        prompt_of: the user's text for an image.
        columns: see `table_items`.
        uris: images in object storage, or prefixes of them.
    """

    paths: Sequence[Path]
    prompt_of: PromptOf
    columns: Mapping[str, str] = field(default_factory=dict)
    uris: Sequence[str] = ()

    def __post_init__(self) -> None:
        for path in self.paths:
            if path.suffix.lower() in TABLES and not path.exists():
                raise DataError(f"{path}: no such file")

    def __iter__(self) -> Iterator[Item]:
        for uri in self.uris:
            yield from image_items(images_at(uri), self.prompt_of)
        for path in self.paths:
            if path.is_dir():
                yield from image_items(images_in(path), self.prompt_of)
            elif path.suffix.lower() in TABLES:
                yield from table_items(path, self.columns)
            else:
                yield from image_items((path,), self.prompt_of)

    @property
    def has_tables(self) -> bool:
        """Whether one of the inputs is a table."""
        return any(path.suffix.lower() in TABLES and not path.is_dir() for path in self.paths)

    @property
    def has_images(self) -> bool:
        """Whether one of the inputs is a folder, an image or a URI."""
        return bool(self.uris) or any(path.suffix.lower() not in TABLES or path.is_dir() for path in self.paths)

    def count(self) -> int:
        """Number of samples."""
        return sum(map(self._count, self.paths)) + sum(1 for uri in self.uris for _ in images_at(uri))

    @staticmethod
    def _count(path: Path) -> int:
        if path.is_dir():
            return sum(1 for _ in images_in(path))
        return table_length(path) if path.suffix.lower() in TABLES else 1
