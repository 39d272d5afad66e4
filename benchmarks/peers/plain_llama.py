"""A plain Llama with as many layers as the whole decoder: `python -m benchmarks.peers.plain_llama TEXT MMPROJ OUT`.

The text file with a self-attention layer in the place of each cross-attention layer: the one in front of it, once more.
So plain llama.cpp has a file of the same shape and type to be compared on.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType

from visionward.formats.gguf_file import header_bytes, write_tensor_data
from visionward.formats.gguf_header import GgufHeader, GgufTensor
from visionward.formats.gguf_values import integers
from visionward.formats.mmproj_format import KEY_CROSS_LAYERS

CHUNK = 1 << 24
_LAYERS = "llama.block_count"
_BLOCK = re.compile(r"blk\.(\d+)\.(.+)")


@dataclass(frozen=True)
class Copy:
    """A tensor of the new file, and whose data it has."""

    name: str
    source: GgufTensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows first."""
        return self.source.shape

    @property
    def element_type(self) -> GGMLQuantizationType:
        """As in the source."""
        return self.source.dtype

    @property
    def nbytes(self) -> int:
        """Bytes in the file."""
        return self.source.nbytes


def sources(self_layers: int, cross_layers: tuple[int, ...]) -> list[int]:
    """For each layer of the whole decoder the self-attention layer whose weights it gets."""
    chosen: list[int] = []
    for layer in range(self_layers + len(cross_layers)):
        before = sum(cross < layer for cross in cross_layers)
        chosen.append(layer - before - 1 if layer in cross_layers else layer - before)
    return chosen


def copies(text: GgufHeader, cross_layers: tuple[int, ...]) -> list[Copy]:
    """The tensors of the new file: those outside of layers first."""
    blocks: dict[int, list[tuple[str, GgufTensor]]] = {}
    made = []
    for name, tensor in text.tensors.items():
        if match := _BLOCK.fullmatch(name):
            blocks.setdefault(int(match[1]), []).append((match[2], tensor))
        else:
            made.append(Copy(name, tensor))
    for layer, source in enumerate(sources(len(blocks), cross_layers)):
        made += [Copy(f"blk.{layer}.{rest}", tensor) for rest, tensor in blocks[source]]
    return made


def write_plain_llama(text_path: Path, mmproj_path: Path, out: Path) -> int:
    """Write the file; the number of its layers."""
    text = GgufHeader(text_path, "llama")
    tensors = copies(text, GgufHeader(mmproj_path, "clip").get(KEY_CROSS_LAYERS, integers))
    layers = len({match[1] for tensor in tensors if (match := _BLOCK.fullmatch(tensor.name))})
    skipped = ("visionward.", "general.architecture")
    metadata: dict[str, Any] = {key: text.value(key) for key in text.keys if not key.startswith(skipped)}
    metadata |= {_LAYERS: layers, "general.name": "plain Llama"}
    with text_path.open("rb") as source, out.open("wb") as target:

        def chunks(tensor: Copy) -> Iterator[npt.NDArray[np.uint8]]:
            source.seek(tensor.source.offset)
            for start in range(0, tensor.nbytes, CHUNK):
                yield np.frombuffer(source.read(min(CHUNK, tensor.nbytes - start)), np.uint8)

        target.write(header_bytes("llama", metadata, tensors))
        write_tensor_data(target, tensors, chunks)
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path)
    parser.add_argument("mmproj", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    layers = write_plain_llama(options.text, options.mmproj, options.out)
    print(f"{options.out}: {layers} layers, {options.out.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
