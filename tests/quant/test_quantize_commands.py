"""The quantize command, from the outside."""

import pytest
from click.testing import CliRunner
from quantize_reference import tensors

from visionward.cli.main import cli
from visionward.cli.quantize import TYPES
from visionward.quant.tensor_types import RECIPES


def invoke(*arguments):
    # Not the command itself: click would remember its help option without the group's -h.
    return CliRunner().invoke(cli, ["quantize", *map(str, arguments), "--threads", "1"], catch_exceptions=False)


def test_types_are_the_recipes():
    assert set(TYPES) == set(RECIPES)


def test_text(f16_pair, tmp_path):
    result = invoke(f16_pair.text, tmp_path / "t.gguf", "Q4_K_M")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.startswith(f"{tmp_path / 't.gguf'}  1.60 MB from 5.26 MB  (Q4_K 25, Q6_K 5, F32 9)")


def test_mmproj_with_types_by_name(f16_pair, tmp_path):
    target = tmp_path / "new" / "m.gguf"
    result = invoke(f16_pair.mmproj, target, "q8_0", "--tensor-type", r"^cross\.=q6_k", "--tensor-type", "cross=q4_0")
    assert result.exit_code == 0
    assert "note: 1 matrix with rows of 588 values became F16" in result.stderr
    assert tensors(target)["cross.blk.0.ffn_up.weight"][0].name == "Q6_K"


@pytest.mark.parametrize("option", ["ffn", "ffn=q9_z", "(=q8_0"])
def test_malformed_types_by_name(f16_pair, tmp_path, option):
    result = invoke(f16_pair.text, tmp_path / "t.gguf", "q4_0", "--tensor-type", option)
    assert result.exit_code == 2
    assert "Invalid value for '--tensor-type'" in result.stderr


def test_errors_are_one_line(quantized, tmp_path):
    source, target = str(quantized("q8_0").text), str(tmp_path / "t.gguf")
    result = CliRunner().invoke(cli, ["quantize", source, target, "q4_0"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"error: {source} is already quantized (Q8_0)")
    assert invoke(source, target, "q4_0", "--allow-requantize").exit_code == 0
