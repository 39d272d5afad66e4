"""The pictures that the guard looks at: the distinct ones that an image shows, cut into tiles.

An image can show several: its frames, and each frame on white and on black where it is transparent. Those that are
alike once they are cut into tiles are one.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from PIL import Image

from visionward.formats.mmproj_format import VisionConfig
from visionward.names import DEFAULT_FRAMES
from visionward.runtime.images.decoding_room import DecodingRoom
from visionward.runtime.images.frame_count import FrameCount
from visionward.runtime.images.frames import Frames
from visionward.runtime.images.images import ImageSource, decoding, opened
from visionward.runtime.images.preprocess import Tiles, tile_image

# Animations mostly fit into one tile: four frames cost what a photograph of four tiles does, minutes on a CPU.


def check_frames(frames: int) -> None:
    """Check a number of frames to judge.

    Raises:
        ValueError: it is less than 1, or no whole number.
    """
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise ValueError(f"frames is {frames!r}, it must be a whole number, at least 1.")


class Pictures:
    """The distinct pictures of an image, to be iterated over once; one is decoded when the one before was judged.

    Args:
        source: the image.
        config: how it is cut into tiles.
        frames: the most to judge of an animation: the first, the last, and evenly between.
        room: the memory that decoding has to keep to.

    Attributes:
        frames: how many were judged; complete after the iteration.
        notes: what a reader of the verdict should know; complete after the iteration.

    Raises:
        ImageError: from the iteration, if the image or one of the frames to judge cannot be used.
        ValueError: if there are no frames to judge.
    """

    def __init__(self, source: ImageSource, config: VisionConfig, frames: int, room: DecodingRoom) -> None:
        check_frames(frames)
        self._source, self._config, self._limit, self._room = source, config, frames, room
        self._seen: set[bytes] = set()
        self.frames = FrameCount(0, 0)
        self.notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Tiles]:
        # What was cut is handed out after the next frame was decoded, the last after the file was closed: a still
        # picture does not take memory while it is judged.
        fresh: list[Tiles] = []
        with ExitStack() as stack:
            with self._decoding():
                frames = stack.enter_context(opened(self._source, self._room))
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
        # Not around a ``yield`` to the caller: it holds a lock, and says what decoding means in this thread.
        with self._room.turn(), decoding(self._source):
            yield

    def _cut(self, frames: Frames, index: int) -> list[Tiles]:
        picture = frames.picture(index)
        self._note(*picture.colours.notes)
        cut = [tile_image(rendering, self._config) for rendering in picture.renderings()]
        if len({tiles.digest for tiles in cut}) > 1:
            self._note("the picture is transparent in places: it was judged on white and on black.")
        fresh = []
        for tiles in cut:
            if tiles.digest not in self._seen:
                self._seen.add(tiles.digest)
                fresh.append(tiles)
        return fresh

    def _count(self, judged: int, total: int) -> None:
        self.frames = FrameCount(judged, total)
        if judged < total:
            self._note(f"{judged} of the image's {total} frames were judged: nothing is known of the others.")

    def _note(self, *notes: str) -> None:
        self.notes = tuple(dict.fromkeys((*self.notes, *notes)))


def whole_pictures(source: ImageSource) -> list[Image.Image]:
    """The same pictures in RGB, not cut into tiles: for other models that are asked what the guard is asked.

    Raises:
        ImageError: if the image or one of the frames to judge cannot be used.
    """
    with decoding(source), opened(source, DecodingRoom()) as frames:
        shown = [
            rendering.whole().copy()
            for index in frames.chosen(DEFAULT_FRAMES)
            for rendering in frames.picture(index).renderings()
        ]
    return list({(picture.size, picture.tobytes()): picture for picture in shown}.values())


def first_picture(source: ImageSource, config: VisionConfig, room: DecodingRoom) -> Tiles:
    """The first picture of an image alone, on white: what the reference implementations see.

    Raises:
        ImageError: if it cannot be used.
    """
    with room.turn(), decoding(source), opened(source, room) as frames:
        return tile_image(frames.picture(frames.chosen(1)[0]).rendering(), config)
