"""The vision tower on OpenVINO: on the CPU, or on an Intel GPU or NPU."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from visionward.errors import ComputeError, ModelFileError, NativeLibraryError
from visionward.formats.onnx_format import PIXELS, RATIO_ID
from visionward.machine.processor import read_processor
from visionward.names import OPENVINO_CPU
from visionward.runtime.vision.compiled_cache import Begin, Compiling, load_or_compile
from visionward.runtime.vision.provider_share import ProviderShare
from visionward.runtime.vision.tower_session import POLL_S, Array

# OpenVINO reports bf16 as supported, and chooses it, wherever the processor has the instructions. They are fast with
# AMX, and on AMD's processors (Zen 4 and later). On an Intel processor limited to instructions without AMX, a layer
# took 22 s in bf16 and 0.5 s in f32.
_BF16_FEATURE, _BF16_MAKER = "avx512_bf16", "AMD"
_AMX_FEATURE = "amx_bf16"
# The variable that limits the instruction sets of oneDNN, which OpenVINO computes with.
_LIMIT = "ONEDNN_MAX_CPU_ISA"
_LIMITS_WITH_AMX = ("", "ALL", "DEFAULT", "AVX512_CORE_AMX", "AVX512_CORE_AMX_FP16", "AVX10_1_512_AMX")
_LIMITS_WITH_BF16 = (*_LIMITS_WITH_AMX, "AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512")
_LIMITS_WITH_VNNI = (*_LIMITS_WITH_BF16, "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE_VNNI")

# OpenVINO's attribute (ov::Decompression) for a conversion that it leaves to its kernels.
_DECOMPRESSION = "decompression_0"


def best_precision(weight_type: str) -> str:
    """The precision for OpenVINO: ``bf16`` if the processor multiplies it fast, else ``f32``.

    int8 weights are multiplied by 8-bit activations. With everything else in bf16 too, features of the 11B shape are
    2.2e-2 off, above the bound of 2e-2.
    """
    if weight_type == "int8":
        return "f32"
    processor = read_processor()
    features = processor.features or ()
    if _AMX_FEATURE in features:
        fast = _limit() in _LIMITS_WITH_AMX
    else:
        fast = _BF16_FEATURE in features and processor.model.startswith(_BF16_MAKER) and _limit() in _LIMITS_WITH_BF16
    return "bf16" if fast else "f32"


def _limit() -> str:
    return os.environ.get(_LIMIT, "").upper()


class OpenVinoSession:
    """A model that OpenVINO compiled.

    Args:
        path: the ONNX file.
        threads: CPU threads.
        precision: on the CPU: ``bf16`` or ``f32``. Other devices compute in ``f16``.
        device: OpenVINO's name, such as ``CPU``, ``GPU`` or ``NPU``; ``AUTO`` for the first that there is of a GPU, an
            NPU and the CPU.
        keep: load the compiled model from the user's cache, or keep it there and report that as a stage, if the device
            is the CPU; None to compile it.

    Raises:
        NativeLibraryError: if OpenVINO is not installed, or has no such device.
        ModelFileError: if the file cannot be compiled.
    """

    def __init__(
        self, path: Path, *, threads: int, precision: str, device: str = OPENVINO_CPU, keep: Begin | None = None
    ) -> None:
        try:
            import openvino  # noqa: PLC0415 - an extra, loaded only if it is used
        except ImportError as error:
            raise NativeLibraryError(
                f"OpenVINO cannot be loaded ({error}); run `pip install 'visionward[openvino]'`."
            ) from error
        self.share: ProviderShare | None = None
        with _refused(path):
            core = openvino.Core()
            self.device = _available(device, core.available_devices)
        if self.device != OPENVINO_CPU:
            self._compiled: Any = _compile(core, path, self.device, {"INFERENCE_PRECISION_HINT": "f16"})
            return
        settings = _cpu_settings(threads, precision)
        compiled = partial(_compile, core, path, self.device, settings, integers=not _adds_exactly())
        if keep is None:
            self._compiled = compiled()
            return
        described = (precision, _limit(), str(_adds_exactly()))
        self._compiled = load_or_compile(
            path,
            Compiling("openvino", openvino.__version__, described),
            load=partial(compiled, loads=True),
            compile_into=compiled,
            begin=keep,
        )

    def run(self, pixel_values: Array, aspect_ratio_id: int, check_cancelled: Callable[[], None]) -> Array:
        """Features (tiles, tokens per tile, width) of the real tiles (tiles, 3, S, S).

        Raises:
            ComputeError: if OpenVINO fails.
        """
        try:
            request = self._compiled.create_infer_request()
            request.start_async({PIXELS: pixel_values, RATIO_ID: np.array([aspect_ratio_id])})
            try:
                while not request.wait_for(round(POLL_S * 1000)):
                    check_cancelled()
                request.wait()
                features: Array = request.get_output_tensor(0).data.copy()
            except BaseException:
                request.cancel()
                _await_end(request)
                raise
            finally:
                # Release what a large image needed, also after a cancelled run.
                del request
                self._compiled.release_memory()
        except RuntimeError as error:
            raise ComputeError(f"OpenVINO could not encode the image: {_reason(error)}") from error
        return features

    def close(self) -> None:
        """Free the weights; calling it again does nothing."""
        self._compiled = None


def _compile(
    core: Any,
    path: Path,
    device: str,
    settings: dict[str, Any],
    folder: Path | None = None,
    *,
    integers: bool = False,
    loads: bool = False,
) -> Any:
    """The compiled model. OpenVINO writes it into a folder, or maps the one there into memory.

    Args:
        core: OpenVINO's.
        path: the ONNX file.
        device: OpenVINO's name.
        settings: its properties.
        folder: the folder, if any.
        integers: compute int8 weights as floats.
        loads: whether the folder has a compiled model.

    Raises:
        ModelFileError: if the model cannot be compiled, or ``loads`` and the one in the folder was not used.
    """
    if folder is not None:
        # OPTIMIZE_SIZE leaves the weights in the ONNX tower's file, from which the CPU cannot load them (2026.4).
        settings = {**settings, "CACHE_DIR": str(folder), "CACHE_MODE": "OPTIMIZE_SPEED"}
    with _refused(path):
        model = core.read_model(str(path))
        _compute_as_floats(model, integers=integers)
        compiled = core.compile_model(model, device, settings)
        if loads and not compiled.get_property("LOADED_FROM_CACHE"):
            raise ModelFileError(f"OpenVINO does not load the compiled tower {folder}.")
    return compiled


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    try:
        yield
    except NativeLibraryError:
        raise
    except RuntimeError as error:
        raise ModelFileError(f"OpenVINO cannot load {path}: {_reason(error)}") from error


def openvino_devices() -> tuple[str, ...]:
    """What OpenVINO can compute on; empty if it is not installed or cannot be loaded."""
    try:
        import openvino  # noqa: PLC0415 - an extra

        return tuple(openvino.Core().available_devices)
    except (ImportError, RuntimeError):
        return ()


def _available(device: str, found: Sequence[str]) -> str:
    """The device by OpenVINO's name; of several GPUs the first.

    Raises:
        NativeLibraryError: if there is none.
    """
    kinds = ("GPU", "NPU", OPENVINO_CPU) if device.upper() == "AUTO" else (device.upper(),)
    for kind in kinds:
        for name in found:
            if name == kind or name.split(".")[0] == kind:
                return name
    raise NativeLibraryError(
        f"OpenVINO found no device {device} (--openvino-device); it has {', '.join(found)}. For Intel's GPUs and NPUs "
        "install their drivers (docs/gpu.md)."
    )


def _cpu_settings(threads: int, precision: str) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Pinned threads would compete with the decoder's.
        "ENABLE_CPU_PINNING": False,
    }


def _adds_exactly() -> bool:
    """Whether int8 products are accumulated in 32 bits (VNNI). Otherwise pairs of them overflow 16 bits."""
    has_vnni = any("vnni" in feature for feature in read_processor().features or ())
    return has_vnni and _limit() in _LIMITS_WITH_VNNI


def _compute_as_floats(model: Any, *, integers: bool) -> None:
    """Mark float16 weights, and int8 ones if ``integers`` is set, as decompressed at run time.

    Unmarked float16 weights would be folded to float32, which takes another 3.2 GB. Marked int8 weights are multiplied
    as float32.
    """
    stored = ("f16", "i8") if integers else ("f16",)
    for node in model.get_ops():
        if node.get_type_name() != "Convert" or node.input_value(0).get_node().get_type_name() != "Constant":
            continue
        if node.get_input_element_type(0).to_string() in stored:
            node.get_rt_info()[_DECOMPRESSION] = ""


def _await_end(request: Any) -> None:
    try:
        request.wait()
    except RuntimeError:
        # A cancelled request raises.
        return


def _reason(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip() and "Exception from" not in line]
    return lines[-1] if lines else type(error).__name__
