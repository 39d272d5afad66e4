"""Figures that Meta published for Llama Guard 3 11B Vision, which a report can quote.

Source: https://github.com/meta-llama/PurpleLlama/blob/main/Llama-Guard3/11B-vision/MODEL_CARD.md, Table 1 and Table 2.
"""

from dataclasses import dataclass

SOURCE = "model card of Llama Guard 3 11B Vision (PurpleLlama, Llama-Guard3/11B-vision/MODEL_CARD.md), Tables 1 and 2"
CAVEAT = "Quoted: measured by Meta on an internal test set, not on these samples, and therefore not comparable."


@dataclass(frozen=True)
class QuotedRow:
    """A row of Table 1."""

    model: str
    task: str
    precision: float
    recall: float
    f1: float
    fpr: float


TABLE_1 = (
    QuotedRow("Llama Guard 3 Vision", "prompt", 0.891, 0.623, 0.733, 0.052),
    QuotedRow("GPT-4o", "prompt", 0.544, 0.843, 0.661, 0.485),
    QuotedRow("GPT-4o mini", "prompt", 0.488, 0.943, 0.643, 0.681),
    QuotedRow("Llama Guard 3 Vision", "response", 0.961, 0.916, 0.938, 0.016),
    QuotedRow("GPT-4o", "response", 0.579, 0.788, 0.667, 0.243),
    QuotedRow("GPT-4o mini", "response", 0.526, 0.820, 0.641, 0.313),
)

# F1 by category, response classification.
TABLE_2 = {
    "S1": 0.839,
    "S2": 0.917,
    "S3": 0.797,
    "S4": 0.698,
    "S5": 0.967,
    "S6": 0.764,
    "S7": 0.847,
    "S8": 0.849,
    "S9": 0.995,
    "S10": 0.894,
    "S11": 0.911,
    "S12": 0.947,
    "S13": 0.957,
}
