"""Converted tiny checkpoints, made once a session."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from image_variants import CHECKPOINTS
from tiny_checkpoint import write_tiny_checkpoint

from visionward import Engine
from visionward.convert import ConvertedPair, convert_checkpoint

PairMaker = Callable[..., ConvertedPair]
EngineMaker = Callable[..., Engine]


@pytest.fixture(scope="session")
def pair_of(tmp_path_factory: pytest.TempPathFactory) -> PairMaker:
    """``pair_of(name, type)``: the GGUF pair of a checkpoint of tests/image_variants.py."""
    checkpoints: dict[str, Path] = {}
    pairs: dict[tuple[str, str], ConvertedPair] = {}

    def make(name: str = "plain", kind: str = "f32") -> ConvertedPair:
        if name not in checkpoints:
            checkpoints[name] = write_tiny_checkpoint(tmp_path_factory.mktemp(name) / name, **CHECKPOINTS[name])
        if (name, kind) not in pairs:
            folder = tmp_path_factory.mktemp(f"{name}-{kind}")
            pairs[name, kind] = convert_checkpoint(checkpoints[name], folder, text_type=kind, mmproj_type=kind)
        return pairs[name, kind]

    return make


@pytest.fixture(scope="session")
def engine_of(pair_of: PairMaker) -> Iterator[EngineMaker]:
    """``engine_of(name, type, **options)``: a loaded pair, shared by the tests that want the same."""
    engines: dict[tuple[object, ...], Engine] = {}

    def load(name: str = "plain", kind: str = "f32", **options: int | bool) -> Engine:
        key = (name, kind, *sorted(options.items()))
        if key not in engines:
            pair = pair_of(name, kind)
            engines[key] = Engine(pair.text, pair.mmproj, n_ctx=256, **options)
        return engines[key]

    yield load
    for engine in engines.values():
        engine.close()
