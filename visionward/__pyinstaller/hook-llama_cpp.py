"""The libraries of llama-cpp-python, each once, in the folder where its loader looks for them.

The loader opens ``libllama.so``, and the libraries name each other ``libllama.so.0``. A wheel has no links, so it holds
a copy of each library under each of its names. In the bundle, one name is the file and the others are links to it.
"""

import filecmp
import itertools
from collections.abc import Iterator
from pathlib import Path

from PyInstaller.config import CONF
from PyInstaller.utils.hooks import collect_dynamic_libs


def _links(file: Path, copies: list[Path]) -> Iterator[Path]:
    """Links to a file under the names of its copies. PyInstaller keeps them as links.

    Each has its own folder: the analysis would collect again what lies beside a library that needs it.
    """
    for copy in copies:
        folder = Path(CONF["workpath"]) / "llama_cpp" / copy.name
        folder.mkdir(parents=True, exist_ok=True)
        for name, target in ((file.name, file.absolute()), (copy.name, Path(file.name))):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to(target)
        yield folder / copy.name


def _collect() -> Iterator[tuple[str, str]]:
    found = sorted(set(collect_dynamic_libs("llama_cpp", search_patterns=["*.dll", "*.dylib", "lib*.so", "lib*.so.*"])))
    for folder, entries in itertools.groupby(found, key=lambda entry: entry[1]):
        left = sorted((Path(source) for source, _ in entries), key=lambda path: len(path.name))
        while left:
            file, *left = left
            yield str(file), folder
            copies = [path for path in left if filecmp.cmp(file, path, shallow=False)]
            left = [path for path in left if path not in copies]
            for link in _links(file, copies):
                yield str(link), folder


binaries = list(_collect())
