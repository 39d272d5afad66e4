"""Compiled towers in the cache: the same features, and never a damaged one."""

import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from image_variants import CASES

from visionward.errors import ModelFileError
from visionward.formats.onnx_format import data_path
from visionward.paths import cache_folder
from visionward.runtime.vision import compiled_cache, vision_backend
from visionward.runtime.vision.compiled_cache import MAX_ENTRIES, Compiling, load_or_compile, no_report
from visionward.runtime.vision.onnxruntime_session import OnnxRuntimeSession
from visionward.runtime.vision.openvino_session import OpenVinoSession
from visionward.runtime.vision.vision_backend import Chosen

SLOW = (("onnx", "f32"), ("onnx", "f16"), ("openvino", "f32"), ("openvino", "f16"), ("openvino", "int8"))
BY = Compiling("engine", "1.0")
PIXELS = next(case for case in CASES if case.checkpoint == "plain").pixels()[:1]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The folder of the entries, which small towers are kept in too."""
    monkeypatch.setenv("VISIONWARD_HOME", str(tmp_path / "Ordner ä"))
    monkeypatch.setattr(compiled_cache, "MIN_TOWER_BYTES", 0)
    # The folder for temporary files may be in memory.
    monkeypatch.setattr(compiled_cache, "is_in_memory", lambda _: False)
    return cache_folder() / compiled_cache.COMPILED_FOLDER


class Engine:
    """Writes two files, and counts what it is asked for."""

    def __init__(self, tower: Path) -> None:
        self.tower = tower
        self.log: list[str] = []
        self.stages: list[str] = []

    def load(self, folder: Path) -> str:
        self.log.append("load")
        return (folder / "graph").read_text()

    def compile(self, folder: Path | None) -> str:
        self.log.append("compile" if folder is None else "write")
        if folder is not None:
            (folder / "graph").write_text("compiled")
            (folder / "weights").write_bytes(bytes(1000))
        return "compiled"

    def begin(self, stage: str) -> Callable[[int], None]:
        self.stages.append(stage)
        return lambda nbytes: self.stages.append(str(nbytes))

    def __call__(self, by: Compiling = BY) -> list[str]:
        """What a start does."""
        self.log.clear()
        assert (
            load_or_compile(self.tower, by, load=self.load, compile_into=self.compile, begin=self.begin) == "compiled"
        )
        return self.log[:]


@pytest.fixture
def engine(tower_of) -> Engine:
    return Engine(tower_of("plain", "int8"))


def entries(folder: Path) -> list[Path]:
    """Also unfinished ones."""
    return sorted(folder.iterdir())


def session_of(backend: str, tower: Path, threads: int, *, keep: bool) -> OnnxRuntimeSession | OpenVinoSession:
    if backend == "onnx":
        return OnnxRuntimeSession(tower, threads=threads, keep=no_report if keep else None)
    return OpenVinoSession(tower, threads=threads, precision="f32", keep=no_report if keep else None)


@pytest.mark.parametrize(
    ("backend", "weight_type"),
    [
        ("onnx", "int8"),
        # Compiling takes a second or two.
        *(pytest.param(*values, marks=pytest.mark.slow) for values in SLOW),
    ],
)
def test_features_are_those_of_a_tower_that_is_not_kept(tower_of, folder, monkeypatch, backend, weight_type) -> None:
    tower = tower_of("plain", weight_type)

    def features(keep: bool, threads: int = 1) -> bytes:
        with closing(session_of(backend, tower, threads, keep=no_report if keep else None)) as session:
            return session.run(PIXELS, 1, lambda: None).tobytes()

    plain = features(keep=False)
    assert features(keep=True) == plain
    (entry,) = entries(folder)
    with monkeypatch.context() as patched:
        patched.setattr(compiled_cache, "_begin", lambda *_: pytest.fail("compiled again"))
        assert features(keep=True) == plain
        # The number of threads does not matter to what is kept.
        assert features(keep=True, threads=2) == features(keep=False, threads=2)
    assert entries(folder) == [entry]
    # Every byte of the weights matters to the checksums.
    largest = max(entry.iterdir(), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.chmod(0o600)
    largest.write_bytes(content)
    assert features(keep=True) == plain
    assert largest.read_bytes() != content


def test_a_tower_is_compiled_once(engine, folder) -> None:
    assert [engine(), engine(), engine()] == [["write"], ["load"], ["load"]]
    assert engine.stages == ["compiling ONNX tower", str(data_path(engine.tower).stat().st_size)]
    assert len(entries(folder)) == 1


def _truncate(path: Path) -> None:
    os.truncate(path, 999)


def _change_last_byte(path: Path) -> None:
    """With the old times, but no program can set ctime."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("weights", _truncate),
        ("weights", _change_last_byte),
        ("weights", Path.unlink),
        ("graph", lambda path: path.write_text("compilez")),
        ("SHA256SUMS", Path.unlink),
        ("SHA256SUMS", lambda path: path.write_bytes(b"\xff")),
        ("SHA256SUMS", lambda path: path.write_text("")),
        ("SHA256SUMS", lambda path: path.write_text(path.read_text().splitlines()[0])),
        ("another", Path.touch),
    ],
)
def test_a_damaged_entry_is_written_again(engine, folder, name, damage) -> None:
    engine()
    (entry,) = entries(folder)
    damage(entry / name)
    assert [engine(), engine()] == [["write"], ["load"]]
    assert entries(folder) == [entry]


def test_checksums_are_computed_once(engine, monkeypatch) -> None:
    engine()
    monkeypatch.setattr(compiled_cache, "_digest", lambda path: pytest.fail(f"{path} read again"))
    assert engine() == ["load"]


def test_an_entry_that_the_engine_refuses_is_written_again(engine, monkeypatch) -> None:
    engine()

    def refuse(_folder: Path) -> str:
        raise ModelFileError("no")

    with monkeypatch.context() as patched:
        patched.setattr(engine, "load", refuse)
        assert engine() == ["write"]
    assert engine() == ["load"]


def test_an_engine_that_cannot_write(engine, folder, monkeypatch, caplog) -> None:
    """The disk may have filled up in between."""
    compile_tower = engine.compile

    def fail(into: Path | None) -> str:
        if into is None:
            return compile_tower(None)
        (into / "weights").write_bytes(b"half")
        raise ModelFileError("No space left on device")

    monkeypatch.setattr(engine, "compile", fail)
    assert engine() == ["compile"]
    assert [record.message for record in caplog.records] == [
        f"the compiled vision tower is not kept in {folder}: engine could not write it"
    ]
    assert entries(folder) == []


def test_an_engine_that_writes_nothing(engine, folder, monkeypatch, caplog) -> None:
    """As OpenVINO on a full disk."""
    monkeypatch.setattr(engine, "compile", lambda _: "compiled")
    engine()
    assert "the engine wrote nothing" in caplog.text
    assert entries(folder) == []


def test_an_interrupt(engine, folder, monkeypatch) -> None:
    def interrupt(_into: Path | None) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(engine, "compile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        engine()
    assert entries(folder) == []


def test_a_tower_that_cannot_be_compiled(engine, folder, monkeypatch) -> None:
    def fail(_into: Path | None) -> str:
        raise ModelFileError("damaged")

    monkeypatch.setattr(engine, "compile", fail)
    with pytest.raises(ModelFileError, match="damaged"):
        engine()
    assert entries(folder) == []


def test_a_full_disk(engine, folder, monkeypatch, caplog) -> None:
    needed = 2 * data_path(engine.tower).stat().st_size
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed - 1))
    assert engine() == ["compile"]
    (record,) = caplog.records
    assert f"not kept in {folder}: it needs up to" in record.message
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(needed))
    assert engine() == ["write"]


def test_a_cache_that_cannot_be_written(engine, folder, caplog) -> None:
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    assert engine() == ["compile"]
    assert len(caplog.records) == 1


def test_nothing_is_kept_in_memory(engine, folder, monkeypatch) -> None:
    """As in a container with a read-only file system (docs/serving.md), where it would count against its limit."""
    monkeypatch.setattr(compiled_cache, "is_in_memory", lambda _: True)
    assert [engine(), engine()] == [["compile"], ["compile"]]
    assert entries(folder) == []


def test_two_processes_at_once(engine, folder, monkeypatch) -> None:
    compile_tower, inner = engine.compile, Engine(engine.tower)

    def compile_twice(into: Path | None) -> str:
        assert inner() == ["compile"]
        return compile_tower(into)

    monkeypatch.setattr(engine, "compile", compile_twice)
    assert engine() == ["write"]
    assert inner() == ["load"]
    assert len(entries(folder)) == 1


def test_what_a_killed_process_left(engine, folder) -> None:
    engine()
    (entry,) = entries(folder)
    left = entry.rename(folder / f".{entry.name}.0123abcd.part")
    assert engine() == ["compile"]
    os.utime(left, (0, 0))
    assert [engine(), engine()] == [["write"], ["load"]]
    assert entries(folder) == [entry]


def test_what_a_compiled_tower_depends_on(engine, folder, monkeypatch, tower_of) -> None:
    """Each of these replaces the entry, except another engine's and another tower's."""
    engine()
    for by in (Compiling("engine", "1.1"), Compiling("engine", "1.1", ("f32",)), Compiling("engine", "1.1", ("bf16",))):
        assert [engine(by), engine(by)] == [["write"], ["load"]]
        assert len(entries(folder)) == 1
    processor = compiled_cache.read_processor()
    monkeypatch.setattr(compiled_cache, "read_processor", lambda: replace(processor, features=("avx2",)))
    assert engine(by) == ["write"]
    assert len(entries(folder)) == 1
    assert engine(replace(by, engine="another")) == ["write"]
    assert Engine(tower_of("plain", "f32"))(by) == ["write"]
    assert len(entries(folder)) == 3
    assert engine(by) == ["load"]


def test_the_disk_use_is_bounded(engine, folder) -> None:
    names = [f"engine{n}" for n in range(MAX_ENTRIES)]
    for n, name in enumerate(names):
        engine(Compiling(name, "1"))
        os.utime(next(folder.glob(f"{name}-*")), (n, n))
    assert engine(Compiling(names[0], "1")) == ["load"]
    engine(Compiling("one more", "1"))
    assert {path.name.split("-")[0] for path in entries(folder)} == {names[0], *names[2:], "one more"}


def test_small_towers_are_not_kept(engine, folder, monkeypatch) -> None:
    monkeypatch.setattr(compiled_cache, "MIN_TOWER_BYTES", data_path(engine.tower).stat().st_size + 1)
    assert [engine(), engine()] == [["compile"], ["compile"]]
    assert not folder.exists()


@pytest.mark.parametrize("backend", ["onnx", "openvino"])
@pytest.mark.parametrize("weight_type", ["f32", "f16", "int8"])
def test_which_towers_are_kept(tower_of, monkeypatch, backend, weight_type) -> None:
    """ONNX Runtime packs nothing of f16; f32 towers are large, and only for comparisons."""
    kept = []
    for name in ("OnnxRuntimeSession", "OpenVinoSession"):
        monkeypatch.setattr(vision_backend, name, lambda *_, keep, **__: kept.append(keep))
    Chosen(backend, tower_of("plain", weight_type), weight_type).session(1, no_report)
    wanted = weight_type == "int8" or (backend, weight_type) == ("openvino", "f16")
    assert kept == [no_report if wanted else None]
