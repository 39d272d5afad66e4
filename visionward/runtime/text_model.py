"""The text GGUF in llama.cpp: loading it, its keys, and its tokenizer."""

import ctypes
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from visionward.runtime import mmproj_format as form
from visionward.runtime.errors import ConversationError, ModelFileError
from visionward.runtime.gguf_strings import read_strings
from visionward.runtime.native import llama, take_errors

ARCHITECTURE = "llama"
CONTROL = 1 << 3  # LLAMA_TOKEN_ATTR_CONTROL (llama.h)
ALL_LAYERS = 999


class TextModel:
    """The decoder's weights and vocabulary.

    Args:
        path: the text GGUF.
        gpu_layers: layers to offload; 0 for none, None for all where the library has a GPU.

    Raises:
        ModelFileError: if the file is missing, damaged, of another kind, or was not written by `visionward convert`.
    """

    def __init__(self, path: Path, *, gpu_layers: int | None) -> None:
        self.path = path
        self._check_vocabulary()
        take_errors()
        params = llama.llama_model_default_params()
        params.n_gpu_layers = ALL_LAYERS if gpu_layers is None else gpu_layers
        # Plain memory-mapped weights: fastest for prefill, shared between processes, and free of ggml's AMX buffers,
        # which crash in libraries that gcc 12 compiled (docs/kernels.md).
        params.use_extra_bufts = False
        self.handle: Any = llama.llama_model_load_from_file(str(path).encode(), params)
        if not self.handle:
            raise ModelFileError(f"{path} could not be loaded: {take_errors() or 'llama.cpp gave no reason'}.")
        try:
            self._read()
        except ModelFileError:
            self.close()
            raise

    def _check_vocabulary(self) -> None:
        """llama.cpp aborts the process where two tokens have one text, as they do in a damaged file."""
        tokens = read_strings(self.path, "tokenizer.ggml.tokens")
        if len(set(tokens)) != len(tokens):
            raise ModelFileError(f"{self.path} is damaged: tokens of its vocabulary repeat. Convert or copy it again.")

    def _read(self) -> None:
        architecture = self.key("general.architecture")
        if architecture != ARCHITECTURE:
            raise ModelFileError(
                f"{self.path} has architecture {architecture!r} where the text file of a pair has {ARCHITECTURE!r}: "
                "were the two files swapped?"
            )
        self.name = self.key("general.name") or self.path.stem
        self.chat_template = self.key("tokenizer.chat_template")
        self.text_hash = self._required(form.KEY_TEXT_HASH)
        version = self._required(form.KEY_FORMAT_VERSION)
        if version != str(form.FORMAT_VERSION):
            raise ModelFileError(
                f"{self.path} has format version {version}, this visionward reads {form.FORMAT_VERSION}: "
                "convert it again."
            )
        self.vocab_rows = int(self._required(form.KEY_VOCAB_ROWS))
        self.image_token_id = int(self._required(form.KEY_IMAGE_TOKEN_ID))
        self.layers = int(llama.llama_model_n_layer(self.handle))
        self.width = int(llama.llama_model_n_embd(self.handle))
        self.trained_context = int(llama.llama_model_n_ctx_train(self.handle))
        self._vocab: Any = llama.llama_model_get_vocab(self.handle)
        self.vocab_size = int(llama.llama_vocab_n_tokens(self._vocab))
        if not 0 < self.vocab_rows <= self.vocab_size or not 0 <= self.image_token_id < self.vocab_size:
            raise ModelFileError(f"{self.path} says impossible things of its vocabulary: convert it again.")
        self.special_tokens: Mapping[str, int] = MappingProxyType(self._control_tokens())

    def key(self, name: str) -> str | None:
        """The value of a scalar key as llama.cpp prints it, or None."""
        buffer = ctypes.create_string_buffer(256)
        length = llama.llama_model_meta_val_str(self.handle, name.encode(), buffer, len(buffer))
        if length >= len(buffer):
            buffer = ctypes.create_string_buffer(length + 1)
            length = llama.llama_model_meta_val_str(self.handle, name.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else None

    def _required(self, name: str) -> str:
        value = self.key(name)
        if value is None:
            raise ModelFileError(f"{self.path} has no key {name}: it was not written by `visionward convert`.")
        return value

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
        """Whether a token ends the model's answer."""
        return bool(llama.llama_vocab_is_eog(self._vocab, token))

    @property
    def end_tokens(self) -> list[int]:
        """Every token that ends an answer."""
        return [token for token in self.special_tokens.values() if self.ends_answer(token) and token < self.vocab_rows]

    def close(self) -> None:
        """Free the model; calling it again does nothing."""
        handle, self.handle = self.handle, None
        if handle:
            llama.llama_model_free(handle)
