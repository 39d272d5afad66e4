"""The formats by name."""

from collections.abc import Callable, Mapping
from pathlib import Path

from visionward.quant.datasets.dataset import Dataset
from visionward.quant.samples import read_samples

Reader = Callable[[Path, Path], Dataset]


def _jsonl(path: Path, scratch: Path) -> Dataset:  # noqa: ARG001 - the signature of all readers
    return Dataset(path.stem, tuple(read_samples(path)))


FORMATS: Mapping[str, Reader] = {"jsonl": _jsonl}


def read_dataset(path: Path, form: str, scratch: Path) -> Dataset:
    """Read a data set from files that the user has.

    Args:
        path: the file or folder.
        form: one of ``FORMATS``.
        scratch: a folder for images that the set keeps inside its files.

    Raises:
        DataError: if it is not of that form.
        MissingExtraError: if a library is missing.
    """
    return FORMATS[form](path, scratch)
