"""Transformers: `python -m benchmarks.peers.transformers_contestant --checkpoint DIR --prompt P.json --dtype bf16`.

At its best: scaled-dot-product attention, inference mode, one forward pass with the logits of the last position and no
generate loop. It gets the pixels that visionward's tiler makes, so that preprocessing is left out on both sides. Every
image takes it the same time, since it computes unused tiles too.
"""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.peers import cpu, measure
from benchmarks.peers.inputs import Inputs, image, read_inputs


def check_limit(limit: str, dtype: Any) -> dict[str, str]:
    """Run a small product and attention, and read what oneDNN and MKL say of them.

    Raises:
        LimitError: if they use more than is allowed, or say nothing.
    """
    import torch  # noqa: PLC0415 - the environment must be set before

    product = torch.nn.Linear(512, 512, bias=False).to(dtype)
    rows, heads = torch.ones(64, 512, dtype=dtype), torch.ones(1, 2, 64, 64, dtype=dtype)
    onednn, mkl = torch.backends.mkldnn, torch.backends.mkl
    with (
        measure.native_output() as printed,
        torch.inference_mode(),
        onednn.verbose(onednn.VERBOSE_ON),
        mkl.verbose(mkl.VERBOSE_ON),
    ):
        product(rows)
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    said = {"oneDNN": cpu.check_onednn(limit, printed()), "MKL": cpu.check_mkl(limit, printed())}
    if not any(said.values()):
        raise cpu.LimitError("neither oneDNN nor MKL says which instruction set it uses.")
    return {**said, "ATen": torch.backends.cpu.get_cpu_capability()}


def model_inputs(inputs: Inputs, tiles: int, seed: int, dtype: Any, config: Any) -> dict[str, Any]:
    """What the processor would give the model."""
    import torch  # noqa: PLC0415

    from visionward.runtime.images.preprocess import tile_image  # noqa: PLC0415

    vision = config.vision_config
    settings = SimpleNamespace(
        tile_size=vision.image_size,
        max_tiles=vision.max_num_tiles,
        aspect_ratios=[tuple(ratio) for ratio in vision.supported_aspect_ratios],
        image_mean=(0.48145466, 0.4578275, 0.40821073),
        image_std=(0.26862954, 0.26130258, 0.27577711),
    )
    cut = tile_image(image(tiles, seed), settings)
    if len(cut.pixel_values) != tiles:
        raise ValueError(f"the image took {len(cut.pixel_values)} tiles where {tiles} were wanted.")
    pixels = np.zeros((vision.max_num_tiles, *cut.pixel_values.shape[1:]), np.float32)
    pixels[:tiles] = cut.pixel_values
    real = (torch.arange(vision.max_num_tiles) < tiles).long()
    count = len(inputs.tokens)
    sees = (torch.arange(count) >= inputs.image_position).long()
    ratio = 1 + settings.aspect_ratios.index(cut.aspect_ratio)
    return {
        "input_ids": torch.tensor([inputs.tokens]),
        "attention_mask": torch.ones(1, count, dtype=torch.long),
        "pixel_values": torch.from_numpy(pixels)[None, None].to(dtype),
        "aspect_ratio_ids": torch.tensor([[ratio]]),
        "aspect_ratio_mask": real[None, None],
        "cross_attention_mask": (sees[:, None] * real)[None, :, None],
    }


class Stages:
    """Measures the tower and the projector inside a forward pass."""

    def __init__(self, model: Any) -> None:
        import time  # noqa: PLC0415

        self.vision_s = 0.0
        self._start = 0.0

        def begin(*_: object) -> None:
            synchronize(model.device)
            self._start = time.perf_counter()

        def end(*_: object) -> None:
            synchronize(model.device)
            self.vision_s = time.perf_counter() - self._start

        model.model.vision_model.register_forward_pre_hook(begin)
        model.model.multi_modal_projector.register_forward_hook(end)


def synchronize(device: Any) -> None:
    """Wait for a GPU."""
    import torch  # noqa: PLC0415

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def products_per_second(device: Any, dtype: Any, size: int) -> float:
    """The most floating-point operations per second of square matrix products, with two operations per weight."""
    import torch  # noqa: PLC0415

    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def product() -> None:
        a @ b
        synchronize(device)

    product()
    return 2 * size**3 / min(measure.timed(product)[0] for _ in range(10))


def classify(model: Any, stages: Stages, given: dict[str, Any]) -> dict[str, float]:
    """One forward pass, and one more token behind it: seconds by stage."""
    import torch  # noqa: PLC0415

    given = {name: value.to(model.device) for name, value in given.items()}
    count = given["input_ids"].shape[1]

    def forward(**arguments: Any) -> Any:
        output = model(**arguments, use_cache=True, logits_to_keep=1)
        synchronize(model.device)
        return output

    with torch.inference_mode():
        seconds, output = measure.timed(lambda: forward(**given))
        if output.logits.shape[:2] != (1, 1):
            raise ValueError(f"the logits have shape {tuple(output.logits.shape)}, expected one position.")
        vision = stages.vision_s
        seen = given["cross_attention_mask"]
        following = {
            "input_ids": given["input_ids"][:, -1:],
            "attention_mask": torch.ones(1, count + 1, dtype=torch.long, device=model.device),
            "cross_attention_mask": torch.cat([seen, seen[:, -1:]], dim=1),
            "cache_position": torch.tensor([count], device=model.device),
            "past_key_values": output.past_key_values,
        }
        token = measure.timed(lambda: forward(**following))[0]
    return {"vision": vision, "text": seconds - vision, "whole": seconds, "token": token}


def compete(options: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Load, run, and say what was measured."""
    import torch  # noqa: PLC0415
    from transformers import MllamaForConditionalGeneration  # noqa: PLC0415

    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    torch.set_num_threads(options.threads)
    on_cpu = options.device == "cpu"
    said = check_limit(options.limit, dtype) if on_cpu else {"GPU": torch.cuda.get_device_name(options.device)}
    device = torch.device(options.device)
    peak = products_per_second(device, dtype, options.products)
    loading, model = measure.timed(
        lambda: (
            MllamaForConditionalGeneration.from_pretrained(
                options.checkpoint, torch_dtype=dtype, attn_implementation="sdpa", local_files_only=True
            )
            .eval()
            .to(device)
        )
    )
    stages, text = Stages(model), model.config.text_config
    if options.warm_up:
        classify(model, stages, model_inputs(inputs, min(options.images), 0, dtype, model.config))
    images = {}
    for tiles in options.images:
        runs = [
            classify(model, stages, model_inputs(inputs, tiles, seed, dtype, model.config))
            for seed in range(1, options.runs + 1)
        ]
        images[tiles] = {f"{stage}_s": measure.median([run[stage] for run in runs]) for stage in runs[0]}
    cross = len(text.cross_attention_layers)
    return {
        "model": options.dtype,
        "versions": measure.versions("transformers", "torch"),
        "prompt_tokens": len(inputs.tokens),
        "layers": {"self": text.num_hidden_layers - cross, "cross": cross},
        "load_s": loading,
        "products_flops": peak,
        "images": images,
        "says": said,
    }


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--device", default="cpu", help="torch's name, such as cuda")
    parser.add_argument("--products", type=int, default=1024, help="rows of the products that show the peak")
    options = parser.parse_args()
    with measure.Contest(options, "transformers") as contest:
        contest.finish(**compete(options, read_inputs(options.prompt)), unrestricted=None)


if __name__ == "__main__":
    main()
