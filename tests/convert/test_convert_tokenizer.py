"""Tokenization: equal in the tokenizers library and in llama.cpp, or refused."""

import json
import random

import gguf
import llama_cpp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_text import load, tokenize
from tiny_checkpoint import BASE_VOCABULARY, EMBEDDING_ROWS, IMAGE_TOKEN_ID, SPECIAL_TOKENS, write_tiny_checkpoint
from tokenizers import Tokenizer

from visionward.convert import convert_checkpoint
from visionward.convert.model_config import read_model_config
from visionward.convert.tokenizer import read_tokenizer
from visionward.errors import TokenizerError

PIECES = (
    *"aZß9٣Ⅷ½你🙂é́'-_.,;!?\"()<>|/\\",
    *(" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\u00a0", "\u3000", "\u200b", "\u2028", "\ufeff"),
    *("'s", "'LL", "\u2019s", "123", "12345", "1,000.50", "S1", "safe", "unsafe", "User: ", "\n\nunsafe\nS1,S9"),
    *("<|eot_id|>", "<|image|>", "<|begin_of_text|>", "<BEGIN CONVERSATION>"),
    *(
        "Привет",
        "مرحبا",
        "नमस्ते",
        "こんにちは",
        "안녕하세요",
        "ภาษาไทย",
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "🇩🇪",
        "Ǆ",
        "ﬁ",
        "İ",
        "\x7f",
    ),
)


def thousand_strings() -> list[str]:
    rng = random.Random(0)
    strings = ["".join(rng.choices(PIECES, k=rng.randint(1, 12))) for _ in range(1000)]
    code_points = [c for c in range(1, 0x110000) if not 0xD800 <= c <= 0xDFFF]
    strings += ["".join(map(chr, rng.sample(code_points, 8))) for _ in range(200)]
    strings += [" " * n + "x" + "\n" * n + "7" * n for n in range(40)]
    return strings


@pytest.fixture(scope="module")
def both(tiny_checkpoint_dir, tiny_pair):
    reference = Tokenizer.from_file(str(tiny_checkpoint_dir / "tokenizer.json"))
    # As plain text: without the special tokens the reference has nothing to match in what a user wrote.
    settings_ = json.loads(reference.to_str()) | {"added_tokens": [], "post_processor": None}
    model = load(tiny_pair.text, vocab_only=True)
    yield Tokenizer.from_str(json.dumps(settings_)), model
    llama_cpp.llama_model_free(model)


def test_a_thousand_strings_tokenize_equally(both):
    reference, model = both
    different = [text for text in thousand_strings() if tokenize(model, text) != reference.encode(text).ids]
    assert different == []


@given(text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=60))
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_text_tokenizes_equally(both, text):
    reference, model = both
    assert tokenize(model, text) == reference.encode(text).ids


def test_rows_of_the_vocabulary(tiny_pair):
    fields = gguf.GGUFReader(tiny_pair.text).fields
    tokens, types = (fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "token_type"))
    assert len(tokens) == len(types) == EMBEDDING_ROWS
    assert tokens[IMAGE_TOKEN_ID] == "<|image|>"
    assert types[BASE_VOCABULARY : IMAGE_TOKEN_ID + 1] == [gguf.TokenType.CONTROL] * (len(SPECIAL_TOKENS) + 1)
    assert tokens[IMAGE_TOKEN_ID + 1 :] == [f"[PAD{i}]" for i in range(IMAGE_TOKEN_ID + 1, EMBEDDING_ROWS)]
    assert set(types[IMAGE_TOKEN_ID + 1 :]) == {gguf.TokenType.UNUSED}
    assert set(types[:BASE_VOCABULARY]) == {gguf.TokenType.NORMAL}
    assert fields["tokenizer.ggml.pre"].contents() == "llama-bpe"
    assert fields["tokenizer.ggml.eot_token_id"].contents() == tokens.index("<|eot_id|>")


def edited(folder, change):
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    return folder


def set_regex(content):
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"] = {"Regex": r"\w+|\s+"}


def set_image_token(content):
    content["added_tokens"][-1]["id"] += 1


REFUSALS = {
    "other regular expression": (set_regex, r"not Llama 3's.*found.*\\\\w\+"),
    "no pre-tokenizer": (lambda c: c.update(pre_tokenizer=None), "not Llama 3's.*found null"),
    "byte level alone": (
        lambda c: c.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}),
        "not Llama 3's",
    ),
    "prefix space": (
        lambda c: c["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
        "not Llama 3's",
    ),
    "merges not ignored": (lambda c: c["model"].update(ignore_merges=False), "ignore_merges is false, expected true"),
    "other model": (lambda c: c["model"].update(type="Unigram"), 'type is "Unigram", expected "BPE"'),
    "byte fallback": (lambda c: c["model"].update(byte_fallback=True), "byte_fallback"),
    "normalizer": (lambda c: c.update(normalizer={"type": "NFC"}), "normalizer.*NFC"),
    "stripping token": (lambda c: c["added_tokens"][0].update(lstrip=True), "begin_of_text.*lstrip"),
    "id outside": (lambda c: c["added_tokens"][0].update(id=9999), "has id 9999, but the embedding has only 520 rows"),
    "shared id": (lambda c: c["added_tokens"][1].update(id=c["added_tokens"][0]["id"]), "have the same id"),
    "image token elsewhere": (set_image_token, r"<\|image\|> has several ids, expected only 512"),
    "broken merge": (lambda c: c["model"].update(merges=["a b c"]), "the merge .* is not a pair"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_tokenizers_that_llama_cpp_cannot_reproduce_are_refused(tmp_path, case):
    change, message = REFUSALS[case]
    folder = edited(write_tiny_checkpoint(tmp_path / "source"), change)
    with pytest.raises(TokenizerError, match=message):
        read_tokenizer(folder, read_model_config(folder))
    with pytest.raises(TokenizerError):
        convert_checkpoint(folder, tmp_path / "out")


def test_merges_may_be_pairs_or_strings(tmp_path):
    folder = write_tiny_checkpoint(tmp_path / "source")
    config = read_model_config(folder)
    first = read_tokenizer(folder, config)

    def swap_form(content):
        merges = content["model"]["merges"]
        content["model"]["merges"] = [m.split(" ") if isinstance(m, str) else " ".join(m) for m in merges]

    assert read_tokenizer(edited(folder, swap_form), config).merges == first.merges


def test_image_token_is_added_where_the_tokenizer_lacks_it(tmp_path):
    folder = edited(write_tiny_checkpoint(tmp_path / "source"), lambda c: c["added_tokens"].pop())
    tokenizer = read_tokenizer(folder, read_model_config(folder))
    assert tokenizer.tokens[IMAGE_TOKEN_ID] == "<|image|>"
    assert tokenizer.token_types[IMAGE_TOKEN_ID] == gguf.TokenType.CONTROL
