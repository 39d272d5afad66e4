"""The packaged demonstration guard is converted once, aside, wherever there is room."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest
from tiny_checkpoint import write_tiny_checkpoint

import visionward
from visionward import Guard
from visionward.convert import convert_checkpoint, demo_guard
from visionward.demonstration import DEMO_NOTICE
from visionward.errors import CheckpointError
from visionward.formats.gguf_header import GgufHeader
from visionward.quant.quantize import quantize_file


@pytest.fixture
def package(tiny_checkpoint_dir, tmp_path, monkeypatch):
    """An installed package whose demo guard is the tiny checkpoint, and an empty cache."""
    root = tmp_path / "visionward"
    shutil.copytree(tiny_checkpoint_dir, root / "demo_guard")
    monkeypatch.setattr(demo_guard.resources, "files", lambda _: root)
    monkeypatch.setattr(demo_guard, "cache_folder", lambda: tmp_path / "cache")
    demo_guard.demo_pair.cache_clear()
    yield root
    demo_guard.demo_pair.cache_clear()


@pytest.mark.usefixtures("package")
def test_converted_once_into_the_cache(tmp_path, monkeypatch):
    pair = demo_guard.demo_pair()
    assert pair.text.is_relative_to(tmp_path / "cache" / "demo-guard")
    assert (pair.text.name, pair.mmproj.name) == ("demo-guard-text-F16.gguf", "mmproj-demo-guard-F16.gguf")
    assert [path.name for path in pair.text.parent.parent.iterdir()] == [pair.text.parent.name]
    demo_guard.demo_pair.cache_clear()
    monkeypatch.setattr(demo_guard, "convert_checkpoint", None)
    assert demo_guard.demo_pair() == pair


def test_other_types_and_other_checkpoints_are_converted_anew(package):
    first = demo_guard.demo_pair()
    assert demo_guard.demo_pair("q8_0").text.parent != first.text.parent
    demo_guard.demo_pair.cache_clear()
    (package / "demo_guard" / "README.md").write_text("another one")
    assert demo_guard.demo_pair().text.parent != first.text.parent


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("which", ["text", "mmproj"])
def test_what_was_damaged_in_the_cache_is_converted_again(which):
    pair = demo_guard.demo_pair()
    path = getattr(pair, which)
    content = path.read_bytes()
    damaged = bytearray(content)
    damaged[-100] ^= 4
    for left in (bytes(damaged), content[:1000], b"", None):
        if left is None:
            path.unlink()
        else:
            path.write_bytes(left)
        demo_guard.demo_pair.cache_clear()
        assert demo_guard.demo_pair() == pair
        assert path.read_bytes() == content
        assert [folder.name for folder in pair.text.parent.parent.iterdir()] == [pair.text.parent.name]


def test_two_processes_at_once(package, tmp_path, monkeypatch):
    convert = demo_guard.convert_checkpoint
    winners = []

    def convert_and_lose(checkpoint, out_dir, **options):
        pair = convert(checkpoint, out_dir, **options)
        if not winners:
            # Another process finishes while this one converts.
            winners.append(True)
            demo_guard._convert_into(checkpoint, final, "f16", "f16")
            winners.append((final / pair.text.name).stat().st_ino)
        return pair

    monkeypatch.setattr(demo_guard, "convert_checkpoint", convert_and_lose)
    final = tmp_path / "cache" / "demo-guard" / "key"
    pair = demo_guard._convert_into(package / "demo_guard", final, "f16", "f16")
    assert pair.text.stat().st_ino == winners[1]
    assert [path.name for path in final.parent.iterdir()] == ["key"]


@pytest.mark.usefixtures("package")
def test_read_only_home(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    pair = demo_guard.demo_pair()
    assert pair.text.exists()
    assert not pair.text.is_relative_to(tmp_path / "cache")
    assert demo_guard.demo_pair() is pair
    shutil.rmtree(pair.text.parent.parent)


@pytest.mark.usefixtures("package")
def test_folders_of_killed_conversions_are_removed(tmp_path):
    cache = tmp_path / "cache" / "demo-guard"
    old, young = cache / ".converting-old", cache / ".converting-young"
    for folder in (old, young):
        folder.mkdir(parents=True)
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    demo_guard.demo_pair()
    assert not old.exists()
    assert young.exists()


def test_package_without_the_checkpoint(package):
    (package / "demo_guard" / "config.json").unlink()
    with pytest.raises(CheckpointError, match="does not contain the checkpoint of the demonstration guard"):
        demo_guard.demo_pair()


def set_mark(checkpoint, value):
    path = checkpoint / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"visionward_demonstration": value}))
    return checkpoint


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The packaged toy under another name, and the same with its mark taken away."""
    folder = tmp_path_factory.mktemp("toys")
    packaged = Path(visionward.__file__).parent / "demo_guard"
    shutil.copytree(packaged, folder / "unmarked", ignore=shutil.ignore_patterns("samples"))
    set_mark(folder / "unmarked", value=False)
    checkpoints = packaged, folder / "unmarked"
    return [convert_checkpoint(path, folder / str(n), name="guard") for n, path in enumerate(checkpoints)]


def warnings_of(text, mmproj):
    with Guard.load(text, mmproj, threads=1) as guard:
        return guard.classify(prompt="hello").warnings


def test_the_toy_says_so_under_any_name_and_in_any_type(toys, tmp_path):
    text, mmproj = tmp_path / "t.gguf", tmp_path / "m.gguf"
    quantize_file(toys[0].text, text, "q4_0", threads=1)
    quantize_file(toys[0].mmproj, mmproj, "q4_0", threads=1)
    for pair in [(toys[0].text, toys[0].mmproj), (text, mmproj)]:
        assert warnings_of(*pair)[0] == DEMO_NOTICE
    for path in (text, mmproj):
        assert GgufHeader(path).value("visionward.demonstration") is True


def test_the_mark_in_one_file_is_enough(toys):
    marked, unmarked = toys
    assert warnings_of(marked.text, unmarked.mmproj)[0] == DEMO_NOTICE
    assert warnings_of(unmarked.text, marked.mmproj)[0] == DEMO_NOTICE
    assert DEMO_NOTICE not in warnings_of(unmarked.text, unmarked.mmproj)


@pytest.mark.parametrize(("value", "said"), [(False, False), (None, False), (True, True), (1, None), ("yes", None)])
def test_the_mark_of_a_checkpoint(tmp_path, value, said):
    checkpoint = set_mark(write_tiny_checkpoint(tmp_path / "tiny"), value)
    if said is None:
        with pytest.raises(CheckpointError, match=r"visionward_demonstration is .*, expected true or false"):
            convert_checkpoint(checkpoint, tmp_path)
        return
    pair = convert_checkpoint(checkpoint, tmp_path)
    for path in (pair.text, pair.mmproj):
        assert GgufHeader(path).has("visionward.demonstration") is said
