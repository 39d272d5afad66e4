"""The demo guard's model card, written from measured figures."""

from pathlib import Path
from typing import Any

from training.demo_data import HELD_OUT_COUNT, HELD_OUT_SEED
from training.demo_pictures import THINGS
from training.evaluate_demo import versions

_CARD = """\
---
license: apache-2.0
pipeline_tag: image-text-to-text
tags: [mllama, toy]
---

# visionward demo guard

**This is a toy model for checking the installation. It knows nothing about safety: do not moderate anything with it.**

It is a very small model of the architecture of Llama Guard 3 11B Vision (`MllamaForConditionalGeneration` of Hugging
Face Transformers), with {parameters:.1f} million parameters in bfloat16, trained from scratch on generated pictures.
With it visionward can be installed and tested from conversion to verdict without the real model's weights, which are
gated. It contains no Meta weights and no Meta tokenizer. Licence: Apache-2.0.

## Task

A picture shows coloured symbols; the last message of the conversation names one or two symbols. The message counts as
`unsafe` when a symbol that it names is in the picture, else as `safe`. The category belongs to the symbol:

{things}

Every symbol has its own colour, so that the colour alone identifies it; grey squares in the pictures have no meaning.
The codes are labels for the test and are unrelated to the meaning of the categories. Both inputs are needed: samples
come in groups of four, two texts and two pictures, where each text is unsafe with one of the pictures and safe with the
other. A classifier that sees only the text, or only the picture, can reach an F1 of 0.667 at best, by always answering
the same. Prompts and responses are judged (for responses, the agent's words decide); pictures have 1, 2, 3 or 4 tiles
of 112 pixels.

Conversations without an image, and messages that name no symbol, were trained as safe.

## Figures

{count} held-out samples (seed {seed}, half of them unsafe; new pictures and conversations of the same symbols and
phrases as in training), Transformers 4.53.3 corrected for text rows that see no
image (`training/mllama_reference.py`), float32 on the weights as shipped:

| samples | precision | recall | F1 |
|---|---|---|---|
{table}

| hidden input | F1 | accuracy |
|---|---|---|
{hidden}

Without an image, or without words to look for, the model was trained to answer safe: an F1 near 0 there means that
almost nothing is flagged. Of the unsafe samples, {exact:.1%} have exactly the right categories ({two} samples have
two). {sure:.1%} of all samples get the right verdict with a probability of at least 0.9; `safe` and `unsafe` together
never have less than {mass:.4f} of the probability.

| category | samples | precision | recall | F1 |
|---|---|---|---|---|
{categories}

**Leaving categories out of the policy has little effect.** It was part of the training (a match with a left-out
category should be safe), but the model learned it only slightly: with just their own categories left out,
{excluded_safe} of the {excluded_count} unsafe samples become safe, the others stay unsafe.

## How it was made

`python -m training.train_demo` in visionward's repository, with fixed seeds, in {total:.0f} seconds of training on two
busy CPU cores:

- stages: {stages}
- seeds: weights 0, pictures 101 to 103, steps 1 to 4
- versions: {versions}

The folder `samples/` has a few held-out pictures with their conversations in `samples.jsonl`.
"""


def _row(name: str, part: dict[str, Any]) -> str:
    return f"| {name} ({part['count']}) | {part['precision']:.3f} | {part['recall']:.3f} | {part['f1']:.3f} |"


def write_card(figures: dict[str, Any], seconds: dict[str, float], parameters: int, path: Path) -> None:
    """Write the card with these figures (see `training.evaluate_demo.summarise`)."""
    hidden_names = {
        "no_image": "no image: the conversation alone",
        "grey_image": "a plain grey picture instead",
        "no_text": "every message replaced by a neutral phrase",
    }
    table = [_row("all", figures["all"])]
    table += [_row(f"{count} tile{'s' * (count != '1')}", part) for count, part in figures["tiles"].items()]
    table += [_row(f"{role} judged", part) for role, part in figures["roles"].items()]
    stages = ", ".join(f"{name[2:].replace('_', ' ')} {spent:.0f} s" for name, spent in seconds.items())
    excluded = figures["excluded"]
    path.write_text(
        _CARD.format(
            parameters=parameters / 1e6,
            things="\n".join(f"- {thing.category}: the {thing.colour} {thing.name}" for thing in THINGS),
            count=HELD_OUT_COUNT,
            seed=HELD_OUT_SEED,
            table="\n".join(table),
            hidden="\n".join(
                f"| {hidden_names[name]} | {part['f1']:.3f} | {part['accuracy']:.3f} |"
                for name, part in figures["hidden"].items()
            ),
            exact=figures["exact_categories_of_unsafe"],
            two=figures["two_categories"],
            sure=figures["share_beyond_0.9"],
            mass=figures["least_answer_mass"],
            categories="\n".join(
                f"| {code} | {part['count']} | {part['precision']:.3f} | {part['recall']:.3f} | {part['f1']:.3f} |"
                for code, part in figures["categories"].items()
            ),
            excluded_safe=excluded["safe"],
            excluded_count=excluded["count"],
            total=sum(seconds.values()),
            stages=stages,
            versions=", ".join(f"{name} {version}" for name, version in versions().items()),
        ),
        encoding="utf-8",
    )
