"""Arrays on disk are whole or missing."""

from pathlib import Path

import numpy as np
import pytest

from visionward.compare.array_store import ArrayStore


def test_arrays_are_whole_or_missing(tmp_path):
    store = ArrayStore(tmp_path / "arrays")
    values = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    assert store.read("x") is None
    store.folder.mkdir()
    store.write("x", values)
    np.testing.assert_array_equal(store.read("x"), values)
    (path,) = store.folder.iterdir()
    np.testing.assert_array_equal(np.load(path), values)
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    damaged += [whole[:cut] + bytes(len(whole) - cut) for cut in range(0, len(whole), 7)]
    damaged += [whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :] for place in range(0, len(whole), 7)]
    for data in damaged:
        path.write_bytes(data)
        assert store.read("x") is None
    store.write("x", values)
    np.testing.assert_array_equal(store.read("x"), values)
    (store.folder / ".y.npy.0000.part").write_bytes(whole[:9])
    store.remove()
    assert not store.folder.exists()


def test_an_interrupted_array_has_no_name(tmp_path, monkeypatch):
    store = ArrayStore(tmp_path)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        store.write("x", np.ones(3, np.float32))
    assert not list(tmp_path.iterdir())
