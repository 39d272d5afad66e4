"""The vision tower's arithmetic rate against that of the same engine's largest single matrix product.

    python benchmarks/tower_rate.py MMPROJ.gguf TOWER.onnx [--backend openvino] [--tiles 1 4] [--rounds 2]

The product is the projector's (all rows of the image by 7680 x 4096 in the true shape), made with the tower's own
weight type and run by the same engine with the same settings. Tower and product take turns. The rate counts
multiplications and additions of the matrix products and of attention, of the tokens that are really computed; norms,
softmax and GELU cost time and count nothing.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper

from visionward.convert.onnx_graph import OnnxGraph
from visionward.convert.onnx_rows import quantized_rows
from visionward.convert.onnx_weights import WeightEncoder
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config
from visionward.formats.mmproj_format import MMPROJ_ARCHITECTURE, MmprojConfig
from visionward.formats.onnx_format import FEATURES, PIXELS, RATIO_ID, data_path, read_identity
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.vision.tower_plan import TowerPlan
from visionward.runtime.vision.tower_session import TowerSession
from visionward.runtime.vision.vision_backend import Chosen

CANVASES = {1: (1, 1), 2: (1, 2), 3: (1, 3), 4: (2, 2)}


class RandomProjector:
    """A source with one random matrix, the projector."""

    def __init__(self, config: MmprojConfig) -> None:
        self.config = config

    def array(self, name: str) -> np.ndarray:
        """Normally distributed values of the projector's shape."""
        shape = (self.config.cross_attention.embedding_length, self.config.vision.feature_width)
        return np.random.default_rng(len(name)).standard_normal(shape, np.float32)


def write_product(config: MmprojConfig, weight_type: str, target: Path) -> int:
    """A model with the tower's inputs and output that holds one product of a tile's rows; returns its operations."""
    graph, vision = OnnxGraph(), config.vision
    width, inner = config.cross_attention.embedding_length, vision.feature_width
    rows = vision.max_tiles * vision.tile_tokens
    weights = WeightEncoder(graph, RandomProjector(config), weight_type)
    # Rows that no optimizer can fold: they hang on the input.
    one = graph.op("Cast", RATIO_ID, to=TensorProto.FLOAT)
    x = graph.op("Expand", graph.op("Mul", one, graph.constant(0.01)), graph.integers(rows, inner))
    x = graph.op("Mul", x, graph.constant(np.linspace(-1, 1, inner)))
    if weight_type == "int8":
        product = graph.op("MatMul", quantized_rows(graph, x).values, weights.integer_matrix("mm.0.weight"))
    else:
        product = graph.op("MatMul", x, weights.matrix("mm.0.weight"))
    # One number back: handing out the product would cost as much as a layer.
    result = graph.op("ReduceMax", product, graph.integers(0, 1), keepdims=1)
    result = graph.reshape(result, 1, 1, 1)
    inputs = [
        helper.make_tensor_value_info(PIXELS, TensorProto.FLOAT, ["tiles", 3, vision.tile_size, vision.tile_size]),
        helper.make_tensor_value_info(RATIO_ID, TensorProto.INT64, [1]),
    ]
    output = helper.make_tensor_value_info(FEATURES, TensorProto.FLOAT, [1, 1, 1])
    location = data_path(target).name
    model = graph.model(inputs, output, result, location=location, metadata={})
    with data_path(target).open("wb") as file:
        for content in graph.data():
            file.write(content.data)
    target.write_bytes(model.SerializeToString())
    return 2 * rows * inner * width


def tower_operations(config: MmprojConfig, tiles: int) -> int:
    """Operations of the matrix products and of attention, by the plan."""
    vision = config.vision
    pixels = np.zeros((tiles, 3, vision.tile_size, vision.tile_size), np.float32)
    plan = TowerPlan.of(vision, Tiles(pixels, CANVASES[tiles]), collapse=True)
    real, padding = plan.real_tokens, plan.tokens - plan.real_tokens
    products = 2 * plan.tokens * (4 * vision.width**2 + 2 * vision.width * vision.feed_forward_length)
    attention = 4 * vision.width * (real * plan.tokens + padding * real)
    patches = 2 * tiles * (vision.tile_tokens - 1) * 3 * vision.patch_size**2 * vision.width
    projector = 2 * real * vision.feature_width * config.cross_attention.embedding_length
    return (vision.local_layers + vision.global_layers) * (products + attention) + patches + projector


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def look(session: TowerSession, config: MmprojConfig, tiles: int) -> None:
    side = config.vision.tile_size
    pixels = np.random.default_rng(tiles).standard_normal((tiles, 3, side, side), np.float32)
    session.run(pixels, config.vision.aspect_ratio_id(CANVASES[tiles]), lambda: None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mmproj", type=Path)
    parser.add_argument("tower", type=Path)
    parser.add_argument("--backend", choices=["onnx", "openvino"], default="openvino")
    parser.add_argument("--tiles", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    config = read_mmproj_config(GgufHeader(options.mmproj, MMPROJ_ARCHITECTURE))
    weight_type = read_identity(options.tower).weight_type
    with tempfile.TemporaryDirectory() as folder:
        product_path = Path(folder) / "product.onnx"
        operations = write_product(config, weight_type, product_path)
        tower = Chosen(options.backend, options.tower, weight_type).session(options.threads)
        product = Chosen(options.backend, product_path, weight_type).session(options.threads)
        look(tower, config, min(options.tiles))
        look(product, config, 1)
        for _ in range(options.rounds):
            single = operations / min(seconds(lambda: look(product, config, 1)) for _ in range(3))
            for tiles in options.tiles:
                rate = tower_operations(config, tiles) / seconds(lambda tiles=tiles: look(tower, config, tiles))
                print(
                    f"{options.backend} {weight_type}, {tiles} tiles: tower {rate / 1e9:.0f} GFLOP/s, "
                    f"product {single / 1e9:.0f} GFLOP/s, ratio {rate / single:.2f}"
                )


if __name__ == "__main__":
    main()
