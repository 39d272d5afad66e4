"""``max_tiles``: fewer tiles of the model's own canvases, and a verdict that says so."""

import numpy as np
import pytest
from PIL import Image

from visionward import Guard
from visionward.errors import OptionError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import read_mmproj_config
from visionward.formats.pair_files import PairFiles
from visionward.runtime.device_memory import DeviceMemory
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.images.preprocess import tile_image
from visionward.runtime.vision.vision_memory import activation_bytes, tower_memory_budget

PICTURE = np.random.default_rng(5).integers(0, 255, (70, 100, 3), np.uint8)
NOTE = "the image was judged in 2 tiles (1 high, 2 wide) instead of 4 (2 high, 2 wide), because max_tiles limits them."


def test_a_limited_picture_is_judged_in_fewer_tiles_and_the_verdict_says_so(engine_of) -> None:
    whole, limited = Guard(engine_of(n_ctx=1024)), Guard(engine_of(n_ctx=1024, max_tiles=2))
    all_tiles = whole.classify(image=PICTURE, prompt="Look")
    two = limited.classify(image=PICTURE, prompt="Look")
    assert (all_tiles.tiles, all_tiles.preferred_tiles) == (4, 4)
    assert (two.tiles, two.preferred_tiles) == (2, 4)
    assert two.score != all_tiles.score
    assert NOTE in two.warnings
    assert not any("max_tiles" in warning for warning in all_tiles.warnings)
    # The engine judges the tiles of the model's own canvas: the same features as those of tiles cut by hand.
    cut = tile_image(Image.fromarray(PICTURE), whole.engine.config.vision, 2)
    assert np.array_equal(limited.engine.encode_image(PICTURE), whole.engine.encode_image(cut))


def test_a_picture_that_fits_is_judged_as_without_a_limit(engine_of) -> None:
    small = PICTURE[:40, :50]
    verdicts = [
        Guard(engine_of(n_ctx=1024, **limit)).classify(image=small, prompt="Look") for limit in ({}, {"max_tiles": 2})
    ]
    assert verdicts[0].score == verdicts[1].score
    assert [(one.tiles, one.preferred_tiles) for one in verdicts] == [(1, 1), (1, 1)]
    assert verdicts[0].warnings == verdicts[1].warnings


def test_text_alone_has_no_tiles(engine_of) -> None:
    verdict = Guard(engine_of(n_ctx=1024, max_tiles=2)).classify(prompt="Look")
    assert (verdict.tiles, verdict.preferred_tiles) == (0, 0)


def test_more_tiles_than_the_model_takes(tiny_pair) -> None:
    with pytest.raises(OptionError, match="max_tiles is 5; the model takes 1 to 4"):
        Guard.load(tiny_pair.text, tiny_pair.mmproj, max_tiles=5)


def test_no_tiles() -> None:
    with pytest.raises(OptionError, match="max_tiles is 0; it must be at least 1"):
        EngineOptions(max_tiles=0)


def test_memory_follows_the_limit(tiny_pair) -> None:
    mmproj = GgufHeader(tiny_pair.mmproj)
    config = read_mmproj_config(mmproj)
    vision = config.vision
    needed = [activation_bytes(vision, limit) for limit in (1, 2, 3, 4, None)]
    # Three tiles and the padding tile that stands for the unused one are as many as four.
    assert needed[0] < needed[1] < needed[2] == needed[3] == needed[4]

    def budget(limit: int | None) -> int:
        left = tower_memory_budget(2**30, tiny_pair.text, mmproj, config, cells=64, ubatch=16, max_tiles=limit)
        assert left is not None
        return left

    cross = config.cross_attention
    layer = vision.tile_tokens * 2 * 2 * cross.head_count_kv * cross.head_width
    # Two images of one tile fewer, and the float32 keys and values of a layer.
    assert budget(3) - budget(4) == (2 * len(cross.layers) + 2) * layer
    assert budget(4) == budget(None)
    files = PairFiles.open(tiny_pair.text, tiny_pair.mmproj)
    one, four = (DeviceMemory.of(files, cells=64, ubatch=16, exact=False, max_tiles=limit) for limit in (1, 4))
    assert (one.cross < four.cross, one.tower < four.tower) == (True, True)
