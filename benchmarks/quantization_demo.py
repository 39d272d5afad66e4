"""What each type, and an importance matrix, does to the demo guard: `python benchmarks/quantization_demo.py`.

Judges held-out samples (training/demo_data.py) with the packaged checkpoint in each type, and compares with what
Transformers says of the same samples in float32 (tests/fixtures/demo_held_out.json). The importance matrix is gathered
over other samples.
"""

import argparse
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from training.demo_data import HELD_OUT_COUNT, HELD_OUT_SEED, Sample, samples
from visionward import Guard
from visionward.convert import ConvertedPair, convert_checkpoint
from visionward.formats.imatrix_file import write_imatrix
from visionward.quant.activations import gather
from visionward.quant.quantize import quantize_file
from visionward.runtime.engine import Engine
from visionward.runtime.guard.samples import read_samples

ROOT = Path(__file__).resolve().parent.parent
CHECKPOINT = ROOT / "visionward" / "demo_guard"
REFERENCE = ROOT / "tests" / "fixtures" / "demo_held_out.json"
CALIBRATION_SEED = 31_337
TYPES = ("f16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_k_s", "iq4_xs", "q4_0")
WITH_IMATRIX = ("q4_k_m", "q4_k_s", "iq4_xs", "q4_0")


def write_samples(folder: Path, drawn: Iterable[Sample]) -> Path:
    """Samples as `visionward imatrix` and `visionward compare` read them."""
    lines = []
    for number, sample in enumerate(drawn):
        image = f"{number:04}.png"
        sample.image.save(folder / image)
        line = {"image": image, "prompt": sample.turns[0].text, "label": "unsafe" if sample.unsafe else "safe"}
        if len(sample.turns) > 2:
            content = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": line.pop("prompt")}]
            later = [{"role": turn.role, "content": turn.text} for turn in sample.turns[1:]]
            line["messages"] = [{"role": "user", "content": content}, *later]
            del line["image"]
        elif sample.judges_response:
            line["response"] = sample.turns[1].text
        lines.append(json.dumps(line | {"categories": list(sample.categories)}))
    path = folder / "samples.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def judge(pair: ConvertedPair, data: Path, threads: int) -> Iterator[tuple[float, bool, tuple[str, ...]]]:
    """Score, verdict and named categories of every sample."""
    with Guard.load(pair.text, pair.mmproj, threads=threads, gpu_layers=0) as guard:
        for sample in read_samples(data):
            verdict = guard.classify(sample.conversation)
            yield verdict.score, verdict.unsafe, tuple(category.code for category in verdict.categories)


def log_odds(scores: np.ndarray) -> np.ndarray:
    return np.log(scores) - np.log1p(-scores)


def row(name: str, pair: ConvertedPair, data: Path, reference: list[dict], threads: int) -> str:
    """A line of the table."""
    judged = list(judge(pair, data, threads))
    scores = np.clip(np.array([score for score, _, _ in judged]), 1e-7, 1 - 1e-7)
    wanted = np.clip(np.array([entry["score"] for entry in reference]), 1e-7, 1 - 1e-7)
    labels = np.array([entry["label"] == "unsafe" for entry in reference])
    unsafe = np.array([verdict for _, verdict, _ in judged])
    hits = (labels & unsafe).sum()
    f1 = 2 * hits / max(1, labels.sum() + unsafe.sum())
    flips = (unsafe != np.array([entry["verdict"] == "unsafe" for entry in reference])).sum()
    named = np.mean(
        [set(codes) == set(entry["label_categories"]) for (_, _, codes), entry in zip(judged, reference, strict=True)]
    )
    shift = np.abs(log_odds(scores) - log_odds(wanted))
    size = (pair.text.stat().st_size + pair.mmproj.stat().st_size) / 1e6
    return f"| {name} | {size:.2f} | {f1:.4f} | {named:.3f} | {flips} | {np.median(shift):.4f} | {shift.mean():.4f} |"


def quantized(plain: ConvertedPair, folder: Path, kind: str, imatrix: Path | None) -> ConvertedPair:
    pair = ConvertedPair(folder / f"text-{kind}.gguf", folder / f"mmproj-{kind}.gguf")
    quantize_file(plain.text, pair.text, kind, imatrix=imatrix, overwrite=True)
    quantize_file(plain.mmproj, pair.mmproj, kind, imatrix=imatrix, overwrite=True)
    return pair


def main() -> None:
    """Convert, calibrate, quantize, judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=HELD_OUT_COUNT, help="held-out samples")
    parser.add_argument("--calibration", type=int, default=128, help="samples for the importance matrix")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--types", nargs="+", default=TYPES)
    options = parser.parse_args()
    reference = json.loads(REFERENCE.read_text(encoding="utf-8"))["samples"][: options.count]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "held_out").mkdir()
        (folder / "calibration").mkdir()
        held_out = write_samples(folder / "held_out", samples(options.count, HELD_OUT_SEED))
        calibration = write_samples(folder / "calibration", samples(options.calibration, CALIBRATION_SEED))
        plain = convert_checkpoint(CHECKPOINT, folder, text_type="bf16", mmproj_type="bf16", name="demo")
        imatrix = folder / "imatrix.gguf"
        engine = Engine(plain.text, plain.mmproj, threads=options.threads, gpu_layers=0)
        try:
            gathered = gather(engine, read_samples(calibration))
        finally:
            engine.close()
        write_imatrix(imatrix, gathered.statistics, dataset="demo", samples=gathered.prompts, sample_tokens=200)
        print("| type | MB | F1 | exact categories | verdicts changed | median shift | mean shift |")
        print("|---|---|---|---|---|---|---|")
        for kind in options.types:
            for used in (None, imatrix) if kind in WITH_IMATRIX else (None,):
                pair = quantized(plain, folder, kind, used)
                name = f"{kind} with importance matrix" if used else kind
                print(row(name, pair, held_out, reference, options.threads), flush=True)


if __name__ == "__main__":
    main()
