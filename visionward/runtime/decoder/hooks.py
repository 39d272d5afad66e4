"""The evaluation callback that puts cross-attention layers into llama.cpp's decoder graph, and checks that it did.

llama.cpp asks for every node whether its result is wanted, and stops the graph there if so. A decode whose callback was
not answered, or whose answer got lost, would silently leave layers out and still return 0. So every hook counts the
rows that went through it, and a decode is valid only if each layer saw each row exactly once.
"""

from collections.abc import Callable
from typing import Any

from visionward.errors import CheckFailedError
from visionward.runtime.decoder.cross_attention import CrossAttention, ImageKV
from visionward.runtime.ggml import ggml
from visionward.runtime.ggml.graph import ProductObserver, read_rows
from visionward.runtime.ggml.native import llama


class LayerHooks:
    """Applies cross-attention layers to ``l_out-<n>`` tensors during a decode.

    Args:
        cross_attention: the layers.
        check_cancelled: called at every hook; what it raises ends the decode.

    Attributes:
        observer: is given the input of every product with a weight in the decoder's graph; usually None.
    """

    def __init__(self, cross_attention: CrossAttention, check_cancelled: Callable[[], None]) -> None:
        self._cross_attention = cross_attention
        self._check_cancelled = check_cancelled
        # Consecutive cross-attention layers share a hook.
        self._layers: dict[bytes, list[int]] = {}
        for index, layer in enumerate(cross_attention.after):
            self._layers.setdefault(f"l_out-{layer}".encode(), []).append(index)
        self._image: ImageKV | None = None
        self._first_row = 0
        self._rows: dict[bytes, int] = {}
        self._error: BaseException | None = None
        self.observer: ProductObserver | None = None
        self.callback: Any = llama.ggml_backend_sched_eval_callback(self._answer)

    def begin(self, image: ImageKV | None, first_row: int) -> None:
        """Before a decode: the image that rows of the batch from ``first_row`` on attend to; None for no image."""
        self._image = image
        self._first_row = first_row
        self._rows = dict.fromkeys(self._layers, 0)
        self._error = None

    def finish(self, rows: int) -> None:
        """After a decode of ``rows`` rows.

        Raises:
            CheckFailedError: if a layer was not applied exactly once to each row.
        """
        image, self._image = self._image, None
        wrong = {name.decode(): seen for name, seen in self._rows.items() if seen != rows}
        if image is not None and wrong:
            raise CheckFailedError(
                f"cross-attention was not applied to every row ({wrong} of {rows}); the result was discarded."
            )

    def raise_error(self) -> None:
        """After a decode: raise again what a hook raised."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _answer(self, tensor: int, asked: bool, _user: int | None) -> bool:
        if self._error is not None or (self._image is None and self.observer is None):
            return False
        try:
            if self.observer is not None and (weight := _weight_name(tensor)):
                if not asked:
                    self._check_cancelled()
                    self.observer(weight, read_rows(ggml.struct_of(tensor).src[1]))
                return True
            name = ggml.get_name(tensor)
            if self._image is None or name not in self._layers:
                return False
            if not asked:
                self._check_cancelled()
                self._apply(name, tensor, self._image)
        except BaseException as error:  # noqa: BLE001 - ctypes would print it and go on; raise_error() raises it
            self._error = error
            return False
        return True

    def _apply(self, name: bytes, tensor: int, image: ImageKV) -> None:
        rows = int(ggml.struct_of(tensor).ne[1])
        first = max(0, self._first_row - self._rows[name])
        if first < rows:
            self._cross_attention.apply(self._layers[name], tensor, first, image)
        self._rows[name] += rows


def _weight_name(tensor: int) -> str | None:
    """The weight that a node multiplies by float32 rows; None for any other node."""
    if ggml.op_desc(tensor) != b"MUL_MAT":
        return None
    weight, rows = ggml.struct_of(tensor).src[:2]
    # The scheduler names a copy of a tensor on another device "CUDA0#blk.0.attn_q.weight#0".
    name = next((part for part in ggml.get_name(weight).decode().split("#") if part.endswith(".weight")), None)
    return name if ggml.struct_of(rows).type == ggml.Type.F32 else None
