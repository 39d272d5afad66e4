"""A loaded GGUF pair: the decoder, the cross-attention layers and the vision tower on their devices.

This is the lower level of the API, for comparisons with other implementations; ``Guard`` is built on it.
"""

import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from visionward.errors import ConversationError, ImageError
from visionward.formats.pair_files import PairFiles
from visionward.machine.processor import physical_cores
from visionward.names import DEFAULT_FRAMES
from visionward.progress import OnProgress, Progress, ProgressCounter
from visionward.runtime.cancellation import Cancelled, CancelToken
from visionward.runtime.decoder.cross_attention import ImageKV
from visionward.runtime.decoder.decoder import Decoder
from visionward.runtime.decoder.text_model import TextModel
from visionward.runtime.devices import Devices
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.evaluation import Evaluation, milliseconds_since
from visionward.runtime.ggml import abi
from visionward.runtime.ggml.float16_sums import sums_float16_in_float32
from visionward.runtime.ggml.graph import ProductObserver, Storage, read
from visionward.runtime.ggml.packed_kernels import check_packed_kernels
from visionward.runtime.image_cache import CacheStatistics, ImageCache
from visionward.runtime.image_layers import open_image_layers
from visionward.runtime.images.images import ImageSource
from visionward.runtime.images.memory_budget import MemoryBudget
from visionward.runtime.images.pictures import Pictures, first_picture
from visionward.runtime.images.preprocess import Tiles
from visionward.runtime.kernel_choice import choose_kernels
from visionward.runtime.switch_interval import short_switch_interval
from visionward.runtime.worker import Worker

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from visionward.runtime.engine_options import EngineKeywords

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class LogitsResult:
    """The result of ``Engine.logits``.

    Attributes:
        logits: float32 (tokens, real rows of the head).
        features: float32 (real tiles, tokens per tile, decoder width), after the projector; None without an image.
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
        on_progress: called while files are checked, on the engine's own thread.
        options: the fields of ``EngineOptions``, as keywords.

    Raises:
        ModelFileError: if a file is missing, damaged or of another kind, or the two do not belong together.
        ComputeError: if memory does not suffice.
        NativeLibraryError: if the installed llama.cpp is not a version that visionward was tested with.
        OptionError: if an option is out of range or unknown, or two exclude each other.
    """

    def __init__(
        self,
        text: str | PathLike[str],
        mmproj: str | PathLike[str],
        *,
        on_progress: OnProgress | None = None,
        **options: "Unpack[EngineKeywords]",
    ) -> None:
        self.options = EngineOptions(**options)
        self._memory_budget = MemoryBudget(self.options.memory_limit)
        self._stack = ExitStack()
        self._worker = Worker(self._stack.close)
        weakref.finalize(self, self._worker.close)
        try:
            self._worker.run(partial(self._load, Path(text), Path(mmproj), self.options, on_progress))
            self._images = ImageCache(self.options.image_cache_bytes)
            self._stack.callback(self._images.close)
        except BaseException:
            self.close()
            raise

    def _load(self, text: Path, mmproj: Path, options: EngineOptions, on_progress: OnProgress | None) -> None:
        abi.check()
        threads = options.threads or physical_cores()
        if options.kernels == "packed":
            check_packed_kernels(threads)
        files = PairFiles.open(text, mmproj)
        files.check_checksums(self._advance("checking files", files.nbytes, on_progress))
        self.mmproj_path = files.mmproj.path
        self.config = files.config
        options.check_model(files.config.vision.max_tiles)
        self.threads = threads
        begin = partial(self._advance, on_progress=on_progress)
        plan, layers = open_image_layers(files, options, threads, self._stack, begin)
        self._layers = layers
        self.tower, self.cross_attention, self.weights = layers.tower, layers.cross_attention, layers.weights
        self.vision_backend = layers.vision_backend
        if options.band is not None:
            options.band.check_model(files.text.path, files.mmproj.path, exported_tower=self.vision_backend != "ggml")
        self.warnings = files.warnings + plan.warnings + layers.warnings
        self._worker.check_cancelled()
        self.kernels = choose_kernels(
            options, files, threads=threads, gpu=plan.gpu_layers > 0, tower_bytes=layers.tower_bytes
        )
        self.model = TextModel(
            files.text,
            files.text_config,
            gpus=plan.text,
            gpu_layers=plan.gpu_layers,
            packed=self.kernels == "packed",
        )
        self._stack.callback(self.model.close)
        self.decoder = Decoder(
            self.model,
            self.cross_attention,
            n_ctx=options.n_ctx,
            threads=threads,
            ubatch=options.ubatch,
            float32_cache=options.exact or (plan.gpu_layers == 0 and not sums_float16_in_float32()),
            flash_attention=not options.exact and plan.gpu_layers > self.model.identity.layers,
            cancel_flag=self._worker.cancel_flag,
        )
        self._stack.callback(self.decoder.close)
        if plan.gpus:
            layers.devices.use_free_memory()
            self._warm_up(on_progress)

    def _warm_up(self, on_progress: OnProgress | None) -> None:
        """Compute once, so that the GPU's kernels are compiled and loaded before the first classification."""
        if on_progress is not None:
            on_progress(Progress("warming up", 0, 1, "runs"))
        side = self.config.vision.tile_size
        tiles = Tiles(np.zeros((1, 3, side, side), np.float32), (1, 1))
        with self.evaluate(tiles, use_cache=False) as evaluation:
            # Kernels for matrices and for vectors.
            evaluation.prefill([self.model.image_token_id, *[0] * min(63, self.options.n_ctx - 1)])
            evaluation.extend([0])

    def _advance(self, stage: str, total: int, on_progress: OnProgress | None) -> Callable[[int], None]:
        """A callback for reading files: reports the bytes read so far, and ends the reading if loading is cancelled."""
        flag = self._worker.cancel_flag()
        counter = ProgressCounter(on_progress, stage, total, "bytes")

        def advance(nbytes: int) -> None:
            if flag.is_set:
                raise Cancelled
            counter.advance(nbytes)

        return advance

    def run(self, job: Callable[[], T], cancel: CancelToken | None = None) -> T:
        """Run a job on the engine's own thread, where ``evaluate`` may be used; an interrupt ends it cleanly.

        Raises:
            ClassificationCancelledError: if the token was cancelled before the job finished.
            ComputeError: if the engine was closed.
        """

        def compute() -> T:
            with short_switch_interval():
                return job()

        return self._worker.run(compute, cancel)

    @contextmanager
    def evaluate(
        self,
        tiles: Tiles | None,
        *,
        use_cache: bool = True,
        features: bool = False,
        on_progress: OnProgress | None = None,
    ) -> Iterator[Evaluation]:
        """For jobs: encode an image, so that prompts can be evaluated behind it. The KV cache is cleared at the end.

        Args:
            tiles: the image; None for text alone.
            use_cache: take the image from the image cache, and keep it there.
            features: give the vision features too, for which the image is encoded in any case.
            on_progress: called for each layer of the tower and each ubatch of a prompt.

        Raises:
            ComputeError: if memory does not suffice or the device fails.
        """
        started = time.perf_counter()
        with ExitStack() as stack:
            stack.callback(self.decoder.reset)
            image: ImageKV | None = None
            found: npt.NDArray[np.float32] | None = None
            if tiles is not None and use_cache and not features:
                encode = partial(self._encode, tiles, on_progress)
                image = stack.enter_context(self._images.hold(tiles.digest, encode))
            elif tiles is not None:
                states = self._project(tiles, on_progress)
                stack.callback(states.close)
                found = self._features(states, tiles) if features else None
                image = self.cross_attention.keys_and_values(states["states"])
                stack.callback(image.close)
            vision_ms = 0.0 if tiles is None else milliseconds_since(started)
            yield Evaluation(self.decoder, image, vision_ms=vision_ms, features=found, on_progress=on_progress)

    def _encode(self, tiles: Tiles, on_progress: OnProgress | None) -> ImageKV:
        states = self._project(tiles, on_progress)
        try:
            return self.cross_attention.keys_and_values(states["states"])
        finally:
            states.close()

    def _project(self, tiles: Tiles, on_progress: OnProgress | None) -> Storage:
        """The tower's projected tokens on the device of the cross-attention layers. The caller closes them."""

        def on_layer(done: int, total: int) -> None:
            self._worker.check_cancelled()
            if on_progress is not None:
                on_progress(Progress("vision", done, total, "layers"))

        states, device = self.tower.encode(tiles, on_layer), self._layers.devices.cross.device
        return states if states.device is device else states.moved(device)

    def _features(self, states: Storage, tiles: Tiles) -> npt.NDArray[np.float32]:
        shape = (len(tiles.pixel_values), self.config.vision.tile_tokens, self.tower.width)
        return read(states["states"], shape)

    @property
    def devices(self) -> Devices:
        """What computes what, and the GPU memory taken by now."""
        return self._layers.devices.description(self.model.identity.layers + 1, self._layers.session_device)

    @property
    def device_name(self) -> str:
        """The devices in short."""
        return self.devices.names

    def drop_images(self) -> None:
        """Empty the image cache."""
        self.run(self._images.close)

    @property
    def closed(self) -> bool:
        """Whether the engine was closed."""
        return self._worker.closed

    @property
    def image_cache(self) -> CacheStatistics:
        """The state of the image cache."""
        return self._images.statistics

    @contextmanager
    def observed(self, observer: ProductObserver) -> Iterator[None]:
        """Give an observer the input of every matrix product in the tower, the decoder and the cross-attention layers.

        It is called on the engine's own thread. Computing takes longer inside the ``with`` block.
        """
        self._layers.devices.observe(observer)
        self.decoder.observe(observer)
        try:
            yield
        finally:
            self._layers.devices.observe(None)
            self.decoder.observe(None)

    def pictures(self, image: ImageSource, frames: int = DEFAULT_FRAMES, max_tiles: int | None = None) -> Pictures:
        """Everything of an image that has to be judged, cut into tiles. Iterate over it once.

        Args:
            image: the image.
            frames: maximum number of frames of an animation, or pages of a document, to judge.
            max_tiles: maximum number of tiles of each; None for that of the options.
        """
        limit = self.options.tile_limit if max_tiles is None else max_tiles
        return Pictures(image, self.config.vision, frames, self._memory_budget, limit)

    def tile(self, image: ImageSource) -> Tiles:
        """Decode the first picture of an image, on white where it is transparent, and cut it into tiles.

        That is what the reference implementations compute with. To judge an image is to judge all its ``pictures``.

        Raises:
            ImageError: if it cannot be used.
        """
        return first_picture(image, self.config.vision, self._memory_budget, self.options.tile_limit)

    def check_length(self, tokens: Sequence[int]) -> None:
        """Check that a prompt fits into the context.

        Raises:
            ContextLengthError: if there are more tokens than the context holds, or none.
        """
        self.decoder.check_length(tokens)

    def encode_image(self, image: ImageSource | Tiles) -> npt.NDArray[np.float32]:
        """The projected vision features of an image: float32 (real tiles, tokens per tile, decoder width).

        Of an image with several frames, those of the first one, as in `tile`.

        Raises:
            ImageError: if the image cannot be used.
            ComputeError: if memory does not suffice or the device fails.
        """
        tiles = self._checked(image) if isinstance(image, Tiles) else self.tile(image)

        def job() -> npt.NDArray[np.float32]:
            states = self._project(tiles, None)
            try:
                return self._features(states, tiles)
            finally:
                states.close()

        return self.run(job)

    def logits(self, tokens: Sequence[int], image: ImageSource | Tiles | None = None) -> LogitsResult:
        """The logits of every position.

        Args:
            tokens: token ids; with an image, exactly one of them is ``<|image|>``. Its row and those after it attend
                to the image.
            image: an image (of several frames the first one, as in `tile`), or one that is already cut into tiles.

        Raises:
            ImageError: if the image cannot be used.
            ConversationError: if the number of ``<|image|>`` tokens does not fit.
            ContextLengthError: if there are more tokens than the context holds.
            ComputeError: if a computation fails.
        """
        expected = 0 if image is None else 1
        found = list(tokens).count(self.model.image_token_id)
        if found != expected:
            raise ConversationError(
                f"the tokens have {found} <|image|> ({self.model.image_token_id}), expected {expected}."
            )
        tiles = self._checked(image) if isinstance(image, Tiles) else None if image is None else self.tile(image)

        def job() -> LogitsResult:
            with self.evaluate(tiles, features=tiles is not None) as evaluation:
                logits = evaluation.prefill(tokens, every_position=True)
                return LogitsResult(logits, evaluation.features, None if tiles is None else tiles.pixel_values)

        return self.run(job)

    def _checked(self, tiles: Tiles) -> Tiles:
        vision = self.config.vision
        high, wide = tiles.aspect_ratio
        shape = (high * wide, 3, vision.tile_size, vision.tile_size)
        if tiles.aspect_ratio not in vision.aspect_ratios:
            raise ImageError(f"the aspect ratio {high} x {wide} is not one of the model's: {vision.aspect_ratios}.")
        if tiles.pixel_values.shape != shape or tiles.pixel_values.dtype != np.float32:
            raise ImageError(
                f"pixel values have shape {tiles.pixel_values.shape} and dtype {tiles.pixel_values.dtype}; "
                f"an aspect ratio of {high} x {wide} takes float32 {shape}."
            )
        if not np.isfinite(tiles.pixel_values).all():
            raise ImageError("pixel values are not all finite.")
        return tiles

    def close(self) -> None:
        """Free everything; calling it again does nothing. In a forked copy of the process it does nothing either."""
        self._worker.close()
