"""The decoder: libllama's context, with the cross-attention layers put in by the evaluation callback."""

import ctypes
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from visionward.errors import ComputeError, ContextLengthError
from visionward.runtime.cancellation import CancelFlag, Cancelled, abort_callback
from visionward.runtime.decoder.cross_attention import CrossAttention, ImageKV
from visionward.runtime.decoder.hooks import LayerHooks
from visionward.runtime.decoder.text_model import TextModel
from visionward.runtime.ggml.graph import ProductObserver
from visionward.runtime.ggml.native import llama, take_errors

Logits: TypeAlias = npt.NDArray[np.float32]
# Called after each ubatch of a prefill: tokens that are done, tokens in all. What it raises ends the prefill.
OnTokens: TypeAlias = Callable[[int, int], None]

# Cells of the KV cache that are reserved for the answer: the verdict, its codes, and every category's code in a
# sequence of its own.
ANSWER_CELLS = 512
SEQUENCES = 64


class Decoder:
    """One conversation at a time: prefill a prompt, then extend it. Not to be called from the main thread.

    Signal handlers run in the main thread only. An exception that one raises while Python enters the evaluation
    callback would be swallowed by ctypes, and the layer left out.

    Args:
        model: the text model.
        cross_attention: the layers to put in.
        n_ctx: tokens that a prompt may have.
        threads: CPU threads.
        ubatch: tokens per graph.
        float32_cache: a float32 KV cache instead of a float16 one. CPUs that add up float16 in float16 need it.
        flash_attention: let llama.cpp use its flash attention. On a CPU it accumulates in float16 if a batch has fewer
            than 64 rows, as the batches of the answer have: after a prompt of 4,000 tokens logits were off by 0.08.
        cancel_flag: gives the flag of the current job. It is asked before every decode; setting it ends the decode.
    """

    def __init__(
        self,
        model: TextModel,
        cross_attention: CrossAttention,
        *,
        n_ctx: int,
        threads: int,
        ubatch: int,
        float32_cache: bool,
        flash_attention: bool,
        cancel_flag: Callable[[], CancelFlag],
    ) -> None:
        self.model = model
        self.n_ctx = n_ctx
        self._ubatch = ubatch
        self._cancel_flag = cancel_flag
        self._abort_callback = ctypes.cast(abort_callback(), llama.ggml_abort_callback)
        self._hooks = LayerHooks(cross_attention, self._check_cancelled)
        params = llama.llama_context_default_params()
        params.n_ctx = n_ctx + ANSWER_CELLS
        params.n_batch = params.n_ubatch = ubatch
        # llama.cpp aborts where a graph has fewer tokens than sequences.
        params.n_seq_max = self._sequences = min(SEQUENCES, ubatch)
        params.kv_unified = True
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = (
            llama.LLAMA_FLASH_ATTN_TYPE_AUTO if flash_attention else llama.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        params.type_k = params.type_v = llama.GGML_TYPE_F32 if float32_cache else llama.GGML_TYPE_F16
        params.cb_eval = self._hooks.callback
        params.no_perf = True
        take_errors()
        self._context: Any = llama.llama_init_from_model(model.handle, params)
        if not self._context:
            reason = take_errors() or "llama.cpp gave no reason"
            raise ComputeError(
                f"llama.cpp could not create a context of {n_ctx} tokens ({reason}); use a smaller n_ctx (--n-ctx)."
            )
        self._memory: Any = llama.llama_get_memory(self._context)
        self._batch: Any = llama.llama_batch_init(ubatch, 0, 1)
        self._past = 0
        self._image: ImageKV | None = None

    def observe(self, observer: ProductObserver | None) -> None:
        """Show an observer the input of every matrix product from now on; None ends it."""
        self._hooks.observer = observer

    def _check_cancelled(self) -> None:
        if self._cancel_flag().is_set:
            raise Cancelled

    def prefill(
        self,
        tokens: Sequence[int],
        image: ImageKV | None,
        image_position: int = 0,
        *,
        every_position: bool = False,
        on_tokens: OnTokens | None = None,
    ) -> Logits:
        """Clear the KV cache and evaluate a prompt.

        Args:
            tokens: the prompt's token ids.
            image: what rows from ``image_position`` on attend to; None for text alone.
            image_position: the position of ``<|image|>``.
            every_position: give the logits of every position instead of the last one.
            on_tokens: called after each ubatch.

        Returns:
            Logits over the head's real rows: (tokens, rows) or (rows,).

        Raises:
            ContextLengthError: if there are more tokens than the context holds.
            ComputeError: if llama.cpp fails, or a cross-attention layer was left out.
        """
        self.check_length(tokens)
        self.reset()
        self._image = image
        last = len(tokens) - 1
        wanted = [every_position or i == last for i in range(len(tokens))]
        logits = self._decode(tokens, range(len(tokens)), [0] * len(tokens), wanted, image_position, on_tokens)
        self._past = len(tokens)
        if every_position:
            return logits
        last_row: Logits = logits[0]
        return last_row

    def check_length(self, tokens: Sequence[int]) -> None:
        """Check that a prompt fits into the context.

        Raises:
            ContextLengthError: if there are more tokens than the context holds, or none.
        """
        if len(tokens) > self.n_ctx:
            raise ContextLengthError(
                f"the prompt has {len(tokens)} tokens, {len(tokens) - self.n_ctx} more than the context holds "
                f"({self.n_ctx}); shorten the conversation or increase n_ctx (--n-ctx)."
            )
        if not tokens:
            raise ContextLengthError("the prompt has no tokens.")

    def extend(self, tokens: Sequence[int]) -> Logits:
        """Evaluate more tokens behind what was evaluated so far; the logits of the last one, (rows,)."""
        positions = range(self._past, self._past + len(tokens))
        wanted = [False] * (len(tokens) - 1) + [True]
        logits = self._decode(tokens, positions, [0] * len(tokens), wanted, 0)
        self._past += len(tokens)
        last_row: Logits = logits[0]
        return last_row

    def branch(self, continuations: Sequence[Sequence[int]]) -> list[Logits]:
        """Evaluate several continuations of what was evaluated so far, each as if it were alone, and drop them again.

        Returns:
            For each continuation the logits after each of its tokens, (tokens, rows).
        """
        results: list[Logits] = []
        for group in self._groups(continuations):
            tokens: list[int] = []
            positions: list[int] = []
            sequences: list[int] = []
            for sequence, continuation in enumerate(group, start=1):
                llama.llama_memory_seq_cp(self._memory, 0, sequence, -1, -1)
                tokens += continuation
                positions += range(self._past, self._past + len(continuation))
                sequences += [sequence] * len(continuation)
            logits = self._decode(tokens, positions, sequences, [True] * len(tokens), 0)
            for sequence in range(1, len(group) + 1):
                llama.llama_memory_seq_rm(self._memory, sequence, -1, -1)
            ends = np.cumsum([len(continuation) for continuation in group])
            results += np.split(logits, ends[:-1])
        return results

    def _groups(self, continuations: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
        groups: list[list[Sequence[int]]] = [[]]
        max_tokens = min(self._ubatch, ANSWER_CELLS // 2)
        for continuation in continuations:
            if len(groups[-1]) == self._sequences - 1 or sum(map(len, groups[-1])) + len(continuation) > max_tokens:
                groups.append([])
            groups[-1].append(continuation)
        return [group for group in groups if group]

    def reset(self) -> None:
        """Clear the KV cache."""
        llama.llama_memory_clear(self._memory, False)
        self._past = 0
        self._image = None

    def _decode(
        self,
        tokens: Sequence[int],
        positions: Sequence[int],
        sequences: Sequence[int],
        wanted: Sequence[bool],
        image_position: int,
        on_tokens: OnTokens | None = None,
    ) -> Logits:
        if threading.current_thread() is threading.main_thread():
            raise ComputeError(
                "the decoder was called from the main thread, where an interrupt could be lost; this is a bug."
            )
        logits = np.empty((sum(wanted), self.model.vocab_rows), np.float32)
        filled = 0
        try:
            # llama_decode aborts the process when it gets more than n_batch tokens.
            for start in range(0, len(tokens), self._ubatch):
                flag = self._cancel_flag()
                llama.llama_set_abort_callback(self._context, self._abort_callback, flag.address)
                self._check_cancelled()
                part = slice(start, start + self._ubatch)
                self._fill(tokens[part], positions[part], sequences[part], wanted[part])
                rows = int(self._batch.n_tokens)
                self._hooks.begin(self._image, max(0, image_position - start))
                take_errors()
                status = llama.llama_decode(self._context, self._batch)
                self._hooks.raise_error()
                self._check_cancelled()
                self._check_status(status)
                self._hooks.finish(rows)
                for i in range(rows):
                    if self._batch.logits[i]:
                        pointer = llama.llama_get_logits_ith(self._context, i)
                        logits[filled] = np.ctypeslib.as_array(pointer, (self.model.vocab_size,))[: logits.shape[1]]
                        filled += 1
                if on_tokens is not None:
                    on_tokens(start + rows, len(tokens))
        except BaseException:
            self.reset()
            raise
        if not np.isfinite(logits).all():
            self.reset()
            on_gpu = f"overflow on {', '.join(self.model.gpu_names)}: " if self.model.gpu_names else ""
            raise ComputeError(
                f"{on_gpu}the decoder's logits are not all finite; check the model's files with `visionward verify`"
                + (", or compute on the CPU (--device CPU)." if on_gpu else ".")
            )
        return logits

    @staticmethod
    def _check_status(status: int) -> None:
        if status != 0:
            raise ComputeError(f"llama.cpp could not decode (status {status}: {take_errors() or 'no reason given'}).")

    def _fill(
        self, tokens: Sequence[int], positions: Sequence[int], sequences: Sequence[int], wanted: Sequence[bool]
    ) -> None:
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (token, position, sequence, output) in enumerate(zip(tokens, positions, sequences, wanted, strict=True)):
            if not 0 <= token < self.model.vocab_size:
                raise ComputeError(f"token {token} is not in the vocabulary of {self.model.vocab_size}.")
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = output

    def close(self) -> None:
        """Free the context; calling it again does nothing."""
        context, self._context = self._context, None
        if context:
            llama.llama_batch_free(self._batch)
            llama.llama_free(context)
