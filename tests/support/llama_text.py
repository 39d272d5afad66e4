"""Run a text GGUF in stock llama.cpp, with nothing of visionward in between."""

from pathlib import Path

import llama_cpp
import numpy as np


def load(path: Path, *, vocab_only: bool = False):
    """A model handle; free it with ``llama_cpp.llama_model_free``."""
    llama_cpp.llama_backend_init()
    params = llama_cpp.llama_model_default_params()
    params.vocab_only = vocab_only
    # Copies in AMX layout crash in libraries that gcc 12 compiled.
    params.use_extra_bufts = False
    # No device at all.
    params.n_gpu_layers = 0
    params.split_mode, params.main_gpu = llama_cpp.LLAMA_SPLIT_MODE_NONE, -1
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    assert model, f"llama.cpp could not load {path}"
    return model


def text_logits(path: Path, ids: np.ndarray) -> np.ndarray:
    """The logits of every position, without flash attention and with an f32 cache."""
    model = load(path)
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = 256
    params.type_k = params.type_v = llama_cpp.GGML_TYPE_F32
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.n_threads = params.n_threads_batch = 1
    context = llama_cpp.llama_init_from_model(model, params)
    batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
    try:
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = int(token), i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_decode(context, batch) == 0
        rows = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        logits = llama_cpp.llama_get_logits(context)
        return np.ctypeslib.as_array(logits, (len(ids) * rows,)).reshape(len(ids), rows).copy()
    finally:
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
        llama_cpp.llama_model_free(model)


def tokenize(model, text: str) -> list[int]:
    """Tokens of plain text: no begin-of-text, nothing special."""
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    data = text.encode()
    tokens = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), tokens, len(tokens), False, False)
    assert count >= 0
    return list(tokens[:count])
