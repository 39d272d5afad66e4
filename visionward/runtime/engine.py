"""A GGUF pair, loaded: the decoder, the cross-attention layers and the vision tower on their devices.

This is the lower level, for people who compare visionward with something else; ``Guard`` stands on it.
"""

import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TypeVar, get_args

import numpy as np
import numpy.typing as npt

from visionward.errors import ConversationError, ImageError
from visionward.formats.pair_files import PairFiles
from visionward.machine.processor import physical_cores
from visionward.names import (
    CPU_PROVIDER,
    DEFAULT_FRAMES,
    DEFAULT_IMAGE_CACHE_BYTES,
    DEFAULT_N_CTX,
    DEFAULT_UBATCH,
    Kernels,
    VisionBackendChoice,
)
from visionward.runtime.decoder.cross_attention import CrossAttention, ImageMemory
from visionward.runtime.decoder.decoder import ANSWER_ROOM, Decoder
from visionward.runtime.decoder.text_model import TextModel
from visionward.runtime.ggml import abi
from visionward.runtime.ggml.device import Device, gpu_devices
from visionward.runtime.ggml.graph import Allocator, ProductObserver, read
from visionward.runtime.ggml.mmproj_weights import MmprojWeights
from visionward.runtime.ggml.packed_kernels import check_packed_kernels
from visionward.runtime.image_cache import CacheStatistics, ImageCache
from visionward.runtime.images.decoding_room import DecodingRoom
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.pictures import Pictures, first_picture
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.vision.onnx_tower import OnnxTower
from visionward.runtime.vision.vision_backend import VisionOptions, choose_backend, load_session
from visionward.runtime.vision.vision_memory import room_for_tower
from visionward.runtime.vision.vision_tower import VisionTower
from visionward.runtime.worker import Worker

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class LogitsResult:
    """What ``Engine.logits`` gives.

    Attributes:
        logits: float32 (tokens, real rows of the head).
        features: float32 (real tiles, tokens a tile, decoder width), after the projector; None without an image.
        pixels: float32 (real tiles, 3, S, S); None without an image.
    """

    logits: npt.NDArray[np.float32]
    features: npt.NDArray[np.float32] | None
    pixels: npt.NDArray[np.float32] | None


class Engine:
    """A loaded GGUF pair. Threads may share it: their calls take turns.

    Args:
        text: the text GGUF.
        mmproj: the mmproj GGUF that belongs to it.
        threads: CPU threads; as many as there are physical cores unless given.
        gpu_layers: decoder layers on the GPU. None: all where the installed library has a GPU; 0: the CPU alone. The
            vision tower and the cross-attention layers follow: on the first GPU unless this is 0.
        n_ctx: tokens that a prompt may have.
        ubatch: tokens that the decoder computes in one graph.
        image_cache_bytes: memory for images that were encoded already, so that judging a response after its prompt
            does not look at the image again; 0 keeps none. Four tiles of the 11B model take 210 MB.
        exact: for comparisons: no flash attention, float32 KV cache, padding computed in full, all of it on ggml.
        kernels: ``plain`` reads the text file's weights where they are mapped; ``packed`` copies them for ggml's faster
            CPU kernels, where those work: loading takes longer, and the copy is not shared.
        vision_backend: the engine that runs the vision tower: ``ggml``, ``onnx`` (ONNX Runtime) or ``openvino``.
            ``auto`` takes the fastest that is installed, has an exported tower to run, and fits into the memory limit.
        onnx_tower: the exported tower; one beside the mmproj file that belongs to it unless given.
        onnx_provider: what ONNX Runtime computes with, by its own name.
        memory_limit: bytes that the process may take. ``auto`` keeps to it, and to a container's limit; an image whose
            decoding would not is refused.

    Raises:
        ModelFileError: if a file is missing, damaged or of another kind, or the two do not belong together.
        ComputeError: if memory does not suffice.
        NativeLibraryError: if the installed llama.cpp is not one that this version was tested with.
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        text: str | PathLike[str],
        mmproj: str | PathLike[str],
        *,
        threads: int | None = None,
        gpu_layers: int | None = None,
        n_ctx: int = DEFAULT_N_CTX,
        ubatch: int = DEFAULT_UBATCH,
        exact: bool = False,
        image_cache_bytes: int = DEFAULT_IMAGE_CACHE_BYTES,
        kernels: Kernels = "plain",
        vision_backend: VisionBackendChoice = "auto",
        onnx_tower: str | PathLike[str] | None = None,
        onnx_provider: str = CPU_PROVIDER,
        memory_limit: int | None = None,
    ) -> None:
        _check_least(
            threads=(threads, 1),
            gpu_layers=(gpu_layers, 0),
            n_ctx=(n_ctx, 1),
            ubatch=(ubatch, 2),
            image_cache_bytes=(image_cache_bytes, 0),
            memory_limit=(memory_limit, 1),
        )
        if kernels not in get_args(Kernels):
            raise ValueError(f"there are no kernels {kernels!r}, only {', '.join(get_args(Kernels))}.")
        if exact and vision_backend not in ("auto", "ggml"):
            raise ValueError(f"exact computation is ggml's, not that of {vision_backend}.")
        vision = VisionOptions(
            "ggml" if exact else vision_backend,
            None if onnx_tower is None else Path(onnx_tower),
            onnx_provider,
            memory_limit,
        )
        self._room = DecodingRoom(memory_limit)
        self._stack = ExitStack()
        self._worker = Worker(self._stack.close)
        weakref.finalize(self, self._worker.close)
        try:
            self._worker.run(
                partial(
                    self._load,
                    Path(text),
                    Path(mmproj),
                    threads=threads or physical_cores(),
                    gpu_layers=gpu_layers,
                    n_ctx=n_ctx,
                    ubatch=ubatch,
                    exact=exact,
                    packed=kernels == "packed",
                    vision=vision,
                )
            )
            self._images = ImageCache(image_cache_bytes)
            self._stack.callback(self._images.close)
        except BaseException:
            self.close()
            raise

    def _load(
        self,
        text: Path,
        mmproj: Path,
        *,
        threads: int,
        gpu_layers: int | None,
        n_ctx: int,
        ubatch: int,
        exact: bool,
        packed: bool,
        vision: VisionOptions,
    ) -> None:
        abi.check()
        if packed:
            check_packed_kernels(threads)
        if gpu_layers is None and not gpu_devices():
            gpu_layers = 0
        files = PairFiles.open(text, mmproj)
        files.check_checksums(self._go_on)
        self.file_warnings = files.warnings
        self.config, file = files.config, files.mmproj
        device = Device.choose(gpu=gpu_layers != 0, threads=threads)
        self._stack.callback(device.close)
        self.device_name = device.name
        self.threads = threads
        self._allocator = allocator = Allocator(device)
        self._stack.callback(allocator.close)
        cells = n_ctx + ANSWER_ROOM
        room = room_for_tower(vision.memory_limit, text, file, self.config, cells=cells, ubatch=ubatch)
        chosen = choose_backend(vision, file, self.config, gpu=not device.is_cpu, room=room)
        session = load_session(vision, chosen, threads, self._go_on)
        if session is not None:
            self._stack.callback(session.close)
        self.vision_backend = "ggml" if session is None else chosen.backend
        self.weights = MmprojWeights(file, self.config, device, tower=session is None)
        self._stack.callback(self.weights.close)
        self.tower = (
            VisionTower(self.weights, device, allocator, exact=exact)
            if session is None
            else OnnxTower(session, self.config, device)
        )
        self.cross_attention = CrossAttention(self.weights, device, allocator, exact=exact)
        self._worker.check_cancelled()
        self.model = TextModel(files.text, files.text_config, gpu_layers=gpu_layers, packed=packed)
        self._stack.callback(self.model.close)
        self.decoder = Decoder(
            self.model,
            self.cross_attention,
            n_ctx=n_ctx,
            threads=threads,
            ubatch=ubatch,
            exact=exact,
            flash_attention=not exact and (gpu_layers is None or gpu_layers > self.model.identity.layers),
            check_cancelled=self._worker.check_cancelled,
        )
        self._stack.callback(self.decoder.close)

    def run(self, job: Callable[[], T]) -> T:
        """Run a job on the engine's own thread, where the decoder may be used; an interrupt ends it cleanly."""
        return self._worker.run(job)

    def _go_on(self, _read: int) -> None:
        self._worker.check_cancelled()

    def check_cancelled(self) -> None:
        """For jobs: raises when the job was interrupted."""
        self._worker.check_cancelled()

    @contextmanager
    def observed(self, observer: ProductObserver) -> Iterator[None]:
        """Show an observer what every matrix product takes in, in the tower, the decoder and the layers between.

        It is called on the engine's own thread. Computing takes longer while this lasts.
        """
        self._allocator.observer = observer
        self.decoder.observe(observer)
        try:
            yield
        finally:
            self._allocator.observer = None
            self.decoder.observe(None)

    def pictures(self, image: ImageSource, frames: int = DEFAULT_FRAMES) -> Pictures:
        """Everything that has to be judged of an image, cut into tiles: iterate over it once.

        Args:
            image: the image.
            frames: the most to judge of an animation, or pages of a document.
        """
        return Pictures(image, self.config.vision, frames, self._room)

    def tile(self, image: ImageSource) -> Tiles:
        """Decode the first picture of an image alone, on white where it is transparent, and cut it into tiles.

        That is what the reference implementations see, for comparing with them. To judge an image is to judge all its
        `pictures`.

        Raises:
            ImageError: if it cannot be used.
        """
        return first_picture(image, self.config.vision, self._room)

    def remember(self, tiles: Tiles) -> ImageMemory:
        """For jobs: encode an image and keep what the cross-attention layers read of it. The caller closes it."""
        return self._remember(tiles)[0]

    def image_memory(self, tiles: Tiles) -> AbstractContextManager[ImageMemory]:
        """For jobs: the same inside a ``with`` block, taken from the image cache where it is there."""
        return self._images.hold(tiles, self.remember)

    @property
    def image_cache(self) -> CacheStatistics:
        """What the image cache holds and what it was good for."""
        return self._images.statistics

    def _remember(self, tiles: Tiles, *, features: bool = False) -> tuple[ImageMemory, npt.NDArray[np.float32] | None]:
        vision = self.config.vision
        count = tiles.pixel_values.shape[0]
        states = self.tower.encode(tiles, self.check_cancelled)
        try:
            memory = self.cross_attention.remember(states["states"], count, count * vision.tile_tokens)
            shape = (count, vision.tile_tokens, self.tower.width)
            return memory, read(states["states"], shape) if features else None
        finally:
            states.close()

    def encode_image(self, image: ImageSource | Tiles) -> npt.NDArray[np.float32]:
        """The projected vision features of an image: float32 (real tiles, tokens a tile, decoder width).

        Of an image with several frames those of the first alone, as `tile` says.

        Raises:
            ImageError: if the image cannot be used.
            ComputeError: if memory does not suffice or the device fails.
        """
        tiles = self._checked(image) if isinstance(image, Tiles) else self.tile(image)

        def job() -> npt.NDArray[np.float32]:
            states = self.tower.encode(tiles, self.check_cancelled)
            try:
                return read(
                    states["states"], (len(tiles.pixel_values), self.config.vision.tile_tokens, self.tower.width)
                )
            finally:
                states.close()

        return self.run(job)

    def logits(self, tokens: Sequence[int], image: ImageSource | Tiles | None = None) -> LogitsResult:
        """The logits of every position.

        Args:
            tokens: token ids; with an image, exactly one of them is ``<|image|>``. Its row and those after it see
                the image.
            image: an image (of several frames the first alone, as `tile` says), or one that is already cut into tiles.

        Raises:
            ImageError: if the image cannot be used.
            ConversationError: if the number of ``<|image|>`` tokens does not fit.
            ContextLengthError: if there are more tokens than the context holds.
            ComputeError: if a computation fails.
        """
        wanted = 0 if image is None else 1
        found = list(tokens).count(self.model.image_token_id)
        if found != wanted:
            raise ConversationError(
                f"the tokens hold {found} <|image|> ({self.model.image_token_id}), expected {wanted}."
            )
        if image is None:
            only = self.run(lambda: self.decoder.prefill(tokens, None, every_position=True))
            return LogitsResult(only, None, None)
        tiles = self._checked(image) if isinstance(image, Tiles) else self.tile(image)

        def job() -> LogitsResult:
            memory, features = self._remember(tiles, features=True)
            try:
                position = list(tokens).index(self.model.image_token_id)
                logits = self.decoder.prefill(tokens, memory, position, every_position=True)
                return LogitsResult(logits, features, tiles.pixel_values)
            finally:
                memory.close()

        return self.run(job)

    def _checked(self, tiles: Tiles) -> Tiles:
        vision = self.config.vision
        high, wide = tiles.aspect_ratio
        shape = (high * wide, 3, vision.tile_size, vision.tile_size)
        if tiles.aspect_ratio not in vision.aspect_ratios:
            raise ImageError(f"the aspect ratio {high} x {wide} is none of the model's: {vision.aspect_ratios}.")
        if tiles.pixel_values.shape != shape or tiles.pixel_values.dtype != np.float32:
            raise ImageError(
                f"pixel values have shape {tiles.pixel_values.shape} and type {tiles.pixel_values.dtype}; "
                f"an aspect ratio of {high} x {wide} takes float32 {shape}."
            )
        if not np.isfinite(tiles.pixel_values).all():
            raise ImageError("pixel values are not all finite.")
        return tiles

    def close(self) -> None:
        """Free everything; calling it again does nothing, and neither does it in a process that a fork made."""
        self._worker.close()


def _check_least(**arguments: tuple[int | None, int]) -> None:
    for name, (value, least) in arguments.items():
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}, it must be at least {least}.")
