"""The exported vision tower as a file: valid ONNX, weights as written down, the same from either source, never half."""

import errno
import math
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf_edit import GgufFile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tiny_checkpoint import tiny_config, tiny_weights, write_tiny_checkpoint

from visionward.convert import ConvertedPair, OutputError, convert_checkpoint
from visionward.convert.onnx_file import MmprojSource, export_tower, tower_path
from visionward.convert.onnx_graph import LARGE, LINE, MICROSOFT, PAGE, OnnxGraph
from visionward.convert.onnx_rows import GELU_MINIMUM, Rows, quantized_gelu, quantized_rows
from visionward.convert.onnx_weights import MAX_INTEGER, balance_columns, quantize_columns
from visionward.errors import ModelFileError, QuantizeError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config, tower_hash
from visionward.formats.onnx_format import CHECKSUM_BYTES, WEIGHT_TYPES, TowerIdentity, data_path, read_identity
from visionward.progress import Progress
from visionward.runtime.vision.onnxruntime_session import import_onnxruntime

REPOSITORY = Path(__file__).parents[2]
BITS = {TensorProto.FLOAT: 32, TensorProto.FLOAT16: 16, TensorProto.INT8: 8}


@pytest.fixture(scope="module")
def exported(tiny_pair: ConvertedPair, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``exported(type)``: the tower of the tiny pair; do not change it."""
    folder = tmp_path_factory.mktemp("towers")
    made: dict[str, Path] = {}

    def make(weight_type: str) -> Path:
        if weight_type not in made:
            target = folder / f"vision-tiny-{weight_type}.onnx"
            made[weight_type] = export_tower(tiny_pair.mmproj, target, weight_type=weight_type)
        return made[weight_type]

    return make


def external(tensor: TensorProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in tensor.external_data}


def large_tensors(model: onnx.ModelProto) -> list[TensorProto]:
    return [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]


# The files.


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_the_checker_passes(exported, weight_type: str) -> None:
    path = exported(weight_type)
    onnx.checker.check_model(str(path))
    model = onnx.load(path, load_external_data=False)
    # The checker leaves Microsoft's operators alone; everything else has shapes that agree.
    assert {node.op_type for node in model.graph.node if node.domain == MICROSOFT} == {"MultiHeadAttention"}
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    assert [value.name for value in model.graph.input] == ["pixel_values", "aspect_ratio_id"]
    assert [value.name for value in model.graph.output] == ["features"]


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_offsets_are_aligned_and_sizes_add_up(exported, weight_type: str) -> None:
    path = exported(weight_type)
    tensors = large_tensors(onnx.load(path, load_external_data=False))
    end = 0
    for tensor in tensors:
        keys = external(tensor)
        offset, length = int(keys["offset"]), int(keys["length"])
        assert keys["location"] == data_path(path).name
        assert offset % (PAGE if length >= LARGE else LINE) == 0
        assert 0 <= offset - end < PAGE
        assert length == int(np.prod(tensor.dims)) * BITS[tensor.data_type] // 8
        end = offset + length
    identity = read_identity(path)
    assert data_path(path).stat().st_size == end + CHECKSUM_BYTES == identity.data_bytes
    assert identity.weight_type == weight_type
    assert path.stat().st_size < 2**20


def test_large_weights_begin_on_a_page(tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "wide", vision_width=512, vision_heads=8, local_layers=3)
    pair = convert_checkpoint(checkpoint, tmp_path, onnx_type="f32")
    tensors = map(external, large_tensors(onnx.load(pair.onnx_tower, load_external_data=False)))
    offsets = [int(keys["offset"]) for keys in tensors if int(keys["length"]) >= LARGE]
    assert len(offsets) >= 6 * 5
    assert [offset % PAGE for offset in offsets] == [0] * len(offsets)


def test_integers_are_smaller(exported) -> None:
    sizes = {weight_type: data_path(exported(weight_type)).stat().st_size for weight_type in WEIGHT_TYPES}
    assert sizes["int8"] < sizes["f16"] < sizes["f32"]
    models = {weight_type: onnx.load(exported(weight_type), load_external_data=False) for weight_type in WEIGHT_TYPES}
    kinds = {name: {tensor.data_type for tensor in large_tensors(model)} for name, model in models.items()}
    assert kinds["f32"] == {TensorProto.FLOAT}
    assert kinds["f16"] == {TensorProto.FLOAT, TensorProto.FLOAT16}
    assert TensorProto.INT8 in kinds["int8"]


def test_what_it_says_of_itself(exported, tiny_pair: ConvertedPair) -> None:
    file = GgufHeader(tiny_pair.mmproj)
    size = data_path(exported("f16")).stat().st_size
    wanted = TowerIdentity.of(read_mmproj_config(file), tower_hash(file), "f16", size)
    assert read_identity(exported("f16")) == wanted
    metadata = {entry.key: entry.value for entry in onnx.load(exported("f16"), load_external_data=False).metadata_props}
    assert metadata == wanted.metadata()


def test_weights_are_those_of_the_mmproj_file(exported, tiny_pair: ConvertedPair) -> None:
    source = MmprojSource(tiny_pair.mmproj)
    model = onnx.load(exported("f32"))
    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    names = [name for name in GgufHeader(tiny_pair.mmproj).tensors if name in found]
    matrices = [name for name in names if source.array(name).ndim == 2]
    assert len(matrices) == 6 * 6 + 2
    for name in names:
        _, _, rest = name.partition("v.global.blk.")
        wanted = source.array(name).T
        if match := re.fullmatch(r"(\d+)\.(attn|ffn)_(out|down)\.(weight|bias)", rest):
            # What the gate lets through is in the weights.
            gate = math.tanh(source.array(f"v.global.blk.{match[1]}.gate_{match[2]}")[0])
            assert 0.1 < abs(gate) < 0.9
            assert np.array_equal(found[name], wanted * np.float32(gate)), name
        else:
            assert np.array_equal(found[name], wanted), name


# Integers.


@given(
    weight=st.integers(1, 192).flatmap(
        lambda rows: hnp.arrays(
            np.float32, (rows, 3), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=True)
        )
    )
)
def test_integers_against_the_standards_own_operator(weight: np.ndarray) -> None:
    integers, scales = quantize_columns(weight)
    node = helper.make_node("DequantizeLinear", ["w", "scales"], ["y"], axis=1)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, weight.shape)
    weights = [numpy_helper.from_array(integers, "w"), numpy_helper.from_array(scales, "scales")]
    graph = helper.make_graph([node], "g", [], [result], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (found,) = ReferenceEvaluator(model).run(None, {})
    assert np.array_equal(found, integers * scales)
    # Half a step off at most: a step is the largest magnitude of a column by the largest integer.
    step = (np.abs(weight).max(axis=0) / MAX_INTEGER).astype(np.float64)
    assert (np.abs(found.astype(np.float64) - weight) <= step * 0.5001 + np.finfo(np.float32).tiny * 128).all()
    assert np.abs(integers.astype(int)).max() <= MAX_INTEGER


def small_graph(build: Callable[[OnnxGraph], str]) -> onnx.ModelProto:
    """A graph from "x" (rows, 96) to "y", whose weights are in it."""
    graph = OnnxGraph()
    result = build(graph)
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 96])]
    return graph.model(
        inputs, helper.make_tensor_value_info("y", TensorProto.FLOAT, None), result, location="", metadata={}
    )


@pytest.mark.parametrize("engine", ["the standard's own", "ONNX Runtime"])
@given(x=hnp.arrays(np.float32, (3, 96), elements=st.floats(-1e4, 1e4, width=32)), seed=st.integers(0, 2**32 - 1))
def test_rows_of_integers(engine: str, x: np.ndarray, seed: int) -> None:
    """Half a step off at most, a step being a 127th of a row's largest magnitude; behind GELU half as much."""
    x[0] *= np.float32(seed % 2)

    def run(model: onnx.ModelProto) -> np.ndarray:
        if engine == "ONNX Runtime":
            (found,) = import_onnxruntime().InferenceSession(model.SerializeToString()).run(None, {"x": x})
        else:
            (found,) = ReferenceEvaluator(model).run(None, {"x": x})
        return np.asarray(found, np.float64)

    def restored(graph: OnnxGraph, rows: Rows) -> str:
        scaled = graph.op("Mul", rows.values, rows.scale)
        return graph.op("Add", scaled, graph.constant(rows.shift))

    around_zero = run(small_graph(lambda graph: restored(graph, quantized_rows(graph, "x"))))
    step = np.maximum(np.abs(x).max(axis=1, keepdims=True).astype(np.float64), 1e-20) / 127
    assert (np.abs(around_zero - x) <= step * 0.5001).all()

    gelu = run(small_graph(lambda graph: graph.op("Gelu", "x")))
    assert gelu.min() >= GELU_MINIMUM
    found = run(small_graph(lambda graph: restored(graph, quantized_gelu(graph, graph.op("Gelu", "x")))))
    step = (gelu.max(axis=1, keepdims=True) - GELU_MINIMUM) / 255
    assert (np.abs(found - gelu) <= step * 0.5001 + 1e-7).all()


@given(seed=st.integers(0, 2**32 - 1), rows=st.integers(2, 400), skew=st.floats(-1, 1))
def test_rounding_errors_of_a_column_cancel(seed: int, rows: int, skew: float) -> None:
    weight = np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32) + np.float32(skew)
    weight[:, 3] = 0
    integers, scales = quantize_columns(weight)
    rounded = integers.copy()
    balance_columns(integers, weight, scales)
    errors = integers - np.divide(weight, scales, out=np.zeros_like(weight), where=scales > 0).astype(np.float64)
    assert (np.abs(errors.sum(axis=0)) <= 0.501).all()
    assert (np.abs(errors) <= 1).all()
    assert np.abs(integers.astype(int)).max() <= 127
    # Those are changed that were almost halfway.
    changed = np.abs(errors[integers != rounded])
    assert (np.abs(integers.astype(int) - rounded) <= 1).all()
    assert rows < 50 or (changed < 0.75).all()


def test_columns_of_next_to_nothing_become_zero() -> None:
    weight = np.full((64, 2), 1e-42, np.float32)
    weight[:, 1] = np.linspace(-1, 1, 64)
    with np.errstate(all="raise", under="ignore"):
        integers, scales = quantize_columns(weight)
    assert not integers[:, 0].any()
    assert scales[0] == 0
    assert np.abs(integers[:, 1]).max() == 127


# Either source.


@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_from_the_checkpoint_it_is_the_same_as_from_the_file(tiny_checkpoint_dir, tmp_path, weight_type: str) -> None:
    pair = convert_checkpoint(
        tiny_checkpoint_dir, tmp_path / "one", text_type="f32", mmproj_type="f32", onnx_type=weight_type
    )
    assert pair.onnx_tower == tower_path(pair.mmproj, weight_type)
    folder = tmp_path / "two"
    again = export_tower(pair.mmproj, folder / pair.onnx_tower.name, weight_type=weight_type)
    assert again.read_bytes() == pair.onnx_tower.read_bytes()
    assert data_path(again).read_bytes() == data_path(pair.onnx_tower).read_bytes()


def test_a_quantized_pair_gets_the_checkpoints_own_weights(tiny_checkpoint_dir, tmp_path) -> None:
    fine = convert_checkpoint(tiny_checkpoint_dir, tmp_path / "f", mmproj_type="f32", onnx_type="f16", name="x")
    pair = convert_checkpoint(tiny_checkpoint_dir, tmp_path / "q", mmproj_type="q8_0", onnx_type="f16", name="x")
    assert data_path(pair.onnx_tower).read_bytes() == data_path(fine.onnx_tower).read_bytes()
    from_file = export_tower(pair.mmproj, tmp_path / "vision-q.onnx", weight_type="f16")
    assert data_path(from_file).read_bytes() != data_path(fine.onnx_tower).read_bytes()
    source = MmprojSource(pair.mmproj)
    found = {tensor.name: tensor for tensor in onnx.load(from_file).graph.initializer}
    name = "v.blk.1.ffn_up.weight"
    assert GgufHeader(pair.mmproj).tensors[name].dtype.name == "Q8_0"
    assert np.array_equal(numpy_helper.to_array(found[name]), source.array(name).T.astype(np.float16))


def test_the_name_beside_the_mmproj_file() -> None:
    assert tower_path(Path("a/mmproj-guard-Q8_0.gguf"), "int8") == Path("a/vision-guard-int8.onnx")
    assert tower_path(Path("mmproj-my-guard-F16.gguf"), "f16") == Path("vision-my-guard-f16.onnx")
    assert tower_path(Path("renamed.gguf"), "f16") == Path("vision-renamed-f16.onnx")


def test_progress_ends_at_the_size(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    reports: list[Progress] = []
    tower = export_tower(tiny_pair.mmproj, tmp_path / "vision-x.onnx", on_progress=reports.append)
    written = [report.done for report in reports if report.stage == "ONNX tower"]
    assert written == sorted(written)
    assert written[-1] == reports[-1].total == data_path(tower).stat().st_size - CHECKSUM_BYTES


# Refusals.


def test_an_unknown_type(tiny_checkpoint_dir, tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    message = "unknown type of an ONNX tower 'q8_0'; choose one of f16, f32, int8"
    with pytest.raises(QuantizeError, match=message):
        export_tower(tiny_pair.mmproj, tmp_path / "vision-x.onnx", weight_type="q8_0")
    with pytest.raises(QuantizeError, match=message):
        convert_checkpoint(tiny_checkpoint_dir, tmp_path / "none", onnx_type="q8_0")
    with pytest.raises(QuantizeError, match="unknown type of an ONNX tower 'int4'"):
        export_tower(tiny_pair.mmproj, tmp_path / "vision-x.onnx", weight_type="int4")
    assert list(tmp_path.iterdir()) == []


def test_another_ending(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    with pytest.raises(QuantizeError, match=r"tower\.bin: the name of an ONNX tower must end in \.onnx"):
        export_tower(tiny_pair.mmproj, tmp_path / "tower.bin")


def test_another_kind_of_file(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="expected 'clip'"):
        export_tower(tiny_pair.text)
    with pytest.raises(ModelFileError, match="No such file"):
        export_tower(tmp_path / "none.gguf")
    assert list(tmp_path.iterdir()) == []


def test_weights_beyond_float16(tmp_path: Path) -> None:
    name = "vision_model.transformer.layers.1.mlp.fc1.weight"
    weights = {name: tiny_weights(tiny_config())[name] * np.float32(1e6)}
    checkpoint = write_tiny_checkpoint(tmp_path / "large", weights=weights)
    pair = convert_checkpoint(checkpoint, tmp_path / "out", text_type="f32", mmproj_type="bf16")
    message = r"'v\.blk\.1\.ffn_up\.weight' has the value .*, which is too large for f16: export .* f32"
    with pytest.raises(QuantizeError, match=message):
        export_tower(pair.mmproj, weight_type="f16")
    assert sorted(pair.text.parent.iterdir()) == sorted([pair.text, pair.mmproj])
    assert export_tower(pair.mmproj, weight_type="f32").exists()


def test_values_that_are_not_finite(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    mmproj = tmp_path / "mmproj-nan-F32.gguf"
    file = GgufFile(tiny_pair.mmproj)
    weight = file.tensor("v.blk.0.attn_q.weight")
    weight.data = np.float32(np.nan).tobytes() + weight.data[4:]
    file.write(mmproj)
    with pytest.raises(ModelFileError, match=r"v\.blk\.0\.attn_q\.weight has values that are not fin"):
        export_tower(mmproj)
    assert list(tmp_path.iterdir()) == [mmproj]


# Interruptions.


def test_a_failure_on_the_way_keeps_the_old_files(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    tower = export_tower(tiny_pair.mmproj, tmp_path / "vision-x.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {tower, data_path(tower)}

    def full(progress: Progress) -> None:
        if progress.stage == "ONNX tower" and progress.done > progress.total // 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OutputError, match="the disk is full"):
        export_tower(tiny_pair.mmproj, tower, weight_type="f32", overwrite=True, on_progress=full)

    def interrupted(_progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_tower(tiny_pair.mmproj, tower, weight_type="f32", overwrite=True, on_progress=interrupted)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


SLOW_EXPORT = """
import sys, time
from pathlib import Path
from visionward.convert.onnx_file import export_tower
def slow(progress):
    if progress.stage == "ONNX tower" and progress.done > progress.total // 2:
        print("reached", flush=True)
        time.sleep(600)
export_tower(Path(sys.argv[1]), Path(sys.argv[2]), on_progress=slow)
"""


def test_a_killed_export(tiny_pair: ConvertedPair, tmp_path: Path) -> None:
    target = tmp_path / "vision-x.onnx"
    command = [sys.executable, "-c", SLOW_EXPORT, str(tiny_pair.mmproj), str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"reached"
        process.send_signal(signal.SIGKILL)
    names = [path.name for path in tmp_path.iterdir()]
    assert len(names) == 2
    assert all(name.startswith(".") and name.endswith(".part") for name in names)
    export_tower(tiny_pair.mmproj, target)
    assert {path.name for path in tmp_path.iterdir()} == {target.name, data_path(target).name}


# The mapped mmproj file counts as the process's too, but the system takes it back: only its own memory is watched.
MEASURE = """
import re, sys, threading
from pathlib import Path
from visionward.convert.onnx_file import export_tower

def own():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

export_tower(Path(sys.argv[1]), Path(sys.argv[3]), weight_type=sys.argv[4])
before, seen, ended = own(), [], threading.Event()

def watch():
    while not ended.wait(0.001):
        seen.append(own())

watcher = threading.Thread(target=watch)
watcher.start()
try:
    export_tower(Path(sys.argv[2]), Path(sys.argv[3]), weight_type=sys.argv[4], overwrite=True)
finally:
    ended.set()
watcher.join()
print(max(seen) - before)
"""


@pytest.fixture(scope="module")
def large_mmproj(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    shape = {"vision_width": 1024, "vision_heads": 16, "local_layers": 10, "global_layers": 2, "tile_size": 280}
    return convert_checkpoint(write_tiny_checkpoint(folder / "large", dtype="BF16", **shape), folder).mmproj


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
@pytest.mark.parametrize("weight_type", WEIGHT_TYPES)
def test_peak_memory(tiny_pair: ConvertedPair, large_mmproj: Path, tmp_path: Path, weight_type: str) -> None:
    """It is that of the largest tensor, not of the file, which is mapped."""
    tensors = GgufHeader(large_mmproj).tensors.values()
    stored = sum(tensor.nbytes for tensor in tensors)
    largest = 4 * max(tensor.elements for tensor in tensors)
    assert stored > 220e6
    target = tmp_path / "vision-x.onnx"
    command = [sys.executable, "-c", MEASURE, str(tiny_pair.mmproj), str(large_mmproj), str(target), weight_type]
    run = subprocess.run(command, check=True, capture_output=True, cwd=REPOSITORY)
    grown = int(run.stdout)
    assert largest / 2 < grown < 3 * largest
