"""The text GGUF in llama.cpp: loading it, its keys, and its tokenizer."""

import ctypes
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from visionward.errors import ConversationError, ModelFileError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.text_format import TextConfig
from visionward.runtime.ggml.device_list import BackendDevice
from visionward.runtime.ggml.native import llama, take_errors

CONTROL = 1 << 3  # LLAMA_TOKEN_ATTR_CONTROL (llama.h)


class TextModel:
    """The decoder's weights and vocabulary.

    Args:
        file: the text GGUF.
        config: what its keys say.
        gpus: ggml's devices that the layers are divided among; empty for the CPU alone.
        gpu_layers: layers on them, the last ones, with the output head as one.
        packed: copy the weights into the forms that ggml's other CPU kernels read (AMX, CPU_REPACK) instead of
            mapping them; see that these work first (``packed_kernels``).

    Raises:
        ModelFileError: if llama.cpp cannot load the file, or takes it for another model.

    Attributes:
        identity: what the mmproj file must say too.
        gpu_names: names of the devices.
    """

    def __init__(
        self,
        file: GgufHeader,
        config: TextConfig,
        *,
        gpus: Sequence[BackendDevice] = (),
        gpu_layers: int = 0,
        packed: bool = False,
    ) -> None:
        self.path = file.path
        self.identity = config.identity
        self.vocab_rows = config.identity.vocab_rows
        self.image_token_id = config.identity.image_token_id
        self.name = self.path.stem if config.name is None else config.name
        self.chat_template = config.chat_template
        self.gpu_names = tuple(device.name for device in gpus)
        self._end_token_ids = frozenset(config.end_token_ids)
        take_errors()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = gpu_layers
        # Without a device in this list, which ends with a null pointer, llama.cpp would compute batches of 32 tokens or
        # more on a GPU that holds no layer. The model keeps the pointer.
        self._devices = (ctypes.c_void_p * (len(gpus) + 1))(*(device.handle for device in gpus), None)
        params.devices = ctypes.cast(self._devices, ctypes.c_void_p).value
        # Plain weights stay memory-mapped and shared between processes, and are free of ggml's AMX buffers, which crash
        # in libraries that gcc 12 compiled (docs/kernels.md).
        params.use_extra_bufts = packed
        self.handle: Any = llama.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self.handle:
            raise ModelFileError(f"{self.path} could not be loaded: {take_errors() or 'llama.cpp gave no reason'}.")
        self._vocab: Any = llama.llama_model_get_vocab(self.handle)
        self.vocab_size = int(llama.llama_vocab_n_tokens(self._vocab))
        found = (int(llama.llama_model_n_layer(self.handle)), int(llama.llama_model_n_embd(self.handle)))
        if found != (config.identity.layers, config.identity.width) or self.vocab_size != len(config.tokens):
            self.close()
            raise ModelFileError(f"{self.path} is another model to llama.cpp than its header says: convert it again.")
        self.special_tokens: Mapping[str, int] = MappingProxyType(self._control_tokens())

    def _control_tokens(self) -> dict[str, int]:
        attributes, text = llama.llama_vocab_get_attr, llama.llama_vocab_get_text
        control = (token for token in range(self.vocab_size) if attributes(self._vocab, token) & CONTROL)
        return {text(self._vocab, token).decode("utf-8", "replace"): token for token in control}

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text: nothing in it is special, and no begin-of-text is added.

        Raises:
            ConversationError: if the text is not valid Unicode.
        """
        try:
            data = text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ConversationError(f"a text is not valid Unicode ({error.reason} at {error.start}).") from error
        capacity = len(data) + 1
        tokens = (llama.llama_token * capacity)()
        count = llama.llama_tokenize(self._vocab, data, len(data), tokens, capacity, False, False)
        if count < 0:
            raise ConversationError(f"a text of {len(data)} bytes could not be tokenized: {take_errors()}.")
        return list(tokens[:count])

    def text_of(self, token: int) -> str:
        """The text of a token, control tokens included; bytes that are no whole character are replaced."""
        buffer = ctypes.create_string_buffer(512)
        length = llama.llama_token_to_piece(self._vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[: max(length, 0)].decode("utf-8", "replace")

    def ends_answer(self, token: int) -> bool:
        """Whether a token ends the model's answer, by the checkpoint's settings or by llama.cpp's own list."""
        return token in self._end_token_ids or bool(llama.llama_vocab_is_eog(self._vocab, token))

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends an answer."""
        return [token for token in self.special_tokens.values() if self.ends_answer(token) and token < self.vocab_rows]

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        handle, self.handle = self.handle, None
        if handle:
            llama.llama_model_free(handle)
