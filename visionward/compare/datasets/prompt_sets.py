"""Sets that label what the user says and shows."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from visionward.compare.datasets.adapter import Adapter, Row, choice
from visionward.compare.datasets.image_files import image_called, image_cell
from visionward.errors import DataError
from visionward.formats.table_files import csv_rows, files, json_value, parquet_rows

_RECALL_ONLY = "Every sample is unsafe: only recall can be measured, no false alarms."
_NO_NAMES = "Its categories are not mapped: figures are about safe and unsafe only."


def _vlguard(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "test.json", "train.json"):
        for item in json_value(file):
            image = file.parent / file.stem / item["image"]
            category = item.get("harmful_subcategory") or item.get("harmful_category")
            for place, turn in enumerate(item["instr-resp"]):
                safe = turn.get("safe_instruction")
                prompt = safe or turn.get("unsafe_instruction") or turn["instruction"]
                unsafe = safe is None
                yield Row(f"{item['id']} {place}", unsafe, prompt, None, image, category, str(item["id"]))


VLGUARD = Adapter(
    "VLGuard",
    _vlguard,
    "test.json and test/",
    {
        "privacy": ("S7",),
        "personal data": ("S7",),
        "risky behavior": (),
        "professional advice": ("S6",),
        "political": (),
        "sexually explicit": ("S12",),
        "violence": ("S1",),
        "deception": (),
        "disinformation": (),
        "discrimination": ("S10",),
        "hateful speech": ("S10",),
        "sex": ("S10",),
        "race": ("S10",),
        "other": ("S10",),
    },
    ("Safe pictures come with a safe and an unsafe instruction; both are in the picture's group.",),
)

_IMAGE_KINDS = {"SD": "Rephrased Question(SD)", "SD_TYPO": "Rephrased Question", "TYPO": "Rephrased Question"}


def _mm_safetybench(path: Path, scratch: Path) -> Iterator[Row]:
    questions = sorted(path.glob("data/processed_questions/*.json")) or sorted(path.glob("processed_questions/*.json"))
    for file in questions:
        pictures = next(
            (folder for folder in (path / "data/imgs", path / "imgs", file.parent.parent / "imgs") if folder.is_dir()),
            path / "imgs",
        )
        for number, entry in json_value(file).items():
            for kind, key in _IMAGE_KINDS.items():
                image = image_called(pictures / file.stem / kind, number)
                group = f"{file.stem} {number}"
                yield Row(f"{group} {kind}", True, entry[key], None, image, _scenario(file.stem), group)
    if questions:
        return
    for file in files(path, "data/*/*.parquet", "*/*.parquet"):
        if file.stem in _IMAGE_KINDS:
            for row in parquet_rows(file):
                group = f"{file.parent.name} {row['id']}"
                image = image_cell(row["image"], scratch, file.parent)
                yield Row(
                    f"{group} {file.stem}", True, row["question"], None, image, _scenario(file.parent.name), group
                )


def _scenario(name: str) -> str:
    """Its name without the number in front."""
    return name.partition("-")[2] if name[:2].isdigit() else name


MM_SAFETYBENCH = Adapter(
    "MM-SafetyBench",
    _mm_safetybench,
    "data/processed_questions/*.json and imgs/, or data/<scenario>/*.parquet",
    {
        # The spelling is its own.
        "illegal_activitiy": ("S2",),
        "hatespeech": ("S10",),
        "malware_generation": ("S2",),
        "physical_harm": (),
        "economicharm": (),
        "fraud": ("S2",),
        "sex": ("S12",),
        "political_lobbying": (),
        "privacy_violence": ("S7",),
        "legal_opinion": ("S6",),
        "financial_advice": ("S6",),
        "health_consultation": ("S6",),
        "gov_decision": (),
    },
    (_RECALL_ONLY, "The three pictures of a question are one group."),
)


def _spa_vl(path: Path, scratch: Path) -> Iterator[Row]:
    for file in files(path, "test/harm-*.parquet", "harm-*.parquet"):
        for number, row in enumerate(parquet_rows(file)):
            image = image_cell(row["image"], scratch, file.parent)
            yield Row(f"harm {number}", True, row["question"], None, image)


SPA_VL = Adapter("SPA-VL", _spa_vl, "test/harm-*.parquet", {}, (_RECALL_ONLY, _NO_NAMES))


def _xstest(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "xstest_prompts.csv", "*.csv"):
        for row in csv_rows(file):
            yield Row(row["id"], choice(row["label"], "unsafe", "safe"), row["prompt"])


XSTEST = Adapter(
    "XSTest",
    _xstest,
    "xstest_prompts.csv",
    {},
    (
        "Text without a picture: the model is not meant as a text classifier, and runs without its cross-attention.",
        "Safe prompts look like unsafe ones here: the set measures the false-positive rate.",
        _NO_NAMES,
    ),
)


def _wildguardmix(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "test/wildguard_test.parquet", "*.parquet"):
        for number, row in enumerate(parquet_rows(file)):
            group = str(number)
            unsafe = choice(row["prompt_harm_label"], "harmful", "unharmful")
            yield Row(f"{number} prompt", unsafe, row["prompt"], group=group)
            if row.get("response"):
                unsafe = choice(row["response_harm_label"], "harmful", "unharmful")
                yield Row(f"{number} response", unsafe, row["prompt"], row["response"], group=group)


WILDGUARDMIX = Adapter(
    "WildGuardMix",
    _wildguardmix,
    "test/wildguard_test.parquet",
    {},
    (
        "Text without a picture: the model is not meant as a text classifier, and runs without its cross-attention.",
        "The prompt and the response of a row are judged separately, and are one group.",
        _NO_NAMES,
    ),
)


def _msts(path: Path, scratch: Path) -> Iterator[Row]:
    for file in files(
        path, "data/prompts/english_multimodal.csv", "*english*.parquet", "data/*english*.parquet", "*.csv"
    ):
        table: Iterator[Mapping[str, Any]] = parquet_rows(file) if file.suffix == ".parquet" else csv_rows(file)
        pictures = path / "data" / "images" if path.is_dir() else file.parent / "images"
        for row in table:
            name = str(row["unsafe_image_id"])
            cell = row.get("unsafe_image")
            image = image_cell(cell, scratch, file.parent) if isinstance(cell, dict) else image_called(pictures, name)
            case = str(row["case_id"])
            yield Row(f"{case} {row['prompt_type']}", True, row["prompt_text"], None, image, group=case)


MSTS = Adapter(
    "MSTS",
    _msts,
    "data/prompts/english_multimodal.csv and the pictures, which you download, as "
    "data/images/<unsafe_image_id>.<suffix>; or its Parquet files",
    {},
    (
        _RECALL_ONLY,
        _NO_NAMES,
        "Picture and text are each harmless and together unsafe. The prompts of a case are one group.",
    ),
)


def _vlsu(path: Path, scratch: Path) -> Iterator[Row]:  # noqa: ARG001 - the signature of all readers
    for file in files(path, "data/VLSU.csv", "VLSU.csv", "*.csv"):
        for row in csv_rows(file):
            grade = row["consensus_combined_grade"].strip().lower()
            if grade not in ("safe", "unsafe", "borderline", "not_sure"):
                raise DataError(f"the grade is {grade!r}, expected safe, unsafe, borderline or not_sure")
            known = grade in ("safe", "unsafe")
            yield Row(
                row["uuid"],
                grade == "unsafe",
                row["prompt"],
                image=image_called(file.parent / "images", row["uuid"]),
                group=row["web_path"] or None,
                left_out=None if known else f"graded {grade}",
            )


VLSU = Adapter(
    "VLSU",
    _vlsu,
    "data/VLSU.csv and the pictures, which you download, as data/images/<uuid>.<suffix>",
    {},
    ("Borderline pairs are left out. Pairs with one picture are one group.", _NO_NAMES),
)


def _holisafe(path: Path, scratch: Path) -> Iterator[Row]:
    for file in files(path, "data/test-*.parquet", "test-*.parquet", "*.parquet"):
        for row in parquet_rows(file):
            kind = str(row["type"]).upper()
            if len(kind) != 3 or set(kind) - set("SU"):
                raise DataError(f"the type is {row['type']!r}, expected three letters of S and U")
            image = image_cell(row["image"], scratch, file.parent)
            yield Row(str(row["id"]), kind[2] == "U", row["query"], None, image, group=image.name)


HOLISAFE = Adapter(
    "HoliSafe-Bench",
    _holisafe,
    "data/test-*.parquet",
    {},
    ("The label is that of picture and text together, the third letter of its type.", _NO_NAMES),
)
