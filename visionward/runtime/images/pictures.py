"""The pictures that the guard judges: the distinct pictures of an image, cut into tiles.

An image can have several pictures: its frames, and each transparent frame on white and on black. Pictures with the same
tiles count once.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image

from visionward.formats.mmproj_format import VisionConfig
from visionward.names import DEFAULT_FRAMES
from visionward.quantities import count_text
from visionward.runtime.images.frame_count import FrameCount
from visionward.runtime.images.frames import Frames
from visionward.runtime.images.images import ImageSource, decoding, opened
from visionward.runtime.images.memory_budget import MemoryBudget
from visionward.runtime.images.preprocess import Tiles, tile_image


def check_frames(frames: int) -> None:
    """Check a number of frames to judge.

    Raises:
        ValueError: it is not an integer of at least 1.
    """
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ValueError(f"frames is {frames!r}, expected an integer of at least 1")


class Pictures:
    """The distinct pictures of an image. Iterate over them once; each is decoded after the one before was judged.

    Args:
        source: the image.
        config: how the image is cut into tiles.
        frames: judge at most so many frames: the first, the last, and evenly spaced ones between.
        budget: the memory that decoding may use.
        max_tiles: the maximum number of tiles of a picture; None for the model's.

    Attributes:
        frames: how many frames were judged; complete after the iteration.
        notes: what a reader of the verdict should know; complete after the iteration.

    Raises:
        ImageError: the image, or one of the frames to judge, cannot be used; raised by the iteration.
        ValueError: ``frames`` is not an integer of at least 1.
    """

    def __init__(
        self,
        source: ImageSource,
        config: VisionConfig,
        frames: int,
        budget: MemoryBudget,
        max_tiles: int | None = None,
    ) -> None:
        check_frames(frames)
        self._source, self._config, self._limit, self._budget = source, config, frames, budget
        self._max_tiles = max_tiles
        self._seen: set[bytes] = set()
        self.frames = FrameCount(0, 0)
        self.notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Tiles]:
        # Tiles are yielded after the next frame was decoded, and the last ones after the file was closed. The decoded
        # pixels of a still picture thus take no memory while it is judged.
        fresh: list[Tiles] = []
        with ExitStack() as stack:
            with self._decoding():
                frames = stack.enter_context(opened(self._source, self._budget))
                indices = frames.chosen(self._limit)
                self._note(*frames.notes)
            for index in indices:
                with self._decoding():
                    following = self._cut(frames, index)
                yield from fresh
                fresh = following
            self._count(len(indices), frames.total)
            del frames
        yield from fresh

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        # Never around a ``yield`` to the caller: it holds a lock and changes how this thread decodes.
        with self._budget.turn(), decoding(self._source):
            yield

    def _cut(self, frames: Frames, index: int) -> list[Tiles]:
        picture = frames.picture(index)
        self._note(*picture.colours.notes)
        cut = [tile_image(rendering, self._config, self._max_tiles) for rendering in picture.renderings()]
        for tiles in cut:
            if tiles.preferred is not None:
                self._note(_fewer_tiles(tiles.aspect_ratio, tiles.preferred))
        if len({tiles.digest for tiles in cut}) > 1:
            self._note("the picture is partly transparent: it was judged on white and on black.")
        fresh = []
        for tiles in cut:
            if tiles.digest not in self._seen:
                self._seen.add(tiles.digest)
                fresh.append(tiles)
        return fresh

    def _count(self, judged: int, total: int) -> None:
        self.frames = FrameCount(judged, total)
        if judged < total:
            self._note(f"{judged} of the image's {total} frames were judged; the others were not checked.")

    def _note(self, *notes: str) -> None:
        self.notes = tuple(dict.fromkeys((*self.notes, *notes)))


def _fewer_tiles(used: tuple[int, int], preferred: tuple[int, int]) -> str:
    return (
        f"the image was judged in {count_text(used[0] * used[1], 'tile')} ({used[0]} high, {used[1]} wide) instead of "
        f"{preferred[0] * preferred[1]} ({preferred[0]} high, {preferred[1]} wide), because max_tiles limits them."
    )


def whole_pictures(source: ImageSource) -> list[Image.Image]:
    """The same pictures in RGB, not cut into tiles, for other models that judge the same image.

    Raises:
        ImageError: the image, or one of the frames to judge, cannot be used.
    """
    with decoding(source), opened(source, MemoryBudget()) as frames:
        shown = [
            rendering.whole().copy()
            for index in frames.chosen(DEFAULT_FRAMES)
            for rendering in frames.picture(index).renderings()
        ]
    return list({(picture.size, picture.tobytes()): picture for picture in shown}.values())


def first_picture(
    source: ImageSource, config: VisionConfig, budget: MemoryBudget, max_tiles: int | None = None
) -> Tiles:
    """Only the first picture of an image, on white, as in the reference implementations.

    Args:
        source: the image.
        config: how it is cut into tiles.
        budget: the memory that decoding may use.
        max_tiles: the maximum number of tiles; None for the model's.

    Raises:
        ImageError: the image cannot be used.
    """
    with budget.turn(), decoding(source), opened(source, budget) as frames:
        return tile_image(frames.picture(frames.chosen(1)[0]).rendering(), config, max_tiles)
