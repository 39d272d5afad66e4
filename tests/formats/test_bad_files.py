"""Files that are missing, damaged or not a pair: one sentence, and never a crash."""

import math
import os
import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf_edit import GgufFile

from visionward import Engine, Guard
from visionward.errors import ModelFileError

LOADER = """
import sys
from visionward import Engine, VisionwardError
for line in sys.stdin:
    text, mmproj = line.rstrip("\\n").split("\\t")
    try:
        Engine(text, mmproj, n_ctx=64, threads=1).close()
    except VisionwardError as error:
        print("refused", str(error).replace("\\n", " "), flush=True)
    else:
        print("loaded", flush=True)
"""


@pytest.fixture
def pair(pair_of, tmp_path: Path) -> tuple[Path, Path]:
    made = pair_of("plain", "q8_0")
    return Path(shutil.copy(made.text, tmp_path)), Path(shutil.copy(made.mmproj, tmp_path))


def refused(text: Path, mmproj: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        Engine(text, mmproj, n_ctx=64)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing(pair) -> None:
    text, mmproj = pair
    assert "No such file" in refused(text.with_name("none.gguf"), mmproj)
    assert "No such file" in refused(text, mmproj.with_name("none.gguf"))


def test_a_directory(pair, tmp_path: Path) -> None:
    assert "Is a directory" in refused(tmp_path, pair[1])
    assert "Is a directory" in refused(pair[0], tmp_path)


@pytest.mark.parametrize("content", [b"", b"GG", b"not a model at all", bytes(100)])
def test_no_gguf(pair, content: bytes) -> None:
    text, mmproj = pair
    other = text.with_name("other.gguf")
    other.write_bytes(content)
    assert "other.gguf" in refused(other, mmproj)
    assert "not a GGUF file" in refused(text, other)


@pytest.mark.parametrize("keep", [6, 100, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("which", [0, 1], ids=["text", "mmproj"])
def test_truncated(pair, which: int, keep: float) -> None:
    size = pair[which].stat().st_size
    os.truncate(pair[which], int(keep if keep > 1 else keep * size))
    assert pair[which].name in refused(*pair)


@pytest.mark.parametrize("name", ["v.pre_ln.weight", "v.pre_tile_embd.weight", "cross.blk.0.attn_q.weight"])
def test_a_type_that_ggml_cannot_compute_with(pair, name: str) -> None:
    file = GgufFile(pair[1])
    file.tensor(name).kind = GGMLQuantizationType.Q8_1
    block, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType.Q8_1]
    file.tensor(name).data = bytes(math.prod(file.tensor(name).shape) // block * nbytes)
    file.write(pair[1])
    assert f"tensor {name} has the unsupported type Q8_1" in refused(*pair)


def test_swapped(pair) -> None:
    text, mmproj = pair
    assert "architecture 'llama', expected 'clip': were the two files swapped?" in refused(text, text)
    assert "architecture 'clip', expected 'llama': were the two files swapped?" in refused(mmproj, mmproj)


def test_an_impossible_alignment(pair, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "aligned.gguf", "llama")
    writer.add_custom_alignment(32)
    writer.add_tensor("a", np.zeros(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    path = tmp_path / "aligned.gguf"
    key = b"general.alignment" + struct.pack("<I", 4)
    data = path.read_bytes()
    assert data.count(key + struct.pack("<I", 32)) == 1
    path.write_bytes(data.replace(key + struct.pack("<I", 32), key + struct.pack("<I", 0)))
    assert "damaged" in refused(path, pair[1])


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes here")
def test_a_name_that_is_no_unicode(pair) -> None:
    text, mmproj = pair
    renamed = text.rename(text.with_name(os.fsdecode(b"text-\xff.gguf")))
    Engine(renamed, mmproj, n_ctx=64, threads=1).close()


def test_files_that_do_not_belong_together(pair_of) -> None:
    one, other = pair_of("plain", "f16"), pair_of("unlike", "f16")
    assert "do not belong together (content hash differ)" in refused(one.text, other.mmproj)


def test_types_of_one_conversion_belong_together(pair_of) -> None:
    with Guard.load(pair_of("plain", "q8_0").text, pair_of("plain", "f16").mmproj, n_ctx=64):
        pass


def damage(data: bytes, header: int, rng: random.Random) -> bytes:
    """Cut a file, flip bits of its header, or put an extreme number into it."""
    kind = rng.random()
    if kind < 0.3:
        return data[: rng.randrange(4, len(data))]
    changed = bytearray(data)
    if kind < 0.7:
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(4, header)] ^= 1 << rng.randrange(8)
        return bytes(changed)
    at = rng.randrange(4, header - 8)
    changed[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 255, 2**31, 2**32 - 1, 2**40, 2**63, 2**64 - 1)))
    return bytes(changed)


def survive(pair: tuple[Path, Path], which: int, header: int, cases: int, seed: int) -> None:
    rng = random.Random(seed)
    whole, broken = pair[which].read_bytes(), pair[which].with_name("broken.gguf")
    loader = subprocess.Popen([sys.executable, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert loader.stdin is not None
    assert loader.stdout is not None
    outcomes = []
    with loader:
        for _ in range(cases):
            broken.write_bytes(damage(whole, header, rng))
            files = [broken if i == which else file for i, file in enumerate(pair)]
            loader.stdin.write("\t".join(map(str, files)) + "\n")
            loader.stdin.flush()
            outcomes.append(loader.stdout.readline().split(" ")[0].strip())
            assert outcomes[-1] in {"refused", "loaded"}, f"case {len(outcomes)} of seed {seed} crashed the process"
        loader.stdin.close()
    assert outcomes.count("refused") > cases / 4


@pytest.mark.parametrize(("which", "header"), [(0, 24_000), (1, 6_000)], ids=["text", "mmproj"])
def test_damaged_headers_never_crash(pair, which: int, header: int) -> None:
    survive(pair, which, header, 60, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize(("which", "header"), [(0, 24_000), (1, 6_000)], ids=["text", "mmproj"])
@pytest.mark.parametrize("seed", range(4))
def test_many_damaged_headers_never_crash(pair, which: int, header: int, seed: int) -> None:
    survive(pair, which, header, 1000, seed)
