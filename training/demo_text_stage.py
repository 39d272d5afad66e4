"""Second stage: the decoder and its cross-attention learn to judge; the tower stays as it is."""

import time
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn
from transformers import MllamaForConditionalGeneration

from training.demo_data import NEUTRAL_TEXTS, Turn, answer_text, chat_messages, conversation
from training.demo_model import WIDTH
from training.demo_pictures import THINGS
from training.demo_pool import Pool
from training.demo_tokenizer import IMAGE_ID, render
from training.demo_vision_stage import image_states, schedule

CODES = tuple(f"S{number}" for number in range(1, 14))
_TOKENS_A_TILE = 65
_IGNORED = -100


@dataclass(frozen=True)
class Mix:
    """How often a training conversation is of a special kind; `short` leaves the policy out of the prompt."""

    short: bool = False
    neutral: float = 0.0
    text_only: float = 0.0
    excluding: float = 0.0


@dataclass(frozen=True)
class Question:
    """A tokenized prompt, its answer's tokens, and whether it has the image."""

    prompt: list[int]
    answer: list[int]
    image: bool


def _shorten(prompt: str) -> str:
    """Leave the policy and the closing instructions out, so that the first steps are cheap."""
    head, rest = prompt.split("Task:", 1)
    talk = rest.split("<BEGIN CONVERSATION>", 1)[1].split("<END CONVERSATION>", 1)[0]
    return head + "<BEGIN CONVERSATION>" + talk + "<END CONVERSATION>\n\n" + prompt[prompt.rindex("<|eot_id|>") :]


def _names(shown: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Choose what the judged message names: as often something shown as nothing shown."""
    inside = rng.permutation(shown)
    outside = rng.permutation([t for t in range(len(THINGS)) if t not in shown])
    count = 1 + int(rng.random() < 0.4)
    if rng.random() < 0.5:
        return outside[:count]
    found = inside[: min(count, 1 + int(rng.random() < 0.5))]
    return rng.permutation(np.concatenate([found, outside[: count - len(found)]])).astype(int)


def _excluded(categories: tuple[str, ...], rng: np.random.Generator) -> tuple[str, ...]:
    """Choose codes to leave out of the policy, half of the time among them one that would be violated."""
    picked = {CODES[int(i)] for i in rng.permutation(len(CODES))[: 1 + int(rng.integers(3))]}
    if categories and rng.random() < 0.5:
        picked.add(categories[int(rng.integers(len(categories)))])
    return tuple(code for code in CODES if code in picked)


def question(tokenizer: Tokenizer, shown: tuple[int, ...], mix: Mix, rng: np.random.Generator) -> Question:
    """Write a random conversation about a picture that shows these things, and its right answer."""
    names = _names(shown, rng)
    turns = conversation(names, rng)
    image, excluded = True, ()
    categories = tuple(THINGS[t].category for t in sorted(set(names.tolist()) & set(shown)))
    kind = rng.random()
    if kind < mix.neutral:
        neutral = NEUTRAL_TEXTS[int(rng.integers(len(NEUTRAL_TEXTS)))]
        turns, categories = (*turns[:-1], Turn(turns[-1].role, neutral)), ()
    elif kind < mix.neutral + mix.text_only:
        image, categories = False, ()
    elif kind < mix.neutral + mix.text_only + mix.excluding:
        excluded = _excluded(categories, rng)
        categories = tuple(code for code in categories if code not in excluded)
    prompt = render(chat_messages(turns, image=image), excluded)
    if mix.short:
        prompt = _shorten(prompt)
    answer = answer_text(categories) + "<|eot_id|>"
    encode = tokenizer.encode
    return Question(encode(prompt, add_special_tokens=False).ids, encode(answer, add_special_tokens=False).ids, image)


@dataclass(frozen=True)
class Batch:
    """Padded token ids, the target of every position that has one, and which rows see the image."""

    ids: torch.Tensor
    targets: torch.Tensor
    sees: torch.Tensor


def collate(questions: list[Question], pad: int, multiple: int = 32) -> Batch:
    """Pad to a multiple, because a compiled layer is compiled anew for every length."""
    longest = max(len(q.prompt) + len(q.answer) for q in questions)
    length = -(-longest // multiple) * multiple
    ids = torch.full((len(questions), length), pad)
    targets = torch.full((len(questions), length), _IGNORED)
    sees = torch.zeros(len(questions), length, dtype=torch.bool)
    for row, asked in enumerate(questions):
        whole = asked.prompt + asked.answer
        ids[row, : len(whole)] = torch.tensor(whole)
        targets[row, len(asked.prompt) - 1 : len(whole) - 1] = torch.tensor(asked.answer)
        if asked.image:
            sees[row, asked.prompt.index(IMAGE_ID) :] = True
    return Batch(ids, targets, sees)


def answer_scores(
    model: MllamaForConditionalGeneration, batch: Batch, states: torch.Tensor, tiles: torch.Tensor
) -> torch.Tensor:
    """Return the logits of the positions that have a target; `states` has one row of image tokens a sequence."""
    seen = (torch.arange(4)[None] < tiles[:, None]).repeat_interleave(_TOKENS_A_TILE, 1)
    hidden = torch.zeros(seen.shape, dtype=states.dtype).masked_fill(~seen, torch.finfo(states.dtype).min)
    mask = hidden[:, None, None].expand(-1, 1, batch.ids.shape[1], -1).contiguous()
    output = model.model.language_model(
        input_ids=batch.ids,
        cross_attention_states=states.flatten(1, 2),
        cross_attention_mask=mask,
        full_text_row_masked_out_mask=batch.sees[:, None, :, None].to(states.dtype),
        use_cache=False,
    ).last_hidden_state
    return model.lm_head(output[batch.targets != _IGNORED]).float()


def cache_states(model: MllamaForConditionalGeneration, pool: Pool, chunk: int = 50) -> torch.Tensor:
    """Compute the image tokens of a whole pool once; the tower does not change in this stage."""
    model.eval()
    parts = []
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(pool), chunk):
            picked = list(range(start, min(start + chunk, len(pool))))
            parts.append(image_states(model, pool, picked).bfloat16())
    return torch.cat(parts)


def train_decoder(
    model: MllamaForConditionalGeneration,
    tokenizer: Tokenizer,
    pool: Pool,
    states: torch.Tensor,
    mix: Mix,
    *,
    steps: int,
    seed: int,
    rate: float,
    compiled: bool,
    pictures: int = 16,
    texts: int = 4,
) -> None:
    """Train everything behind the projector on answers only."""
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    decoder = model.model.language_model
    if compiled:
        for layer in decoder.layers:
            layer.compile(dynamic=False)
    trained = [*decoder.parameters(), *model.lm_head.parameters()]
    optimizer = torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.98), weight_decay=0.03)
    pad = model.config.text_config.pad_token_id
    assert states.shape[-1] == WIDTH
    model.train()
    started, recent = time.monotonic(), []
    for step in range(steps):
        picked = rng.integers(0, len(pool), pictures).repeat(texts)
        batch = collate([question(tokenizer, pool.shown[int(i)], mix, rng) for i in picked], pad)
        rows = torch.from_numpy(picked)
        for group in optimizer.param_groups:
            group["lr"] = rate * schedule(step, steps)
        with torch.autocast("cpu", torch.bfloat16):
            scores = answer_scores(model, batch, states[rows], pool.tiles[rows])
        targets = batch.targets[batch.targets != _IGNORED]
        loss = nn.functional.cross_entropy(scores, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        first = (batch.targets != _IGNORED).cumsum(1)[batch.targets != _IGNORED] == 1
        recent.append((loss.item(), float((scores.argmax(-1) == targets)[first].float().mean())))
        if step % 20 == 0 or step == steps - 1:
            mean = np.mean(recent[-20:], 0)
            print(
                f"decoder {step:5d} loss {mean[0]:.4f} verdicts {mean[1]:.4f} "
                f"{tuple(batch.ids.shape)} {time.monotonic() - started:.0f} s",
                flush=True,
            )
