"""How many frames of an image were judged."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FrameCount:
    """Frames of the images: an animation's, a document's pages, an icon's sizes. A still picture is one."""

    judged: int
    total: int
