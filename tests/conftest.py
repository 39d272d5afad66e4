"""Fixtures for all tests; being here also makes the helper modules beside it importable."""

import signal
from pathlib import Path

import pytest
from hypothesis import settings
from tiny_checkpoint import write_tiny_checkpoint

from visionward.convert import ConvertedPair, convert_checkpoint

# How long an example takes is the machine's affair.
settings.register_profile("visionward", deadline=None)
settings.load_profile("visionward")

# A shell ignores interrupts for what it starts in the background, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_checkpoint_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint, shared: do not change it."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny")


@pytest.fixture(scope="session")
def tiny_pair(tiny_checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertedPair:
    """The same, converted in f32."""
    return convert_checkpoint(tiny_checkpoint_dir, tmp_path_factory.mktemp("pair"), text_type="f32", mmproj_type="f32")
