"""Pools of training pictures, drawn once and kept as tiles in memory."""

import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from training.demo_pictures import CANVASES, THINGS, TILE, canvas_of, draw_picture, fitted_scale

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_PATCHES = TILE // 14


@dataclass(frozen=True)
class Pool:
    """Pictures as tiles: pixels (n, 4, 3, side, side), aspect ratio ids, tile counts, patch labels, what is shown.

    A patch label is 0 for background (and plain squares), else 1 + the index of the thing that covers the patch.
    """

    pixels: torch.Tensor
    aspects: torch.Tensor
    tiles: torch.Tensor
    patches: torch.Tensor
    shown: list[tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.shown)

    def batch(self, picked: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return normalised pixels, aspect ratio ids and tile masks of some pictures, as the tower takes them."""
        rows = torch.as_tensor(picked)
        mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
        mask = torch.arange(4)[None] < self.tiles[rows, None]
        pixels = (self.pixels[rows].float() / 255 - mean) / std * mask.view(-1, 4, 1, 1, 1)
        return pixels[:, None], self.aspects[rows, None], mask[:, None].long()


def split_tiles(image: Image.Image) -> np.ndarray:
    """Resize a picture onto its canvas and cut it into tiles (count, 3, side, side), before normalisation."""
    high, wide = canvas_of(*image.size)
    scale = fitted_scale(*image.size)
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    canvas = Image.new("RGB", (wide * TILE, high * TILE))
    canvas.paste(image.resize(size, Image.Resampling.BILINEAR))
    tiles = np.asarray(canvas).reshape(high, TILE, wide, TILE, 3).transpose(0, 2, 4, 1, 3)
    return tiles.reshape(high * wide, 3, TILE, TILE)


def patch_labels(labels: Image.Image) -> np.ndarray:
    """Label every patch of every tile with the thing that covers at least a fifth of it."""
    high, wide = canvas_of(*labels.size)
    scale = fitted_scale(*labels.size)
    canvas = Image.new("L", (wide * TILE, high * TILE))
    size = (max(1, int(labels.width * scale)), max(1, int(labels.height * scale)))
    canvas.paste(labels.resize(size, Image.Resampling.NEAREST))
    patches = np.asarray(canvas).reshape(high, _PATCHES, 14, wide, _PATCHES, 14).transpose(0, 3, 1, 4, 2, 5)
    patches = patches.reshape(high * wide, _PATCHES**2, 14 * 14)
    shares = np.stack([(patches == thing + 1).mean(-1) for thing in range(len(THINGS))], -1)
    return np.where(shares.max(-1) >= 0.2, shares.argmax(-1) + 1, 0)


def _draw(job: tuple[int, int, bool]) -> tuple[np.ndarray, int, np.ndarray, tuple[int, ...]]:
    seed, index, crowded = job
    rng = np.random.default_rng([seed, index])
    tiles = int(rng.integers(3, 5) if crowded else rng.integers(1, 5))
    count = int(rng.integers(2 * tiles, 4 * tiles + 1)) if crowded else int(rng.integers(1, 4))
    things = (
        [int(t) for t in rng.integers(0, len(THINGS), count)]
        if crowded
        else [int(t) for t in rng.permutation(len(THINGS))[:count]]
    )
    drawn = draw_picture(things, tiles, rng)
    aspect = 1 + CANVASES.index(canvas_of(*drawn.image.size))
    shown = tuple(sorted({placed.thing for placed in drawn.placements}))
    return split_tiles(drawn.image), aspect, patch_labels(drawn.labels), shown


def make_pool(count: int, seed: int, *, crowded: bool) -> Pool:
    """Draw a pool; `crowded` pictures show as many things as fit, so that the tower has much to learn from each."""
    pixels = torch.zeros(count, 4, 3, TILE, TILE, dtype=torch.uint8)
    aspects, tiles = torch.zeros(count, dtype=torch.long), torch.zeros(count, dtype=torch.long)
    patches = torch.zeros(count, 4, _PATCHES**2, dtype=torch.long)
    shown = []
    with multiprocessing.get_context("fork").Pool(2) as workers:
        jobs: Iterator[tuple[int, int, bool]] = ((seed, index, crowded) for index in range(count))
        for index, (cut, aspect, labels, things) in enumerate(workers.imap(_draw, jobs, chunksize=64)):
            pixels[index, : len(cut)] = torch.from_numpy(cut.copy())
            patches[index, : len(cut)] = torch.from_numpy(labels.astype(np.int64))
            aspects[index], tiles[index] = aspect, len(cut)
            shown.append(things)
    return Pool(pixels, aspects, tiles, patches, shown)
