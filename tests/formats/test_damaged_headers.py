"""Headers that were changed with knowledge of their structure, and every single bit of every number in them.

As they are, no such file is read at all: its checksum does not match. With new checksums, or without any as files by
others are, they may be refused or loaded, but never end the process, hang it, or take memory without bounds.
"""

import math
import random
import select
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf_edit import ARRAY, SCALARS, STRING, GgufFile, Key, Tensor, text_bytes

from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.pair_files import PairFiles

LOADER = """
import resource, sys
import numpy as np
from visionward import Engine, VisionwardError
resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
picture = np.random.default_rng(0).integers(0, 256, (30, 90, 3), np.uint8)
print("ready", flush=True)
for line in sys.stdin:
    text, mmproj = line.rstrip("\\n").split("\\t")
    try:
        engine = Engine(text, mmproj, n_ctx=64, threads=1, image_cache_bytes=0)
        try:
            engine.logits([1, engine.model.image_token_id, 2, 3], picture)
        finally:
            engine.close()
    except VisionwardError as error:
        print("refused", str(error).replace("\\n", " "), flush=True)
    else:
        print("loaded", flush=True)
"""
LONGEST_S = 60.0
BOTH = pytest.mark.parametrize("which", [0, 1], ids=["text", "mmproj"])


class Loader:
    """A child process that loads one pair after the other."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], LONGEST_S)
        if not ready:
            self._process.kill()
            return "hung"
        return self._process.stdout.readline().split(" ")[0].strip() or "crashed"

    def outcome(self, text: Path, mmproj: Path) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\t{mmproj}\n")
        self._process.stdin.flush()
        return self._line()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def loader() -> Iterator[Loader]:
    process = Loader()
    try:
        yield process
    finally:
        process.close()


@pytest.fixture(scope="module")
def files(pair_of) -> tuple[Path, Path]:
    made = pair_of("plain", "q8_0")
    return made.text, made.mmproj


# Every bit of every number.


def numbers(file: GgufFile) -> list[tuple[int, int]]:
    """(index of the key, bit of its value) of all numbers but the vocabulary's token types."""
    found = []
    for index, key in enumerate(file.keys):
        first = 0
        if key.kind == ARRAY:
            inner = struct.unpack_from("<I", key.value)[0]
            if inner == STRING or key.name == b"tokenizer.ggml.token_type":
                continue
            first = 12
        elif key.kind == STRING:
            continue
        found += [(index, bit) for bit in range(8 * first, 8 * len(key.value))]
    return found


def flip(file: GgufFile, index: int, bit: int) -> GgufFile:
    value = bytearray(file.keys[index].value)
    value[bit // 8] ^= 1 << bit % 8
    file.keys[index].value = bytes(value)
    return file


def checksums_of(file: GgufFile) -> dict[bytes, bytes]:
    return {key.name: key.value for key in file.keys if key.name.endswith(b"_sha256")}


@BOTH
def test_no_flipped_bit_of_a_number_is_read(files, tmp_path: Path, which: int) -> None:
    file, broken = GgufFile(files[which]), tmp_path / "broken.gguf"
    checksums = checksums_of(file)
    bits = numbers(file)
    assert len(bits) > 500
    for place in bits:
        broken.write_bytes(flip(file, *place).serialized(checksums))
        with pytest.raises(ModelFileError):
            GgufHeader(broken)
        flip(file, *place)
    broken.write_bytes(file.serialized(checksums))
    GgufHeader(broken)


def survive(files: tuple[Path, Path], which: int, target: Path, changed: Iterator[GgufFile]) -> list[str]:
    """What becomes of changed files that are with new checksums, and of every second one without checksums."""
    outcomes = []
    with loader() as process:
        for number, file in enumerate(changed):
            (file if number % 2 else file.without_checksums()).write(target)
            outcomes.append(process.outcome(*(target if i == which else path for i, path in enumerate(files))))
            assert outcomes[-1] in {"refused", "loaded"}, f"file {number}, kept as {target}: {outcomes[-1]}"
    return outcomes


@BOTH
@pytest.mark.parametrize("cases", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_flipped_numbers_end_no_process(files, tmp_path: Path, which: int, cases: int) -> None:
    bits = numbers(GgufFile(files[which]))
    chosen = random.Random(which).sample(bits, min(cases, len(bits)))
    outcomes = survive(
        files, which, tmp_path / "broken.gguf", (flip(GgufFile(files[which]), *place) for place in chosen)
    )
    assert outcomes.count("refused") > len(chosen) / 3


# Changes that know the structure.

EXTREMES = (0, 1, 2, 3, 7, 31, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63, 2**64 - 1)
FLOATS = (0.0, -0.0, -1e-5, 1e-45, 1e38, -1e38, float("inf"), float("-inf"), float("nan"))


def scalar(kind: int, rng: random.Random) -> bytes:
    layout = SCALARS[kind]
    if layout in ("<f", "<d"):
        return struct.pack(layout, rng.choice(FLOATS))
    return rng.choice(EXTREMES).to_bytes(8, "little")[: struct.calcsize(layout)]


def set_number(file: GgufFile, rng: random.Random) -> None:
    key = rng.choice([key for key in file.keys if key.kind in SCALARS])
    key.value = scalar(key.kind, rng)


def set_item(file: GgufFile, rng: random.Random) -> None:
    arrays = [key for key in file.keys if key.kind == ARRAY and struct.unpack_from("<I", key.value)[0] != STRING]
    key = rng.choice(arrays)
    inner, count = struct.unpack_from("<IQ", key.value)
    size = struct.calcsize(SCALARS[inner])
    at = 12 + size * rng.randrange(count or 1)
    key.value = key.value[:at] + scalar(inner, rng) + key.value[at + size :]


def change_type(file: GgufFile, rng: random.Random) -> None:
    key = rng.choice(file.keys)
    key.kind = rng.choice([*SCALARS, STRING])
    key.value = scalar(key.kind, rng) if key.kind in SCALARS else text_bytes(b"text")


def remove_key(file: GgufFile, rng: random.Random) -> None:
    file.keys.remove(rng.choice(file.keys[1:]))


def repeat_key(file: GgufFile, rng: random.Random) -> None:
    key = rng.choice(file.keys)
    file.keys.insert(rng.randrange(1, len(file.keys)), Key(key.name, key.kind, key.value))


def rename_key(file: GgufFile, rng: random.Random) -> None:
    key = rng.choice(file.keys)
    at = rng.randrange(len(key.name))
    key.name = key.name[:at] + bytes([rng.randrange(256)]) + key.name[at + 1 :]


def add_key(file: GgufFile, rng: random.Random) -> None:
    """Those that llama.cpp would read."""
    names = ("expert_count", "attention.key_length", "attention.sliding_window", "rope.scaling.factor", "vocab_size")
    kind = rng.choice((4, 6, 10))
    file.keys.append(Key(b"llama." + rng.choice(names).encode(), kind, scalar(kind, rng)))


def change_count(file: GgufFile, rng: random.Random) -> None:
    key = rng.choice([key for key in file.keys if key.kind == ARRAY])
    key.value = key.value[:4] + struct.pack("<Q", rng.choice(EXTREMES)) + key.value[12:]


def cut_array(file: GgufFile, rng: random.Random) -> None:
    arrays = [key for key in file.keys if key.kind == ARRAY and struct.unpack_from("<I", key.value)[0] != STRING]
    key = rng.choice(arrays)
    inner, count = struct.unpack_from("<IQ", key.value)
    kept = rng.randrange(count or 1)
    key.value = struct.pack("<IQ", inner, kept) + key.value[12 : 12 + kept * struct.calcsize(SCALARS[inner])]


def change_text(file: GgufFile, rng: random.Random) -> None:
    key = rng.choice([key for key in file.keys if key.kind == STRING])
    content = bytearray(key.value[8:] or b"x")
    content[rng.randrange(len(content))] = rng.randrange(256)
    key.value = text_bytes(bytes(content))


def change_shape(file: GgufFile, rng: random.Random) -> None:
    tensor = rng.choice(file.tensors)
    tensor.shape[rng.randrange(len(tensor.shape))] = rng.choice(EXTREMES)


def change_rank(file: GgufFile, rng: random.Random) -> None:
    tensor = rng.choice(file.tensors)
    tensor.shape = rng.choice(([], [1, *tensor.shape], tensor.shape * 3, [1] * 9))


def change_kind(file: GgufFile, rng: random.Random) -> None:
    rng.choice(file.tensors).kind = rng.choice((*range(42), 255, 2**31, 2**32 - 1))


def consistent_kind(file: GgufFile, rng: random.Random) -> None:
    """Another type, with as many bytes as it takes."""
    tensor = rng.choice(file.tensors)
    kind = rng.choice(list(GGMLQuantizationType))
    block, nbytes = GGML_QUANT_SIZES[kind]
    tensor.kind, tensor.data = int(kind), bytes(math.prod(tensor.shape) // block * nbytes)


def change_offset(file: GgufFile, rng: random.Random) -> None:
    tensor = rng.choice(file.tensors)
    tensor.offset = rng.choice((*EXTREMES, 32 * rng.randrange(2000)))


def rename_tensor(file: GgufFile, rng: random.Random) -> None:
    tensor = rng.choice(file.tensors)
    tensor.name = rng.choice((tensor.name[:-1], tensor.name + b"x", b"", b"a" * 100, rng.choice(file.tensors).name))


def remove_tensor(file: GgufFile, rng: random.Random) -> None:
    file.tensors.remove(rng.choice(file.tensors))


def add_tensor(file: GgufFile, rng: random.Random) -> None:
    shape = [rng.choice(EXTREMES) for _ in range(rng.randint(1, 4))]
    file.tensors.insert(rng.randrange(len(file.tensors)), Tensor(b"extra.weight", shape, rng.choice((0, 1, 8)), b""))


def swap_tensors(file: GgufFile, rng: random.Random) -> None:
    one, other = rng.sample(range(len(file.tensors)), 2)
    file.tensors[one], file.tensors[other] = file.tensors[other], file.tensors[one]


def fill_tensor(file: GgufFile, rng: random.Random) -> None:
    tensor = rng.choice(file.tensors)
    tensor.data = rng.choice((b"\x00", b"\xff", b"\x7f")) * len(tensor.data)


def cut_tensor(file: GgufFile, rng: random.Random) -> None:
    tensor = rng.choice(file.tensors)
    tensor.data = tensor.data[: rng.randrange(len(tensor.data) or 1)]


def change_version(file: GgufFile, rng: random.Random) -> None:
    file.version = rng.choice(EXTREMES) & 0xFFFFFFFF


CHANGES: tuple[Callable[[GgufFile, random.Random], None], ...] = (
    *(set_number, set_number, set_number, set_item, change_type, remove_key, repeat_key, rename_key, add_key),
    *(change_count, cut_array, change_text, change_shape, change_shape, change_rank, change_kind, consistent_kind),
    *(change_offset, rename_tensor, remove_tensor, add_tensor, swap_tensors, fill_tensor, cut_tensor, change_version),
)


def changed(path: Path, rng: random.Random, cases: int) -> Iterator[GgufFile]:
    for number in range(cases):
        file = GgufFile(path)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            CHANGES[number % len(CHANGES)](file, rng)
        yield file


@BOTH
@pytest.mark.parametrize("cases", [75, pytest.param(1300, marks=pytest.mark.slow)])
def test_changed_headers_end_no_process(files, tmp_path: Path, which: int, cases: int) -> None:
    target = tmp_path / "broken.gguf"
    outcomes = survive(files, which, target, changed(files[which], random.Random(7 + which), cases))
    assert outcomes.count("refused") > cases / 2


def pair_with(files: tuple[Path, Path], which: int, broken: Path) -> PairFiles:
    return PairFiles.open(*(broken if i == which else path for i, path in enumerate(files)))


@BOTH
def test_no_changed_header_is_read(files, tmp_path: Path, which: int) -> None:
    checksums, broken = checksums_of(GgufFile(files[which])), tmp_path / "broken.gguf"
    for file in changed(files[which], random.Random(11 + which), 150):
        broken.write_bytes(file.serialized(checksums))
        if broken.read_bytes() == files[which].read_bytes():
            continue
        with pytest.raises(ModelFileError):
            pair_with(files, which, broken).check_checksums(again=True)
