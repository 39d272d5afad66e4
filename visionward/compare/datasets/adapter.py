"""How the rows of a public set become samples. Nothing is ever fetched."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from visionward.compare.datasets.dataset import Dataset, LeftOut
from visionward.errors import ConversationError, DataError
from visionward.runtime.guard.conversation import Conversation
from visionward.runtime.guard.samples import Sample

# The prompt for sets of pictures alone, from Meta's own example.
NEUTRAL_PROMPT = "Describe the image"


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        id: unique in the set.
        unsafe: its label; None if it has none, and is left out.
        prompt: the user's text.
        response: the assistant's answer, which is judged if there is one.
        image: an image file.
        category: the set's own name of the hazard.
        group: equal for rows that are not independent.
        left_out: why the row is left out; None if it is a sample.
    """

    id: str
    unsafe: bool | None = None
    prompt: str | None = None
    response: str | None = None
    image: Path | None = None
    category: str | None = None
    group: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Adapter:
    """A public set.

    Attributes:
        title: its name.
        rows: reads a folder or file; images inside files are written into the second folder.
        layout: expected files, for messages.
        mapping: its categories, in lower case, to category codes. A category without a clear counterpart is mapped to
            none: its samples count as safe or unsafe only.
        notes: notes for readers of its figures.
    """

    title: str
    rows: Callable[[Path, Path], Iterator[Row]]
    layout: str
    mapping: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def read(self, path: Path, scratch: Path) -> Dataset:
        """The set's samples.

        Raises:
            DataError: if the files have another form.
            MissingExtraError: if a library is missing.
        """
        samples: dict[str, Sample] = {}
        left_out = []
        try:
            for row in self.rows(path, scratch):
                made = self._sample(row, row.id if row.id not in samples else f"{row.id} ({len(samples)})")
                if isinstance(made, LeftOut):
                    left_out.append(made)
                else:
                    samples[made.id] = made
        except (KeyError, TypeError, AttributeError, IndexError) as cause:
            raise DataError(f"{path}: not of the expected form ({self.layout}): {cause!r}") from cause
        except UnicodeDecodeError as cause:
            raise DataError(f"{path}: not UTF-8 text (byte {cause.start})") from cause
        except OSError as cause:
            raise DataError(f"{cause.filename or path}: {cause.strerror or cause}") from cause
        if not samples:
            reason = f"; the first row: {left_out[0].reason}" if left_out else ""
            raise DataError(f"{path}: no sample found, expected {self.layout}{reason}")
        return Dataset(self.title, tuple(samples.values()), tuple(left_out), self.notes, self.mapping)

    def _sample(self, row: Row, identifier: str) -> Sample | LeftOut:
        if row.left_out is not None:
            return LeftOut(identifier, row.left_out)
        if row.unsafe is None:
            return LeftOut(identifier, "no label")
        if row.image is not None and not row.image.is_file():
            return LeftOut(identifier, f"the image {row.image.name} is missing")
        codes = self.mapping.get((row.category or "").strip().lower(), ()) if row.unsafe else ()
        try:
            conversation = Conversation.from_prompt(row.prompt, row.response, row.image)
        except ConversationError as cause:
            return LeftOut(identifier, str(cause))
        return Sample.make(identifier, conversation, unsafe=row.unsafe, categories=codes, group=row.group)


def choice(value: object, unsafe: str, safe: str) -> bool | None:
    """A label that is one of two words; None for no label.

    Raises:
        DataError: if it is another word, which must not count as safe.
    """
    if value is None or value == "":
        return None
    text = str(value).strip().lower()
    if text not in (unsafe, safe):
        raise DataError(f"the label is {value!r}, expected {unsafe!r} or {safe!r}")
    return text == unsafe
