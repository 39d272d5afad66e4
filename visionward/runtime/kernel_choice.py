"""Whether the decoder computes with plain weights or with packed copies of them."""

import logging

from visionward.formats.pair_files import PairFiles
from visionward.machine.processor import read_memory
from visionward.names import Kernels
from visionward.runtime.decoder.decoder import ANSWER_CELLS
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.ggml.packed_kernels import amx_is_faster
from visionward.runtime.vision.vision_memory import activation_bytes, bytes_without_tower

# The copy of a smaller text file would gain less than the probe takes.
MIN_TEXT_BYTES = 10**9
# An engine of the tower keeps its mapped file, a copy of the weights, and some activations (vision_memory.py).
_TOWER_COPIES, _ACTIVATIONS = 2, 4

_log = logging.getLogger(__name__)


def choose_kernels(options: EngineOptions, files: PairFiles, *, threads: int, gpu: bool, tower_bytes: int) -> Kernels:
    """The kernels to load the text file for: those that were asked for, or what ``auto`` stands for.

    ``auto`` is ``packed`` if the decoder is on the CPU alone, the text file is large, memory holds a copy of it beside
    everything else, and ggml's AMX kernels work and are faster.

    Args:
        options: of the engine.
        files: the pair.
        threads: CPU threads.
        gpu: whether layers of the decoder are on a GPU.
        tower_bytes: bytes of the vision tower's files.
    """
    if options.kernels != "auto":
        return options.kernels
    text_bytes = files.text.path.stat().st_size
    if options.exact or gpu or text_bytes < MIN_TEXT_BYTES:
        return "plain"
    memory = read_memory()
    limits = [bound for bound in (options.memory_limit, memory.limit, memory.available) if bound is not None]
    needed = text_bytes + _TOWER_COPIES * tower_bytes + _bytes_besides(options, files)
    if (limits and min(limits) < needed) or not amx_is_faster(threads):
        return "plain"
    _log.info("the text file's weights are packed for AMX: %.1f GB, of %s", text_bytes / 1e9, limits)
    return "packed"


def _bytes_besides(options: EngineOptions, files: PairFiles) -> int:
    return _ACTIVATIONS * activation_bytes(files.config.vision, options.tile_limit) + bytes_without_tower(
        files.text.path,
        files.mmproj,
        files.config,
        cells=options.n_ctx + ANSWER_CELLS,
        ubatch=options.ubatch,
        max_tiles=options.tile_limit,
    )
