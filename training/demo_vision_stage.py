"""First stage: the vision tower learns to say, patch by patch, which thing it sees."""

import time

import numpy as np
import torch
from torch import nn
from transformers import MllamaForConditionalGeneration

from training.demo_model import WIDTH, clear_unused_tiles
from training.demo_pictures import THINGS
from training.demo_pool import Pool


def schedule(step: int, steps: int, warmup: int = 40) -> float:
    """Return the factor on the learning rate: a linear start, then a cosine down to nearly nothing."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.49 * (1 + float(np.cos(np.pi * (step - warmup) / max(1, steps - warmup))))


def image_states(model: MllamaForConditionalGeneration, pool: Pool, picked: list[int]) -> torch.Tensor:
    """Return the projected image tokens (pictures, 4, tokens a tile, width)."""
    pixels, aspects, mask = pool.batch(picked)
    features = model.model.vision_model(pixels, aspects, mask).last_hidden_state
    return model.model.multi_modal_projector(features)[:, 0]


def _accuracy(scores: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    right = scores.argmax(-1) == labels
    return float(right.float().mean()), float(right[labels > 0].float().mean())


def train_tower(
    model: MllamaForConditionalGeneration, pools: list[Pool], *, steps: int, batch: int, seed: int, compiled: bool
) -> None:
    """Train tower and projector under a linear probe; the probe is thrown away afterwards.

    Pools share the steps: most from the first one, the last third from all of them alike.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    probe = nn.Linear(WIDTH, len(THINGS) + 1)
    tower = model.model.vision_model
    if compiled:
        for layer in (*tower.transformer.layers, *tower.global_transformer.layers):
            layer.compile(dynamic=False)
    trained = [*tower.parameters(), *model.model.multi_modal_projector.parameters(), *probe.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.03)
    model.train()
    started = time.monotonic()
    for step in range(steps):
        pool = pools[0] if step < steps * 2 // 3 else pools[step % len(pools)]
        picked = [int(i) for i in rng.integers(0, len(pool), batch)]
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * schedule(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            states = image_states(model, pool, picked)[:, :, 1:]
            scores = probe(states)
        real = torch.arange(4)[None] < pool.tiles[picked, None]
        scores, labels = scores.float()[real].flatten(0, 1), pool.patches[picked][real].flatten()
        loss = nn.functional.cross_entropy(scores, labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        clear_unused_tiles(model)
        if step % 20 == 0 or step == steps - 1:
            every, things = _accuracy(scores, labels)
            print(
                f"tower {step:5d} loss {loss.item():.4f} patches {every:.4f} on things {things:.4f} "
                f"{time.monotonic() - started:.0f} s",
                flush=True,
            )
