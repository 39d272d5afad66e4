"""Where and with what a comparison was made, so that it can be made again."""

import hashlib
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from visionward.compare.datasets import Dataset
from visionward.compare.models import GuardFiles, file_size
from visionward.compare.plan import ComparisonPlan
from visionward.compare.results import ModelResults
from visionward.errors import ModelFileError
from visionward.formats.regular_file import open_regular
from visionward.machine.packages import installed_version
from visionward.machine.processor import read_memory, read_processor
from visionward.progress import OnProgress, ProgressCounter

PACKAGES = (
    *("visionward", "llama-cpp-python", "gguf", "numpy", "pillow", "tokenizers", "onnxruntime"),
    *("scipy", "scikit-learn", "openai"),
)
_CHUNK = 1 << 22


@dataclass(frozen=True)
class HashedFile:
    """A file of a model.

    Attributes:
        model: name of the model.
        file: its name.
        nbytes: its size.
        sha256: of the whole file.
    """

    model: str
    file: str
    nbytes: int
    sha256: str


@dataclass(frozen=True)
class HashedDataset:
    """A data set.

    Attributes:
        name: of the set.
        samples: how many.
        sha256: of texts, images, labels, categories and groups of all samples, in order.
    """

    name: str
    samples: int
    sha256: str


@dataclass(frozen=True)
class Environment:
    """Machine, programs and inputs of a comparison.

    Attributes:
        processor: its name.
        cores: hardware threads that the process may run on.
        memory_bytes: installed memory; None if the system does not tell.
        system: operating system.
        python: version.
        llama_cpp: build of the llama.cpp library, as the processes that judged reported it; None for results of
            earlier versions.
        packages: name to version of what is installed.
        command: the command line; None for a call from a program.
        files: of all pairs.
        datasets: all.
    """

    processor: str
    cores: int
    memory_bytes: int | None
    system: str
    python: str
    llama_cpp: str | None
    packages: dict[str, str]
    command: str | None
    files: tuple[HashedFile, ...]
    datasets: tuple[HashedDataset, ...]


def environment(plan: ComparisonPlan, results: Sequence[ModelResults], files: tuple[HashedFile, ...]) -> Environment:
    """The environment of this process and of the processes that judged."""
    processor = read_processor()
    versions = {name: installed_version(name) for name in PACKAGES}
    builds = [load.library for result in results for load in result.loads if load.library is not None]
    return Environment(
        processor=processor.model,
        cores=processor.usable_cores,
        memory_bytes=read_memory().total,
        system=platform.platform(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        llama_cpp="; ".join(dict.fromkeys(builds)) or None,
        packages={name: version for name, version in versions.items() if version is not None},
        command=plan.command,
        files=files,
        datasets=tuple(map(hashed_dataset, plan.datasets)),
    )


def hashed_files(pairs: Sequence[GuardFiles], on_progress: OnProgress | None = None) -> tuple[HashedFile, ...]:
    """Hash all files of all pairs; a file of several pairs is read once.

    Args:
        pairs: the pairs.
        on_progress: told of the bytes that were read; the stage is "file hashes".

    Raises:
        ModelFileError: if a file cannot be read.
    """
    paths = dict.fromkeys(path for pair in pairs for path in pair.files)
    progress = ProgressCounter(on_progress, "file hashes", sum(map(file_size, paths)), "bytes")
    hashes = {path: _hash(path, progress) for path in paths}
    return tuple(
        HashedFile(pair.name, path.name, file_size(path), hashes[path]) for pair in pairs for path in pair.files
    )


def _hash(path: Path, progress: ProgressCounter) -> str:
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                progress.advance(len(chunk))
    except OSError as cause:
        raise ModelFileError(f"{path}: {cause.strerror or cause}") from cause
    return digest.hexdigest()


def hashed_dataset(dataset: Dataset) -> HashedDataset:
    """Hash what is judged and what it is compared with; names of samples and files are not in it."""
    digest = hashlib.sha256()
    for sample, judged in zip(dataset.samples, dataset.digests, strict=True):
        label = {True: "unsafe", False: "safe", None: ""}[sample.unsafe]
        fields = (judged, label, " ".join(sorted(sample.categories or ())), sample.group)
        digest.update("".join(f"{len(field)}:{field}\n" for field in fields).encode("utf-8", "surrogatepass"))
    return HashedDataset(dataset.name, len(dataset.samples), digest.hexdigest())
