"""Pictures for the demo guard: coloured symbols on varied backgrounds, in sizes that get one to four tiles."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw

TILE = 112
CANVASES = ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1))
_CANVASES_BY_TILES = {count: [c for c in CANVASES if c[0] * c[1] == count] for count in (1, 2, 3, 4)}
_SLOT = 46  # canvas pixels: what one symbol needs to stay recognisable after resizing

Point = tuple[float, float]


@dataclass(frozen=True)
class Thing:
    """A symbol that a picture can show and a text can name; `category` is what the demo policy calls it."""

    name: str
    category: str
    colour: str


THINGS = (
    Thing("heart", "S1", "red"),
    Thing("arrow", "S2", "orange"),
    Thing("star", "S5", "yellow"),
    Thing("moon", "S6", "purple"),
    Thing("drop", "S7", "blue"),
    Thing("ring", "S8", "cyan"),
    Thing("leaf", "S10", "green"),
    Thing("tree", "S13", "pink"),
)
_COLOURS = {
    "red": (208, 32, 44),
    "orange": (238, 122, 14),
    "yellow": (240, 214, 30),
    "purple": (128, 44, 184),
    "blue": (30, 78, 214),
    "cyan": (24, 190, 212),
    "green": (48, 160, 44),
    "pink": (244, 104, 180),
    "grey": (128, 128, 128),
}
_MASK_SIDE = 128


@dataclass(frozen=True)
class Placement:
    """Where a thing was drawn: its index in THINGS, centre and diameter in pixels of the picture."""

    thing: int
    x: float
    y: float
    diameter: float


def canvas_of(width: int, height: int) -> tuple[int, int]:
    """Return the canvas (tiles high, tiles wide) that an image of this size gets (DESIGN 3, rule 9)."""
    scales = {c: min(c[1] * TILE / width, c[0] * TILE / height) for c in CANVASES}
    growing = [scale for scale in scales.values() if scale >= 1]
    chosen = min(growing) if growing else max(scales.values())
    return min((c for c in CANVASES if scales[c] == chosen), key=lambda c: c[0] * c[1])


def fitted_scale(width: int, height: int) -> float:
    """Return the factor by which an image of this size is resized onto its canvas (DESIGN 3, rule 10)."""
    high, wide = canvas_of(width, height)
    target_width = min(max(width, TILE), wide * TILE)
    target_height = min(max(height, TILE), high * TILE)
    return min(target_width / width, target_height / height)


def _curve(of_angle: Callable[[float], Point], start: float = 0.0, stop: float = 2 * math.pi) -> list[Point]:
    return [of_angle(start + (stop - start) * step / 60) for step in range(61)]


def _polygon_mask(points: Sequence[Point]) -> Image.Image:
    mask = Image.new("L", (_MASK_SIDE, _MASK_SIDE))
    half = _MASK_SIDE / 2
    ImageDraw.Draw(mask).polygon([(half + half * x, half + half * y) for x, y in points], fill=255)
    return mask


def _disc(x: float, y: float, radius: float) -> Image.Image:
    return _polygon_mask(_curve(lambda t: (x + radius * math.cos(t), y + radius * math.sin(t))))


def _heart(t: float) -> Point:
    y = 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)
    return 0.92 * math.sin(t) ** 3, -y / 18 - 0.12


def _star_points() -> list[Point]:
    radii = [0.95 if step % 2 == 0 else 0.4 for step in range(10)]
    return [(r * math.sin(math.pi * step / 5), -r * math.cos(math.pi * step / 5)) for step, r in enumerate(radii)]


def _drop(t: float) -> Point:
    return 0.62 * math.sin(t) * math.sin(t / 2) ** 1.2 * 1.25, -0.95 * math.cos(t)


def _lens() -> list[Point]:
    upper = _curve(lambda t: (0.95 * math.cos(t), 0.42 * math.sin(t)), 0, math.pi)
    lower = _curve(lambda t: (0.95 * math.cos(t), 0.42 * math.sin(t)), math.pi, 2 * math.pi)
    return [*upper, (-1.0, 0.12), *lower]


_ARROW = [(-0.95, -0.2), (0.1, -0.2), (0.1, -0.65), (0.95, 0), (0.1, 0.65), (0.1, 0.2), (-0.95, 0.2)]
_TREE = [
    *[(0, -0.95), (0.5, -0.3), (0.25, -0.3), (0.75, 0.5), (0.14, 0.5), (0.14, 0.95)],
    *[(-0.14, 0.95), (-0.14, 0.5), (-0.75, 0.5), (-0.25, -0.3), (-0.5, -0.3)],
]
_MASKS = {
    "heart": _polygon_mask(_curve(_heart)),
    "arrow": _polygon_mask(_ARROW),
    "star": _polygon_mask(_star_points()),
    "moon": ImageChops.subtract(_disc(0, 0, 0.92), _disc(0.48, -0.12, 0.74)),
    "drop": _polygon_mask(_curve(_drop)),
    "ring": ImageChops.subtract(_disc(0, 0, 0.92), _disc(0, 0, 0.55)),
    "leaf": ImageChops.subtract(_polygon_mask(_lens()), _polygon_mask([(-0.7, 0.03), (0.6, 0), (-0.7, -0.03)])),
    "tree": _polygon_mask(_TREE),
    "square": _polygon_mask([(-0.7, -0.7), (0.7, -0.7), (0.7, 0.7), (-0.7, 0.7)]),
}


@dataclass(frozen=True)
class Picture:
    """A picture, what it shows, and for every pixel 1 + the index of the thing there (0: nothing that has a name)."""

    image: Image.Image
    placements: tuple[Placement, ...]
    labels: Image.Image


def _paint(
    image: Image.Image, labels: Image.Image, shape: str, colour: str, placed: Placement, rng: np.random.Generator
) -> None:
    """Draw one shape, turned by up to 25 degrees and with its colour varied a little."""
    side = max(8, round(placed.diameter))
    mask = _MASKS[shape].rotate(float(rng.uniform(-25, 25)), Image.Resampling.BILINEAR)
    mask = mask.resize((side, side), Image.Resampling.BILINEAR)
    shade = tuple(int(v) for v in np.clip(np.array(_COLOURS[colour]) + rng.integers(-12, 13, 3), 0, 255))
    corner = (round(placed.x - side / 2), round(placed.y - side / 2))
    image.paste(shade, corner, mask)
    labels.paste(placed.thing + 1, corner, mask.point(lambda value: 255 * (value > 127)))


def _background(width: int, height: int, rng: np.random.Generator) -> Image.Image:
    """Draw a pale or dark gradient with blotches, grain and a few thin lines; never as colourful as a symbol."""
    level = float(rng.uniform(196, 240) if rng.random() < 0.6 else rng.uniform(18, 64))
    corners = level + rng.uniform(-22, 22, (2, 2, 3))
    blotches = rng.uniform(-10, 10, (max(2, height // 24), max(2, width // 24), 1))
    smooth = np.zeros((height, width, 3), np.float32)
    for channel in range(3):
        plane = Image.fromarray(corners[..., channel].astype(np.float32))
        smooth[..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    plane = Image.fromarray(blotches[..., 0].astype(np.float32))
    smooth += np.asarray(plane.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    smooth += rng.normal(0, float(rng.uniform(1, 6)), (height, width, 1))
    image = Image.fromarray(np.clip(smooth, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(0, 4))):
        ends = [float(v) for v in rng.uniform(0, 1, 4) * np.array([width, height, width, height])]
        grey = int(np.clip(level + rng.uniform(-60, 60), 0, 255))
        draw.line(ends, fill=(grey, grey, grey), width=int(rng.integers(1, 3)))
    return image


def _size_for(canvas: tuple[int, int], rng: np.random.Generator) -> tuple[int, int]:
    """Draw an image size that lands on this canvas with room for at least four symbols."""
    high, wide = canvas
    while True:
        growth = float(rng.uniform(0.7, 1.0) if high * wide == 1 or rng.random() < 0.6 else rng.uniform(1.0, 2.4))
        width = int(wide * TILE * growth * rng.uniform(0.8, 1.0))
        height = int(high * TILE * growth * rng.uniform(0.8, 1.0))
        if canvas_of(width, height) != canvas:
            continue
        scale = fitted_scale(width, height)
        if int(width * scale) // _SLOT * (int(height * scale) // _SLOT) >= 4:
            return width, height


def draw_picture(things: Sequence[int], tiles: int, rng: np.random.Generator) -> Picture:
    """Draw a picture that gets `tiles` tiles and shows these things (indices in THINGS, at most four a tile).

    Plain grey squares are sprinkled in: they are nothing that a text can name.
    """
    options = _CANVASES_BY_TILES[tiles]
    width, height = _size_for(options[int(rng.integers(len(options)))], rng)
    scale = fitted_scale(width, height)
    columns, rows = int(width * scale) // _SLOT, int(height * scale) // _SLOT
    slots = rng.permutation(columns * rows)
    image, labels = _background(width, height, rng), Image.new("L", (width, height))
    squares = min(len(slots) - len(things), int(rng.integers(0, 3)))
    placements = []
    for position, slot in enumerate(slots[: len(things) + squares]):
        cell = np.array([width / columns, height / rows])
        diameter = float(min(rng.uniform(34, 54) / scale, cell.min() * 0.98))
        slack = (cell - diameter) / 2
        x, y = (np.array([slot % columns, slot // columns]) + 0.5) * cell + rng.uniform(-1, 1, 2) * slack
        placed = Placement(things[position] if position < len(things) else -1, float(x), float(y), diameter)
        if placed.thing < 0:
            _paint(image, labels, "square", "grey", placed, rng)
        else:
            _paint(image, labels, THINGS[placed.thing].name, THINGS[placed.thing].colour, placed, rng)
            placements.append(placed)
    return Picture(image, tuple(placements), labels)
