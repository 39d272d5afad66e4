"""Whether the decoder computes with plain weights or with packed copies of them."""

import logging

from visionward.formats.pair_files import PairFiles
from visionward.machine.processor import read_memory
from visionward.names import Kernels
from visionward.runtime.decoder.decoder import ANSWER_CELLS
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml.packed_kernels import types_for_amx
from visionward.runtime.vision.vision_memory import activation_bytes, bytes_without_tower

# A smaller text file is fast anyway.
MIN_TEXT_BYTES = 10**9
# ggml's AMX buffers take 38 bytes for a block of 34 in Q8_0.
_COPY = 9 / 8
# An engine of the tower keeps its mapped file, a copy of the weights, and some activations (vision_memory.py).
_TOWER_COPIES, _ACTIVATIONS = 2, 4

_log = logging.getLogger(__name__)


def choose_kernels(options: EngineOptions, files: PairFiles, *, threads: int, gpu: bool, tower_bytes: int) -> Kernels:
    """The kernels to load the text file for: those that were asked for, or what ``auto`` stands for.

    ``auto`` is ``packed`` if the decoder is on the CPU alone, the text file is large, memory holds a copy of it beside
    everything else, and ggml's AMX kernels work and are faster for every type of its matrices.

    Args:
        options: of the engine.
        files: the pair.
        threads: CPU threads.
        gpu: whether layers of the decoder are on a GPU.
        tower_bytes: bytes of the vision tower's files.
    """
    if options.kernels != "auto":
        return options.kernels
    if options.exact or gpu or files.text.path.stat().st_size < MIN_TEXT_BYTES:
        return "plain"
    if not _memory_suffices(options, files, tower_bytes) or not _matrix_types(files) <= types_for_amx(threads):
        return "plain"
    _log.info("the weights of %s are packed for AMX", files.text.path)
    return "packed"


def _matrix_types(files: PairFiles) -> set[str]:
    """The types of the matrices that are multiplied: all but the embedding."""
    matrices = (tensor for tensor in files.text.tensors.values() if len(tensor.shape) > 1)
    return {tensor.dtype.name for tensor in matrices if tensor.name != "token_embd.weight"}


def _memory_suffices(options: EngineOptions, files: PairFiles, tower_bytes: int) -> bool:
    """Whether the limits hold everything, and available memory what is still to be allocated; the tower is loaded."""
    text_bytes = files.text.path.stat().st_size
    copy = int(_COPY * text_bytes)
    activations = _ACTIVATIONS * activation_bytes(files.config.vision, options.tile_limit)
    rest = bytes_without_tower(
        files.text.path,
        files.mmproj,
        files.config,
        cells=options.n_ctx + ANSWER_CELLS,
        ubatch=options.ubatch,
        max_tiles=options.tile_limit,
    )
    memory = read_memory()
    limits = [limit for limit in (options.memory_limit, memory.limit) if limit is not None]
    # The mapped file can be dropped when it was copied.
    if memory.available is None or memory.available < copy + activations + rest - text_bytes:
        return False
    return all(limit >= copy + activations + rest + _TOWER_COPIES * tower_bytes for limit in limits)
