"""The convert command: presets, what it prints, and commands that work as pasted."""

import re
import shlex

import gguf
import pytest
from click.testing import CliRunner
from tiny_checkpoint import write_tiny_checkpoint

from visionward.cli.main import cli
from visionward.convert import presets
from visionward.convert.presets import PRESETS, memory_need
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config
from visionward.formats.onnx_format import read_identity
from visionward.machine.processor import Memory
from visionward.names import DEFAULT_N_CTX, DEFAULT_UBATCH
from visionward.quant.tensor_types import RECIPES
from visionward.quantities import size_text
from visionward.runtime.vision.vision_backend import VisionOptions, choose_backend
from visionward.runtime.vision.vision_memory import tower_memory_budget


def invoke(*arguments):
    return CliRunner().invoke(cli, ["convert", *(str(argument) for argument in arguments)])


def file_type(path):
    return gguf.GGUFReader(path).fields["general.file_type"].contents()


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(presets, "gpu_devices", list)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """One whose rows all types can hold."""
    return write_tiny_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tiny", vision_width=256)


@pytest.mark.usefixtures("no_gpu")
def test_without_types_it_makes_the_laptop_preset(checkpoint, tmp_path):
    result = invoke(checkpoint, tmp_path / "out")
    assert result.exit_code == 0
    names = ["mmproj-tiny-Q4_K_M.gguf", "tiny-text-Q4_K_M.gguf", "vision-tiny-int8.onnx", "vision-tiny-int8.onnx.data"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert sorted(line.split("  ")[0] for line in result.stdout.splitlines()) == [
        str(tmp_path / "out" / name) for name in names
    ]
    first = result.stderr.splitlines()[0]
    assert first == (
        "Converting into: q4_k_m text file, q4_k_m mmproj file, int8 ONNX tower (for 16-bit files: --preset f16)"
    )
    for name in names[:2]:
        assert file_type(tmp_path / "out" / name) == gguf.LlamaFileType.MOSTLY_Q4_K_M
    assert read_identity(tmp_path / "out" / "vision-tiny-int8.onnx").weight_type == "int8"


def test_one_option_makes_16_bit_files(checkpoint, tmp_path):
    result = invoke(checkpoint, tmp_path, "--preset", "f16")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mmproj-tiny-F16.gguf", "tiny-text-F16.gguf"]
    assert result.stderr.startswith("Converting into: f16 text file, f16 mmproj file, no ONNX tower\n")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--text-type", "Q8_0"], ["mmproj-tiny-Q4_K_M.gguf", "tiny-text-Q8_0.gguf"]),
        (["--mmproj-type", "bf16"], ["mmproj-tiny-BF16.gguf", "tiny-text-Q4_K_M.gguf"]),
        (["--onnx", "none"], ["mmproj-tiny-Q4_K_M.gguf", "tiny-text-Q4_K_M.gguf"]),
        (
            ["--preset", "f16", "--onnx", "F16"],
            ["mmproj-tiny-F16.gguf", "tiny-text-F16.gguf", "vision-tiny-f16.onnx", "vision-tiny-f16.onnx.data"],
        ),
    ],
)
def test_types_that_are_given_override_the_preset(checkpoint, tmp_path, options, names):
    assert invoke(checkpoint, tmp_path, *options).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == names


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("gpu_devices", lambda: [1], "llama.cpp computes on a GPU here, which is faster"),
        ("find_spec", lambda _name: None, "onnxruntime is not installed"),
    ],
)
def test_no_tower_where_it_would_not_be_used(checkpoint, tmp_path, monkeypatch, name, replacement, reason):
    monkeypatch.setattr(presets, "gpu_devices", list)
    monkeypatch.setattr(presets, name, replacement)
    result = invoke(checkpoint, tmp_path)
    assert f"no ONNX tower ({reason})" in result.stderr
    assert not list(tmp_path.glob("*.onnx"))


def test_presets_are_types_that_can_be_written():
    assert {types.text for types in PRESETS.values()} | {types.mmproj for types in PRESETS.values()} <= set(RECIPES)


def test_prints_the_files_and_their_sizes(tiny_checkpoint_dir, tmp_path):
    result = invoke(tiny_checkpoint_dir, tmp_path, "--text-type", "Q8_0", "--mmproj-type", "f16", "--name", "guard")
    text, mmproj = tmp_path / "guard-text-Q8_0.gguf", tmp_path / "mmproj-guard-F16.gguf"
    assert result.stdout.splitlines() == [f"{path}  {size_text(path.stat().st_size)}" for path in (text, mmproj)]


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("others", [False, True])
def test_the_next_commands_work_as_pasted(tiny_checkpoint_dir, tmp_path, monkeypatch, others):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for variable in ("VISIONWARD_MODEL", "VISIONWARD_MMPROJ", "VISIONWARD_ONNX_TOWER"):
        monkeypatch.delenv(variable, raising=False)
    out = tmp_path / "it's two words"
    if others:
        invoke(tiny_checkpoint_dir, out, "--preset", "f16")
    result = invoke(tiny_checkpoint_dir, out)
    use, classify = (shlex.split(line) for line in result.stderr.splitlines()[-2:])
    assert use[:2] == ["visionward", "use"]
    assert [*map(str, sorted(out.glob("*Q4_K_M.gguf"), reverse=True))] == use[2:] if others else use[2:] == [str(out)]
    assert CliRunner().invoke(cli, use[1:]).exit_code == 0
    shown = CliRunner().invoke(cli, [*classify[1:], "--n-ctx", "2048"])
    assert shown.exit_code == 0, shown.stderr
    assert "on onnx" in shown.stdout or ", onnx)" in shown.stdout


@pytest.mark.usefixtures("no_gpu", "unlimited")
def test_the_memory_is_the_least_limit_that_takes_the_tower(checkpoint, tmp_path):
    """What is printed and what the runtime decides by are the same numbers."""
    invoke(checkpoint, tmp_path)
    (text,), (mmproj,), (tower,) = (list(tmp_path.glob(name)) for name in ("*text*", "mmproj*", "*.onnx"))
    need = memory_need(presets.ConvertedPair(text, mmproj, tower))
    file = GgufHeader(mmproj)
    config = read_mmproj_config(file)

    def backend(limit):
        budget = tower_memory_budget(limit, text, file, config, cells=DEFAULT_N_CTX, ubatch=DEFAULT_UBATCH)
        options = VisionOptions(memory_limit=limit)
        return choose_backend(options, file, config, gpu=False, memory_budget=budget).backend

    assert backend(need.onnx) == "onnx"
    assert backend(need.onnx - 1) == "ggml"
    assert need.ggml < need.onnx
    assert memory_need(presets.ConvertedPair(text, mmproj)).onnx is None


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize(
    ("memory", "note"),
    [
        (Memory(total=10**6, available=None, limit=None), r"note: this machine has 1\.00 MB: .*slow, or fail"),
        (Memory(total=10**12, available=None, limit=10**6), r"note: this machine has 1\.00 MB: .*slow, or fail"),
        (Memory(total=10**12, available=None, limit=None), None),
        (Memory(total=None, available=None, limit=None), None),
    ],
)
def test_too_little_memory_is_said(checkpoint, tmp_path, monkeypatch, memory, note):
    monkeypatch.setattr("visionward.machine.processor.read_memory", lambda: memory)
    shown = invoke(checkpoint, tmp_path).stderr
    assert re.search(r"Memory for a classification on a CPU: up to \d+ MB, or \d+ MB without the ONNX tower", shown)
    assert re.search(note, shown) if note else "this machine" not in shown


def test_says_where_a_type_does_not_fit(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "odd", text_width=192)
    result = invoke(checkpoint, tmp_path, "--text-type", "q4_k_m", "--mmproj-type", "q8_0")
    assert result.exit_code == 0
    assert "with rows of 192 values became Q5_0, the nearest type for such rows: token_embd" in result.stderr
    assert "note: 1 matrix with rows of 588 values became F16, the nearest type for such rows: v.p" in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mmproj-odd-Q8_0.gguf", "odd", "odd-text-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (False, "no such folder"),
        (True, "config.json is missing"),
    ],
)
def test_where_there_is_no_checkpoint_it_says_how_to_get_one(tmp_path, made, message):
    folder = tmp_path / "my checkpoint"
    if made:
        folder.mkdir()
    result = invoke(folder, tmp_path)
    assert result.exit_code == 2
    *_, error = result.stderr.splitlines()
    assert message in error
    login, download = re.findall(r"`([^`]+)`", error)
    assert login == "hf auth login"
    assert shlex.split(download)[-2:] == ["--local-dir", str(folder)]


def test_weights_that_were_not_downloaded(tmp_path):
    checkpoint = write_tiny_checkpoint(tmp_path / "tiny")
    weights = checkpoint / "model.safetensors"
    weights.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    result = invoke(checkpoint, tmp_path / "out")
    assert result.exit_code == 2
    assert "a Git LFS pointer instead of the weights; run `git lfs pull`" in result.stderr
    weights.unlink()
    result = invoke(checkpoint, tmp_path / "out")
    assert result.exit_code == 2
    assert re.search(r"there are no weights \(model\.safetensors or .*`hf auth login`", result.stderr)


def test_unknown_type():
    result = invoke("a", "b", "--text-type", "q3_k")
    assert result.exit_code == 2
    assert "'f32', 'f16', 'bf16', 'q8_0'" in result.stderr
