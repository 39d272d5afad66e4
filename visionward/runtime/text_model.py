"""The text GGUF in llama.cpp: loading it, its keys, and its tokenizer."""

import ctypes
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from visionward.runtime import mmproj_format as form
from visionward.runtime.errors import ConversationError, ModelFileError
from visionward.runtime.gguf_header import GgufHeader, integers
from visionward.runtime.native import llama, take_errors

ARCHITECTURE = "llama"
CONTROL = 1 << 3  # LLAMA_TOKEN_ATTR_CONTROL (llama.h)
ALL_LAYERS = 999


class TextModel:
    """The decoder's weights and vocabulary.

    Args:
        path: the text GGUF.
        gpu_layers: layers to offload; 0 for none, None for all where the library has a GPU.
        packed: copy the weights into the forms that ggml's faster CPU kernels read (AMX, CPU_REPACK) instead of
            mapping them; see that these work first (``packed_kernels``).

    Raises:
        ModelFileError: if the file is missing, damaged, of another kind, or was not written by `visionward convert`.
    """

    def __init__(self, path: Path, *, gpu_layers: int | None, packed: bool = False) -> None:
        self.path = path
        header = GgufHeader(path, ARCHITECTURE)
        self._read_header(header)
        take_errors()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = ALL_LAYERS if gpu_layers is None else gpu_layers
        # Plain weights stay memory-mapped and shared between processes, and are free of ggml's AMX buffers, which crash
        # in libraries that gcc 12 compiled (docs/kernels.md).
        params.use_extra_bufts = packed
        self.handle: Any = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise ModelFileError(f"{path} could not be loaded: {take_errors() or 'llama.cpp gave no reason'}.")
        self._vocab: Any = llama.llama_model_get_vocab(self.handle)
        self.layers = int(llama.llama_model_n_layer(self.handle))
        self.width = int(llama.llama_model_n_embd(self.handle))
        self.vocab_size = int(llama.llama_vocab_n_tokens(self._vocab))
        self.special_tokens: Mapping[str, int] = MappingProxyType(self._control_tokens())

    def _read_header(self, header: GgufHeader) -> None:
        version = header.get(form.KEY_FORMAT_VERSION, int)
        if version != form.FORMAT_VERSION:
            raise ModelFileError(
                f"{self.path} has format version {version}, this visionward reads {form.FORMAT_VERSION}: "
                "convert it again."
            )
        self.text_hash = header.get(form.KEY_TEXT_HASH, str)
        self.vocab_rows = header.get(form.KEY_VOCAB_ROWS, int)
        self.image_token_id = header.get(form.KEY_IMAGE_TOKEN_ID, int)
        self.name = header.get("general.name", str) if header.has("general.name") else self.path.stem
        self.demonstration = header.has(form.KEY_DEMONSTRATION) and header.get(form.KEY_DEMONSTRATION, bool)
        template = "tokenizer.chat_template"
        self.chat_template = header.get(template, str) if header.has(template) else None
        self._end_token_ids = frozenset(header.get(form.KEY_END_TOKEN_IDS, integers))
        tokens = header.strings("tokenizer.ggml.tokens")
        if len(set(tokens)) != len(tokens):
            # llama.cpp aborts the process on such a vocabulary.
            raise ModelFileError(f"{self.path} is damaged: tokens of its vocabulary repeat. Copy it again.")
        if not 0 < self.vocab_rows <= len(tokens) or not 0 <= self.image_token_id < len(tokens):
            raise ModelFileError(f"{self.path} says impossible things of its vocabulary: convert it again.")

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
