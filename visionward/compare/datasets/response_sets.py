"""Sets that label the assistant's answer."""

from collections.abc import Iterator
from pathlib import Path

from visionward.compare.datasets.adapter import Adapter, Row, choice
from visionward.compare.datasets.image_files import image_cell
from visionward.formats.table_files import files, parquet_rows


def _beavertails_v(path: Path, scratch: Path) -> Iterator[Row]:
    for file in files(path, "data/*/evaluation.parquet", "*/evaluation.parquet", "*.parquet"):
        for number, row in enumerate(parquet_rows(file)):
            image = image_cell(row["image"], scratch, file.parent)
            category = row["category"]
            group = f"{category}: {row['question']}"
            for place in ("", "_1", "_2"):
                if f"response{place}" in row:
                    yield Row(
                        f"{file.parent.name} {number}{place.replace('_', ' ')}",
                        choice(row[f"is_response{place}_safe"], "no", "yes"),
                        row["question"],
                        row[f"response{place}"],
                        image,
                        category,
                        group,
                    )


BEAVERTAILS_V = Adapter(
    "BeaverTails-V",
    _beavertails_v,
    "data/<category>/evaluation.parquet",
    {
        "animal_abuse": ("S1",),
        "dangerous_behavior": (),
        "deception_in_personal_relationships": (),
        "discriminatory_depictions": ("S10",),
        "environmental_damage": (),
        "false_information": (),
        "financial_and_academic_fraud": ("S2",),
        "hacking_or_digital_crime": ("S2",),
        "harmful_health_content": (),
        "horror_and_gore": (),
        "identity_misuse_and_impersonation": (),
        "insulting_and_harassing_behavior": (),
        "pornographic_content": ("S12",),
        "privacy_invasion_and_surveillance": ("S7",),
        "psychological_harm_and_manipulation": (),
        "psychological_horror_and_dark_themes": (),
        "sensitive_information_in_key_areas": (),
        "sexual_crimes": ("S3",),
        "terrorism_or_extremism": ("S1",),
        "violence_and_physical_harm": ("S1",),
    },
    ("Responses are judged. The responses to a question are one group.",),
)
