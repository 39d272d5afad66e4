"""The convert command."""

import pytest
from click.testing import CliRunner
from tiny_checkpoint import write_tiny_checkpoint

from visionward.cli.convert import convert
from visionward.errors import CheckpointError
from visionward.quantities import size_text


def test_prints_the_files_and_the_next_command(tiny_checkpoint_dir, tmp_path):
    out = tmp_path / "two words"
    arguments = [str(tiny_checkpoint_dir), str(out), "--text-type", "Q8_0", "--name", "guard"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    text, mmproj = out / "guard-text-Q8_0.gguf", out / "mmproj-guard-F16.gguf"
    assert text.exists()
    assert mmproj.exists()
    lines = result.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines] == [str(text), str(mmproj)]
    assert lines[0].endswith(f"  {size_text(text.stat().st_size)}")
    assert f"visionward classify --model '{text}' --mmproj '{mmproj}' --image IMAGE" in result.stderr


def test_says_where_a_type_does_not_fit(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "odd", text_width=192)
    arguments = [str(checkpoint), str(tmp_path), "--text-type", "q4_k_m", "--mmproj-type", "q8_0"]
    result = CliRunner().invoke(convert, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert "with rows of 192 values got Q5_0, the nearest type that holds such rows: token_embd" in result.stderr
    assert "note: 1 matrix with rows of 588 values got F16, the nearest type that holds such rows: v.p" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mmproj-odd-Q8_0.gguf", "odd", "odd-text-Q4_K_M.gguf"]


def test_errors_are_left_to_the_group(tmp_path):
    with pytest.raises(CheckpointError, match="not a directory"):
        CliRunner().invoke(convert, [str(tmp_path / "nowhere"), str(tmp_path)], catch_exceptions=False)


def test_unknown_type():
    result = CliRunner().invoke(convert, ["a", "b", "--text-type", "q3_k"])
    assert result.exit_code == 2
    assert "'f32', 'f16', 'bf16', 'q8_0'" in result.stderr
