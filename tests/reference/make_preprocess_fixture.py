"""Makes preprocess.json: what the slow image processor of Transformers 4.53.3 does with many sizes and some pictures.

Run with the training extra installed: python tests/reference/make_preprocess_fixture.py
"""

import importlib.util
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

FIXTURE = Path(__file__).with_name("preprocess.json")
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
MAX_TILES = 4
SAMPLES = 48

# (picture, tile size): real photographs of scikit-image and scikit-learn, and patterns of some height and width
PICTURES = [
    ("skimage/data/astronaut.png", 560),
    ("skimage/data/coffee.png", 560),
    ("skimage/data/chelsea.png", 28),
    ("skimage/data/rocket.jpg", 560),
    ("sklearn/datasets/images/china.jpg", 560),
    ("sklearn/datasets/images/flower.jpg", 56),
    ("pattern/1x1", 560),
    ("pattern/1x2000", 560),
    ("pattern/2000x1", 560),
    ("pattern/700x1300", 560),
    ("pattern/1120x1120", 560),
    ("pattern/61x23", 28),
]


def picture(name):
    """One of the pictures, in RGB."""
    package, rest = name.split("/", 1)
    if package == "pattern":
        height, width = map(int, rest.split("x"))
        rows, columns = np.mgrid[0:height, 0:width]
        channels = [rows * 3 + columns, rows + columns * 7, rows * columns]
        return Image.fromarray((np.stack(channels, axis=2) % 256).astype(np.uint8))
    spec = importlib.util.find_spec(package)
    with Image.open(Path(spec.origin).parent / rest) as image:
        return image.convert("RGB")


def sizes():
    """(height, width, tile size) of images: thousands of megapixels down to lines, and those that rounding decides."""
    fixed = [(1, 1), (1, 2000), (2000, 1), (2925, 3900), (560, 560), (561, 560), (560, 1120), (1120, 1121), (1680, 561)]
    generator = random.Random(20)
    drawn = [(int(10 ** generator.uniform(0, 4)), int(10 ** generator.uniform(0, 4))) for _ in range(260)]
    photos = [(3 * side, 4 * side) for side in range(200, 1500, 13)]
    return [(h, w, 560) for h, w in fixed + drawn + photos] + [(h, w, 28) for h, w in drawn[:60]]


def sample_positions(shape):
    """Where pixel values are compared, spread over the tiles."""
    count = int(np.prod(shape))
    return [
        tuple(int(i) for i in np.unravel_index(k * count // SAMPLES + k * 7 % 97, shape)) for k in range(SAMPLES - 1)
    ]


def processor(tile_size, max_tiles=MAX_TILES):
    """The reference, set up as the checkpoint's preprocessor_config.json sets it up."""
    from transformers.models.mllama.image_processing_mllama import MllamaImageProcessor  # noqa: PLC0415

    return MllamaImageProcessor(
        size={"height": tile_size, "width": tile_size}, image_mean=MEAN, image_std=STD, max_image_tiles=max_tiles
    )


def reference(image, tile_size, max_tiles=MAX_TILES):
    """(pixel values of the real tiles, aspect ratio id) of an image by the reference."""
    output = processor(tile_size, max_tiles)(image, return_tensors="np")
    tiles = output["num_tiles"][0][0]
    assert not output["pixel_values"][0, 0, tiles:].any()
    return output["pixel_values"][0, 0, :tiles], int(output["aspect_ratio_ids"][0, 0])


def reference_size(height, width, tile_size, max_tiles=MAX_TILES):
    """(tiles high, tiles wide, resized height, resized width) of a size by the reference."""
    from transformers.models.mllama import image_processing_mllama as mllama  # noqa: PLC0415

    canvas = mllama.get_optimal_tiled_canvas(height, width, max_tiles, tile_size)
    size = mllama.get_image_size_fit_to_canvas(height, width, *canvas, tile_size)
    return [int(value) for value in (canvas[0] // tile_size, canvas[1] // tile_size, *size)]


def main():
    """Write the fixture."""
    lines = [[*size, *reference_size(*size)] for size in sizes()]
    pictures = []
    for name, tile_size in PICTURES:
        values, aspect_ratio_id = reference(picture(name), tile_size)
        samples = [float(values[position]) for position in sample_positions(values.shape)]
        entry = {"name": name, "tile_size": tile_size, "aspect_ratio_id": aspect_ratio_id, "tiles": len(values)}
        pictures.append({**entry, "samples": [round(value, 6) for value in samples]})
    parts = ['"sizes": [\n' + ",\n".join(map(json.dumps, lines)) + "\n]"]
    parts.append('"pictures": [\n' + ",\n".join(map(json.dumps, pictures)) + "\n]")
    FIXTURE.write_text("{" + ",\n".join(parts) + "}\n")


if __name__ == "__main__":
    main()
