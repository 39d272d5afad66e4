"""Compare quantized types of the demonstration guard: `python -m benchmarks.compare_demo OUT_DIR`.

Writes the demo guard's held-out samples, converts and quantizes it, compares f16 with q8_0, q4_k_m and q4_0, and prints
the tables of docs/comparison.md. The demonstration guard is a toy model for checking the installation: its figures say
nothing about those of the real model.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from training.demo_data import HELD_OUT_COUNT, HELD_OUT_SEED, Sample, samples
from visionward.compare.matching_threshold import Threshold

REFERENCE = "f16"
CANDIDATES = ("q8_0", "q4_k_m", "q4_0")
_COMMAND = [sys.executable, "-m", "visionward.cli.main"]


def sample_line(sample: Sample, number: int, image: str) -> dict[str, object]:
    """A line of the sample file."""
    content: list[dict[str, object]] = [{"type": "image_url", "image_url": {"url": image}}]
    messages = []
    for turn in sample.turns:
        text = {"type": "text", "text": turn.text}
        messages.append({"role": turn.role, "content": [*content, text]})
        content = []
    return {
        "id": f"sample {number}",
        "group": f"group {sample.group}",
        "messages": messages,
        "label": "unsafe" if sample.unsafe else "safe",
        "categories": list(sample.categories),
    }


def write_samples(folder: Path, count: int, seed: int = HELD_OUT_SEED) -> Path:
    """Samples as JSONL and PNG files; the held-out ones by default."""
    folder.mkdir(parents=True, exist_ok=True)
    lines, pictures = [], {}
    for number, sample in enumerate(samples(count, seed)):
        name = pictures.setdefault(id(sample.image), f"picture_{len(pictures)}.png")
        pictures[f"keep {name}"] = sample.image  # so that no id is used twice
        if not (folder / name).exists():
            sample.image.save(folder / name)
        lines.append(json.dumps(sample_line(sample, number, name)))
    path = folder / "demo-held-out.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def visionward(*arguments: object) -> None:
    command = [*_COMMAND, *(str(argument) for argument in arguments)]
    print("$ visionward", shlex.join(str(argument) for argument in arguments), file=sys.stderr)
    subprocess.run(command, check=True)


def make_pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    """The demonstration guard in every type."""
    from visionward.convert.demo_guard import demo_pair  # noqa: PLC0415

    base = demo_pair("f16", "f16")
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {}
    for dtype in (REFERENCE, *CANDIDATES):
        made = folder / f"demo-text-{dtype}.gguf", folder / f"mmproj-demo-{dtype}.gguf"
        for source, target in zip((base.text, base.mmproj), made, strict=True):
            if target.exists():
                continue
            if dtype == REFERENCE:
                shutil.copyfile(source, target)
            else:
                visionward("quantize", source, target, dtype)
        pairs[dtype] = made
    return pairs


def markdown(report: Path) -> str:
    """The tables of the report as Markdown."""
    (figures,) = (one["figures"] for one in json.loads(report.read_text(encoding="utf-8"))["sets"])
    decided = ("model", "precision", "recall", "F1", "false-positive rate", "missed (new, gone)")
    decided += ("false alarms (new, gone)", "mean KL, nats", "thresholds for the same rate")
    cost = ("model", "text file", "mmproj file", "peak memory", "loading", "vision p50, p95", "prefill", "decode")
    lines, costs = _heading(decided), _heading((*cost, "verdict"))
    for model in figures["models"]:
        lines.append(f"| {model['name']} | {' | '.join(_decisions(model))} |")
        costs.append(f"| {model['name']} | {' | '.join(_costs(model['cost']))} |")
    return "\n".join([*lines, "", *costs])


def _heading(names: tuple[str, ...]) -> list[str]:
    return [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]


def _decisions(model: dict[str, Any]) -> list[str]:
    measures = [model["measures"][name] for name in ("precision", "recall", "f1", "fpr")]
    cells = [f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})" for one in measures]
    missed, alarms = model["confusion"]["missed"], model["confusion"]["false_alarms"]
    against = model["against"]
    if against is None:
        return [*cells, str(missed), str(alarms), "", ""]
    unsafe, safe = against["flips"]["unsafe"], against["flips"]["safe"]
    return [
        *cells,
        f"{missed} ({unsafe['to_safe']}, {unsafe['to_unsafe']})",
        f"{alarms} ({safe['to_unsafe']}, {safe['to_safe']})",
        f"{against['kl_mean']['value']:.2g}",
        Threshold(**against["threshold"]).text,
    ]


def _costs(cost: dict[str, Any]) -> list[str]:
    sizes = [f"{cost[name] / 1e6:.1f} MB" for name in ("text_bytes", "mmproj_bytes", "peak_bytes")]
    stages = [cost["latency"][stage] for stage in ("vision", "prefill", "decode", "total")]
    return [*sizes, f"{cost['load_ms']:.0f} ms", *(f"{one['p50']:.0f}, {one['p95']:.0f} ms" for one in stages)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--count", type=int, default=HELD_OUT_COUNT)
    parser.add_argument("--threads", type=int)
    arguments = parser.parse_args()
    data = write_samples(arguments.out / "data", arguments.count)
    pairs = make_pairs(arguments.out / "models")
    options: list[object] = ["--reference", f"{REFERENCE}={pairs[REFERENCE][0]},{pairs[REFERENCE][1]}"]
    for dtype in CANDIDATES:
        options += ["--candidate", f"{dtype}={pairs[dtype][0]},{pairs[dtype][1]}"]
    if arguments.threads is not None:
        options += ["--threads", arguments.threads]
    visionward("compare", "--data", data, *options, "--out", arguments.out / "report")
    print(markdown(arguments.out / "report" / "report.json"))


if __name__ == "__main__":
    main()
