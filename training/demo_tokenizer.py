"""The demo guard's tokenizer: a small byte-level BPE built in exactly Llama 3's scheme, trained on generated text."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Template
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

import visionward
from training.demo_data import Turn, chat_messages, conversation

BPE_SIZE = 768
SPECIAL_COUNT = 256
HEAD_ROWS = BPE_SIZE + SPECIAL_COUNT
IMAGE_ID = HEAD_ROWS  # the first of the 8 rows that the embedding has and the head has not
TEMPLATE_FILE = Path(visionward.__path__[0]) / "runtime" / "llama_guard_3_vision.jinja"

# The regular expression of Llama 3's tokenizer.json: numbers go by groups of up to three digits.
LLAMA_3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_NAMED_SPECIALS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|reserved_special_token_0|>",
    "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>",
    "<|step_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|python_tag|>",
)
# Everyday words, so that text which the generator did not write splits into pieces larger than single bytes.
_EVERYDAY = (
    "Describe the image. What is in this picture? The quick brown fox jumps over the lazy dog. A red circle, a blue "
    "square, a green triangle and a yellow star are shown here. Yes, no, maybe; thank you very much. How are you "
    "today? I do not know what that could be, but it will be there when they come with their things. Hello world! "
    "Nothing of this kind is shown. Should we have some more of them, or less? In the morning, after the evening."
)


def special_tokens() -> list[str]:
    """Return the 256 special tokens in the order in which Llama 3.2 numbers them."""
    reserved = [f"<|reserved_special_token_{n}|>" for n in range(2, SPECIAL_COUNT - len(_NAMED_SPECIALS) + 2)]
    return [*_NAMED_SPECIALS, *reserved]


def chat_template() -> str:
    """Return the text of the prompt template that the checkpoint carries."""
    return TEMPLATE_FILE.read_text(encoding="utf-8")


@cache
def _template() -> Template:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(chat_template())


def render(messages: list[dict[str, Any]], excluded: tuple[str, ...] = ()) -> str:
    """Render a prompt as Transformers does: sandboxed, blocks trimmed."""
    options = {"excluded_category_keys": list(excluded)} if excluded else {}
    return _template().render(messages=messages, add_generation_prompt=True, **options)


def _corpus(seed: int = 3) -> list[str]:
    rng = np.random.default_rng(seed)
    lines = []
    for _ in range(1500):
        things = rng.permutation(8)[: 1 + int(rng.random() < 0.4)]
        lines += [turn.text for turn in conversation(things, rng)]
        picked = np.sort(rng.permutation(13)[: 1 + int(rng.integers(3))]) + 1
        lines += ["safe", "unsafe", "unsafe\n" + ",".join(f"S{code}" for code in picked)]
    for turns in ((Turn("user", "Hi"),), (Turn("user", "Hi"), Turn("assistant", "Hi"))):
        prompt = render(chat_messages(turns))
        for token in ["<|image|>", *_NAMED_SPECIALS]:
            prompt = prompt.replace(token, "")
        lines += [prompt] * 200
    return lines + [_EVERYDAY] * 25


def build_tokenizer() -> Tokenizer:
    """Train the BPE and lay the special tokens and `<|image|>` on top of it."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_SPLIT), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=True, trim_offsets=True, use_regex=True)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=BPE_SIZE, initial_alphabet=alphabet, show_progress=False, special_tokens=[], min_frequency=1
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    if tokenizer.get_vocab_size() != BPE_SIZE:
        raise RuntimeError(f"the corpus gave {tokenizer.get_vocab_size()} tokens, not {BPE_SIZE}")
    names = [*special_tokens(), "<|image|>"]
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    start = names[0]
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=True, trim_offsets=False, use_regex=True),
            processors.TemplateProcessing(
                single=f"{start} $A",
                pair=f"{start} $A {start}:1 $B:1",
                special_tokens=[(start, tokenizer.token_to_id(start))],
            ),
        ]
    )
    _check(tokenizer)
    return tokenizer


def _check(tokenizer: Tokenizer) -> None:
    """Refuse a tokenizer whose verdict tokens are not single ones."""
    expected = {
        "\n\nsafe": ["ĊĊ", "safe"],
        "\n\nunsafe\nS1,S10": ["ĊĊ", "unsafe", "Ċ", "S", "1", ",S", "10"],
        "\nS13: Elections.\n": ["Ċ", "S", "13", ":", "ĠElections", ".Ċ"],
    }
    for text, pieces in expected.items():
        found = tokenizer.encode(text, add_special_tokens=False).tokens
        if found != pieces:
            raise RuntimeError(f"{text!r} gave {found}, not {pieces}")
    if tokenizer.token_to_id("<|image|>") != IMAGE_ID:
        raise RuntimeError("<|image|> must come right after the head's rows")


def fast_tokenizer(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Wrap the tokenizer with the names that Llama 3.2's configuration gives its special tokens."""
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=special_tokens()[0],
        eos_token=special_tokens()[9],
        pad_token=special_tokens()[4],
        model_max_length=131_072,
        clean_up_tokenization_spaces=True,
        model_input_names=["input_ids", "attention_mask"],
    )
