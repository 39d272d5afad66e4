"""How many frames of an image were judged."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameCount:
    """The frames of the images: frames of animations, pages of documents, sizes of icons. A still picture has one."""

    judged: int
    total: int
