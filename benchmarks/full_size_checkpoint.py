"""Write a checkpoint of the true shape of Llama Guard 3 11B Vision with random weights, in Hugging Face format.

    python benchmarks/full_size_checkpoint.py OUT_DIR [--layers 40] [--vision-layers 32]

bf16, sharded, 21 GB at 40 layers. One block of noise is repeated, so that writing runs at the disk's speed; gates are
not zero, and unused tiles have zero embeddings, as in trained weights. The tokenizer has the true number of entries and
is not Meta's; the words of the guard's own prompt are one token each, so that a prompt is about as long as a real one.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
from tokenizers import Regex, pre_tokenizers

from visionward.convert.model_config import read_model_config
from visionward.convert.tensor_names import expected_shapes
from visionward.convert.tokenizer import LLAMA_3_PATTERN
from visionward.runtime.guard.chat_template import ChatTemplate
from visionward.runtime.guard.conversation import Conversation

SHARD_BYTES = 5 * 10**9
BLOCK = 1 << 20
BASE_VOCABULARY = 128_000
VOCABULARY = 128_256
CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)
INTERMEDIATE = (3, 7, 15, 23, 30)
RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
NAMED_SPECIALS = (
    "<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
    "<|finetune_right_pad_id|>", "<|step_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
    "<|eot_id|>", "<|python_tag|>",
)  # fmt: skip
WORDS = ("safe", "unsafe", "User", "Agent", "user", "assistant")


def config_json(layers: int, vision_layers: int) -> dict[str, object]:
    """The checkpoint's config.json; cross-attention layers and intermediate states that fit into fewer layers."""
    return {
        "architectures": ["MllamaForConditionalGeneration"],
        "model_type": "mllama",
        "image_token_index": VOCABULARY,
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "mllama_text_model", "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": layers, "num_attention_heads": 32, "num_key_value_heads": 8,
            "cross_attention_layers": [layer for layer in CROSS_LAYERS if layer < layers - 1],
            "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0,
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            "tie_word_embeddings": False, "vocab_size": VOCABULARY,
            "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "pad_token_id": 128004,
        },
        "vision_config": {
            "model_type": "mllama_vision_model", "hidden_act": "gelu", "hidden_size": 1280, "intermediate_size": 5120,
            "attention_heads": 16, "num_hidden_layers": vision_layers, "num_global_layers": 8,
            "intermediate_layers_indices": [layer for layer in INTERMEDIATE if layer < vision_layers],
            "vision_output_dim": 1280 * (1 + sum(layer < vision_layers for layer in INTERMEDIATE)),
            "image_size": 560, "patch_size": 14, "num_channels": 3, "norm_eps": 1e-5, "max_num_tiles": 4,
            "supported_aspect_ratios": RATIOS,
        },
    }  # fmt: skip


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary (GPT-2's encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [256 + n for n in range(256 - len(printable))]
    return [chr(code) for code in (*printable, *others)]


def prompt_words() -> list[str]:
    """The words of the built-in prompt, in a byte-level vocabulary's spelling."""
    split = pre_tokenizers.Split(Regex(LLAMA_3_PATTERN), behavior="isolated", invert=False)
    cutter = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    pieces = ChatTemplate().render(Conversation.from_prompt("?")).pieces
    return [word for piece in pieces if isinstance(piece, str) for word, _ in cutter.pre_tokenize_str(piece)]


def tokenizer_json() -> dict[str, object]:
    """A byte-level BPE of Llama 3's form: some words, then pairs and triples of bytes, up to the true size."""
    alphabet = byte_alphabet()
    vocabulary = {text: n for n, text in enumerate(alphabet)}
    merges: list[list[str]] = []

    def merge(left: str, right: str) -> None:
        if left + right not in vocabulary:
            vocabulary[left + right] = len(vocabulary)
            merges.append([left, right])

    for word in (*WORDS, *prompt_words()):
        for end in range(1, len(word)):
            merge(word[:end], word[end])
    pairs = list(itertools.product(alphabet, repeat=2))
    for left, right in itertools.chain(pairs, ((a + b, c) for (a, b), c in itertools.product(pairs, alphabet))):
        if len(vocabulary) == BASE_VOCABULARY:
            break
        merge(left, right)
    reserved = (f"<|reserved_special_token_{n}|>" for n in itertools.count(2))
    specials = [*NAMED_SPECIALS, *itertools.islice(reserved, VOCABULARY - BASE_VOCABULARY - len(NAMED_SPECIALS))]
    added = [
        {
            "id": BASE_VOCABULARY + n, "content": text, "special": True, "normalized": False, "single_word": False,
            "lstrip": False, "rstrip": False,
        }
        for n, text in enumerate([*specials, "<|image|>"])
    ]  # fmt: skip
    split = {"type": "Split", "pattern": {"Regex": LLAMA_3_PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True,
            "vocab": vocabulary, "merges": merges,
        },
    }  # fmt: skip


def companion_files(layers: int, vision_layers: int) -> dict[str, object]:
    """Everything but the weights."""
    return {
        "config.json": config_json(layers, vision_layers),
        "generation_config.json": {"bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009]},
        "preprocessor_config.json": {
            "do_convert_rgb": True, "do_normalize": True, "do_pad": True, "do_rescale": True, "do_resize": True,
            "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "MllamaImageProcessor", "max_image_tiles": 4, "resample": 2,
            "rescale_factor": 1 / 255, "size": {"height": 560, "width": 560},
        },
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
        },
        "tokenizer.json": tokenizer_json(),
    }  # fmt: skip


class Noise:
    """Seeded bf16 noise, one block of it, repeated."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self._block = self._bf16(rng.standard_normal(BLOCK, np.float32) * 0.02)

    @staticmethod
    def _bf16(values: np.ndarray) -> np.ndarray:
        return (values.astype(np.float32).view(np.uint32) >> 16).astype("<u2")

    def chunks(self, name: str, shape: tuple[int, ...]) -> Iterator[bytes]:
        """The bytes of a tensor."""
        count = int(np.prod(shape))
        if "norm" in name and name.endswith("weight"):
            yield self._bf16(np.ones(count)).tobytes()
        elif "gate" in name.rsplit(".", 1)[-1]:
            yield self._bf16(np.full(count, 0.5)).tobytes()
        elif "tile" in name and name.endswith("embedding.weight"):
            yield self._tile_table(shape).tobytes()
        else:
            for start in range(0, count, BLOCK):
                yield self._block[: count - start].tobytes()

    def _tile_table(self, shape: tuple[int, ...]) -> np.ndarray:
        table = np.resize(self._block, shape).reshape(shape[0], 4, -1)
        table[0] = 0
        for row, (high, wide) in enumerate(RATIOS, start=1):
            table[row, high * wide :] = 0
        return table


def write_weights(folder: Path, shapes: dict[str, tuple[int, ...]]) -> int:
    """Write the shards and their index; the bytes written."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    size = 0
    for name, shape in shapes.items():
        nbytes = 2 * int(np.prod(shape))
        if shards[-1] and size + nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += nbytes
    noise, weight_map, total = Noise(), {}, 0
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header: dict[str, object] = {}
        offset = 0
        for name, shape in shard.items():
            end = offset + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
            weight_map[name], offset = file, end
        raw = json.dumps(header).encode()
        raw += b" " * (-len(raw) % 8)
        with (folder / file).open("wb") as out:
            out.write(len(raw).to_bytes(8, "little") + raw)
            for name, shape in shard.items():
                for chunk in noise.chunks(name, shape):
                    out.write(chunk)
        total += offset
        click.echo(f"{file}: {offset / 1e9:.2f} GB", err=True)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


@click.command(help=__doc__)
@click.argument("out_dir", type=click.Path(path_type=Path, file_okay=False))
@click.option("--layers", default=40, show_default=True, help="Text layers, cross-attention included.")
@click.option("--vision-layers", default=32, show_default=True, help="Local layers of the tower.")
def main(out_dir: Path, layers: int, vision_layers: int) -> None:
    """Write the checkpoint."""
    out_dir.mkdir(parents=True, exist_ok=True)
    for name, values in companion_files(layers, vision_layers).items():
        (out_dir / name).write_text(json.dumps(values), encoding="utf-8")
    total = write_weights(out_dir, expected_shapes(read_model_config(out_dir)))
    click.echo(f"{out_dir}: {total / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
