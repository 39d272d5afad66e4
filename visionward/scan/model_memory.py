"""The memory of a process that judges: its own, and the model's files, which all processes of a machine share."""

from dataclasses import dataclass

from visionward.formats.pair_files import PairFiles
from visionward.runtime.engine_options import EngineOptions
from visionward.runtime.vision.vision_memory import activation_bytes, bytes_without_tower
from visionward.scan.options import ScanOptions


@dataclass(frozen=True)
class ModelMemory:
    """An estimate for an image that fills all tiles and a prompt that fills the context.

    Attributes:
        private: bytes of each process.
        shared: bytes of the mapped files.
    """

    private: int
    shared: int

    @classmethod
    def of(cls, options: ScanOptions) -> "ModelMemory":
        """The estimate for a model on the CPU, whose vision tower runs on ggml. Exported towers take more.

        Raises:
            ModelFileError: if a file is missing or damaged.
        """
        engine = EngineOptions(**options.engine)
        text, mmproj = options.files()
        pair = PairFiles.open(text, mmproj)
        whole = bytes_without_tower(text, pair.mmproj, pair.config, cells=engine.n_ctx, ubatch=engine.ubatch)
        mapped = text.stat().st_size + sum(
            tensor.nbytes for name, tensor in pair.mmproj.tensors.items() if name.startswith("cross.")
        )
        copied = text.stat().st_size if engine.kernels == "packed" else 0
        return cls(
            private=whole - mapped + activation_bytes(pair.config.vision) + copied,
            shared=text.stat().st_size + mmproj.stat().st_size,
        )
