"""ggml's AMX kernels, on any processor with AVX-512 and VNNI: without AMX, in software.

Run with ``pytest -m amx``; tests/support/amx_library.py builds what it needs. The library is another one than that of
the other tests, so everything runs in processes of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import amx_library
import numpy as np
import pytest
from image_variants import CASES

from visionward.runtime.ggml.kernel_probe import MAX_ERROR
from visionward.runtime.ggml.kernel_product import WEIGHT_TYPES

pytestmark = [
    pytest.mark.amx,
    pytest.mark.skipif(amx_library.missing() is not None, reason=str(amx_library.missing())),
]

FIXTURE = np.load(Path(__file__).parents[2] / "reference" / "image_logits.npz")
CASE = next(case for case in CASES if case.name.startswith("plain-2x2"))

# Logits with some kernels, and the kernels that the engine used. ``auto`` is told that AMX is faster.
_PROGRAM = """
import sys
import numpy as np
from image_variants import CASES
from visionward import Engine
from visionward.runtime import kernel_choice
from visionward.runtime.ggml.kernel_probe import AMX
from visionward.runtime.ggml.kernel_product import WEIGHT_TYPES, buffer_types
from visionward.runtime.images.preprocess import Tiles

text, mmproj, kernels, name, out = sys.argv[1:]
assert AMX in buffer_types()
kernel_choice.MIN_TEXT_BYTES = 0
kernel_choice.types_for_amx = lambda threads: {dtype.name for dtype in WEIGHT_TYPES}
(case,) = (case for case in CASES if case.name == name)
engine = Engine(text, mmproj, kernels=kernels, vision_backend="ggml", threads=2, device="CPU")
logits = engine.logits(case.tokens(), Tiles(case.pixels(), case.aspect_ratio)).logits
np.savez(out, kernels=engine.kernels, logits=logits)
engine.close()
"""


@pytest.fixture(scope="module", autouse=True)
def emulation() -> None:
    amx_library.build_emulation()


def run(arguments: list[str], counts: Path) -> tuple[str, int]:
    """The output of Python with the library, and the products of tiles that were computed in software."""
    support = str(Path(amx_library.__file__).parent)
    environment = {
        **os.environ,
        **amx_library.environment(),
        "PYTHONPATH": support,
        "AMX_EMULATION_COUNT": str(counts),
    }
    done = subprocess.run([sys.executable, *arguments], check=False, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    counted = [int(line.split()[1]) for line in counts.read_text().splitlines()] if counts.exists() else []
    return done.stdout, sum(counted)


def test_the_probe_finds_that_they_work(tmp_path):
    output, _ = run(["-m", "visionward", "doctor", "--fresh", "--json"], tmp_path / "counts")
    kernels = {kernel["kernel"]: kernel for kernel in json.loads(output)["kernels"]}
    assert kernels["AMX"]["status"] == "works"
    computed = [weight for weight in kernels["AMX"]["weights"] if weight["error"] is not None]
    assert {weight["weight_type"] for weight in computed} == {dtype.name for dtype in WEIGHT_TYPES}
    assert all(0 < weight["error"] < MAX_ERROR for weight in computed)


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_k_m", "q5_k_m", "q6_k", "iq4_xs"])
def test_they_give_the_logits_of_the_plain_kernels(pair_of, tmp_path, kind):
    pair = pair_of("plain", kind)
    found = {}
    for kernels in ("plain", "packed", "auto"):
        out, counts = tmp_path / f"{kernels}.npz", tmp_path / f"{kernels}-counts"
        _, products = run(["-c", _PROGRAM, str(pair.text), str(pair.mmproj), kernels, CASE.name, str(out)], counts)
        found[kernels] = np.load(out)
        if "LD_PRELOAD" in amx_library.environment():
            assert (products > 0) is (kernels != "plain")
    assert [str(found[kernels]["kernels"]) for kernels in found] == ["plain", "packed", "packed"]
    plain, packed, auto = (found[kernels]["logits"] for kernels in found)
    assert np.array_equal(packed, auto)
    assert not np.array_equal(packed, plain)
    expected = FIXTURE[f"{CASE.name}.logits"]
    assert error(packed, plain) < 0.03
    assert error(packed, expected) == pytest.approx(error(plain, expected), rel=0.02)


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
