"""Judge the held-out samples with the demo guard: `python -m training.evaluate_demo`."""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import tokenizers
import torch
import transformers
from PIL import Image

from training.demo_data import (
    HELD_OUT_COUNT,
    HELD_OUT_SEED,
    NEUTRAL_TEXT,
    Sample,
    Turn,
    chat_messages,
    samples,
)
from training.demo_pictures import THINGS
from training.demo_reference import ReferenceGuard

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "visionward" / "demo_guard"
REFERENCE_FILE = ROOT / "tests" / "fixtures" / "demo_held_out.json"

Figures = dict[str, Any]


def ratios(pairs: Iterable[tuple[bool, bool]]) -> Figures:
    """Return precision, recall, F1 and accuracy of (label, verdict) pairs."""
    counts = {(label, verdict): 0 for label in (False, True) for verdict in (False, True)}
    for pair in pairs:
        counts[pair] += 1
    hits, alarms, missed = counts[True, True], counts[False, True], counts[True, False]
    return {
        "count": sum(counts.values()),
        "precision": hits / (hits + alarms) if hits + alarms else 0.0,
        "recall": hits / (hits + missed) if hits + missed else 0.0,
        "f1": 2 * hits / (2 * hits + alarms + missed) if hits else 0.0,
        "accuracy": (hits + counts[False, False]) / max(1, sum(counts.values())),
    }


def versions() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    modules = (torch, transformers, tokenizers, np, PIL)
    return {"python": sys.version.split()[0]} | {module.__name__: module.__version__ for module in modules}


def _grey(image: Image.Image) -> Image.Image:
    return Image.new("RGB", image.size, (128, 128, 128))


def _wordless(sample: Sample) -> list[dict[str, Any]]:
    return chat_messages(tuple(Turn(turn.role, NEUTRAL_TEXT) for turn in sample.turns))


def judge_all(guard: ReferenceGuard, held_out: list[Sample]) -> list[dict[str, Any]]:
    """Judge every sample as it is, and with one of its inputs hidden."""
    rows = []
    states, last = None, None
    for sample in held_out:
        if states is None or last is not sample.image:
            states, last = guard.image_states(sample.image), sample.image
            grey = guard.image_states(_grey(sample.image))
        judged = guard.judge(sample.messages, states)
        hidden = {
            "no_image": guard.judge(chat_messages(sample.turns, image=False), None, decode=False),
            "grey_image": guard.judge(sample.messages, grey, decode=False),
            "no_text": guard.judge(_wordless(sample), states, decode=False),
        }
        excluded = guard.judge(sample.messages, states, sample.categories, decode=False) if sample.unsafe else None
        rows.append(
            {
                "label": "unsafe" if sample.unsafe else "safe",
                "label_categories": list(sample.categories),
                "tiles": sample.tiles,
                "role": "response" if sample.judges_response else "prompt",
                "score": judged.score,
                "answer_mass": judged.answer_mass,
                "verdict": "unsafe" if judged.unsafe else "safe",
                "categories": list(judged.categories),
                "answer_ok": judged.answer == sample.answer,
                "prompt_tokens": len(judged.prompt),
                "prompt_sha256": judged.prompt_sha256,
                "image_sha256": hashlib.sha256(sample.image.tobytes()).hexdigest()[:16],
                "hidden": {name: judgement.score for name, judgement in hidden.items()},
                "excluded_unsafe": excluded.unsafe if excluded else None,
            }
        )
    return rows


def _part(rows: list[dict[str, Any]], **wanted: object) -> Figures:
    chosen = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return ratios((row["label"] == "unsafe", row["verdict"] == "unsafe") for row in chosen)


def summarise(rows: list[dict[str, Any]]) -> Figures:
    """Return all figures of the model card."""
    unsafe = [row for row in rows if row["label"] == "unsafe"]
    margins = [row["score"] if row["label"] == "unsafe" else 1 - row["score"] for row in rows]
    categories = {}
    for thing in THINGS:
        pairs = [(thing.category in row["label_categories"], thing.category in row["categories"]) for row in rows]
        categories[thing.category] = ratios(pairs) | {"count": sum(label for label, _ in pairs)}
    hidden = {
        name: ratios((row["label"] == "unsafe", row["hidden"][name] >= 0.5) for row in rows)
        for name in rows[0]["hidden"]
    }
    return {
        "all": _part(rows),
        "tiles": {str(count): _part(rows, tiles=count) for count in (1, 2, 3, 4)},
        "roles": {role: _part(rows, role=role) for role in ("prompt", "response")},
        "categories": categories,
        "exact_categories_of_unsafe": float(np.mean([row["answer_ok"] for row in unsafe])),
        "two_categories": sum(len(row["label_categories"]) > 1 for row in rows),
        "hidden": hidden,
        "excluded": {"count": len(unsafe), "safe": sum(not row["excluded_unsafe"] for row in unsafe)},
        "least_answer_mass": min(row["answer_mass"] for row in rows),
        "share_beyond_0.9": float(np.mean([margin >= 0.9 for margin in margins])),
    }


def write_reference(rows: list[dict[str, Any]], figures: Figures, weights: Path, path: Path) -> None:
    """Write what the tests compare every other engine with."""
    left_out = ("hidden", "answer_ok", "excluded_unsafe")
    kept = [
        {
            key: round(value, 7) if isinstance(value, float) else value
            for key, value in row.items()
            if key not in left_out
        }
        for row in rows
    ]
    head = {
        "seed": HELD_OUT_SEED,
        "count": len(rows),
        "precision": "float32, weights as shipped (bfloat16)",
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "versions": versions(),
        "f1": round(figures["all"]["f1"], 6),
    }
    lines = ",\n".join(json.dumps(row) for row in kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(head, indent=1)[:-2] + ',\n "samples": [\n' + lines + "\n ]\n}\n", encoding="utf-8")


def evaluate(folder: Path, count: int = HELD_OUT_COUNT) -> tuple[list[dict[str, Any]], Figures]:
    """Judge the held-out samples with the checkpoint in this folder."""
    rows = judge_all(ReferenceGuard(folder), list(samples(count, HELD_OUT_SEED)))
    return rows, summarise(rows)


def main() -> None:
    """Evaluate the shipped checkpoint (or the folder given) and write the reference file."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else CHECKPOINT
    rows, figures = evaluate(folder)
    print(json.dumps(figures, indent=2))
    if folder == CHECKPOINT:
        write_reference(rows, figures, folder / "model.safetensors", REFERENCE_FILE)


if __name__ == "__main__":
    main()
