"""How much of a GPU's memory a model takes, estimated from its shape before it is loaded."""

from dataclasses import dataclass

from visionward.formats.pair_files import PairFiles
from visionward.runtime.vision.vision_memory import activation_bytes

# A backend's context, its kernels, and buffers for converted weights.
_BACKEND_BYTES = 512 * 2**20
# Scores of a block of rows, their softmax and the result, of the tower and of the cross-attention layers.
_ATTENTION_BYTES = 3 * 128 * 2**20


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes of a model's parts on a GPU.

    Attributes:
        layers: of each decoder layer with its part of the KV cache, in order, and of the output head last. llama.cpp
            puts the last ones on the GPU.
        text_work: of the decoder's compute buffer.
        cross: of the cross-attention layers, with the keys and values of the image in use and of those in the cache.
        tower: of the vision tower while it runs.
    """

    layers: tuple[int, ...]
    text_work: int
    cross: int
    tower: int

    @classmethod
    def of(
        cls,
        files: PairFiles,
        *,
        cells: int,
        ubatch: int,
        exact: bool,
        tower: bool = True,
        max_tiles: int | None = None,
    ) -> "DeviceMemory":
        """The estimate for a pair.

        Args:
            files: its headers.
            cells: cells of the KV cache.
            ubatch: tokens that the decoder computes in one graph.
            exact: whether the KV cache is float32.
            tower: whether ggml runs the vision tower.
            max_tiles: the maximum number of tiles of an image; None for the model's.
        """
        text, cross, vision = files.text_config, files.config.cross_attention, files.config.vision
        element = 4 if exact else 2
        kv = 2 * element * text.head_count_kv * text.head_width
        layers = [cells * kv] * text.identity.layers
        for name, tensor in files.text.tensors.items():
            part = name.split(".")
            if part[0] == "blk":
                layers[int(part[1])] += tensor.nbytes
        # The head may share the embedding's weights.
        names = (
            "output.weight" if "output.weight" in files.text.tensors else "token_embd.weight",
            "output_norm.weight",
        )
        head = sum(files.text.tensors[name].nbytes for name in names if name in files.text.tensors)
        width = text.identity.width
        rows = len(text.tokens) + 3 * text.feed_forward_length + 8 * width + text.head_count * cells
        image_tokens = (max_tiles or vision.max_tiles) * vision.tile_tokens
        image = image_tokens * kv * len(cross.layers)
        states = 4 * image_tokens * width
        mmproj = files.mmproj.tensors.items()
        of_cross = sum(tensor.nbytes for name, tensor in mmproj if name.startswith("cross."))
        of_tower = sum(tensor.nbytes for name, tensor in mmproj if not name.startswith("cross."))
        return cls(
            layers=(*layers, head),
            text_work=4 * ubatch * rows,
            cross=of_cross + 2 * image + states + _ATTENTION_BYTES,
            tower=of_tower + activation_bytes(vision, max_tiles) + _ATTENTION_BYTES if tower else 0,
        )

    def needed(self, gpu_layers: int, *, tower: bool) -> int:
        """Bytes for the last ``gpu_layers`` layers and the cross-attention layers, with or without the tower."""
        layers = sum(self.layers[len(self.layers) - gpu_layers :])
        return _BACKEND_BYTES + layers + self.text_work + self.cross + (self.tower if tower else 0)

    def layers_that_fit(self, nbytes: int, *, tower: bool) -> int:
        """The most layers for which ``nbytes`` suffice; 0 if there are none."""
        counts = range(len(self.layers), 0, -1)
        return next((count for count in counts if self.needed(count, tower=tower) <= nbytes), 0)

    @property
    def tower_alone(self) -> int:
        """Bytes for the vision tower without any other part."""
        return _BACKEND_BYTES + self.tower
