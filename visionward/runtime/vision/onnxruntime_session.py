"""The vision tower on ONNX Runtime."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from visionward.errors import ComputeError, ModelFileError, NativeLibraryError
from visionward.formats.onnx_format import FEATURES, PIXELS, RATIO_ID
from visionward.names import CPU_PROVIDER, GPU_PROVIDERS
from visionward.runtime.vision.compiled_cache import Begin, Compiling, load_or_compile
from visionward.runtime.vision.provider_share import ProviderShare, provider_share
from visionward.runtime.vision.tower_session import POLL_S, Array

# The optimized graph in a folder of the cache.
_GRAPH = "tower.onnx"


class OnnxRuntimeSession:
    """An ONNX Runtime session.

    Args:
        path: the ONNX file.
        threads: CPU threads.
        provider: ONNX Runtime's name of the execution provider.
        keep: load the packed weights from the user's cache, or keep them there and report that as a stage, if the
            provider is the CPU's; None to pack them.

    Attributes:
        share: what the provider leaves to the CPU; None for the CPU's own, and if the version does not report it.

    Raises:
        NativeLibraryError: if ONNX Runtime is not installed, or this build lacks the provider.
        ModelFileError: if the file cannot be loaded.
    """

    def __init__(self, path: Path, *, threads: int, provider: str = CPU_PROVIDER, keep: Begin | None = None) -> None:
        onnxruntime = import_onnxruntime()
        available = onnxruntime.get_available_providers()
        if provider not in available:
            raise NativeLibraryError(
                f"the installed ONNX Runtime has {', '.join(available)}, but not {provider}; install another build."
            )
        on_cpu = provider == CPU_PROVIDER
        opened = partial(_open, path, threads=threads, provider=provider)
        if keep is not None and on_cpu:
            version = f"{onnxruntime.__version__} {onnxruntime.get_build_info()}"
            by = Compiling("onnx", version, (str(adds_bytes_exactly()),))
            self._session: Any = load_or_compile(
                path, by, load=partial(opened, loads=True), compile_into=opened, begin=keep
            )
        else:
            self._session = opened()
        active = self._session.get_providers()
        if active[0] != provider:
            raise NativeLibraryError(
                f"ONNX Runtime could not initialize {provider} and fell back to {', '.join(active)}."
            )
        self.device = provider.removesuffix("ExecutionProvider")
        self.share = None if on_cpu else self._share(provider)
        self._run_options = onnxruntime.RunOptions
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="visionward-onnx")

    def _share(self, provider: str) -> ProviderShare | None:
        assignment = getattr(self._session, "get_provider_graph_assignment_info", None)
        return None if assignment is None else provider_share(provider, assignment())

    def run(self, pixel_values: Array, aspect_ratio_id: int, check_cancelled: Callable[[], None]) -> Array:
        """Features (tiles, tokens per tile, width) of the real tiles (tiles, 3, S, S).

        Raises:
            ComputeError: if ONNX Runtime fails.
        """
        options = self._run_options()
        # Release what a large image needed.
        options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        inputs = {PIXELS: pixel_values, RATIO_ID: np.array([aspect_ratio_id])}
        running = self._thread.submit(self._session.run, [FEATURES], inputs, options)
        try:
            while wait([running], POLL_S).not_done:
                check_cancelled()
        except BaseException:
            options.terminate = True
            wait([running])
            raise
        error = running.exception()
        if error is not None:
            raise ComputeError(f"ONNX Runtime could not encode the image: {_first_line(error)}") from error
        features: Array = running.result()[0]
        return features

    def close(self) -> None:
        """Free the weights; calling it again does nothing."""
        self._thread.shutdown()
        self._session = None


def _open(path: Path, folder: Path | None = None, *, threads: int, provider: str, loads: bool = False) -> Any:
    """ONNX Runtime's session. It writes the optimized graph and the packed weights into a folder, or maps those there.

    Args:
        path: the ONNX file.
        folder: the folder, if any.
        threads: CPU threads.
        provider: ONNX Runtime's name of the execution provider.
        loads: whether the folder has a graph.

    Raises:
        ModelFileError: if a file cannot be loaded or written.
    """
    onnxruntime = import_onnxruntime()
    levels = onnxruntime.GraphOptimizationLevel
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Higher levels copy float16 weights into memory instead of mapping them.
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
    # Threads that spin after a run would take CPU time from the decoder.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if loads and folder is not None:
        path = folder / _GRAPH
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    elif folder is not None:
        options.optimized_model_filepath = str(folder / _GRAPH)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", f"{_GRAPH}.data")
        options.add_session_config_entry("session.save_external_prepacked_constant_initializers", "1")
    if provider != CPU_PROVIDER:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        # DirectML's needs it so.
        options.enable_mem_pattern = False
    try:
        if not adds_bytes_exactly():
            # Exact, but half as fast as the kernels for VNNI.
            options.add_session_config_entry("session.x64quantprecision", "1")
        # Constant folding would create float32 copies of float16 weights, and increase load time from 0.6 s to 4 s.
        return onnxruntime.InferenceSession(
            str(path),
            options,
            providers=list(dict.fromkeys((provider, CPU_PROVIDER))),
            disabled_optimizers=["ConstantFolding"],
            # It would print, and go on with the CPU.
            enable_fallback=False,
        )
    except Exception as error:  # its exceptions have no base class of their own
        raise ModelFileError(f"ONNX Runtime cannot load {path}: {_first_line(error)}") from error


def gpu_providers() -> tuple[str, ...]:
    """The providers for GPUs that the installed ONNX Runtime has; empty if it cannot be loaded."""
    try:
        available = import_onnxruntime().get_available_providers()
    except NativeLibraryError:
        return ()
    return tuple(provider for provider in GPU_PROVIDERS if provider in available)


@cache
def adds_bytes_exactly() -> bool:
    """Whether ONNX Runtime's default kernels accumulate int8 products without overflow on this processor.

    Those for x86 without VNNI add pairs of products in 16 bits: features were 2e-2 off on an emulated AVX2. Computing
    the largest products shows it on any system.
    """
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415 - needed only with a tower

    onnxruntime = import_onnxruntime()
    rows, columns = np.full((1, 64), 255, np.uint8), np.full((64, 16), 127, np.int8)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["rows", "columns"], ["sums"])],
        "sums",
        [helper.make_tensor_value_info("rows", TensorProto.UINT8, rows.shape)],
        [helper.make_tensor_value_info("sums", TensorProto.INT32, (1, 16))],
        [numpy_helper.from_array(columns, "columns")],
    )
    # The operator's first version, which every ONNX Runtime supports.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=5)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[CPU_PROVIDER])
    sums = session.run(["sums"], {"rows": rows})[0]
    return bool(np.array_equal(sums, rows.astype(np.int32) @ columns.astype(np.int32)))


def import_onnxruntime() -> Any:
    """ONNX Runtime, without telemetry.

    Builds since 1.31 store a device id and events in the user's cache folder and send them to Microsoft. The variable
    takes effect while the library loads; the call is for a library that is loaded already.

    Raises:
        NativeLibraryError: if it is not installed.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # noqa: PLC0415 - loaded only if it is used
    except ImportError as error:
        raise NativeLibraryError(f"ONNX Runtime cannot be loaded ({error}); run `pip install onnxruntime`.") from error
    onnxruntime.disable_telemetry_events()
    return onnxruntime


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
