"""The results of a scan on many machines: Parquet files in a folder, each whole or not there.

The name of a file is a hash of the samples in it, so that a batch that is judged again replaces its own file.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visionward.errors import DataError
from visionward.formats.format_version import check_format_version
from visionward.formats.output_file import FileKind, Outputs, describe, part_files
from visionward.formats.strict_json import read_json
from visionward.machine.extras import require
from visionward.scan.results import NOT_JUDGED

_MARK = b"PAR1"
# Readers of Parquet folders pass over names that begin like this.
_SETTINGS = "_scan.json"
_FORMAT_VERSION = 1


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MARK)) == _MARK


class Shards:
    """The folder, which every node must reach under the same name.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def prepare(self, settings: str) -> None:
        """Create the folder, or check that it is of the same scan.

        Args:
            settings: ``ScanOptions.key``.

        Raises:
            DataError: if it has other files, results of other settings, or those of a newer version of visionward.
            OutputError: if it cannot be written.
        """
        path = self.folder / _SETTINGS
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self.check(settings)
            elif any(self.folder.iterdir()):
                raise DataError(f"{self.folder} exists and has no results of a scan: choose another folder")
            else:
                path.write_text(
                    json.dumps({"format_version": _FORMAT_VERSION, "settings": settings}) + "\n", encoding="utf-8"
                )
        except OSError as error:
            raise describe(error, self.folder) from error

    def check(self, settings: str) -> None:
        """Check that the folder is there, and of the same scan.

        Raises:
            DataError: if it is not.
        """
        path = self.folder / _SETTINGS
        found = read_json(path, DataError)
        if isinstance(found, dict):
            version = found.get("format_version", _FORMAT_VERSION)
            check_format_version(path, version, _FORMAT_VERSION, DataError, "choose another folder")
        if not isinstance(found, dict) or found.get("settings") != settings:
            raise DataError(
                f"{self.folder} has results of another model, policy or threshold: choose another folder, or the same "
                "options as before"
            )

    def paths(self) -> list[Path]:
        """The finished files."""
        return sorted(self.folder.glob("part-*.parquet"))

    def finished(self) -> set[bytes]:
        """The keys of all finished samples.

        Raises:
            DataError: if a file is damaged, or a sample occurs twice.
        """
        keys: set[bytes] = set()
        for path in self.paths():
            for key in self._column(path, "key"):
                if key in keys:
                    raise DataError(f"{path} has a sample that another file has too: remove this file, and go on")
                keys.add(key)
        return keys

    def outcomes(self) -> Counter[str]:
        """How many samples are safe, unsafe and not judged.

        Raises:
            DataError: if a file is damaged.
        """
        return Counter(verdict or NOT_JUDGED for path in self.paths() for verdict in self._column(path, "verdict"))

    @staticmethod
    def _column(path: Path, name: str) -> Iterator[Any]:
        pyarrow = require("pyarrow", "pyarrow.parquet")
        try:
            yield from pyarrow.parquet.read_table(path, columns=[name])[name].to_pylist()
        except (pyarrow.ArrowException, OSError, KeyError) as cause:
            raise DataError(f"{path} is damaged: remove it, and its samples are judged again") from cause

    def write(self, keys: Sequence[bytes], table: Any) -> Path:
        """Write the results of some samples as one file.

        Args:
            keys: key of each sample.
            table: the results.

        Raises:
            OutputError: if it cannot be written.
        """
        pyarrow = require("pyarrow", "pyarrow.parquet")
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:24]
        path = self.folder / f"part-{name}.parquet"
        whole = table.append_column("key", pyarrow.array(keys, pyarrow.binary()))
        with part_files(Outputs((path,), FileKind("Parquet file", _is_parquet), overwrite=True)) as (part,):
            pyarrow.parquet.write_table(whole, part.file)
        return path
