"""Converting into quantized types in one go is the same as converting and quantizing."""

import numpy as np
import pytest
from progress_reports import stages
from quantize_reference import tensors
from tiny_checkpoint import write_tiny_checkpoint

from visionward import Engine
from visionward.convert import convert_checkpoint
from visionward.errors import CheckpointError
from visionward.quant.quantize import quantize_file


@pytest.mark.parametrize(("dtype", "plain"), [("F32", "f32"), ("BF16", "bf16"), ("F16", "f16")])
def test_one_go_is_two_steps(tmp_path, dtype, plain):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny", dtype=dtype, vision_width=256)
    reports = []
    pair = convert_checkpoint(
        checkpoint,
        tmp_path / "out",
        text_type="q4_k_m",
        mmproj_type="Q6_K",
        on_progress=reports.append,
    )
    assert [path.name for path in (pair.text, pair.mmproj)] == ["tiny-text-Q4_K_M.gguf", "mmproj-tiny-Q6_K.gguf"]
    assert sorted((tmp_path / "out").iterdir()) == sorted([pair.text, pair.mmproj])
    assert stages(reports) == ["text file", "quantizing", "checksums", "mmproj file"]

    steps = convert_checkpoint(checkpoint, tmp_path / "steps", text_type=plain, mmproj_type=plain)
    quantize_file(steps.text, tmp_path / "t.gguf", "q4_k_m", threads=1)
    quantize_file(steps.mmproj, tmp_path / "m.gguf", "q6_k", threads=1)
    assert pair.text.read_bytes() == (tmp_path / "t.gguf").read_bytes()
    assert pair.mmproj.read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_q8_0_is_written_directly_and_is_the_same(wide_checkpoint, f16_pair, tmp_path):
    pair = convert_checkpoint(wide_checkpoint, tmp_path, text_type="q8_0", mmproj_type="q8_0")
    f32 = convert_checkpoint(wide_checkpoint, tmp_path, text_type="f32")
    quantize_file(f32.text, tmp_path / "t.gguf", "q8_0", threads=1)
    direct, stepwise = tensors(pair.text), tensors(tmp_path / "t.gguf")
    assert {name: kind for name, (kind, _) in direct.items()} == {name: kind for name, (kind, _) in stepwise.items()}
    assert all((direct[name][1] == stepwise[name][1]).all() for name in direct)
    # The two files of any types belong together, as long as they come from one checkpoint.
    Engine(pair.text, f16_pair.mmproj, threads=1, n_ctx=64, gpu_layers=0).close()


def test_weights_beyond_f16_cannot_be_quantized(tmp_path):
    """Scales of blocks are f16."""
    weights = {"multi_modal_projector.weight": np.full((256, 768), 1e30, np.float32)}
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny", weights=weights, vision_width=256)
    with pytest.raises(CheckpointError, match="multi_modal_projector"):
        convert_checkpoint(checkpoint, tmp_path / "out", mmproj_type="q4_0")
    assert not list((tmp_path / "out").iterdir())
