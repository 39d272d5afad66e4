"""Sets that label pictures alone: they are judged with a neutral question."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from visionward.compare.datasets.adapter import NEUTRAL_PROMPT, Adapter, Row, choice
from visionward.compare.datasets.image_files import image_called, image_cell
from visionward.formats.table_files import csv_rows, files, jsonl_rows, parquet_rows

_PICTURES_ALONE = (
    f"Only the pictures are labelled; each is judged with the user's text {NEUTRAL_PROMPT!r}.",
    "The guard judges whether a conversation violates its policy, not what a picture shows.",
    "Gore or nudity alone is often no violation: expect low recall, and only compare models with each other.",
)


def _unsafebench(path: Path, scratch: Path) -> Iterator[Row]:
    for file in files(path, "data/test-*.parquet", "test-*.parquet", "*.parquet"):
        for number, row in enumerate(parquet_rows(file)):
            yield Row(
                f"{file.stem} {number}",
                choice(row["safety_label"], "unsafe", "safe"),
                NEUTRAL_PROMPT,
                image=image_cell(row["image"], scratch, file.parent),
                category=row["category"],
            )


UNSAFEBENCH = Adapter(
    "UnsafeBench",
    _unsafebench,
    "data/test-*.parquet",
    {
        "hate": ("S10",),
        "harassment": (),
        "violence": ("S1",),
        "self-harm": ("S11",),
        "sexual": ("S12",),
        "shocking": (),
        "illegal activity": ("S2",),
        "deception": (),
        "political": (),
        "public and personal health": (),
        "spam": (),
    },
    (*_PICTURES_ALONE, "Its category is the topic that was searched for; it counts for unsafe pictures only."),
)


def _hateful_memes(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "dev_seen.jsonl", "*.jsonl"):
        for row in jsonl_rows(file):
            unsafe = choice(row.get("label"), "1", "0")
            yield Row(str(row["id"]), unsafe, NEUTRAL_PROMPT, image=file.parent / row["img"], category="hateful")


HATEFUL_MEMES = Adapter(
    "Hateful Memes",
    _hateful_memes,
    "dev_seen.jsonl or another split, and img/",
    {"hateful": ("S10",)},
    (*_PICTURES_ALONE, "The text of the meme is in the picture; the field 'text' is not given to the model."),
)


def _harmeme(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "annotations/test.jsonl", "annotations/*.jsonl", "*.jsonl"):
        for row in jsonl_rows(file):
            harm = str(row["labels"][0]).strip().lower()
            known = harm in ("not harmful", "somewhat harmful", "very harmful")
            yield Row(
                str(row["id"]),
                harm != "not harmful",
                NEUTRAL_PROMPT,
                image=file.parent.parent / "images" / row["image"],
                left_out=None if known else f"the label is {harm!r}",
            )


HARMEME = Adapter(
    "HarMeme",
    _harmeme,
    "annotations/test.jsonl and images/",
    {},
    (
        *_PICTURES_ALONE,
        "'Somewhat harmful' counts as unsafe, as its authors merge it.",
        "Harm to the reputation of a person or group is not a category of the taxonomy: a weak fit.",
    ),
)


def _llavaguard(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "test.csv", "*.csv"):
        rows = list(csv_rows(file))
        common = Counter(row["policy"] for row in rows).most_common(1)
        for row in rows:
            yield Row(
                row["id"],
                choice(row["rating"], "unsafe", "safe"),
                NEUTRAL_PROMPT,
                image=image_called(file.parent / "images", row["id"]),
                category=row["category"].partition(":")[0],
                left_out=None if row["policy"] == common[0][0] else "labelled by another policy than most rows",
            )


LLAVAGUARD = Adapter(
    "LlavaGuard",
    _llavaguard,
    "test.csv, and the pictures, which you download, as images/<id>.<suffix>",
    {
        "o1": ("S10",),
        "o2": ("S1",),
        "o3": ("S12",),
        "o4": (),
        "o5": (),
        "o6": (),
        "o7": ("S11",),
        "o8": ("S1",),
        "o9": (),
    },
    (*_PICTURES_ALONE, "Only rows with the most frequent policy text, which is the default one, are used."),
)
