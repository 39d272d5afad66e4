"""The formats by name."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from visionward.compare.datasets.adapter import Adapter
from visionward.compare.datasets.dataset import Dataset
from visionward.compare.datasets.picture_sets import HARMEME, HATEFUL_MEMES, LLAVAGUARD, UNSAFEBENCH
from visionward.compare.datasets.prompt_sets import (
    HOLISAFE,
    MM_SAFETYBENCH,
    MSTS,
    SPA_VL,
    VLGUARD,
    VLSU,
    WILDGUARDMIX,
    XSTEST,
)
from visionward.compare.datasets.response_sets import BEAVERTAILS_V
from visionward.errors import DataError
from visionward.runtime.guard.samples import read_samples

OWN_FORMAT = "jsonl"
ADAPTERS: Mapping[str, Adapter] = {
    "beavertails-v": BEAVERTAILS_V,
    "harmeme": HARMEME,
    "hateful-memes": HATEFUL_MEMES,
    "holisafe": HOLISAFE,
    "llavaguard": LLAVAGUARD,
    "mm-safetybench": MM_SAFETYBENCH,
    "msts": MSTS,
    "spa-vl": SPA_VL,
    "unsafebench": UNSAFEBENCH,
    "vlguard": VLGUARD,
    "vlsu": VLSU,
    "wildguardmix": WILDGUARDMIX,
    "xstest": XSTEST,
}
FORMATS = (OWN_FORMAT, *ADAPTERS)


def read_dataset(path: Path, form: str = OWN_FORMAT, scratch: Path | None = None) -> Dataset:
    """Read a data set from files that the user has.

    Args:
        path: the file or folder.
        form: one of ``FORMATS``.
        scratch: a folder for images that a public set keeps inside its files; our own format needs none.

    Raises:
        DataError: if it is not of that form.
        MissingExtraError: if a library is missing.
    """
    if form not in FORMATS:
        raise DataError(f"unknown data format {form!r}; choose {', '.join(FORMATS)}")
    if form == OWN_FORMAT:
        return Dataset(path.stem, tuple(read_samples(path)))
    if scratch is None:
        raise DataError(f"{path}: the format {form} needs a folder for images (scratch=)")
    found = ADAPTERS[form].read(path, scratch)
    return replace(found, name=f"{found.name} ({path.stem})" if path.is_file() else found.name)
