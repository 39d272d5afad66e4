"""The options of an engine: what ``Engine``, ``Guard.load`` and whatever stands on them take as keywords."""

from dataclasses import dataclass
from os import PathLike
from typing import Any, Literal, TypedDict, get_args

from visionward.errors import OptionError
from visionward.formats.tile_band import TileBand
from visionward.names import (
    AUTO_PROVIDER,
    DEFAULT_IMAGE_CACHE_BYTES,
    DEFAULT_N_CTX,
    DEFAULT_UBATCH,
    OPENVINO_CPU,
    KernelsChoice,
    VisionBackendChoice,
)


class EngineKeywords(TypedDict, total=False):
    """The fields of ``EngineOptions``, for functions that pass them on as keywords."""

    threads: int | None
    device: str | None
    vision_device: str | None
    gpu_layers: int | None
    n_ctx: int
    ubatch: int
    exact: bool
    image_cache_bytes: int
    kernels: KernelsChoice
    vision_backend: VisionBackendChoice
    onnx_tower: str | PathLike[str] | None
    onnx_provider: str
    openvino_device: str
    memory_limit: int | None
    max_tiles: int | Literal["auto"] | None
    band: TileBand | None


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How a pair is loaded and computed.

    Attributes:
        threads: CPU threads; None for as many as there are physical cores.
        device: where the decoder and the cross-attention layers are: ``CPU``, or a GPU by ggml's name, such as
            ``CUDA0``; several GPUs, joined by commas, share the decoder's layers. None: the best GPU, dedicated before
            integrated, with as many layers as its memory holds; the CPU if there is none.
        vision_device: where the vision tower is on ggml; None for the first ``device``.
        gpu_layers: decoder layers on the GPU, with the output head as one. None: as many as its memory holds, which
            usually is all of them; 0: the CPU alone.
        n_ctx: tokens that a prompt may have.
        ubatch: tokens that the decoder computes in one graph.
        exact: for comparisons: no flash attention, float32 KV cache, padding computed in full, all of it on ggml.
            ggml multiplies float32 as TF32 on NVIDIA GPUs, which is off by up to 3e-3; ``gpu_layers=0`` is exact.
        image_cache_bytes: memory for encoded images, so that judging a response after its prompt does not encode the
            image again; 0 for no cache. An image of four tiles takes 210 MB with the 11B model.
        kernels: ``plain`` reads the text file's weights where they are mapped; ``packed`` copies them for ggml's other
            CPU kernels, if those work (docs/kernels.md): loading takes longer, and processes do not share the copy.
            ``auto`` is ``packed`` if the AMX kernels work, are faster, and memory holds the copy, else ``plain``.
        vision_backend: the engine that runs the vision tower: ``ggml``, ``onnx`` (ONNX Runtime) or ``openvino``.
            ``auto`` takes the fastest that is installed, has an exported tower to run, and fits into the memory limit.
        onnx_tower: the exported tower; None for the one beside the mmproj file that belongs to it.
        onnx_provider: ONNX Runtime's name of its execution provider; ``auto`` takes one for GPUs (CUDA, CoreML,
            DirectML) if the installed build has one that computes the whole tower, unless the CPU alone was asked for.
        openvino_device: OpenVINO's name of its device, such as ``GPU`` or ``NPU``; ``AUTO`` for the first that there
            is of these and the CPU.
        memory_limit: bytes that the process may take. ``auto`` keeps to it, and to a container's limit; an image whose
            decoding would exceed it is refused.
        max_tiles: the maximum number of tiles of an image, from 1 to the model's; None for the model's. Of the canvases
            with so many tiles, the one is used that the model's own rule prefers (docs/tiles.md). ``auto`` judges with
            one tile first, and again with all tiles if the score is in the band.
        band: scores that need a second look, for ``max_tiles="auto"``.

    Raises:
        OptionError: if a number is out of range, a name is unknown, or two options exclude each other.
    """

    threads: int | None = None
    device: str | None = None
    vision_device: str | None = None
    gpu_layers: int | None = None
    n_ctx: int = DEFAULT_N_CTX
    ubatch: int = DEFAULT_UBATCH
    exact: bool = False
    image_cache_bytes: int = DEFAULT_IMAGE_CACHE_BYTES
    kernels: KernelsChoice = "auto"
    vision_backend: VisionBackendChoice = "auto"
    onnx_tower: str | PathLike[str] | None = None
    onnx_provider: str = AUTO_PROVIDER
    openvino_device: str = OPENVINO_CPU
    memory_limit: int | None = None
    max_tiles: int | Literal["auto"] | None = None
    band: TileBand | None = None

    def __post_init__(self) -> None:
        if isinstance(self.max_tiles, str) and self.max_tiles != "auto":
            raise OptionError(f"max_tiles is {self.max_tiles!r}; it must be a number or 'auto'.")
        for name, minimum in _MINIMA.items():
            value = self.tile_limit if name == "max_tiles" else getattr(self, name)
            if value is not None and value < minimum:
                raise OptionError(f"{name} is {value}; it must be at least {minimum}.")
        if (self.max_tiles == "auto") != (self.band is not None):
            raise OptionError(
                "max_tiles 'auto' and a band need each other: give the band (--band) as LOW,HIGH, or the file that "
                "`visionward compare` wrote."
            )
        _check_name("kernels", self.kernels, get_args(KernelsChoice))
        _check_name("vision backend", self.vision_backend, get_args(VisionBackendChoice))
        if self.gpu_layers == 0 and self.device is not None and self.device.upper() != "CPU":
            raise OptionError(
                f"gpu_layers=0 and device={self.device} exclude each other; give it as vision_device for "
                "the vision tower alone."
            )
        if self.vision_device is not None and self.vision_backend not in ("auto", "ggml"):
            raise OptionError(f"vision_device is for the vision backend ggml, not {self.vision_backend}.")
        if self.exact and self.vision_backend not in ("auto", "ggml"):
            raise OptionError(f"exact computation needs the vision backend ggml, not {self.vision_backend}.")

    @property
    def tile_limit(self) -> int | None:
        """The maximum number of tiles of every image; None for the model's, which ``auto`` may need."""
        return None if self.max_tiles == "auto" else self.max_tiles

    def check_model(self, max_tiles: int) -> None:
        """Check what depends on the model.

        Args:
            max_tiles: its maximum number of tiles.

        Raises:
            OptionError: if the limit on the tiles is larger.
        """
        if self.tile_limit is not None and self.tile_limit > max_tiles:
            raise OptionError(f"max_tiles is {self.tile_limit}; the model takes 1 to {max_tiles}.")


_MINIMA = {
    "threads": 1,
    "gpu_layers": 0,
    "n_ctx": 1,
    "ubatch": 2,
    "image_cache_bytes": 0,
    "memory_limit": 1,
    "max_tiles": 1,
}


def _check_name(what: str, name: Any, known: tuple[str, ...]) -> None:
    if name not in known:
        raise OptionError(f"unknown {what} {name!r}; choose {', '.join(known[:-1])} or {known[-1]}.")
