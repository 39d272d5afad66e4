"""Origin and licence of a checkpoint, as far as its folder states them."""

import re
from dataclasses import dataclass
from pathlib import Path

from visionward.formats.checkpoint_json import Settings

# The notice that Meta's licence requires in every distributed copy.
LLAMA_3_2_NOTICE = (
    "Llama 3.2 is licensed under the Llama 3.2 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved."
)

_LICENSE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md")

# Licence id and a pattern of the beginning of the licence text.
_LICENSE_TEXTS = (
    ("llama3.2", re.compile(r"LLAMA\s+3\.2\s+COMMUNITY\s+LICENSE", re.IGNORECASE)),
    ("apache-2.0", re.compile(r"Apache\s+License\s+Version\s+2\.0", re.IGNORECASE)),
    ("mit", re.compile(r"MIT License", re.IGNORECASE)),
)

# Licence id -> (name, link).
_LICENSES = {
    "llama3.2": (
        "Llama 3.2 Community License Agreement",
        "https://github.com/meta-llama/llama-models/blob/main/models/llama3_2/LICENSE",
    ),
    "apache-2.0": ("Apache License 2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "mit": ("MIT License", "https://opensource.org/license/mit"),
}

# The header of a model card is at its beginning.
_CARD_BYTES = 2**20
# The key of config.json that marks a demonstration model.
_DEMONSTRATION = "visionward_demonstration"

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class Provenance:
    """Origin and licence of a checkpoint; None for what is unknown.

    Attributes:
        repository: its id on the Hugging Face hub.
        base_model: hub id of the model that it was trained from.
        license: id of the licence.
        license_name: name of the licence.
        license_link: link to the licence.
        license_notice: notice that the licence requires in copies.
        demonstration: whether it is a demonstration model.
    """

    repository: str | None = None
    base_model: str | None = None
    license: str | None = None
    license_name: str | None = None
    license_link: str | None = None
    license_notice: str | None = None
    demonstration: bool = False


def _front_matter(checkpoint: Path) -> dict[str, str]:
    """The ``key: value`` lines, and the first items of lists, in the YAML header of a model card."""
    path = checkpoint / "README.md"
    if not path.is_file():
        return {}
    with path.open("rb") as file:
        lines = file.read(_CARD_BYTES).decode(errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    values: dict[str, str] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            break
        if match := re.match(r"([A-Za-z_]+):\s*(.*)", line):
            key, value = match.group(1), match.group(2).strip().strip("'\"")
            if value:
                values[key] = value
        elif (match := re.match(r"\s*-\s+(\S+)", line)) and key not in values:
            values[key] = match.group(1).strip("'\"")
    return values


def _license_from_file(checkpoint: Path) -> str | None:
    for name in _LICENSE_FILES:
        path = checkpoint / name
        if path.is_file():
            with path.open(encoding="utf-8", errors="replace") as file:
                beginning = file.read(2000)
            for license_id, pattern in _LICENSE_TEXTS:
                if pattern.search(beginning):
                    return license_id
    return None


def _hub_id(value: object) -> str | None:
    """A repository id. Configurations also contain local paths, which are private and left out."""
    return value if isinstance(value, str) and _HUB_ID.fullmatch(value) else None


def read_provenance(checkpoint: Path, settings: Settings) -> Provenance:
    """Read origin and licence from the model card, the licence file and the configuration.

    Raises:
        CheckpointError: if the mark of a demonstration model is neither true nor false.
    """
    demonstration = settings.get(_DEMONSTRATION)
    if not isinstance(demonstration, bool | None):
        raise settings.wrong(_DEMONSTRATION, "true or false")
    card = _front_matter(checkpoint)
    license_id = card.get("license") or _license_from_file(checkpoint)
    name, link = _LICENSES.get(license_id or "", (None, None))
    return Provenance(
        repository=_hub_id(settings.get("_name_or_path")),
        base_model=_hub_id(card.get("base_model")),
        license=license_id,
        license_name=card.get("license_name") or name,
        license_link=card.get("license_link") or link,
        license_notice=LLAMA_3_2_NOTICE if license_id == "llama3.2" else None,
        demonstration=bool(demonstration),
    )
