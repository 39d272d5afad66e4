"""Time of one image with fewer tiles: `python -m benchmarks.tile_times RESULTS.jsonl TEXT.gguf MMPROJ.gguf`.

One engine judges the same picture of 1920 x 1080 pixels with every limit in turn, in rounds, so that a drift of the
machine's speed reaches all limits. Vision and a prompt of 254 tokens, without the image cache. Each result is appended
to RESULTS.jsonl at once; then the medians are printed, and the ratios of each round to the first limit. Processor time
is given too: it depends less on other programs.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np
from PIL import Image

from visionward.runtime.engine import Engine
from visionward.runtime.images.preprocess import Tiles, tile_image

SIZE = (1920, 1080)
PROMPT_TOKENS = 254


def prompt_tokens(engine: Engine) -> list[int]:
    """A seeded prompt behind the token of an image."""
    return [engine.model.image_token_id, *np.random.default_rng(0).integers(0, 500, PROMPT_TOKENS - 1).tolist()]


def judge(engine: Engine, tiles: Tiles, tokens: list[int]) -> dict[str, float]:
    """Seconds of vision and of the prompt, elapsed and of the processors."""

    def job() -> dict[str, float]:
        started = time.process_time()
        with engine.evaluate(tiles, use_cache=False) as evaluation:
            seen, seen_at = time.process_time(), time.perf_counter()
            evaluation.prefill(tokens)
            return {
                "vision": evaluation.vision_ms / 1000,
                "vision processors": seen - started,
                "prompt": time.perf_counter() - seen_at,
                "prompt processors": time.process_time() - seen,
            }

    return engine.run(job)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("mmproj", type=Path)
    parser.add_argument("--limits", type=int, nargs="+", default=[4, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vision-backend", default="onnx")
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), np.uint8)
    picture = Image.fromarray(noise).resize(SIZE)
    engine = Engine(
        arguments.text,
        arguments.mmproj,
        vision_backend=arguments.vision_backend,
        threads=arguments.threads,
        kernels="plain",
    )
    try:
        tokens = prompt_tokens(engine)
        cut = {limit: tile_image(picture, engine.config.vision, limit) for limit in arguments.limits}
        judge(engine, cut[min(cut)], tokens)
        rounds: dict[int, list[dict[str, float]]] = {limit: [] for limit in cut}
        for number in range(arguments.rounds):
            for limit, tiles in cut.items():
                stages = judge(engine, tiles, tokens)
                found = {
                    "vision": stages["vision"],
                    "prompt": stages["prompt"],
                    "processors": stages["vision processors"] + stages["prompt processors"],
                }
                rounds[limit].append(found)
                about = {"round": number, "max_tiles": limit, "tiles": len(tiles.pixel_values)}
                with arguments.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**about, **found, "load": os.getloadavg()[0]}) + "\n")
    finally:
        engine.close()
    first = rounds[arguments.limits[0]]
    for limit, found in rounds.items():
        ratios = {
            stage: [one[stage] / other[stage] for one, other in zip(found, first, strict=True)] for stage in first[0]
        }
        parts = [
            f"{stage} {statistics.median(one[stage] for one in found):.1f} s, ratio "
            f"{statistics.median(ratios[stage]):.2f} ({min(ratios[stage]):.2f} to {max(ratios[stage]):.2f})"
            for stage in ratios
        ]
        print(f"max_tiles {limit}, {len(cut[limit].pixel_values)} tiles: {'; '.join(parts)}")


if __name__ == "__main__":
    main()
