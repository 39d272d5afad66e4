"""The demonstration guard's name, the notice that its verdicts carry, and its samples. Standard library only."""

from importlib import resources
from pathlib import Path

# Base name of the converted files. They are recognized by a key in them, KEY_DEMONSTRATION, and not by this name.
DEMO_GUARD_NAME = "demo-guard"
DEMO_NOTICE = (
    "this is the demonstration guard: a toy model for checking the installation, not a safety classifier; "
    "its verdicts mean nothing outside its own samples."
)


def demo_samples_path() -> Path:
    """The JSONL file of the packaged samples."""
    return Path(str(resources.files("visionward").joinpath("demo_guard/samples/samples.jsonl")))
