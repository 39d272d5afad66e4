"""Open the two files of a pair: read and check their headers, and check that they belong together."""

from dataclasses import dataclass
from pathlib import Path

from visionward.demonstration import DEMO_NOTICE
from visionward.errors import ModelFileError
from visionward.formats.gguf_header import GgufHeader
from visionward.formats.mmproj_file import check_mmproj_tensors, read_mmproj_config
from visionward.formats.mmproj_format import MMPROJ_ARCHITECTURE, MmprojConfig
from visionward.formats.tensor_checksums import Advance, check_checksums, has_checksums
from visionward.formats.text_format import TEXT_ARCHITECTURE, TextConfig, read_text_config


@dataclass(frozen=True)
class PairFiles:
    """A pair of files whose keys and tensors are valid.

    Attributes:
        text: header of the text file.
        mmproj: header of the mmproj file.
        text_config: the decoder and its vocabulary.
        config: the vision tower and the cross-attention layers.
    """

    text: GgufHeader
    mmproj: GgufHeader
    text_config: TextConfig
    config: MmprojConfig

    @classmethod
    def open(cls, text: Path, mmproj: Path) -> "PairFiles":
        """Read both headers.

        Raises:
            ModelFileError: if a file is missing, damaged or of another format, or the two do not belong together.
        """
        mmproj_file, text_file = GgufHeader(mmproj, MMPROJ_ARCHITECTURE), GgufHeader(text, TEXT_ARCHITECTURE)
        config, text_config = read_mmproj_config(mmproj_file), read_text_config(text_file)
        check_mmproj_tensors(mmproj_file, config)
        differing = config.differences(text_config.identity)
        if differing:
            raise ModelFileError(
                f"{text} and {mmproj} do not belong together ({', '.join(differing)} differ): use the two files of one "
                "conversion."
            )
        return cls(text_file, mmproj_file, text_config, config)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return self.text.data_nbytes + self.mmproj.data_nbytes

    @property
    def demonstration(self) -> bool:
        """Whether one of the files is marked as part of the demonstration guard."""
        return self.text_config.demonstration or self.config.demonstration

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings that belong in every verdict."""
        notice = (DEMO_NOTICE,) if self.demonstration else ()
        return notice + tuple(
            f"{file.path.name} has no checksums, so damage to it may go undetected: convert the model again."
            for file in (self.text, self.mmproj)
            if not has_checksums(file)
        )

    def check_checksums(self, advance: Advance | None = None, *, again: bool = False) -> None:
        """Check the tensors of both files against their checksums, unless they were checked before.

        Args:
            advance: called with the number of bytes of every piece that was read. It may raise to stop.
            again: check even if they were checked before.

        Raises:
            ModelFileError: if a file is damaged.
        """
        check_checksums((self.text, self.mmproj), advance, again=again)
