"""Plain llama.cpp: `python -m benchmarks.peers.libllama_contestant --plain PLAIN.gguf --prompt P.json`.

Reads the same tokens with a plain Llama of as many layers (benchmarks.peers.plain_llama), with the context that
visionward makes but without its callback and its cross-attention layers. There is no image.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from benchmarks.peers import cpu, measure
from benchmarks.peers.inputs import Inputs, read_inputs


class PlainLlama:
    """A model and a context in llama.cpp, as visionward's runtime/text_model.py and decoder.py make them."""

    def __init__(self, path: Path, threads: int) -> None:
        import llama_cpp.llama_cpp as llama  # noqa: PLC0415 - the environment must be set before

        from visionward.names import DEFAULT_N_CTX, DEFAULT_UBATCH  # noqa: PLC0415
        from visionward.runtime.decoder.decoder import ANSWER_CELLS, SEQUENCES  # noqa: PLC0415

        self._llama: Any = llama
        params = llama.llama_model_default_params()
        params.n_gpu_layers = 0
        params.use_extra_bufts = False
        self._model = llama.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ValueError(f"{path} could not be loaded.")
        self.layers = int(llama.llama_model_n_layer(self._model))
        context = llama.llama_context_default_params()
        context.n_ctx = DEFAULT_N_CTX + ANSWER_CELLS
        context.n_batch = context.n_ubatch = DEFAULT_UBATCH
        context.n_seq_max = SEQUENCES
        context.kv_unified = True
        context.n_threads = context.n_threads_batch = threads
        context.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_AUTO
        context.no_perf = True
        self._context = llama.llama_init_from_model(self._model, context)
        if not self._context:
            raise ValueError("no context could be made.")
        self._batch = llama.llama_batch_init(DEFAULT_UBATCH, 0, 1)
        self._room = DEFAULT_UBATCH

    def prefill(self, tokens: list[int]) -> float:
        """Read a prompt and take the logits of its last token; seconds."""
        if len(tokens) > self._room:
            raise ValueError(f"{len(tokens)} tokens are more than one batch of {self._room}.")
        return measure.timed(lambda: self._read(tokens))[0]

    def _read(self, tokens: list[int]) -> None:
        llama, batch = self._llama, self._batch
        llama.llama_memory_clear(llama.llama_get_memory(self._context), False)
        batch.n_tokens = len(tokens)
        for row, token in enumerate(tokens):
            batch.token[row], batch.pos[row] = token, row
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, 0
            batch.logits[row] = row == len(tokens) - 1
        if llama.llama_decode(self._context, batch) != 0 or not llama.llama_get_logits_ith(self._context, -1):
            raise RuntimeError("llama_decode failed.")


def compete(options: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Load, read, and say what was measured."""
    # First, because it sets how llama.cpp's threads wait, for both alike.
    import visionward.runtime.ggml.native  # noqa: F401, PLC0415, I001
    import llama_cpp  # noqa: PLC0415

    features = cpu.check_llama(options.limit, llama_cpp.llama_print_system_info().decode())
    loading, model = measure.timed(lambda: PlainLlama(options.plain, options.threads))
    if options.warm_up:
        model.prefill(inputs.tokens)
    text = measure.median([model.prefill(inputs.tokens) for _ in range(options.runs)])
    return {
        "model": options.plain.stem,
        "versions": measure.versions("llama-cpp-python"),
        "prompt_tokens": len(inputs.tokens),
        "layers": {"self": model.layers, "cross": 0},
        "load_s": loading,
        "images": {},
        "text_s": text,
        "says": {"llama.cpp": features},
    }


def main() -> None:
    parser = measure.parser(__doc__)
    parser.add_argument("--plain", type=Path, required=True)
    options = parser.parse_args()
    with measure.Contest(options, "libllama") as contest:
        contest.finish(**compete(options, read_inputs(options.prompt)), unrestricted=None)


if __name__ == "__main__":
    main()
