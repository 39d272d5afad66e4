"""The results of a scan in a JSONL file, one line per sample."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from visionward.errors import DataError
from visionward.formats.append_log import AppendLog
from visionward.formats.format_version import check_format_version
from visionward.formats.output_file import describe
from visionward.scan.item import Item, place_of

NOT_JUDGED = "not judged"
# Lines without ``format_version`` have version 1.
_FORMAT_VERSION = 1
_OUTCOMES = ("safe", "unsafe", NOT_JUDGED)


class Results:
    """The file, which is locked. A few hundred bytes of memory per result are kept.

    Args:
        path: the file; created if it does not exist.
        settings: ``ScanOptions.key``: results of other settings are refused.

    Raises:
        DataError: if the file has other content or results of other settings, a newer version of visionward wrote to
            it, or another process writes to it.
        OutputError: if it cannot be written.
    """

    def __init__(self, path: Path, settings: str) -> None:
        self._settings = settings
        self._others = 0
        self._newest = _FORMAT_VERSION
        # Place of a sample -> its id and the number of its outcome.
        self._latest: dict[bytes, tuple[bytes, int]] = {}
        # Id -> where the first result with it is.
        self._offsets: dict[bytes, int] = {}
        try:
            self._log = AppendLog(path, self._remember)
            check_format_version(path, self._newest, _FORMAT_VERSION, DataError, "choose another name")
            if self._log.damaged and not self._latest and not self._others:
                raise DataError(f"{path} exists and has no results of a scan: choose another name")
            if self._others:
                raise DataError(
                    f"{path} has results of another model, policy or threshold: choose another name, or the same "
                    "options as before"
                )
            self._log.open()
        except OSError as error:
            raise describe(error, path) from error

    def _remember(self, offset: int, values: Mapping[str, Any]) -> None:
        self._newest = max(self._newest, values.get("format_version", _FORMAT_VERSION))
        if values["settings"] != self._settings:
            self._others += 1
            return
        identifier = bytes.fromhex(values["id"])
        outcome = _OUTCOMES.index(NOT_JUDGED if values["error"] is not None else values["verdict"])
        self._latest[place_of(values)] = (identifier, outcome)
        self._offsets.setdefault(identifier, offset)

    @property
    def damaged(self) -> int:
        """Lines that could not be read. Their samples are judged again."""
        return self._log.damaged

    def __len__(self) -> int:
        return len(self._latest)

    def has(self, item: Item, identifier: str) -> bool:
        """Whether there is a result for an item with this content."""
        found = self._latest.get(item.place)
        return found is not None and found[0] == bytes.fromhex(identifier)

    def of_equal_content(self, identifier: str) -> dict[str, Any] | None:
        """The first result for a sample with the same content; None if there is none."""
        offset = self._offsets.get(bytes.fromhex(identifier))
        return None if offset is None else self._log.read(offset)

    def append(self, item: Item, identifier: str, judged: Mapping[str, Any], copy_of: str | None = None) -> None:
        """Write a result. It is on disk when this returns.

        Args:
            item: the sample.
            identifier: its id.
            judged: what `rows.judged_row` gives.
            copy_of: the sample with the same content that was judged.

        Raises:
            OutputError: if it cannot be written.
        """
        values = {"name": item.name, "source": item.source, "row": item.row, "id": identifier}
        values |= {name: value for name, value in judged.items() if name not in values}
        try:
            self._log.append({**values, "copy_of": copy_of, "settings": self._settings})
        except OSError as error:
            raise describe(error, self._log.path) from error

    def outcomes(self) -> Counter[str]:
        """How many samples are safe, unsafe and not judged; the last result of each sample counts."""
        return Counter(_OUTCOMES[outcome] for _, outcome in self._latest.values())

    def close(self) -> None:
        """Close the file. Calling it again has no effect."""
        self._log.close()
