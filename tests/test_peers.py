"""The benchmarks against peers, on a tiny model with a tokenizer of the true size."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks import against_peers, engine_times, full_size_checkpoint, on_a_gpu, tile_times
from benchmarks.peers import cpu, cpuid_mask
from benchmarks.peers.inputs import image, make_inputs
from benchmarks.peers.plain_llama import sources, write_plain_llama
from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.convert.model_config import read_model_config
from visionward.convert.tensor_names import expected_shapes
from visionward.formats.gguf_header import GgufHeader
from visionward.machine.processor import read_processor

pytestmark = pytest.mark.peers

ROOT = Path(__file__).resolve().parent.parent
EVERYTHING = "AVX = 1 | AVX2 = 1 | AVX512 = 1 | AVX512_VNNI = 1 | AVX512_BF16 = 1 | AMX_INT8 = 1 | OPENMP = 1 | "


def write_checkpoint(folder: Path, layers: int) -> Path:
    """A checkpoint as the full-size one, narrow and with few layers."""
    folder.mkdir()
    files = full_size_checkpoint.companion_files(layers, 4)
    config = files["config.json"]
    config["text_config"].update(
        hidden_size=512, intermediate_size=1024, num_attention_heads=4, num_key_value_heads=2
    )  # fmt: skip
    config["vision_config"].update(
        hidden_size=320, intermediate_size=512, attention_heads=4, num_global_layers=1, vision_output_dim=640
    )
    for name, values in files.items():
        (folder / name).write_text(json.dumps(values), encoding="utf-8")
    full_size_checkpoint.write_weights(folder, expected_shapes(read_model_config(folder)))
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight self-attention layers and two cross-attention layers."""
    return write_checkpoint(tmp_path_factory.mktemp("wide") / "ten", 10)


@pytest.fixture(scope="module")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Half of them."""
    return write_checkpoint(tmp_path_factory.mktemp("small") / "five", 5)


@pytest.fixture(scope="module")
def pair(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> ConvertedPair:
    return convert_checkpoint(checkpoint, tmp_path_factory.mktemp("pair"), text_type="q8_0", mmproj_type="q8_0")


@pytest.fixture(scope="module")
def plain(pair: ConvertedPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.gguf"
    assert write_plain_llama(pair.text, pair.mmproj, path) == 10
    return path


def run(results: Path, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.against_peers", results, *arguments]
    return subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_prompt_has_exactly_the_tokens_that_were_asked_for(checkpoint):
    inputs = make_inputs(checkpoint, 254)
    assert len(inputs.tokens) == 254
    assert inputs.tokens[inputs.image_position] == full_size_checkpoint.VOCABULARY
    assert inputs.user in inputs.text


def test_images_are_the_same_for_the_same_seed():
    assert np.array_equal(np.asarray(image(4, 7)), np.asarray(image(4, 7)))
    assert not np.array_equal(np.asarray(image(4, 7)), np.asarray(image(4, 8)))


def test_a_plain_llama_repeats_the_layer_in_front_of_a_cross_attention_layer(pair, plain):
    assert sources(8, (3, 8)) == [0, 1, 2, 2, 3, 4, 5, 6, 6, 7]
    before, after = GgufHeader(pair.text), GgufHeader(plain)
    with pair.text.open("rb") as old, plain.open("rb") as new:
        for there, here in {"blk.2.attn_q.weight": "blk.3.attn_q.weight", "output.weight": "output.weight"}.items():
            old.seek(before.tensors[there].offset)
            new.seek(after.tensors[here].offset)
            assert old.read(before.tensors[there].nbytes) == new.read(after.tensors[here].nbytes)
    assert set(before.keys) - set(after.keys) == {key for key in before.keys if key.startswith("visionward.")}


def test_peers_take_turns_go_on_where_they_stopped_and_are_extrapolated(
    checkpoint, small_checkpoint, pair, plain, tmp_path
):
    results = tmp_path / "results.jsonl"
    arguments = ["--text", pair.text, "--mmproj", pair.mmproj, "--checkpoint", checkpoint, "--plain", plain]
    arguments += ["--checkpoint", f"transformers.fp32={small_checkpoint}", "--images", 1, "--no-warm-up"]
    rows = ["visionward", "transformers.bf16", "transformers.fp32", "libllama"]
    first = run(results, *arguments, *rows[:2])
    assert first.returncode == 0, first.stderr
    kept = results.read_text(encoding="utf-8")
    second = run(results, *arguments, *rows)
    assert second.returncode == 0, second.stderr
    assert results.read_text(encoding="utf-8").startswith(kept)
    records = {record["row"]: record for record in against_peers.read_results(results)}
    assert list(records) == rows
    assert {record["prompt_tokens"] for record in records.values()} == {254}
    ours, small = records["visionward"], records["transformers.fp32"]
    assert ours["layers"] == {"self": 8, "cross": 2}
    assert ours["images"]["1"]["again_s"] < ours["images"]["1"]["whole_s"]
    for record in records.values():
        assert 0 < record["memory"]["peak_anonymous_bytes"] < record["memory"]["peak_bytes"]
    extrapolated = against_peers.whole(small, ours, "1")
    stages = small["images"]["1"]
    assert extrapolated.value == pytest.approx(stages["vision_s"] + 2 * stages["text_s"])
    lines = [line for line in second.stdout.splitlines() if line.startswith("| 1 | transformers.fp32")]
    assert len(lines) == 1
    assert lines[0].count("*") == 2


def test_the_comparison_on_a_gpu_runs_in_one_command(checkpoint, tmp_path):
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "benchmarks.on_a_gpu", results, "--checkpoint", checkpoint, "--device", "CPU"]
    command += ["--models", tmp_path / "models", "--types", "q8_0", "--images", 1, "--runs", 1]
    ended = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    records = against_peers.read_results(results)
    rows = ["transformers.bf16", "visionward.q8_0.products", "visionward.q8_0.flash"]
    assert [record["row"] for record in records] == rows
    for record in records:
        assert all(record["images"]["1"][stage] > 0 for stage in ("vision_s", "text_s", "token_s", "whole_s"))
        assert f"| 1 | {record['row']} |" in ended.stdout
    assert {record.get("devices") for record in records[1:]} == {"CPU"}


def test_operations_are_those_that_pytorch_counts(checkpoint):
    """Of an image that fills all tiles. PyTorch's model pads tiles to 1,608 tokens, and computes what a mask hides."""
    torch = pytest.importorskip("torch")
    flop_counter = pytest.importorskip("torch.utils.flop_counter")
    from transformers import MllamaForConditionalGeneration  # noqa: PLC0415 - an extra

    from benchmarks.peers.transformers_contestant import model_inputs  # noqa: PLC0415

    # Products alone are counted, so attention must consist of them.
    model = MllamaForConditionalGeneration.from_pretrained(checkpoint, attn_implementation="eager").eval()
    inputs = make_inputs(checkpoint, 254)
    given = model_inputs(inputs, 4, 1, model.dtype, model.config)
    with torch.inference_mode(), flop_counter.FlopCounterMode(display=False) as counter:
        model(**given, logits_to_keep=1)
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    assert 0.97 < on_a_gpu.operations(config, 4, 254) / counter.get_total_flops() <= 1


def test_limits_of_the_tiles_take_turns(tiny_pair, tmp_path, capsys, monkeypatch):
    results = tmp_path / "results.jsonl"
    arguments = [str(results), str(tiny_pair.text), str(tiny_pair.mmproj), "--vision-backend", "ggml", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["tile_times", *arguments])
    tile_times.main()
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [(row["round"], row["max_tiles"], row["tiles"]) for row in rows] == [
        (0, 4, 4),
        (0, 2, 2),
        (1, 4, 4),
        (1, 2, 2),
    ]
    assert all(row["vision"] > 0 and row["prompt"] > 0 and row["processors"] > 0 for row in rows)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("max_tiles 4, 4 tiles: vision ")
    assert "ratio 1.00 (1.00 to 1.00)" in first
    assert second.startswith("max_tiles 2, 2 tiles: vision ")


def test_engines_take_turns(small_checkpoint, tmp_path):
    pair = convert_checkpoint(small_checkpoint, tmp_path, text_type="q8_0", mmproj_type="q8_0", onnx_type="int8")
    results = tmp_path / "results.jsonl"
    contestants = ["ggml", f"onnx={pair.onnx_tower}"]
    ended = CliRunner().invoke(
        engine_times.main, [str(results), str(pair.text), str(pair.mmproj), *contestants, "--rounds", "2"]
    )
    assert ended.exit_code == 0, ended.output
    records = [json.loads(line) for line in results.read_text().splitlines()]
    assert [record["contestant"].split()[0] for record in records] == ["ggml", "onnx", "ggml", "onnx"]
    assert not any(record["masked"] for record in records)
    assert all(record["tiles"][tiles]["vision"] > 0 for record in records for tiles in ("1", "4"))
    lines = ended.output.splitlines()
    assert len(lines) == 4
    assert all(", 2 rounds: vision " in line for line in lines)


def test_more_than_a_row_allows_fails_loudly(checkpoint, pair, tmp_path):
    results = tmp_path / "results.jsonl"
    arguments = ["--text", pair.text, "--mmproj", pair.mmproj, "--checkpoint", checkpoint]
    ended = run(results, "visionward.onnx@AVX2", *arguments)
    assert ended.returncode == 1
    assert "LimitError" in against_peers.read_results(results)[0]["error"]
    assert "## Failed" in ended.stdout
    assert run(results, "mistralrs@AVX2", *arguments).returncode == 2


@pytest.mark.parametrize("limit", ["AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX2"])
def test_limits_are_checked_by_what_libraries_say(limit):
    assert "AMX_INT8" in cpu.check_llama("default", EVERYTHING)
    assert cpu.check_llama(limit, "AVX2 = 1 | FMA = 1 | OPENMP = 1 | ")
    onednn, mkl = cpu.LIMITS[limit].isa
    assert cpu.check_onednn(limit, f"onednn_verbose,v1,info,cpu,isa:{onednn}\n") == onednn
    assert mkl in cpu.check_mkl(limit, f"MKL_VERBOSE for Intel(R) 64 architecture Some ({mkl} enabled processors, Lnx")
    amx = "Intel AVX-512 with Intel DL Boost and bfloat16 support and Intel AMX"
    for check, said in (
        (cpu.check_llama, EVERYTHING),
        (cpu.check_onednn, f"onednn_verbose,v1,info,cpu,isa:{amx}\n"),
        (cpu.check_onednn, "onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx10_1_512_amx,undef"),
        (cpu.check_mkl, "for Intel(R) 64 architecture Intel(R) Advanced Matrix Extensions enabled processors"),
    ):
        with pytest.raises(cpu.LimitError):
            check(limit, said)


ASK_FOR_AMX = """
import ctypes, sys
from benchmarks.peers import amx
if sys.argv[1] == "denied":
    amx.deny()
ctypes.CDLL(None).syscall(158, 0x1023, 18)
print(amx.granted())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a filter of Linux")
def test_amx_can_be_taken_away():
    def granted(how: str) -> bool:
        command = [sys.executable, "-c", ASK_FOR_AMX, how]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout.strip() == "True"

    has_amx = "amx_tile" in (read_processor().features or ())
    assert granted("asked") == has_amx
    assert not granted("denied")


MULTIPLY_BYTES = """
import time
from benchmarks.peers import cpuid_mask
from visionward.runtime.vision.onnxruntime_session import adds_bytes_exactly
watch = cpuid_mask.Avx512Watch()
for _ in range(50):
    # Linux looks when it switches threads.
    adds_bytes_exactly.__wrapped__()
    time.sleep(0.01)
print(cpuid_mask.is_loaded(), adds_bytes_exactly(), bool(watch.threads()))
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("objdump"), reason="needs Linux, gcc and binutils")
def test_onnx_runtime_without_avx512(tmp_path):
    """Its products of bytes then overflow 16 bits, and Linux sees no use of AVX-512."""
    command = [sys.executable, "-c", MULTIPLY_BYTES]
    mask = [sys.executable, "-m", "benchmarks.peers.cpuid_mask", tmp_path / "mask"]

    def said(*start: object) -> list[str]:
        whole = [str(part) for part in (*start, *command)]
        return subprocess.run(whole, check=True, capture_output=True, text=True, cwd=ROOT).stdout.split()

    features = read_processor().features or ()
    has_vnni = any("vnni" in feature for feature in features)
    assert said() == ["False", str(has_vnni), str("avx512f" in features)]
    assert said(*mask) == ["True", "False", "False"]
    (tmp_path / "mask" / "packages.txt").write_text("onnxruntime of another day\n", encoding="utf-8")
    with pytest.raises(RuntimeError, match="was not made from the packages of this environment; remove it"):
        cpuid_mask.prepare(tmp_path / "mask")


@pytest.mark.skipif("VISIONWARD_MISTRALRS_PYTHON" not in os.environ, reason="needs a Python that has mistralrs")
def test_mistralrs_answers(checkpoint, pair, tmp_path):
    results = tmp_path / "results.jsonl"
    arguments = ["--text", pair.text, "--mmproj", pair.mmproj, "--checkpoint", checkpoint, "--images", 1]
    arguments += ["--python", f"mistralrs={os.environ['VISIONWARD_MISTRALRS_PYTHON']}", "--no-warm-up"]
    ended = run(results, *arguments, "visionward", "mistralrs")
    assert ended.returncode == 0, ended.stderr
    assert "| 1 | mistralrs, Q4K |" in ended.stdout
