"""Makes tile_limits.json: what the slow image processor of Transformers 4.53.3 does with ``max_image_tiles`` 1 to 3.

Run with the training extra installed: python tests/reference/make_tile_limit_fixture.py
"""

import json
from pathlib import Path

import numpy as np
from make_preprocess_fixture import picture, reference, reference_size, sample_positions, sizes

FIXTURE = Path(__file__).with_name("tile_limits.json")
LIMITS = (1, 2, 3)
# (picture, tile size): one for every canvas of four tiles, and one that fits into a tile.
PICTURES = [("pattern/150x170", 56), ("pattern/61x223", 28), ("pattern/300x60", 28), ("pattern/40x50", 56)]


def limited(image, tile_size, max_tiles):
    """(pixel values, (tiles high, tiles wide)) of an image by the reference, whose ids depend on its limit."""
    from transformers.models.mllama import image_processing_mllama as mllama  # noqa: PLC0415

    values, aspect_ratio_id = reference(image, tile_size, max_tiles)
    return values, tuple(mllama.get_all_supported_aspect_ratios(max_tiles)[aspect_ratio_id - 1])


def main():
    """Write the fixture."""
    chosen = sizes()[::6]
    photos = [(1080, 1920, 560), (1920, 1080, 560), (3024, 4032, 560), (1200, 600, 560), (1120, 560, 560)]
    lines = [[*size, limit, *reference_size(*size, max_tiles=limit)] for size in photos + chosen for limit in LIMITS]
    pictures = []
    for name, tile_size in PICTURES:
        for limit in LIMITS:
            values, canvas = limited(picture(name), tile_size, limit)
            samples = [round(float(values[position]), 6) for position in sample_positions(values.shape)]
            mean = round(float(np.mean(values, dtype=np.float64)), 6)
            entry = {"name": name, "tile_size": tile_size, "max_tiles": limit, "canvas": canvas, "mean": mean}
            pictures.append({**entry, "samples": samples})
    parts = ['"sizes": [\n' + ",\n".join(map(json.dumps, lines)) + "\n]"]
    parts.append('"pictures": [\n' + ",\n".join(map(json.dumps, pictures)) + "\n]")
    FIXTURE.write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    main()
