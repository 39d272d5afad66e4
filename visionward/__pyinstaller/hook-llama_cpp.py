"""The libraries of llama-cpp-python, each once, in the folder where its loader looks for them.

The loader opens ``libllama.so``, and the libraries name each other ``libllama.so.0``. A wheel has no links, so it holds
a copy of each library under each of its names. In the bundle, one name is the file and the others are links to it.
"""

import filecmp
import itertools
from collections.abc import Iterator
from pathlib import Path

from PyInstaller.config import CONF
from PyInstaller.depend.analysis import PyiModuleGraph
from PyInstaller.depend.imphookapi import PostGraphAPI
from PyInstaller.utils.hooks import collect_dynamic_libs

_MULTIMODAL = ("llama_cpp.mtmd_cpp", "llama_cpp.llama_chat_format")


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


def _collect(unused: str) -> Iterator[tuple[str, str]]:
    """The libraries and the folders where they belong, without those whose name has ``unused`` in it."""
    every = set(collect_dynamic_libs("llama_cpp", search_patterns=["*.dll", "*.dylib", "lib*.so", "lib*.so.*"]))
    found = sorted(entry for entry in every if not unused or unused not in Path(entry[0]).name)
    for folder, entries in itertools.groupby(found, key=lambda entry: entry[1]):
        left = sorted((Path(source) for source, _ in entries), key=lambda path: len(path.name))
        while left:
            file, *left = left
            yield str(file), folder
            copies = [path for path in left if filecmp.cmp(file, path, shallow=False)]
            left = [path for path in left if path not in copies]
            for link in _links(file, copies):
                yield str(link), folder


def _is_multimodal(graph: PyiModuleGraph) -> bool:
    """Whether the program itself imports the chat handlers of multimodal models, or what is below them."""
    users = {user for module in _MULTIMODAL for user in graph.get_code_using(module)}
    return any(user.partition(".")[0] != "llama_cpp" for user in users)


def hook(hook_api: PostGraphAPI) -> None:
    """PyInstaller calls this when the imports of the program are known."""
    hook_api.add_binaries(list(_collect("" if _is_multimodal(hook_api.graph) else "mtmd")))


# Llama.from_pretrained imports it, and nothing else of a program that only classifies. With hf_xet it has more than
# 11 MB. A program that downloads models with it imports it by itself.
excludedimports = ["huggingface_hub"]
