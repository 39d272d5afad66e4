"""Journals: every model's answers on disk, line by line, so that an interrupted comparison can be resumed."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from visionward.errors import DataError
from visionward.formats.append_log import AppendLog
from visionward.formats.format_version import check_format_version

_VERSION = 2
_ODD = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Judged:
    """The answer of a model to a sample, or why there is none.

    Attributes:
        sample: digest of the judged content.
        unsafe: the decision; None if there is none.
        score: P(unsafe); 0 or 1 if the model gives no probabilities.
        answer_mass: P(safe) + P(unsafe); None if it is not known.
        categories: codes that the model named.
        reason: why the sample was skipped; None if it was judged.
        no_answer: the model answered something else, which counts as unsafe.
        times_ms: milliseconds by stage: preprocess, vision, prefill, decode, total; without preprocess, vision and
            total if the image came from the image cache.
        processors: processor time over elapsed time; None if it is not known.
        tiles: of the image.
        second_look: whether ``max_tiles`` auto judged with one tile first and again with all tiles.
        prompt_tokens: of the prompt.
        kl: divergence of the first-token distribution from the reference's, in nats.
        logit_error: relative error of the first-token logits.
        peak_bytes: peak memory of the process so far.
    """

    sample: str
    unsafe: bool | None = None
    score: float | None = None
    answer_mass: float | None = None
    categories: tuple[str, ...] = ()
    reason: str | None = None
    no_answer: bool = False
    times_ms: Mapping[str, float] | None = None
    processors: float | None = None
    tiles: int = 0
    second_look: bool = False
    prompt_tokens: int = 0
    kl: float | None = None
    logit_error: float | None = None
    peak_bytes: int | None = None


@dataclass(frozen=True)
class Loaded:
    """A model was loaded.

    Attributes:
        load_ms: load time in milliseconds.
        rows: rows of the decoder's head.
        device: name of the device that computes.
        threads: CPU threads.
        library: build of the llama.cpp library; None in journals of earlier versions.
    """

    load_ms: float
    rows: int
    device: str
    threads: int
    library: str | None = None


@dataclass(frozen=True)
class FeatureError:
    """Distance between the vision features of an image and the reference's.

    Attributes:
        sample: digest of the sample with the image.
        error: relative error; None for the reference itself.
    """

    sample: str
    error: float | None


Entry = Judged | Loaded | FeatureError
_KINDS: dict[str, Any] = {"judged": Judged, "loaded": Loaded, "features": FeatureError}
_TUPLES = ("categories",)


class Journal:
    """The results of one model, in one file.

    The name of the file has a hash of the model and the settings, so that results of other files or settings are never
    mixed in. Each entry is on disk, with a checksum, before the next sample begins. An incomplete last line is dropped.
    Other damaged lines and those of older versions count as missing, and their samples are judged again.

    Args:
        folder: folder of the file.
        name: name of the model.
        key: everything that results depend on besides the samples.

    Raises:
        DataError: if a newer version of visionward wrote to the file.
    """

    def __init__(self, folder: Path, name: str, key: Mapping[str, Any]) -> None:
        text = json.dumps(key, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:16]
        self.path = folder / f"{_ODD.sub('-', name)}-{self.key}.jsonl"
        self.judged: dict[str, Judged] = {}
        self.features: dict[str, FeatureError] = {}
        self.loaded: list[Loaded] = []
        self._newest = _VERSION
        self._log = AppendLog(self.path, self._read_line)
        check_format_version(self.path, self._newest, _VERSION, DataError, "judge the samples again")

    @property
    def damaged(self) -> int:
        """Lines that could not be read."""
        return self._log.damaged

    def others(self) -> list[Path]:
        """Journals of the same model name for other files or settings."""
        stem = self.path.name.removesuffix(f"{self.key}.jsonl")
        pattern = re.compile(re.escape(stem) + r"[0-9a-f]{16}\.jsonl")
        return [
            path for path in sorted(self.path.parent.iterdir()) if path != self.path and pattern.fullmatch(path.name)
        ]

    def _read_line(self, _offset: int, values: Mapping[str, Any]) -> None:
        self._newest = max(self._newest, values["version"])
        self._remember(_entry(values))

    def _remember(self, entry: Entry) -> None:
        if isinstance(entry, Judged):
            self.judged[entry.sample] = entry
        elif isinstance(entry, FeatureError):
            self.features[entry.sample] = entry
        else:
            self.loaded.append(entry)

    def append(self, entry: Entry) -> None:
        """Write an entry. It is on disk when this returns."""
        kind = next(name for name, cls in _KINDS.items() if isinstance(entry, cls))
        self._log.append({"version": _VERSION, "kind": kind, **asdict(entry)})

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._log.close()


def _entry(value: Mapping[str, Any]) -> Entry:
    if value["version"] != _VERSION:
        raise ValueError("another version")
    cls = _KINDS[value["kind"]]
    known = {field.name for field in fields(cls)}
    arguments = {name: tuple(item) if name in _TUPLES else item for name, item in value.items() if name in known}
    entry: Entry = cls(**arguments)
    return entry
